"""Messages as a terminal can show them, files that are written whole or not at all, and values of a field's type."""

import errno
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from rich.console import Console

from analysis import report, tables
from scope.decoding import KeepAll, Slide
from scope.generation.models import ModelSource
from scope.generation.sampling import Sampling
from scope.prefill import Full, SnapKV
from scope.runs.experiment import Experiment
from scope.runs.instances import instance
from scope.runs.run import run
from scope.runs.tracking import NoTracking
from scope.tasks import Arithmetic
from scope.tasks.sources import read, read_text
from scope.util.errors import (
    ConfigError,
    ScopeError,
    SettingError,
    before_it_runs,
    check_count,
    check_number,
    one_line,
    shown,
)
from scope.util.files import make_folder, require_place, write_whole


@dataclass(frozen=True)
class Numbers:
    count: Any = 1
    number: Any = 1.0


def number_of_digits(value: object) -> str:
    return f"{value.bit_length()} bits" if isinstance(value, int) and value > 1 else repr(value)


SHOWN = {
    None: "null",
    True: "true",
    0.5: "0.5",
    "a\nb\tc": "a b c",
    "\x1b[31m\x00\u202e\u200b": "\\x1b[31m\\x00\\u202e\\u200b",
    "漢字 é 🙂": "漢字 é 🙂",
    "\udcff": "\\udcff",
    "a" * 5000: f"{'a' * 80}...(5,000 characters)",
    10**5000: "(a value of type int, too long to print)",
}


def test_a_value_is_shown_in_a_short_line() -> None:
    for value, said in SHOWN.items():
        assert shown(value) == said


def test_what_no_text_can_hold_is_shown_too() -> None:
    endless: list[Any] = []
    for _ in range(100_000):
        endless = [endless]
    assert shown(endless) == "(a value of type list, too long to print)"
    assert shown([10**5000]) == "(a value of type list, too long to print)"
    while endless:  # not all at once: Python would take it apart by recursion
        endless = endless.pop()


def test_a_secret_is_masked_before_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "s3cr3t-" * 20
    monkeypatch.setenv("MY_API_KEY", secret)
    for value in (secret, f"{'a' * 70}{secret}", [secret], {"key": secret}):
        assert "s3cr3t" not in shown(value)
        assert "s3cr3t" not in str(SettingError(Numbers, "count", value, "another"))


def test_a_line_is_of_a_length_that_can_be_read() -> None:
    assert len(one_line("word " * 10_000)) < 5000
    assert one_line("x" * 5000 + " end") == f"{'x' * 250}...(5,000 characters) end"
    path = f"/{'deep/' * 80}file"
    assert one_line(path) == path


@pytest.mark.parametrize("value", [2**63, 10**4000, 10**5000, -1, 1.0, True, "1", None, [1]], ids=number_of_digits)
def test_a_count_is_bounded(value: object) -> None:
    check_count(Numbers(2**63 - 1), "count")
    with pytest.raises(SettingError) as refused:
        check_count(Numbers(value), "count")
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), 10**400, 10**5000, -1, True, "1", None], ids=number_of_digits
)
def test_a_number_is_finite(value: object) -> None:
    check_number(Numbers(number=1e300), "number", low=0)
    with pytest.raises(SettingError) as refused:
        check_number(Numbers(number=value), "number", low=0)
    assert len(str(refused.value)) < 300


def test_what_goes_wrong_before_a_run_is_a_request_that_cannot_be() -> None:
    for error, said in ((ScopeError("x: is not there"), "x: is not there"), (OSError(5, "broken", "/x"), "/x: broken")):
        with pytest.raises(ConfigError) as refused, before_it_runs():
            raise error
        assert str(refused.value) == said
    with pytest.raises(KeyError), before_it_runs():  # a fault of our own stays one
        raise KeyError("x")


def test_a_full_disk_is_named_with_the_file_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.csv"
    write_whole(path, "before")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")  # as a write that fails: without a name

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as failed:
        write_whole(path, "after")
    assert (failed.value.errno, failed.value.filename) == (errno.ENOSPC, str(path))
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["table.csv"]


PLACES = {"file": "is not a folder", "file/x/y": "is not a folder", "a" * 300: "File name too long", "a\0b": "null"}


@pytest.mark.parametrize("name", PLACES)
def test_a_place_that_cannot_be_is_told_without_making_any(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=f"cannot be made: .*{PLACES[name]}"):
        require_place(tmp_path / name)
    if name != "file":
        with pytest.raises(ConfigError, match="cannot be made: "):
            make_folder(tmp_path / name)
    require_place(tmp_path / "new" / "newer")
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_that_may_not_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write everywhere
    with pytest.raises(ConfigError, match=f"{tmp_path / 'new'}: cannot be made: {tmp_path} cannot be written"):
        require_place(tmp_path / "new")
    require_place(tmp_path)  # it is there: what is in it may be all that is asked for


@dataclass(frozen=True)
class Typed:
    """Fields of the types that settings have, and some that are believed."""

    text: str = ""
    share: float = 0.5
    names: Sequence[str] | None = None
    columns: Mapping[str, int] | None = None
    flag: bool = False
    layers: list[int] | None = None
    choice: Literal["a", "b"] = "a"
    inner: "Typed | None" = None


FITTING = {"text": "x", "share": 1, "names": ["a"], "columns": {"a": 1}, "flag": True, "layers": [], "choice": "c"}
UNFIT: list[tuple[str, Any, str]] = [
    ("text", 1, "text=1: must be a text"),
    ("text", None, "text=null: must be a text"),
    ("share", True, "share=true: must be a number"),
    ("share", "1", "share=1: must be a number"),
    ("names", "abc", "names=abc: must be a list, each a text or null"),
    ("names", ["a", 1], "names=['a', 1]: must be a list, each a text or null"),
    ("columns", {"a": "b"}, "columns={'a': 'b'}: must be a mapping or null"),
    ("columns", ["a"], "columns=['a']: must be a mapping or null"),
    ("flag", 0, "flag=0: must be true or false"),
    ("layers", [1.0], "layers=[1.0]: must be a list, each a whole number or null"),
    ("inner", {"text": "x"}, "inner={'text': 'x'}: must be a Typed or null"),
]


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SCOPE_ALLOW", __name__)
    return f"{__name__}.Typed"


def test_values_of_a_fields_type_are_taken(target: str) -> None:
    made = instance({"_target_": target, **FITTING, "inner": {"_target_": target, "text": "y"}}, "node")
    assert made == Typed(**FITTING, inner=Typed("y"))  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "value", "said"), UNFIT)
def test_a_value_of_another_type_is_refused(target: str, name: str, value: Any, said: str) -> None:
    with pytest.raises(SettingError) as refused:
        instance({"_target_": target, name: value}, "node")
    assert refused.value.describe("node." + name) == "node." + said
    with pytest.raises(ConfigError) as nested:  # further down, its whole key is named
        instance({"_target_": target, "inner": {"_target_": target, name: value}}, "node")
    assert str(nested.value) == "node.inner." + said


def test_a_source_of_rows_is_a_file_or_a_folder(tmp_path: Path) -> None:
    (tmp_path / "deep.jsonl").write_text("[" * 100_000)
    (tmp_path / "digits.jsonl").write_text('{"question": ' + "9" * 5000 + "}\n")
    (tmp_path / "wide.csv").write_text("a,b\n1,2,3,4\n")
    sources: list[Any] = [float("nan"), [], {}, "", "a\0b", "a" * 300, "/dev/zero", tmp_path / "nowhere", 10**5000]
    sources += [str(tmp_path / name) for name in ("deep.jsonl", "digits.jsonl")]
    for source in sources:
        with pytest.raises(ConfigError, match=r"^task\.source=") as refused:
            read(source, [])
        assert "\n" not in str(refused.value)
    assert read(str(tmp_path / "wide.csv"), [])
    for file in (Path("/dev/zero"), tmp_path, tmp_path / "nowhere", Path("a\0b")):
        with pytest.raises(ConfigError, match=r"^task\.template="):
            read_text(file, "task.template")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one short answer."""
    folder = tmp_path_factory.mktemp("outputs") / "sweep"
    task = Arithmetic(questions=1, prompts=1, max_new_tokens=4)
    labels = {"model": "embedded", "task": "sums", "method": "full", "decoding": "none"}
    experiment = Experiment(ModelSource(), Full(), KeepAll(), task, Sampling(), labels)
    run(experiment, NoTracking(), folder, Console(file=io.StringIO()))
    return folder


@pytest.mark.parametrize("command", [tables.main, report.main])
def test_a_command_tells_what_cannot_be_from_what_failed(
    command: Any, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["/dev/null/x"]) == 2
    assert command([str(finished), "--out", "/dev/null/x/y"]) == 2
    assert "cannot be made" in capsys.readouterr().err
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    out = tmp_path / "out"
    assert command([str(finished), "--out", str(out)]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {out}")
    assert said.endswith(": No space left on device\n")
    assert said.count("\n") == 1


@dataclass(frozen=True)
class Scaled(Full):
    """A user's own method, which checks nothing."""

    factor: Any = 1.0


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"method": Scaled(float("inf"))}, "method.factor=inf: holds inf"),
        ({"method": Scaled({"y": [float("nan")]})}, "method.factor={.*}: holds nan"),
        ({"method": Scaled(10**5000)}, "method.factor=.a value of type int, too long to print.: "),
        ({"model": ModelSource(template={"x": "\ud800"})}, "model.template={.*}: holds half a character"),
        ({"model": ModelSource(template={"x": 2**64})}, "model.template={.*}: holds a whole number of more"),
        ({"method": SnapKV(2**60, window=8)}, f"method.budget={2**60}: must be less"),
        ({"max_bytes": 2**60, "decoding": Slide(64, 32)}, f"budget.bytes={2**60}: must be less"),
        ({"max_slots": 2**60, "decoding": Slide(64, 32)}, f"budget.total={2**60}: must be less"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_setting_that_the_reader_of_manifests_would_refuse_is_refused_before_anything_is_written(
    changed: dict[str, Any], said: str, tmp_path: Path
) -> None:
    parts: dict[str, Any] = {"model": ModelSource(), "method": Full(), "decoding": KeepAll(), **changed}
    asked = Experiment(task=Arithmetic(prompts=1, questions=1), sampling=Sampling(), labels={}, **parts)
    with pytest.raises(ConfigError, match=said):
        run(asked, NoTracking(), tmp_path / "sweep", Console(file=io.StringIO()))
    assert not list(tmp_path.iterdir())
