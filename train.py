"""Compress a multimodal model, fine-tune it, store it, and score what was stored.

    python train.py compression=lowrank
    python train.py --help

`conf/` holds every choice; any key can be overridden on the command line. The work itself is
`mmcompress.experiment.run`.
"""

import sys

from mmcompress.cli import train

if __name__ == "__main__":
    train(sys.argv[1:])
