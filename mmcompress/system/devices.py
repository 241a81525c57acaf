"""What devices there are."""

import torch


def gpu_name() -> str | None:
    """Of the CUDA device in use; None without one."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None
