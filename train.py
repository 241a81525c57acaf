"""Compress a multimodal model, fine-tune it, store it, and score what was stored.

    python train.py compression=lowrank

`conf/` holds every choice; any key can be overridden on the command line.
"""

from functools import partial

import hydra
import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig

from mmcompress.artifact.dense import dense_checksum, dense_file_bytes
from mmcompress.artifact.folder import Artifact
from mmcompress.config.commandline import plainly
from mmcompress.config.validation import check_settings
from mmcompress.evaluation.base import check_split
from mmcompress.evaluation.baseline import dense_baseline
from mmcompress.evaluation.evaluate import evaluate
from mmcompress.evaluation.float16 import float16_baseline
from mmcompress.functional.score import intervals
from mmcompress.rehearsal import rehearse
from mmcompress.runtime.latency import measure_latency
from mmcompress.session import start_run
from mmcompress.sweeps.job import as_job
from mmcompress.system.distributed import wait_for_first
from mmcompress.system.locations import project_path
from mmcompress.system.mapped import mapped_copy
from mmcompress.system.memory import large_blocks_apart
from mmcompress.training.launch import check_trainer, start_processes
from mmcompress.training.module import CompressionModule, check_optimizer
from mmcompress.training.sharding import unsharded


@plainly
@hydra.main(config_path=str(project_path("conf")), config_name="train", version_base="1.3")
@as_job
def main(cfg: DictConfig) -> None:
    check_settings(cfg)
    check_trainer(cfg.trainer)
    instantiate(cfg.callbacks)  # bad ones leave no folder behind
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    with large_blocks_apart():
        backbone = instantiate(cfg.backbone)
    recipe = instantiate(cfg.compression)
    recipe.check(backbone)
    reconstruction = instantiate(cfg.reconstruction)
    data = instantiate(cfg.data)
    data.attach(backbone)
    objective = instantiate(cfg.objective)
    optimizer = instantiate(cfg.optimizer)
    check_optimizer(optimizer)
    evaluators = instantiate(cfg.evaluation.evaluators)
    split = cfg.evaluation.split
    check_split(data, split)
    for part in ("train", "val"):
        if part in data.splits:
            data.check_readable(part)
    rehearse(backbone, data, objective if cfg.trainer.max_steps else None, evaluators, split)

    with start_run(cfg) as run:
        record = run.record
        trainer = instantiate(cfg.trainer, logger=run.loggers, callbacks=run.callbacks)
        start_processes(trainer)
        run.agree()
        if run.is_scored:
            if run.artifact is not None:
                run.report(run.artifact)
            return
        dense_bytes = dense_file_bytes(backbone.model)
        teacher = mapped_copy(backbone)
        if trainer.is_global_zero:
            record.dense_sha256 = dense_checksum(teacher.model)
            record.metrics["dense"] = dense_baseline(
                teacher, data, evaluators, split, checksum=record.dense_sha256
            )
            record.float16 = float16_baseline(teacher, data, evaluators, split)
            record.float16["intervals"] = intervals(
                record.metrics["dense"], record.float16["metrics"]
            )
        wait_for_first()

        with run.stage("calibrate_s"):
            if run.calibrated is None:
                batches = list(data.calibration_dataloader())
                recipe.apply(backbone, batches)
                if reconstruction:
                    reconstruction(backbone, teacher, recipe, batches)
                del batches  # their memory is needed
            else:
                recipe.restore(backbone, **run.calibrated)
            record.budget = recipe.budget_report

        module = CompressionModule(
            backbone,
            recipe,
            objective,
            optimizer=optimizer,
            warmup_ratio=cfg.warmup_ratio,
            teacher=teacher,
            seed=cfg.seed,
        )
        with run.stage("fit_s"):
            trainer.fit(module, data, ckpt_path=run.checkpoint)
        backbone = unsharded(backbone, recipe, teacher)
        if not trainer.is_global_zero:  # the first process stores and scores what all have made
            return

        with run.stage("save_s"):
            encodings = recipe.bake(backbone.cpu())
            Artifact.save(
                run.folder / "artifact",
                backbone,
                structure=recipe.structure(),
                encodings=encodings,
                reasons=recipe.reasons(),
                dense_bytes=dense_bytes,
                dense_parameters=sum(p.numel() for p in teacher.parameters()),
                dense_dtype=recipe.dense_dtype,
                run={"config_hash": record.config_hash, "recipe": cfg.name},
            )

        del backbone, module, trainer, encodings  # what follows looks at the stored model
        artifact = Artifact.load(
            run.folder / "artifact", skeleton=partial(instantiate, cfg.backbone), in_file=True
        )
        with run.stage("evaluate_s"):
            record.metrics["compressed"] = evaluate(
                artifact.backbone, data, evaluators, split, dense=teacher
            )
            record.intervals = intervals(record.metrics["dense"], record.metrics["compressed"])
            record.size = artifact.size_summary() | {"coverage": recipe.coverage}
            record.latency = measure_latency(
                teacher.cpu(),
                artifact.backbone,
                data,
                split,
                no_speedup=recipe.no_speedup,
                **cfg.evaluation.latency,
            )
        record.data = data.summary()
        run.keep_results(artifact, recipe.plan)
        run.report(artifact)


if __name__ == "__main__":
    main()
