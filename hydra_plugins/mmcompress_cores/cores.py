"""Hydra's launcher `cores`: jobs in worker processes, of which one that dies takes no other along.

Hydra finds launchers in the package `hydra_plugins` alone. Its own joblib launcher gives up the
whole sweep when the operating system kills a worker, for want of memory say.
"""

import logging
import os
import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

log = logging.getLogger(__name__)

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Cores(Launcher):
    """`hydra/launcher=cores`.

    Args:
        n_jobs: how many jobs run at a time.
        notes: the folder in which `SweepCallback` has each job leave a note of where it runs.
    """

    def __init__(self, *, n_jobs: int, notes: str | None = None) -> None:
        self.n_jobs = n_jobs
        self.notes = notes

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.context, self.function, self.config = hydra_context, task_function, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run every job, whatever becomes of the others."""
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        workers = _Workers(self.n_jobs)
        state = Singleton.get_state()

        def run(index: int, overrides: Sequence[str]) -> JobReturn:
            from hydra_plugins.hydra_joblib_launcher._core import execute_job

            number = initial_job_idx + index
            arguments = (number, overrides, self.context, self.config, self.function, state)
            try:
                return workers.run(execute_job, *arguments)
            except SystemExit as ended:  # it was interrupted, and has recorded it
                log.error("job %d ended with code %s", number, ended.code)
            except workers.died as death:
                self._note(number, overrides, _how(death))
            return JobReturn(overrides=overrides, status=JobStatus.COMPLETED, _return_value=None)

        with ThreadPoolExecutor(self.n_jobs) as threads:
            try:
                return list(threads.map(run, range(len(job_overrides)), job_overrides))
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise
            finally:
                workers.end()

    def _note(self, number: int, overrides: Sequence[str], how: str) -> None:
        """Say how a job's process has ended; its note then says so too."""
        from mmcompress.sweeps.outcome import note_end

        log.error("job %d (%s): its process was ended by %s", number, " ".join(overrides), how)
        if self.notes is not None:
            note_end(Path(self.notes), number, " ".join(overrides), how)


class _Workers:
    """A pool of one process for each thread that asks, and a new one where that has died."""

    def __init__(self, count: int) -> None:
        from joblib.externals.loky.process_executor import BrokenProcessPool

        self.died = BrokenProcessPool
        share = max((os.cpu_count() or 1) // count, 1)
        self.environment = {name: str(share) for name in THREADS if name not in os.environ}
        self.own = threading.local()
        self.pools: list[Any] = []

    def run(self, function: Any, *arguments: Any) -> Any:
        from joblib.externals.loky import ProcessPoolExecutor

        if getattr(self.own, "pool", None) is None:
            self.own.pool = ProcessPoolExecutor(max_workers=1, env=self.environment)
            self.pools.append(self.own.pool)
        try:
            return self.own.pool.submit(function, *arguments).result()
        except self.died:
            self.own.pool = None
            raise

    def end(self) -> None:
        for pool in self.pools:
            pool.shutdown(wait=True, kill_workers=True)


def _how(death: BaseException) -> str:
    """What loky says of the worker: `SIGKILL(-9)`, `EXIT(1)`."""
    found = re.search(r"\{(.+)\}", str(death))
    return found[1] if found else "an unknown cause"
