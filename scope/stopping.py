"""Being asked to stop: the answers under way are finished and recorded first."""

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

HANDLED = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}  # unless another listens already


class Stopped(KeyboardInterrupt):  # no error, and nothing that catches errors may swallow it
    """A run ended before all was answered because it was asked to; `signal` by what."""

    def __init__(self, asked: signal.Signals) -> None:
        super().__init__(asked)
        self.signal = asked


class Stopping:
    """A context in which Ctrl-C or SIGTERM is a request that `check` answers; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self._asked: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Stopping":
        if threading.current_thread() is threading.main_thread():  # no other may set a handler
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

    def check(self) -> None:
        """Raises Stopped where a signal has asked for it."""
        if self._asked is not None:
            raise Stopped(self._asked)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = signal.Signals(number)
        print("\nfinishing the answers under way; Ctrl-C again stops at once", file=sys.stderr, flush=True)
