"""Starts `train.py` many times without importing everything each time: for tests that kill it.

A line of standard input is JSON, one entry for each of the processes to start together:

    [{"argv": […], "cwd": "…", "output": "…", "kill": [stage, seconds, signal] or null}, …]

A process gets the signal so many seconds after it has entered the stage. Once all have ended,
the answer is a line with the list of their return codes, negative for a signal.
"""

import json
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager, suppress

from mmcompress.cli import train
from mmcompress.session import Session


def main() -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        started = [start(**entry) for entry in json.loads(line)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in started]
        print(json.dumps(codes), flush=True)


def start(argv: list[str], cwd: str, output: str, kill: tuple[str, float, int] | None) -> int:
    """Fork; the parent watches for the stage in which to kill, and returns the process's id."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        run(argv, cwd, output, writing)
    os.close(writing)
    if kill is None:
        os.close(reading)
    else:
        threading.Thread(target=kill_in, args=(pid, reading, *kill)).start()
    return pid


def kill_in(pid: int, stages: int, stage: str, seconds: float, signum: int) -> None:
    with os.fdopen(stages) as lines:
        for line in lines:
            if line.strip() == stage:
                time.sleep(seconds)
                os.kill(pid, signum)
                return


def run(argv: list[str], cwd: str, output: str, stages: int) -> None:
    """Be `train.py` in a process of its own, and end with it."""
    os.chdir(cwd)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background
    out = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    announced = Session.stage

    @contextmanager
    def stage(self: Session, name: str):
        with suppress(BrokenPipeError):  # nobody wants to know
            os.write(stages, f"{name}\n".encode())
        with announced(self, name):
            yield

    Session.stage = stage
    sys.argv = ["train.py", *argv]
    code = 1
    try:
        train(argv)
        code = 0
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
