"""Create one of W&B's own sweeps, and run what its server proposes.

    python scripts/wandb_sweep.py conf/sweep/wandb_lowrank_int8.yaml --count 20
    python scripts/wandb_sweep.py ID --count 20        # help with one that is there, on any machine

The server remembers what has run, hence the agent may be stopped and started as one likes. Without
a server, `python train.py sweep=optuna_pareto` does the like.
"""

from mmcompress.tracking.wandb_sweep import main

if __name__ == "__main__":
    main()
