"""Where a run's progress is reported: nowhere, or to Weights & Biases.

A tracker is told when a run starts, its metrics on the way, and how it ended. It decides nothing. A run does the same
work at the same speed, whether W&B answers, hangs, refuses the login or is not installed.
"""

import importlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from scope.util.errors import SettingError
from scope.util.secrets import redact

_logger = logging.getLogger(__name__)
OFFLINE = "wandb/offline-run-*"  # where W&B puts a run without a network, in the folder that it is given


@dataclass(frozen=True)
class RunInfo:
    """What a tracker may know of a run: `experiment` is the sweep it belongs to, `identity` the hash that names it."""

    experiment: str
    name: str
    identity: str
    folder: Path
    config: dict[str, Any]


class Tracker(Protocol):
    """Anything a run can report to, once: `start`, then any number of `log`, then `finish`."""

    def start(self, run: RunInfo) -> None:
        """Open the record of this run."""

    def log(self, metrics: Mapping[str, float]) -> None:
        """Add one row of running metrics."""

    def finish(self, summary: Mapping[str, Any], samples: list[Mapping[str, Any]]) -> None:
        """Add the final numbers and the table of samples, one mapping of scalars a row, and close the record."""


@dataclass(frozen=True)
class NoTracking:
    """Reports nowhere; the run's folder has it all."""

    def start(self, run: RunInfo) -> None:
        """Nothing to open."""

    def log(self, metrics: Mapping[str, float]) -> None:
        """Nothing to report to."""

    def finish(self, summary: Mapping[str, Any], samples: list[Mapping[str, Any]]) -> None:
        """Nothing to close."""


_Call = Callable[[Any], object]  # something to do with an open W&B run


class _Session:
    """One W&B run, with every call to it made on a thread of its own.

    Some calls of W&B have no timeout, and a call on a stopped `wandb-core` never returns. On a thread, a hang costs the
    run nothing while it works, and at most `patience` seconds at its end. A failure gives one warning, then silence.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[_Call | None] | None = None
        self._thread: threading.Thread | None = None
        self._warned = False

    def open(self, open_run: Callable[[], Any]) -> None:
        """Start the thread; `open_run` is called there and gives the W&B run that later calls act on."""
        self._calls, self._warned = SimpleQueue(), False
        self._thread = threading.Thread(target=self._work, args=(open_run, self._calls), name="wandb", daemon=True)
        self._thread.start()

    def send(self, call: _Call) -> None:
        """Queue `call`; the thread calls it with the W&B run."""
        if self._calls is not None and self._thread is not None and self._thread.is_alive():
            self._calls.put(call)

    def close(self, patience: float) -> None:
        """Wait until everything sent is recorded, or for `patience` seconds."""
        if self._calls is None or self._thread is None:
            return
        self._calls.put(None)
        self._thread.join(patience)
        if self._thread.is_alive():
            self._warn(f"no answer for {patience:g} seconds")
        self._calls = self._thread = None

    def _work(self, open_run: Callable[[], Any], calls: SimpleQueue[_Call | None]) -> None:
        try:
            run = open_run()
            while (call := calls.get()) is not None:
                call(run)
            run.finish()
        except (Exception, SystemExit) as error:  # wandb calls sys.exit when wandb-core ends badly
            if self._thread is threading.current_thread():  # otherwise `close` has given up on this run, and has warned
                self._warn(_one_line(error))
            _tear_down()

    def _warn(self, reason: str) -> None:
        """Warn at most once a run: a thread that failed and warned may still hang when `close` gives up."""
        if not self._warned:
            self._warned = True
            _warn(reason)


@dataclass(frozen=True)
class Wandb:
    """Reports to Weights & Biases: one W&B run a run, grouped by experiment, its files inside the run's folder.

    `offline` needs no account and no network; `wandb sync` uploads such a run later. `init_timeout_seconds` is also
    what the end of a run waits, at most, for the last of an upload.
    """

    project: str = "scope"
    mode: str = "offline"
    entity: str | None = None
    init_timeout_seconds: float = 15
    _session: _Session = field(default_factory=_Session, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.mode not in ("offline", "online", "disabled"):
            raise SettingError(self, "mode", self.mode, "one of offline, online, disabled")
        if not self.init_timeout_seconds > 0:
            raise SettingError(self, "init_timeout_seconds", self.init_timeout_seconds, "a number of seconds above 0")

    def start(self, run: RunInfo) -> None:
        """Open a W&B run, in the background."""
        if self.mode == "disabled":
            return
        self._session.close(self.init_timeout_seconds)  # the last run may have ended in an error and not in `finish`
        # Without this, W&B's reports about itself hold up the end of the process when its server does not answer.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        try:  # here and not on the thread: neither the import nor the setup is safe in two threads at once
            settings = self._settings()
            _wandb().setup(settings)
        except ImportError:
            _warn("wandb is not installed, get it with: pip install wandb")
        except Exception as error:
            _warn(_one_line(error))
        else:
            self._session.open(partial(self._open_run, run, settings))

    def log(self, metrics: Mapping[str, float]) -> None:
        """Add one row of running metrics."""
        row = dict(metrics)  # the caller may change its mapping before the row is sent
        self._session.send(lambda wandb_run: wandb_run.log(row))

    def finish(self, summary: Mapping[str, Any], samples: list[Mapping[str, Any]]) -> None:
        """Add the summary and the table of samples, and wait a bounded time for W&B to have them."""
        self._session.send(lambda wandb_run: wandb_run.summary.update(dict(summary)))
        if samples:
            self._session.send(lambda wandb_run: wandb_run.log({"samples": _table(samples)}))
        self._session.close(self.init_timeout_seconds)

    def _settings(self) -> Any:
        return _wandb().Settings(
            mode=self.mode,
            silent=True,
            console="off",  # the terminal belongs to the run
            x_service_wait=self.init_timeout_seconds,
            init_timeout=self.init_timeout_seconds,
            finish_timeout=self.init_timeout_seconds,
            finish_timeout_raises=True,
            x_disable_meta=redact(sys.argv[1:]) != sys.argv[1:],  # W&B would record the command line with its secrets
        )

    def _open_run(self, run: RunInfo, settings: Any) -> Any:
        wandb = _wandb()
        # On a terminal, `init` would ask for the missing key and wait.
        if self.mode == "online" and not wandb.login(prompt=False, verify=False):
            raise PermissionError("no login: use `wandb login`, or set WANDB_API_KEY, or tracking.mode=offline")
        return wandb.init(
            project=self.project,
            entity=self.entity,
            group=run.experiment,
            name=run.name,
            config=run.config,
            dir=run.folder,
            id=run.identity[:16],
            # Offline there is no server to ask how far the run had got. It keeps its id, and `wandb sync` puts the
            # files of one id into one W&B run, oldest first.
            resume="allow" if self.mode == "online" else None,
            reinit="create_new",  # else a run that failed before `finish` would receive what the next one logs
            settings=settings,
        )


def kept_offline(folders: Sequence[Path]) -> str | None:
    """How to upload what W&B has kept in the folders of these runs, in a line; None where it has kept nothing."""
    holding = [folder for folder in folders if any(folder.glob(OFFLINE))]
    if not holding:
        return None
    several = len(holding) > 1 and {folder.parent for folder in holding} == {holding[0].parent}
    places = [holding[0].parent / "*"] if several else holding
    runs = f"{len(holding)} run{'s' * (len(holding) > 1)}"
    return f"W&B, offline: {runs}; to upload: wandb sync {' '.join(f'{place}/{OFFLINE}' for place in places)}"


def _wandb() -> Any:
    """The wandb package, loaded by the first run that reports to it."""
    return importlib.import_module("wandb")


def _table(rows: list[Mapping[str, Any]]) -> Any:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[row.get(column) for column in columns] for row in rows]
    return _wandb().Table(columns=columns, data=cells, allow_mixed_types=True)


def _tear_down() -> None:
    """Let the process open other W&B runs: a dead wandb-core would fail each of them."""
    try:
        _wandb().teardown()
    except (Exception, SystemExit) as error:
        _logger.debug("W&B did not shut down: %s", _one_line(error))


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _warn(reason: str) -> None:
    _logger.warning("W&B is off for the rest of this run: %s", redact(reason))
