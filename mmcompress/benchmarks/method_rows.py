"""Every row of the benchmark of our methods: three tables of `train.py` commands.

`methods` has all families at several strengths, `budget` a byte budget against one strength for
all, `towers` which tower should pay for one total.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        family: whose line in the picture it belongs to.
        name: what the table calls it.
        overrides: of `train.py`.
        trained: fine-tuned, hence three seeds.
    """

    family: str
    name: str
    overrides: tuple[str, ...]
    trained: bool = False


def post(family: str, name: str, *overrides: str) -> Row:
    """A row without fine-tuning."""
    return Row(family, name, ("trainer=post_training", *overrides))


def tuned(family: str, name: str, *overrides: str) -> Row:
    """A row with fine-tuning."""
    return Row(family, name, overrides, trained=True)


def set_step(recipe: str, *settings: str) -> tuple[str, ...]:
    """`compression=recipe`, with arguments of the step of that name."""
    return (f"compression={recipe}", *(f"compression.steps.{recipe}.{s}" for s in settings))


def split(name: str, image: float, text: float, embedding: float) -> Row:
    """A grid of its own for each tower's layers and for the token embedding."""
    parts = {
        "image": f"step:{image},modality:image",
        "text": f"step:{text},modality:text,role:[attn.*,mlp.*,proj]",
        "embedding": f"step:{embedding},role:embed",
    }
    common = f"_target_:{ENTROPY},rounding:0.4,error_feedback:true"
    steps = [f"+compression.steps.{key}={{{common},{part}}}" for key, part in parts.items()]
    return post(name, name, *GRID, "compression.steps.entropy=null", *steps, AGREEMENT)


def allocated(ratio: int, step: float) -> tuple[Row, Row]:
    """Without fine-tuning, one step of the grid for all, and each layer's by the budget."""
    alike = post("uniform", f"{ratio}x, uniform", *GRID, f"{STEP}={step}", AGREEMENT)
    return alike, post("budget", f"{ratio}x, budget", *GRID, f"{BUDGET}={ratio}", AGREEMENT)


def allocated_then_tuned(ratio: int, step: float) -> tuple[Row, Row]:
    """The same with fine-tuning; what training makes of the bytes is in the table."""
    common = (*GRID, *SHORT, NO_FEEDBACK, AGREEMENT)
    alike = tuned("uniform", f"{ratio}x, uniform, tuned", *common, f"{STEP}={step}")
    choices = ",".join(f"{{entropy:{{step:{factor * step:.3g}}}}}" for factor in BAND)
    limits = (f"{BUDGET}={ratio}", f"budget.choices=[{choices}]")
    return alike, tuned("budget", f"{ratio}x, budget, tuned", *common, *limits)


FINE_TUNED = ("objective=strong", "optimizer.lr=5.0e-4", "trainer.max_steps=100")
ENTROPY = "mmcompress.compression.quantization.entropy.Entropy"
SHORT = ("objective=strong", "optimizer.lr=5.0e-4", "trainer.max_steps=60")
GRID = (
    "compression=entropy",
    "compression.dense_dtype=float16",
    "compression.steps.entropy.rounding=0.4",
)
STEP = "compression.steps.entropy.step"
BUDGET = "budget.ratio"
NO_FEEDBACK = "compression.steps.entropy.error_feedback=false"
"""Error feedback makes codes that cost more, and training makes up for what it would have won."""

BAND = (0.65, 0.8, 1.0, 1.2, 1.4)
"""Steps to choose from, in those of the uniform row: training recovers what single layers lose, so
finer and coarser ones were worse on the validation split."""

AGREEMENT = "+evaluation.evaluators.agreement._target_=mmcompress.evaluation.agreement.Agreement"
COSINES = ("agreement/image_cosine", "agreement/text_cosine")

METHODS = (
    tuned("none", "none, 400 steps", "experiment=best_28x", "compression.steps.entropy=null"),
    post("sharing", "cluster 16", *set_step("cluster", "clusters=16")),
    post("sharing", "cluster 8", *set_step("cluster", "clusters=8")),
    post("sharing", "vq 256x4", *set_step("vq")),
    tuned("sharing", "dkm 8", *set_step("dkm", "clusters=8"), *FINE_TUNED),
    post("low rank", "lowrank 0.5", *set_step("lowrank", "rank_ratio=0.5")),
    post("low rank", "lowrank 0.34", *set_step("lowrank", "rank_ratio=0.34")),
    tuned("low rank", "lowrank 0.25", *set_step("lowrank", "rank_ratio=0.25"), *FINE_TUNED),
    post("pruning", "sparsegpt 0.5", *set_step("sparsegpt", "sparsity=0.5")),
    post("pruning", "sparsegpt 0.7", *set_step("sparsegpt", "sparsity=0.7")),
    post("pruning", "neurons 0.5", *set_step("neurons")),
    tuned("pruning", "magnitude 0.8", *set_step("magnitude", "sparsity=0.8"), *FINE_TUNED),
    tuned("pruning", "upop 0.5", *set_step("upop"), *FINE_TUNED),
    post("quantization", "int8", "compression=int8"),
    post("quantization", "gptq 4", *set_step("gptq", "bits=4")),
    post("quantization", "gptq 3", *set_step("gptq", "bits=3")),
    post("quantization", "gptq 2", *set_step("gptq", "bits=2", "group_size=32", "midrise=true")),
    tuned("quantization", "lsq 2", *set_step("lsq", "bits=2", "midrise=true"), *FINE_TUNED),
    tuned("quantization", "binary", *set_step("binary"), *FINE_TUNED),
    tuned(
        "quantization", "entropy 0.7", "experiment=best_28x", "compression.steps.entropy.step=0.7"
    ),
    tuned(
        "quantization", "entropy 1.5", "experiment=best_28x", "compression.steps.entropy.step=1.5"
    ),
    tuned("stack", "magnitude 0.5 + int4", "compression=magnitude_int4", *FINE_TUNED),
    tuned("stack", "minivit + int4", "compression=minivit_int4", *FINE_TUNED),
    post("best", "best_post_training", "experiment=best_post_training"),
    tuned("best", "best_28x", "experiment=best_28x"),
    tuned("best", "best_45x", "experiment=best_45x"),
)

# The uniform steps give the ratio or a little less, so that the budget has no more bytes.
ALLOCATION = (
    *allocated(8, 0.26),
    *allocated(12, 0.67),
    *allocated(16, 1.1),
    *allocated(24, 1.96),
    *allocated(32, 2.76),
    *allocated_then_tuned(16, 1.0),
    *allocated_then_tuned(24, 1.66),
    *allocated_then_tuned(32, 2.1),
)
TOWERS = (
    split("all alike", 1.1, 1.1, 1.1),
    split("image pays", 1.8, 0.628, 0.628),
    split("text pays", 0.861, 1.8, 0.861),
    split("token embedding pays", 1.067, 1.067, 1.8),
    split("token embedding spared", 1.171, 1.171, 0.5),
)
TABLES = {"methods": METHODS, "budget": ALLOCATION, "towers": TOWERS}
