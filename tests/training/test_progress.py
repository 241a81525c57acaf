from types import SimpleNamespace

import pytest

from mmcompress.training.progress import ProgressBar


@pytest.mark.parametrize(
    ("max_epochs", "shown"), [(-1, "Epoch 3"), (None, "Epoch 3"), (5, "Epoch 3/4")]
)
def test_epochs_are_counted_only_where_they_are_limited(max_epochs, shown: str) -> None:
    bar = ProgressBar()
    bar._trainer = SimpleNamespace(max_epochs=max_epochs)  # type: ignore[assignment]
    assert bar._get_train_description(3).strip() == shown
