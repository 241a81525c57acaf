"""Data that the second of several processes cannot read; for `test_train_processes.py`."""

from torch.utils.data import DataLoader

from mmcompress.data.openmoji import OpenMoji
from mmcompress.system.distributed import rank


class FailsInSecond(OpenMoji):
    def calibration_dataloader(self) -> DataLoader:
        if rank() == 1:
            raise ValueError("the second process has no data")
        return super().calibration_dataloader()
