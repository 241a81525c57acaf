"""What is known of a metric by its name: its unit, its direction, how it is written."""

from collections.abc import Iterable, Sequence

from mmcompress.records.schema import Interval, Record

MAIN_METRIC = "retrieval/mean_r@1"
PREFERRED = (
    MAIN_METRIC,
    "retrieval/mean_recall",
    "zeroshot/acc@1",
    "zeroshot/subgroup_acc@1",
    "zeroshot/skin_tone_acc@1",
    "accuracy/acc@1",
    "transcription/wer",
    "answers/exact_match",
    "answers/vqa_accuracy",
    "captioning/perplexity",
    "teacher_forced/cross_entropy",
)
"""What a table is about when nobody says: the first of these that was measured. The others have a
column each."""

PERCENT_METRICS = (
    *("r@", "recall", "acc@", "transcription/", "answers/"),
    "agreement/tokens",
)
LOWER_IS_BETTER = ("perplexity", "loss", "error", "wer", "cer", "cross_entropy", "logit_kl")
TITLES = {
    MAIN_METRIC: "mean R@1",
    "zeroshot/acc@1": "zero-shot",
    "zeroshot/subgroup_acc@1": "zero-shot subgroup",
    "zeroshot/skin_tone_acc@1": "zero-shot skin tone",
    "transcription/wer": "WER",
    "transcription/cer": "CER",
    "transcription/utterance_acc": "utterance accuracy",
    "answers/anls": "ANLS",
    "answers/rouge_l": "ROUGE-L",
    "answers/vqa_accuracy": "VQA accuracy",
    "agreement/logit_kl": "logit KL",
}


def is_percent(name: str) -> bool:
    """Whether a metric is a share in [0, 1] that is shown in percent."""
    return any(part in name for part in PERCENT_METRICS)


def lower_is_better(name: str) -> bool:
    """Example:

    >>> lower_is_better("captioning/perplexity"), lower_is_better("retrieval/mean_recall")
    (True, False)
    """
    return any(part in name.rpartition("/")[2] for part in LOWER_IS_BETTER)


def digits(name: str) -> int:
    """Decimals in a table: tenths of a percent, hundredths of a perplexity, else four.

    Example:
        >>> digits("zeroshot/acc@1"), digits("captioning/perplexity"), digits("text_cosine")
        (1, 2, 4)
    """
    return 1 if is_percent(name) else 2 if "perplexity" in name else 4


def scale(name: str) -> float:
    """What a value is multiplied by before it is shown: 100 for percent."""
    return 100.0 if is_percent(name) else 1.0


def title(name: str, *, unit: bool = False) -> str:
    """What tables and axes call a metric.

    Example:
        >>> title("retrieval/mean_r@1", unit=True), title("agreement/text_cosine", unit=True)
        ('mean R@1 (%)', 'text cosine')
    """
    text = TITLES.get(name) or name.rpartition("/")[2].replace("_", " ")
    return f"{text} (%)" if unit and is_percent(name) else text


def format_interval(name: str, bounds: Sequence[float], digits: int, *, sign: bool = False) -> str:
    """A 95 % interval, in percent where the metric is.

    Example:
        >>> format_interval("retrieval/mean_r@1", [0.781, 0.8463], 1)
        '[78.1, 84.6]'
    """
    values = (round(scale(name) * bound, digits) for bound in bounds)
    low, high = (f"{v:{'+' if sign and v else ''}.{digits}f}" for v in (v + 0.0 for v in values))
    return f"[{low}, {high}]".replace("-", "−")


def format_metric(name: str, value: float) -> str:
    """Recalls and accuracies in percent, everything else with four digits.

    Example:
        >>> format_metric("retrieval/mean_recall", 0.8883), format_metric("loss", 0.12346)
        ('88.83 %', '0.1235')
    """
    return f"{100 * value:.2f} %" if is_percent(name) else f"{value:.4g}"


def with_interval(name: str, value: float, entry: Interval | None) -> str:
    """A metric with its 95 % bootstrap interval and number of test items, where it has them.

    Example:
        >>> with_interval("zeroshot/acc@1", 0.5, Interval(1200, compressed=[0.47, 0.53]))
        '50.00 % [47.0, 53.0] (95 %), 1,200 items'
    """
    text = format_metric(name, value)
    if entry is None or entry.compressed is None:
        return text
    bounds = format_interval(name, entry.compressed, 1 if is_percent(name) else 4)
    return f"{text} {bounds} (95 %), {entry.items:,} items"


def metrics_in(records: Iterable[Record]) -> list[str]:
    """Every metric that some compressed model has, in order of first appearance."""
    return list(dict.fromkeys(name for r in records for name in r.metrics.compressed))


def main_metric(records: Sequence[Record]) -> str:
    """The first of `PREFERRED` that was measured, else the first metric there is."""
    found = metrics_in(records)
    return next((name for name in PREFERRED if name in found), next(iter(found), MAIN_METRIC))
