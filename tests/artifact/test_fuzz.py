"""Five hundred changed artifacts with right checksums; `scripts/fuzz_artifacts.py` takes more."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MUTANTS = int(os.environ.get("MMCOMPRESS_MUTANTS", "500"))


@pytest.mark.slow
def test_mutants_are_refused_or_load(tmp_path: Path) -> None:
    lines = tmp_path / "outcomes.jsonl"
    command = ["scripts/fuzz_artifacts.py", str(MUTANTS), "--json", str(lines)]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = [json.loads(line) for line in lines.read_text().splitlines()]
    assert len(outcomes) == MUTANTS
    assert [outcome for outcome in outcomes if outcome["faults"]] == []
    assert len({outcome["source"] for outcome in outcomes}) >= min(MUTANTS, 10)
    refused = [outcome for outcome in outcomes if outcome["said"]]
    # Else either all that is changed goes unseen, or nothing but checksums was looked at.
    assert 0.4 * MUTANTS < len(refused) < 0.95 * MUTANTS
    assert sum("checksum" in outcome["said"] for outcome in refused) < 0.1 * MUTANTS
