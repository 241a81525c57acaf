"""Five hundred changed artifacts with right checksums; `scripts/fuzz_artifacts.py` takes more."""

import os

import pytest
from fuzz_artifacts import SOURCES, fuzz

MUTANTS = int(os.environ.get("MMCOMPRESS_MUTANTS", "500"))


@pytest.mark.slow
def test_mutants_are_refused_or_load() -> None:
    outcomes = list(fuzz(range(MUTANTS)))
    assert [outcome for outcome in outcomes if outcome.faults] == []
    assert {outcome.source for outcome in outcomes} == set(SOURCES)
    refused = [outcome for outcome in outcomes if outcome.said]
    # Else either all that is changed goes unseen, or nothing but checksums was looked at.
    assert 0.4 * MUTANTS < len(refused) < 0.95 * MUTANTS
    assert sum("checksum" in outcome.said for outcome in refused) < 0.1 * MUTANTS
