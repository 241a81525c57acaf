"""The rows of the table of Whisper: what each sets on the command line of `train.py`."""

from collections.abc import Sequence
from dataclasses import dataclass

INTEGER = "mmcompress.compression.quantization.integer.Integer"
ENTROPY = "mmcompress.compression.quantization.entropy.Entropy"
WHOLE = "backbone.window=null"
"""The stock model was trained on windows of thirty seconds, and hears badly in shorter ones."""

POSITIONS = f"+compression.steps.positions={{_target_:{INTEGER},bits:8,role:position}}"
"""Positions, which no step compresses unless it is told to, have 8 bits in every row."""

TUNED, STOCK = "tuned", "stock"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        family: of methods.
        name: what the table calls it.
        overrides: of `train.py`.
        of: which dense model is compressed: `tuned` on the training split, or `stock`.
        steps: of training with the compression in the loop.
    """

    family: str
    name: str
    overrides: tuple[str, ...]
    of: str = TUNED
    steps: int = 0


def set_step(recipe: str, *settings: str) -> tuple[str, ...]:
    """`compression=recipe`, with arguments of the step of that name; positions in 8 bits."""
    given = (f"compression.steps.{recipe}.{setting}" for setting in settings)
    return (f"compression={recipe}", *given, POSITIONS)


def grid(step: float, *more: str) -> tuple[str, ...]:
    """An unbounded grid whose codes are entropy coded, `step` root mean squares wide."""
    return (*set_step("entropy", f"step={step}", "rounding=0.4", "error_feedback=true"), *more)


def parts(audio: float, text: float, embedding: float) -> tuple[str, ...]:
    """A grid of its own for the encoder, for the decoder's blocks, and for the embedding."""
    selectors = {
        "audio": (audio, "modality:audio"),
        "text": (text, "modality:text,role:[attn.*,cross.*,mlp.*]"),
        "embedding": (embedding, "role:embed"),
    }
    common = f"_target_:{ENTROPY},rounding:0.4,error_feedback:true"
    steps = [
        f"+compression.steps.{name}={{{common},step:{step},{selector}}}"
        for name, (step, selector) in selectors.items()
    ]
    return ("compression=entropy", "compression.steps.entropy=null", *steps, POSITIONS)


def trained(steps: int, *more: str) -> tuple[str, ...]:
    """With the compression in the loop; the transcripts and the tuned model both teach."""
    return (
        f"trainer.max_steps={steps}",
        "objective.distillation=1.0",
        "optimizer.lr=3.0e-4",
        *more,
    )


NONE = Row("none", "none, 16 bits", ("compression=none",))

POST_TRAINING = (
    NONE,
    Row("quantization", "int8", set_step("int8")),
    Row("quantization", "gptq 4, g64", set_step("gptq")),
    Row("quantization", "gptq 3, g64", set_step("gptq", "bits=3")),
    Row("quantization", "grid 0.4", grid(0.4)),
    Row("quantization", "grid 0.8", grid(0.8)),
    Row("quantization", "grid 0.9", grid(0.9)),
    Row("sharing", "cluster 16", set_step("cluster")),
    Row("sharing", "vq 256x4", set_step("vq")),
    Row("low rank", "whitened SVD 0.5", set_step("lowrank", "rank_ratio=0.5")),
    Row("pruning", "sparsegpt 0.5", set_step("sparsegpt", "sparsity=0.5")),
    Row("pruning", "neurons 0.25", set_step("neurons", "pruning_ratio=0.25")),
)
PARTS = (
    Row("which part pays", "all alike", parts(0.7, 0.7, 0.7)),
    Row("which part pays", "encoder pays", parts(1.5, 0.59, 0.59)),
    Row("which part pays", "decoder pays", parts(0.57, 1.5, 0.57)),
    Row("which part pays", "embedding pays", parts(0.4, 0.4, 1.1)),
)
TRAINED = (
    Row("in the loop", "grid 1.1", (*grid(1.1), *trained(75)), steps=75),
    Row("in the loop", "grid 1.3", (*grid(1.3), *trained(75)), steps=75),
    Row("in the loop", "lsq 2", (*set_step("lsq", "bits=2"), *trained(75)), steps=75),
)
STOCK_ROWS = (
    Row("none", "none, 16 bits", ("compression=none", WHOLE), of=STOCK),
    Row("quantization", "int8", (*set_step("int8"), WHOLE), of=STOCK),
    Row("quantization", "gptq 4, g64", (*set_step("gptq"), WHOLE), of=STOCK),
    Row("quantization", "grid 0.3", grid(0.3, WHOLE), of=STOCK),
)
ROWS: Sequence[Row] = (*POST_TRAINING, *PARTS, *TRAINED, *STOCK_ROWS)
