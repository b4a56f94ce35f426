"""Devices: where a network runs. Words are checked, and most questions answered, without torch."""

from __future__ import annotations

import os
import re
import sys

from featbank.errors import BackboneError

__all__ = ["available_cores", "check_device", "likely_device", "pick_device"]


def available_cores() -> int:
    """Return how many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not every system can tell
        return os.cpu_count() or 1


def check_device(device: str) -> str:
    """Return the word for a device, if it is one; whether there is such a device, nobody looks.

    Raises
    ------
    BackboneError
    """
    if not re.fullmatch(r"auto|(cpu|cuda|mps)(:\d+)?", device):
        raise BackboneError(f"device is auto, cpu, cuda, cuda:N or mps, not {device!r}.")
    return device


def pick_device(device: str = "auto") -> str:
    """Return the device to run on.

    Parameters
    ----------
    device : str
        ``"auto"`` (CUDA, else Apple's MPS, else the CPU), ``"cpu"``, ``"cuda"``, ``"cuda:1"``,
        ``"mps"``.

    Raises
    ------
    BackboneError
        There is no such device on this machine.
    """
    import torch

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if check_device(device) == "auto":
        return "cuda" if cuda else "mps" if mps else "cpu"
    kind, _, number = device.partition(":")
    count = {"cpu": 1, "cuda": torch.cuda.device_count() if cuda else 0, "mps": int(mps)}[kind]
    if int(number or 0) >= count:
        have = f"{count} {kind} device{'s' if count > 1 else ''}" if count else f"no {kind} device"
        raise BackboneError(f"device {device} was asked for, and there is {have}; use auto or cpu.")
    return "cpu" if kind == "cpu" else device


def likely_device(device: str = "auto") -> str:
    """Return what `pick_device` would; torch, whose import takes seconds, is asked only if needed.

    Raises
    ------
    BackboneError
        There is no such device on this machine.
    """
    check_device(device)
    if device == "cpu" or (device == "auto" and not _may_have_accelerator()):
        return "cpu"
    return pick_device(device)


def _may_have_accelerator() -> bool:
    """Tell by device files whether this machine may have a GPU that torch knows."""
    if not sys.platform.startswith("linux"):
        return True
    return any(os.path.exists(f"/dev/{name}") for name in ("nvidiactl", "kfd", "dxg"))
