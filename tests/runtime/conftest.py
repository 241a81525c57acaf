"""A model and data whose scores can be worked out by hand."""

from tests.evaluation.conftest import data, model

__all__ = ["data", "model"]
