"""Run records, as tests of reports have them."""

from tests.report.conftest import _make_record

__all__ = ["_make_record"]
