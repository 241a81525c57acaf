"""The weighted sum of terms that a fine-tune of two towers minimizes."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mmcompress.backbones.base import Backbone
from mmcompress.backbones.capabilities import Encoder, dual_encoder
from mmcompress.functional.contrastive import contrastive_loss
from mmcompress.functional.distillation import affinity_loss, feature_loss, interactive_loss
from mmcompress.functional.retrieval import retrieval_metrics
from mmcompress.functional.zeroshot import zeroshot_accuracy
from mmcompress.objectives.base import Gather, alone

MAX_LOGIT_SCALE = 100.0
"""CLIP's own bound on the inverse temperature (arXiv:2103.00020, section 2.5)."""


class Objective:
    """Contrastive loss on the data, plus distillation from the dense teacher.

    Args:
        contrastive: weight of CLIP's loss on the pairs. Legal: number of at least 0.
        affinity: weight of matching the teacher's similarities. Legal: number of at least 0.
        feature: weight of matching the teacher's embeddings. Legal: number of at least 0.
        interactive: weight of finding the teacher's embedding of the partner. Legal: number of at
            least 0.
    """

    def __init__(
        self,
        *,
        contrastive: float = 1.0,
        affinity: float = 0.0,
        feature: float = 0.0,
        interactive: float = 0.0,
    ) -> None:
        weights = {
            "contrastive": contrastive,
            "affinity": affinity,
            "feature": feature,
            "interactive": interactive,
        }
        for name, value in weights.items():
            if value < 0:
                raise ValueError(f"objective.{name}={value} must not be negative")
        if not any(weights.values()):
            raise ValueError("every weight of the objective is 0: set at least one above it")
        self.weights = weights

    @property
    def needs_teacher(self) -> bool:
        """Whether any term looks at the teacher."""
        return any(self.weights[name] for name in ("affinity", "feature", "interactive"))

    def __call__(
        self,
        student: Backbone,
        batch: Mapping[str, Tensor],
        *,
        teacher: Backbone | None = None,
        gather: Gather = alone,
    ) -> dict[str, Tensor]:
        """See `Loss`; the negatives come from the batches of all processes."""
        learner = _dual(student)
        ours = _embed(learner, batch, gather)
        theirs, teacher_scale = None, None
        if self.needs_teacher:
            assert teacher is not None
            dense = _dual(teacher)
            with torch.no_grad():
                theirs, teacher_scale = _embed(dense, batch, gather), dense.logit_scale
        concept = gather(batch["concept"]) if "concept" in batch else None
        scale = learner.logit_scale.clamp(max=MAX_LOGIT_SCALE)
        return self.terms(ours, scale, theirs, teacher_scale, concept)

    def outputs(self, student: Backbone, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Loss`: the embeddings of both modalities, and the concept where there is one."""
        pair = dict(zip(student.modalities, _embed(_dual(student), batch, alone), strict=True))
        return pair | {key: batch[key] for key in ("concept",) if key in batch}

    def metrics(self, outputs: Mapping[str, Tensor]) -> dict[str, float]:
        """`mean_r@1` and `mean_recall` of pairs; `acc@1` of items whose text is a prompt with their
        class."""
        first, second = (rows.float() for key, rows in outputs.items() if key != "concept")
        if "concept" not in outputs:
            index = torch.arange(len(first), device=first.device)
            found = retrieval_metrics(first, second, index)
            return {name: float(found[name]) for name in ("mean_r@1", "mean_recall")}
        classes, labels = outputs["concept"].unique(return_inverse=True)
        heads = torch.stack([second[labels == c].mean(dim=0) for c in range(len(classes))])
        return {"acc@1": zeroshot_accuracy(first, heads, labels)}

    def terms(
        self,
        student: tuple[Tensor, Tensor],
        logit_scale: Tensor,
        teacher: tuple[Tensor, Tensor] | None = None,
        teacher_scale: Tensor | None = None,
        concept: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The weighted terms by name.

        Args:
            student, teacher: two modalities each, (B, D), L2-normalized.
            logit_scale, teacher_scale: scalars.
            concept: (B,) int64, equal for pairs that say the same; None when all differ.
        """
        terms = {}
        if self.weights["contrastive"]:
            terms["contrastive"] = contrastive_loss(*student, logit_scale, concept)
        if self.needs_teacher:
            assert teacher is not None
            assert teacher_scale is not None
        if self.weights["affinity"]:
            terms["affinity"] = affinity_loss(student, teacher, logit_scale, teacher_scale)  # type: ignore[arg-type]
        if self.weights["feature"]:
            terms["feature"] = feature_loss(student, teacher)  # type: ignore[arg-type]
        if self.weights["interactive"]:
            terms["interactive"] = interactive_loss(student, teacher, logit_scale, concept)  # type: ignore[arg-type]
        return {name: self.weights[name] * term for name, term in terms.items()}


def _dual(backbone: Backbone) -> Encoder:
    fix = "set trainer=post_training, or objective=cross_entropy for a classifier"
    return dual_encoder(backbone, "this objective needs", fix)


def _embed(backbone: Encoder, batch: Mapping[str, Tensor], gather: Gather) -> tuple[Tensor, Tensor]:
    """Both modalities (B, D)."""
    first, second = backbone.modalities
    pair = backbone.encode(first, batch[first]), backbone.encode(second, batch[second])
    return gather(pair[0]), gather(pair[1])
