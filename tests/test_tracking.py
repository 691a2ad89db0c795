"""Tracking: what W&B records of a run, and that nothing W&B does or fails to do reaches the run."""

import copy
import json
import logging
import os
import signal
import socket
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from helpers.wandb_files import finished_record, record_files, wait_for, wandb
from omegaconf import OmegaConf

from scope.runs import tracking
from scope.runs.tracking import NoTracking, RunInfo, Tracker, Wandb
from scope.util.errors import SettingError

REPOSITORY = Path(__file__).resolve().parents[1]
IDENTITY = "0123456789abcdef" * 4
CONFIG = {"model": {"name": "tiny", "layers": 2}, "budgets": [64, 128], "seed": None}


def read_samples(folder: Path) -> list[dict[str, Any]]:
    (path,) = folder.glob("wandb/*run-*/files/media/table/samples*.table.json")
    table = json.loads(path.read_text())
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


def info(folder: Path, identity: str = IDENTITY) -> RunInfo:
    return RunInfo(experiment="sweep", name=folder.name, identity=identity, folder=folder, config=CONFIG)


def wandb_core() -> int:
    """The process id of this process's wandb-core."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
        except OSError:  # it ended while we looked
            continue
        state, parent = rest.split()[:2]
        if name == "wandb-core" and int(parent) == os.getpid() and state != "Z":
            return int(stat.parent.name)
    raise LookupError("no wandb-core")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a run, for a user who has never used W&B, in an empty working directory."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("home", "cwd", "run"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")  # here, so that it is gone after the test
    monkeypatch.chdir(tmp_path / "cwd")
    yield tmp_path / "run"
    assert not list((tmp_path / "cwd").iterdir())
    wandb.teardown()


@pytest.fixture
def warned() -> Iterator[list[str]]:
    """Filled, while the test runs, with what tracking warns of."""
    found: list[str] = []
    logger = logging.getLogger("scope.runs.tracking")

    def take(record: logging.LogRecord) -> bool:
        found.append(record.getMessage())
        return False

    logger.addFilter(take)
    yield found
    logger.removeFilter(take)


def test_offline_records_the_run(folder: Path, warned: list[str]) -> None:
    rows: list[Mapping[str, Any]] = [
        {"id": "a", "answer": "yes", "score": 1.0},
        {"id": "b", "answer": 7, "score": 0.5, "note": "late"},
    ]
    tracker: Tracker = Wandb(project="kv")
    tracker.start(info(folder))
    metrics = {"accuracy": 0.0}
    for step in range(1, 4):
        metrics["accuracy"] = step / 4  # the same mapping each time: a row is what it held when it was logged
        tracker.log(metrics)
    tracker.finish({"accuracy": 0.75, "memory": {"peak": 10}, "status": "done"}, rows)

    record = finished_record(folder)
    assert (record.run_id, record.project, record.group, record.name) == (IDENTITY[:16], "kv", "sweep", "run")
    assert record.tags == []
    assert record.config == CONFIG
    assert [row["accuracy"] for row in record.history if "accuracy" in row] == [0.25, 0.5, 0.75]
    assert record.summary["accuracy"] == 0.75
    assert record.summary["memory"] == {"peak": 10}
    assert record.summary["status"] == "done"
    assert read_samples(folder) == [{**rows[0], "note": None}, rows[1]]
    assert warned == []


@pytest.mark.parametrize("secret", [True, False])
def test_the_command_line_is_recorded_unless_a_secret_is_in_it(
    folder: Path, secret: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["main.py", "model.revision=" + ("ghp_" if secret else "v1-") + "aB3dE6gH9jK2mN5pQ8sT1vW4"]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setenv("WANDB_API_KEY", "a1" * 20)
    tracker = Wandb()
    tracker.start(info(folder))
    tracker.finish({}, [])
    assert finished_record(folder).finished
    written = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert (words[1].encode() in written) is not secret
    assert b"a1" * 20 not in written


def test_a_resumed_run_keeps_its_id(folder: Path) -> None:
    for _ in range(2):
        tracker = Wandb()
        tracker.start(info(folder))
        tracker.finish({}, [])
    assert [path.name for path in record_files(folder)] == [f"run-{IDENTITY[:16]}.wandb"] * 2


def test_a_run_left_open_does_not_receive_the_next_one(folder: Path, warned: list[str]) -> None:
    trackers = [Wandb(), Wandb()]
    for number, tracker in enumerate(trackers):
        (folder / str(number)).mkdir()
        tracker.start(info(folder / str(number), identity=str(number) * 64))
        tracker.log({"x": float(number)})
    for number, tracker in reversed(list(enumerate(trackers))):
        tracker.finish({}, [])
        record = finished_record(folder / str(number))
        assert (record.run_id, record.name) == (str(number) * 16, str(number))
        assert [row["x"] for row in record.history] == [float(number)]
    assert warned == []


def test_logging_costs_next_to_nothing(folder: Path) -> None:
    tracker = Wandb()
    tracker.start(info(folder))
    took = []
    for step in range(1000):
        begin = time.perf_counter()
        tracker.log({"x": float(step)})
        took.append(time.perf_counter() - begin)
    assert statistics.median(took) < 0.0005  # the median: now and then another process has the core
    tracker.finish({}, [])
    assert len(finished_record(folder).history) == 1000  # more than one block of the file, too


@pytest.mark.parametrize("tracker", [NoTracking(), Wandb(mode="disabled")])
def test_no_tracking_writes_nothing(tracker: Tracker, folder: Path, warned: list[str]) -> None:
    tracker.start(info(folder))
    tracker.log({"x": 1.0})
    tracker.finish({"x": 1.0}, [{"id": "a"}])
    assert list(folder.iterdir()) == []
    assert warned == []


def test_no_login_warns_once(folder: Path, warned: list[str]) -> None:
    tracker = Wandb(mode="online")
    begin = time.monotonic()
    tracker.start(info(folder))
    wait_for(lambda: warned)
    tracker.log({"x": 1.0})
    tracker.finish({"x": 1.0}, [{"id": "a"}])
    tracker.log({"x": 1.0})
    tracker.finish({"x": 1.0}, [{"id": "a"}])
    assert time.monotonic() - begin < 12  # below the 15 s that an answer is waited for
    assert len(warned) == 1
    assert "wandb login" in warned[0]
    assert record_files(folder) == []


def test_a_server_that_never_answers_is_waited_for_once(
    folder: Path, warned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
        tracker = Wandb(mode="online", init_timeout_seconds=1)
        begin = time.monotonic()
        tracker.start(info(folder))
        tracker.log({"x": 1.0})
        assert time.monotonic() - begin < 15  # the import of wandb, if this test is the first
        begin = time.monotonic()
        tracker.finish({"x": 1.0}, [{"id": "a"}])
        tracker.finish({"x": 1.0}, [{"id": "a"}])
        assert time.monotonic() - begin < 10
        wait_for(lambda: all(thread.name != "wandb" for thread in threading.enumerate()))
    assert len(warned) == 1
    assert "\n" not in warned[0]


def test_a_failure_that_is_still_being_cleared_up_is_one_warning(
    warned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cleared = threading.Event()
    monkeypatch.setattr(tracking, "_tear_down", cleared.wait)
    session = tracking._Session()

    def fail() -> None:
        raise ConnectionError("gone")

    session.open(fail)
    wait_for(lambda: warned)
    session.close(0.05)
    cleared.set()
    assert len(warned) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="finds wandb-core in /proc")
def test_a_killed_wandb_core_costs_only_the_record(folder: Path, warned: list[str]) -> None:
    tracker = Wandb()
    tracker.start(info(folder))
    wait_for(lambda: record_files(folder))
    os.kill(wandb_core(), signal.SIGKILL)
    for _ in range(100):
        tracker.log({"x": 1.0})
    tracker.finish({"x": 1.0}, [{"id": "a"}])
    assert len(warned) == 1

    (folder / "next").mkdir()
    tracker.start(info(folder / "next"))
    tracker.finish({"x": 2.0}, [])
    assert finished_record(folder / "next").summary["x"] == 2.0
    assert len(warned) == 1


def test_without_the_package_the_warning_says_how_to_get_it(
    folder: Path, warned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "wandb", None)
        tracker = Wandb()
        tracker.start(info(folder))
        tracker.log({"x": 1.0})
        tracker.finish({"x": 1.0}, [{"id": "a"}])
    assert len(warned) == 1
    assert "pip install wandb" in warned[0]


@pytest.mark.parametrize(
    ("settings", "field_name"), [({"mode": "on"}, "mode"), ({"init_timeout_seconds": 0}, "init_timeout_seconds")]
)
def test_a_wrong_setting_is_refused(settings: dict[str, Any], field_name: str) -> None:
    with pytest.raises(SettingError, match=field_name):
        Wandb(**settings)


def test_trackers_are_plain_settings() -> None:
    assert Wandb() == Wandb() != Wandb(project="other")
    assert copy.deepcopy(Wandb()) == Wandb()
    assert "_session" not in repr(Wandb())
    assert NoTracking() == NoTracking()


@pytest.mark.parametrize(("name", "expected"), [("none", NoTracking()), ("wandb", Wandb())])
def test_the_configuration_files_hold_the_defaults(name: str, expected: Tracker) -> None:
    from hydra.utils import instantiate

    path = REPOSITORY / "conf" / "tracking" / f"{name}.yaml"
    assert path.read_text().startswith("# ")
    node = OmegaConf.load(path)
    assert instantiate(node) == expected
    assert set(node) == {"_target_"} | {item.name for item in fields(expected) if item.init}  # type: ignore[arg-type]
