"""Seconds of decoding. A GPU is still at work when a call returns, so the clock waits for it."""

import time

import torch


class Clock:
    """Counts the seconds of decode steps. It is stopped during a prefill."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._before, self._since = device, 0.0, time.perf_counter()

    def now(self) -> float:
        """Seconds counted so far."""
        return self._before + time.perf_counter() - self._since

    def stop(self) -> None:
        """Stop counting, once the device is done."""
        self._before, self._since = self.now(), synchronised(self._device)

    def go(self) -> float:
        """Go on counting, once the device is done. -> the seconds since `stop`."""
        began, self._since = self._since, synchronised(self._device)
        return self._since - began


def synchronised(device: torch.device) -> float:
    """Wait until the device is done. -> the time in seconds, as of time.perf_counter."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
