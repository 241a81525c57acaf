"""SIGTERM and Ctrl-C as one exception, in whatever part of a program they come."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)

Handler = Callable[[int, FrameType | None], None]


class Interrupted(SystemExit):
    """Somebody has asked the program to end: Ctrl-C, `kill`, or a cluster that wants its machine.

    Where nobody catches it, the program ends without a traceback, and with the code that shells
    give to a process that a signal has ended: 130 for SIGINT, 143 for SIGTERM.

    Attributes:
        advice: how to go on.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.advice = "nothing was begun, the same command starts it"

    def __str__(self) -> str:
        return f"interrupted by {signal.Signals(int(str(self.code)) - 128).name}"


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `Interrupted` at the first signal inside; a second one ends the process at once.

    A signal that is ignored stays ignored, as `nohup` and shells' background jobs want it. Outside
    the main thread, which alone may do so, nothing is changed.
    """
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    listen()
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for signum, handler in before.items():
                signal.signal(signum, signal.SIG_DFL if handler is None else handler)


def listen() -> None:
    """Raise `Interrupted` at the next signal; libraries that have put in a handler of their own
    lose it."""
    if threading.current_thread() is not threading.main_thread():
        return
    handler = _handler(os.getpid())
    for signum in SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, handler)


def _handler(owner: int) -> Handler:
    def handle(signum: int, frame: FrameType | None) -> None:
        for each in SIGNALS:
            if signal.getsignal(each) is handle:
                signal.signal(each, signal.SIG_DFL)
        if os.getpid() != owner:  # a worker that was forked does what it would do without us
            if signum == signal.SIGINT:
                raise KeyboardInterrupt
            os.kill(os.getpid(), signum)
            return
        raise Interrupted(128 + signum)

    return handle
