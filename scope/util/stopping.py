"""Stopping by signal: the first one lets answers under way finish and be recorded; a second one stops at once."""

import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

HANDLED: dict[signal.Signals, Any] = {  # each with the handler that it has by default
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    **({signal.SIGHUP: signal.SIG_DFL} if hasattr(signal, "SIGHUP") else {}),  # the terminal was closed
}


class Stopped(KeyboardInterrupt):  # not an Exception, so that `except Exception` does not catch it
    """A run was stopped by `signal`. done: the run's folder, if all samples were answered by then."""

    def __init__(self, asked: signal.Signals, done: Path | None = None) -> None:
        super().__init__(asked)
        self.signal, self.done = asked, done


class Stopping:
    """A context in which Ctrl-C, SIGTERM or SIGHUP sets `asked`, and `check` stops. A second one stops at once."""

    def __init__(self) -> None:
        self._asked: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Stopping":
        if threading.current_thread() is threading.main_thread():  # Python allows handlers only there
            for sign, default in HANDLED.items():
                if signal.getsignal(sign) == default:  # a launcher that checkpoints by SIGTERM keeps its own
                    self._before[sign] = signal.signal(sign, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sign, handler in self._before.items():
            signal.signal(sign, handler)

    @property
    def asked(self) -> bool:
        return self._asked is not None

    def check(self, done: Path | None = None) -> None:
        """Raises Stopped if a signal has come. done: the run's folder, if nothing is left to do."""
        if self._asked is not None:
            raise Stopped(self._asked, done)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked is not None:
            raise Stopped(signal.Signals(number))
        self._asked = signal.Signals(number)
        try:
            print("\nfinishing the answers under way; a second signal stops at once", file=sys.stderr, flush=True)
        except OSError:  # the terminal is gone: any further print would fail the run
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for output in (1, 2):
                os.dup2(nowhere, output)
