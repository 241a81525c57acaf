"""An Optuna sweep that goes on where it was cut short."""

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict, read_write


class StudyCallback(Callback):
    """Before a sweep with Optuna, look into its study: what is left to do, and what was lost.

    Hydra's sweeper would run `n_trials` more each time it is started. Here `n_trials` is how many
    results there are to be. A trial whose process was killed is asked for again, first, and its run
    goes on from its checkpoint. The sampler is seeded with the number of trials added, for the same
    seed would draw the same points again.

    Needs `hydra.callbacks.sweep` before it, which has chosen the folder.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        import optuna
        from optuna.trial import TrialState

        sweeper = config.hydra.sweeper
        Path(config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        study = optuna.create_study(
            study_name=sweeper.study_name,
            storage=sweeper.storage,
            directions=list(sweeper.direction),
            load_if_exists=True,
        )
        trials = study.trials
        finished = [t for t in trials if t.state == TrialState.COMPLETE]
        known = [t.params for t in finished]
        for trial in trials:
            if trial.state == TrialState.RUNNING and trial.params not in known:
                study.enqueue_trial(trial.params)
                known.append(trial.params)
        with read_write(config), open_dict(config):
            sweeper.n_trials = max(sweeper.n_trials - len(finished), 0)
            if sweeper.sampler.get("seed") is not None:
                sweeper.sampler.seed += len(trials)
