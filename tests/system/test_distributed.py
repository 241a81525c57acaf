"""Two processes against one: the same statistics, plans, gradients and weights."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from mmcompress.system.distributed import all_gather, broadcast, gather, in_order, mean
from mmcompress.training.launch import start_processes
from tests import two_processes

ROOT = Path(__file__).parents[2]


def test_one_process_keeps_to_itself() -> None:
    taken: list[str] = []

    def spell(word: str, give: Any) -> None:
        for letter in word:
            give(letter)
            assert taken[-1] == letter  # nothing is held back

    in_order(["ab", "c"], spell, taken.append, description="spell")
    assert taken == ["a", "b", "c"]
    rows = torch.ones(2, 3)
    assert broadcast(7) == 7
    assert all_gather(7) == [7]
    assert gather(rows)[0] is rows
    assert mean(rows) is rows


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork"])
def test_strategies_that_pickle_the_model_are_refused(strategy: str) -> None:
    trainer = pl.Trainer(accelerator="cpu", devices=2, strategy=strategy, logger=False)
    with pytest.raises(ValueError, match=r"DDPStrategy cannot work .* trainer=ddp or trainer=fsdp"):
        start_processes(trainer)


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return two_processes.everything()


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes has found."""
    folder = tmp_path_factory.mktemp("together")
    port = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.two_processes", str(folder)],
            cwd=ROOT,
            env=os.environ
            | port
            | {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "PYTHONPATH": str(ROOT)},
        )
        for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=900) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def assert_equal(found: Any, expected: Any) -> None:
    """Bit for bit."""
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key


@pytest.mark.slow
def test_statistics_are_those_of_one_process_bit_for_bit(alone, together) -> None:
    assert any(key.endswith("loss_change") for key in alone["calibrated"])
    for one in together:
        assert_equal(one["calibrated"], alone["calibrated"])


@pytest.mark.slow
@pytest.mark.parametrize("name", two_processes.RECIPES)
def test_the_plan_and_what_is_stored_are_those_of_one_process(name: str, alone, together) -> None:
    expected = alone["compressed"][name]
    for one in together:
        assert one["compressed"][name]["plan"] == expected["plan"]
        assert_equal(one["compressed"][name]["weights"], expected["weights"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["of_pairs", "of_captions", "of_classes"])
def test_gradients_of_a_split_batch_are_those_of_the_whole(name: str, alone, together) -> None:
    for one in together:
        found, expected = one["gradients"][name], alone["gradients"][name]
        assert found.keys() == expected.keys()
        for key, tensor in expected.items():
            # sums over rows, in float32 and another order
            torch.testing.assert_close(found[key], tensor, rtol=1e-4, atol=1e-6, msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", two_processes.TRAINED)
def test_training_goes_where_one_process_would(name: str, strategy: str, alone, together) -> None:
    expected = alone["trained"][name]["alone"]
    first, second = (one["trained"][name][strategy] for one in together)
    assert first["weights"].keys() == expected["weights"].keys()
    for key, tensor in expected["weights"].items():
        found = first["weights"][key]
        # three steps of float32 sums in another order
        torch.testing.assert_close(found, tensor, rtol=1e-3, atol=1e-5, msg=key)
    assert first["val"] == second["val"] == expected["val"]
    assert bool(first["shards"]) == (strategy == "fsdp")
