"""The devices of this machine."""

import importlib.util

import torch

EVEN = ("auto", "balanced", "balanced_low_0")  # values of device_map with which accelerate uses every GPU
SPREADS = (*EVEN, "sequential")


def parse(device: str) -> torch.device:
    """The torch device of that name, which need not be in this machine. Raises RuntimeError for one without weights."""
    found = torch.device(device)
    if found.type == "meta":
        raise RuntimeError("meta holds no weights")
    return found


def lacking(device: torch.device) -> str:
    """Why a device cannot be used on this machine; empty if it can."""
    try:
        module = torch.get_device_module(device)
        there = module.device_count() if module.is_available() else 0
    except (RuntimeError, AttributeError):
        there = 0
    if not there:
        return f"this machine has no {device.type} device that torch can use"
    if device.index is not None and device.index >= there:
        names = f"{device.type}:0" if there == 1 else f"{device.type}:0 to {device.type}:{there - 1}"
        return f"this machine has only {names}"
    return ""


def automatic() -> torch.device:
    """A GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_accelerate() -> bool:
    return importlib.util.find_spec("accelerate") is not None
