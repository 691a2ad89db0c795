"""What every test of the library shares: one thread, so that tests beside each other do not fight for the cores."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from helpers.command import Scope


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def scope(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> "Iterator[Scope]":
    from helpers.command import Scope  # Hydra: only tests of the command line wait for it

    with logging_as_before():
        yield Scope(tmp_path, capfd, monkeypatch)


@contextmanager
def logging_as_before() -> Iterator[None]:
    """Hydra sets levels and adds handlers for the process; the next test must meet none of them."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    known = {
        name: logger.level for name, logger in root.manager.loggerDict.items() if isinstance(logger, logging.Logger)
    }
    yield
    root.setLevel(level)
    for handler in set(root.handlers) - set(handlers):
        root.removeHandler(handler)
    for name, logger in root.manager.loggerDict.items():
        if isinstance(logger, logging.Logger):
            logger.setLevel(known.get(name, logging.NOTSET))


@pytest.fixture(autouse=True)
def no_tracebacks_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line sets this for Hydra; run within a test, it must not reach the next one."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
