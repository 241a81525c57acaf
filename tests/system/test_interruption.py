"""Signals in this process; `tests/sweeps/test_signals.py` sends them to runs."""

import os
import pickle
import signal
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from mmcompress.backbones.base import Backbone
from mmcompress.compression.recipe import Recipe
from mmcompress.data.base import PairData
from mmcompress.objectives.objective import Objective
from mmcompress.session import Listening
from mmcompress.system.interruption import SIGNALS, Interrupted, interruptible
from mmcompress.training.module import CompressionModule, TrainingData


@pytest.fixture(autouse=True)
def _as_in_a_terminal(monkeypatch: pytest.MonkeyPatch):
    """A shell's background job, such as these tests may be, ignores Ctrl-C."""
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_an_exception_with_the_code_of_shells(
    signum: signal.Signals, code: int
) -> None:
    with pytest.raises(Interrupted) as caught, interruptible():
        os.kill(os.getpid(), signum)
    assert caught.value.code == code
    assert str(caught.value) == f"interrupted by {signum.name}"
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.code, str(copy)) == (code, str(caught.value))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_second_signal_ends_the_process_at_once() -> None:
    handlers = []

    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            handlers.extend(signal.getsignal(signum) for signum in SIGNALS)

    with pytest.raises(Interrupted), interruptible():
        work()
    assert handlers == [signal.SIG_DFL, signal.SIG_DFL]


def test_what_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interruptible():
        os.kill(os.getpid(), signal.SIGINT)


def test_a_worker_that_was_forked_ends_as_it_would_without_us() -> None:
    with interruptible():
        worker = os.fork()
        if worker == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == -signal.SIGTERM


class Ending(pl.Callback):
    """Gets SIGTERM in the middle of the second step."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        if batch_idx == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_while_fitting_is_no_success(
    tiny_backbone: Backbone, tiny_data: PairData, tmp_path: Path
) -> None:
    """Lightning would end the program with code 0."""
    module = CompressionModule(
        Recipe().restore(tiny_backbone, {}), Objective(), optimizer=torch.optim.AdamW
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[Ending(), Listening()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        max_steps=3,
    )
    with pytest.raises(Interrupted) as caught, interruptible():
        trainer.fit(module, TrainingData(tiny_data))
    assert caught.value.code == 143
    assert trainer.global_step == 1
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
