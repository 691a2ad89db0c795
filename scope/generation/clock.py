"""Seconds of decoding: a GPU works on after its calls return, so clocks wait for it."""

import time

import torch


class Clock:
    """Seconds spent in decode steps: it stands still during prefills."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._before, self._since = device, 0.0, time.perf_counter()

    def now(self) -> float:
        return self._before + time.perf_counter() - self._since

    def stop(self) -> None:
        self._before, self._since = self.now(), synchronised(self._device)

    def go(self) -> float:
        """-> seconds for which it stood still."""
        began, self._since = self._since, synchronised(self._device)
        return self._since - began


def synchronised(device: torch.device) -> float:
    """The time once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
