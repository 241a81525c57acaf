"""The weighted sum of terms that a fine-tune minimises."""

from torch import Tensor

from mmcompress.objectives.contrastive import contrastive_loss
from mmcompress.objectives.distillation import affinity_loss, feature_loss, interactive_loss


class Objective:
    """Contrastive loss on the data plus distillation from the dense teacher.

    Args:
        contrastive: weight of the contrastive loss.
        affinity: weight of matching the teacher's similarities.
        feature: weight of matching the teacher's embeddings.
        interactive: weight of finding the teacher's embedding of the partner.
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
        student: tuple[Tensor, Tensor],
        logit_scale: Tensor,
        teacher: tuple[Tensor, Tensor] | None = None,
        teacher_scale: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The weighted terms by name; the loss is their sum.

        Args:
            student, teacher: two modalities each, (B, D), L2-normalised.
            logit_scale, teacher_scale: scalars.
        """
        terms = {}
        if self.weights["contrastive"]:
            terms["contrastive"] = contrastive_loss(*student, logit_scale)
        if self.needs_teacher:
            assert teacher is not None
            assert teacher_scale is not None
        if self.weights["affinity"]:
            terms["affinity"] = affinity_loss(student, teacher, logit_scale, teacher_scale)  # type: ignore[arg-type]
        if self.weights["feature"]:
            terms["feature"] = feature_loss(student, teacher)  # type: ignore[arg-type]
        if self.weights["interactive"]:
            terms["interactive"] = interactive_loss(student, teacher, logit_scale)  # type: ignore[arg-type]
        return {name: self.weights[name] * term for name, term in terms.items()}
