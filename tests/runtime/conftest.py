"""A model and data whose scores can be worked out by hand."""

from tests.evaluation.conftest import confused, data, model

__all__ = ["confused", "data", "model"]
