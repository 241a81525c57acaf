"""The line: from a configuration to a stored, scored and reported model.

Read `run` from top to bottom: everything is made and checked, then compressed, fine-tuned, stored,
loaded again and scored. `python train.py`, sweeps, `scripts/` and users' own code all call it.

Lightning takes nearly as long to import as torch. What needs it is imported where `run` comes to
it, when model and recipe have proved to fit.
"""

from collections.abc import Sequence
from functools import partial

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from mmcompress.artifact.dense import dense_checksum
from mmcompress.artifact.folder import Artifact
from mmcompress.config.compose import composed_job
from mmcompress.config.validation import check_settings
from mmcompress.evaluation.base import check_split
from mmcompress.evaluation.baseline import dense_baseline
from mmcompress.evaluation.evaluate import evaluate
from mmcompress.evaluation.float16 import float16_baseline
from mmcompress.functional.score import intervals
from mmcompress.records.folder import ARTIFACT
from mmcompress.records.read import typed
from mmcompress.records.record import RunRecord
from mmcompress.records.schema import BudgetReport, Cast, Deployed, Interval, Latency, Size
from mmcompress.rehearsal import rehearse
from mmcompress.runtime.deployment import measure_deployed
from mmcompress.runtime.latency import measure_latency
from mmcompress.runtime.loading import artifact_to_score, check_runtime
from mmcompress.search.planning import check, compress_within
from mmcompress.system.distributed import on_first
from mmcompress.system.imports import collector_paused
from mmcompress.system.memory import dense_copy
from mmcompress.system.quiet import quiet_libraries
from mmcompress.system.seeds import seed_everything

OF_LIGHTNING = ("trainer", "callbacks", "logger")
"""Groups of the configuration that classes of Lightning take; checking them imports it."""


def run(cfg: DictConfig | Sequence[str]) -> RunRecord:
    """Record of one run: what it was, did and measured; also written to `run.json` in its folder.

    A folder that holds the same run, cut short, is gone on in. Where Lightning starts several
    processes, the first one stores and scores; in the others the record is what they know of it.

    Args:
        cfg: as `conf/train.yaml` composes it, or the overrides to compose it from, such as
            `["compression=int8", "trainer=post_training"]`.
    Raises:
        ValueError: a setting that cannot be; the message names it.
        hydra.errors.HydraException: an override names what there is not.
    """
    if not isinstance(cfg, DictConfig):
        with composed_job(cfg) as composed:
            return run(composed)

    # Everything is made and tried on a few items before the run has a folder.
    # A model that is trained first has a trainer of its own: then nothing is left for later.
    late = () if OmegaConf.select(cfg, "backbone.trainer") else OF_LIGHTNING
    check_settings(cfg, *(str(key) for key in cfg if key not in late))
    quiet_libraries()
    seed_everything(cfg.seed)
    backbone = instantiate(cfg.backbone)
    recipe = instantiate(cfg.compression)
    budget = instantiate(cfg.budget)
    check(recipe, budget, backbone)
    check_runtime(cfg.runtime, backbone)

    with collector_paused():
        from mmcompress.session import start_run
        from mmcompress.training.launch import check_trainer
        from mmcompress.training.module import CompressionModule, TrainingData, check_optimizer
        from mmcompress.training.rates import check_part_lr
        from mmcompress.training.sharding import unsharded
    check_settings(cfg, *OF_LIGHTNING)
    quiet_libraries()
    check_trainer(cfg.trainer)
    instantiate(cfg.callbacks)
    reconstruction = instantiate(cfg.reconstruction)
    data = instantiate(cfg.data)
    data.attach(backbone)
    objective = instantiate(cfg.objective)
    optimizer = instantiate(cfg.optimizer)
    check_optimizer(optimizer)
    check_part_lr(cfg.part_lr or {}, backbone)
    evaluators = instantiate(cfg.evaluation.evaluators)
    split = cfg.evaluation.split
    check_split(data, split)
    for part in ("train", "val"):
        if part in data.splits:
            data.check_readable(part)
    rehearse(backbone, data, objective if cfg.trainer.max_steps else None, evaluators, split)

    with start_run(cfg) as session:
        record = session.record
        trainer = session.start_trainer(cfg.trainer)
        if session.is_scored:  # by an earlier start, which was cut short after that
            session.report()
            return record

        teacher = dense_copy(backbone)

        def score_dense() -> None:
            record.dense_sha256 = dense_checksum(teacher.model)
            record.metrics.dense = dense_baseline(
                teacher, data, evaluators, split, checksum=record.dense_sha256
            )
            cast = float16_baseline(teacher, data, evaluators, split)
            cast["intervals"] = intervals(record.metrics.dense, cast["metrics"])
            record.float16 = typed(Cast, cast)

        with session.stage("score_dense_s"):
            on_first(score_dense)

        with session.stage("calibrate_s"):
            if session.calibrated is None:
                batches = list(data.calibration_dataloader())
                finish = reconstruction and partial(reconstruction, dense=teacher, batches=batches)
                compressed, report = compress_within(
                    recipe, budget, backbone, batches, finish=finish or None
                )
                compressed.log_coverage()
                del batches, finish
            else:
                report = session.calibrated["budget"]
                compressed = recipe.restore(backbone, session.calibrated["plan"])
            if report is not None:
                record.budget = typed(BudgetReport, report)

        module = CompressionModule(
            compressed,
            objective,
            optimizer=optimizer,
            warmup_ratio=cfg.warmup_ratio,
            teacher=teacher,
            seed=cfg.seed,
            budget=report,
            part_lr=cfg.part_lr,
        )
        with session.stage("fit_s"):
            trainer.fit(module, TrainingData(data), ckpt_path=session.checkpoint)
        compressed = unsharded(compressed, teacher)
        if not session.is_first:
            return record

        with session.stage("save_s"):
            compressed.backbone.cpu()
            compressed.bake()  # each weight leaves the model as it is stored
            compressed.save(
                session.folder / ARTIFACT,
                run={"config_hash": record.config_hash, "recipe": cfg.name},
            )
        plan = compressed.plan
        coverage = {
            "coverage": compressed.coverage,
            "coverage_by_part": compressed.coverage_by_part,
        }

        del backbone, compressed, module, trainer  # what follows looks at the stored model alone
        artifact = Artifact.load(
            session.folder / ARTIFACT, skeleton=partial(instantiate, cfg.backbone)
        )
        with session.stage("evaluate_s"):
            scored = artifact_to_score(artifact, cfg.runtime)
            record.metrics.compressed = evaluate(scored, data, evaluators, split, dense=teacher)
            found = intervals(record.metrics.dense, record.metrics.compressed)
            record.intervals = typed(dict[str, Interval], found)
            record.size = typed(Size, artifact.size_summary() | coverage)
            latency = measure_latency(
                teacher.cpu(),
                artifact.backbone,
                data,
                split,
                no_speedup=recipe.no_speedup,
                **cfg.evaluation.latency,
            )
            record.latency = typed(Latency, latency)
            if cfg.deployed is not None:
                deployed = measure_deployed(
                    teacher,
                    artifact,
                    data,
                    split,
                    keep=cfg.runtime == "onnx",
                    **cfg.evaluation.latency,
                )
                record.deployed = typed(Deployed, deployed)
        record.data = data.summary()
        session.keep_results(artifact, plan)
        session.report()
    return record
