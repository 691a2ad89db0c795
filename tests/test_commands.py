"""The other commands: what they say of themselves and of what they cannot do."""

import importlib
import importlib.util
import runpy
import sys
from pathlib import Path

import pytest

from scope.cli.build_set import main as tasks

ROOT = Path(__file__).parents[1]
EXPERIMENTS = "backends coverage fidelity kvpress_oracle overview"
EXPERIMENTS += " tiny.calibrate tiny.curve tiny.evaluate tiny.export tiny.train"


def say(name: str, monkeypatch: pytest.MonkeyPatch, *words: str) -> int | str | None:
    """The exit code of `python -m experiments.<name>` with these words."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
    with pytest.raises(SystemExit) as left:
        importlib.import_module(f"experiments.{name}").main()
    return left.value.code


@pytest.mark.parametrize("name", EXPERIMENTS.split())
def test_an_experiment_says_how_it_is_called(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert say(name, monkeypatch, "--help") == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m experiments.{name} [-h]")


def test_words_that_cannot_be_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert say("coverage", monkeypatch, "many") == 2
    assert "many: must be a whole number of at least 1" in capsys.readouterr().err
    assert say("kvpress_oracle", monkeypatch, "compare", str(tmp_path)) == 2
    assert f"{tmp_path}: holds no kept.json" in capsys.readouterr().err


def test_building_a_set_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert tasks(["bild", "task=gsm8k_4k"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: bild: must be build; did you mean build?; as in: python -m scope.tasks build ")
    assert said.count("\n") == 1
    assert tasks([]) == 2
    assert capsys.readouterr().err.startswith("error: nothing to do; as in: ")
    assert tasks(["--help"]) == 0
    assert "python -m scope.tasks build" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "left", "said"),
    [(["--help"], 0, ""), ([], 2, "pip install -e '.[kernels]'"), (["9"], 2, "one of 80")],
)
def test_compiling_kernels_asks_for_triton_in_a_line(
    words: list[str], left: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *more: None if name == "triton" else found(name, *more)
    )
    monkeypatch.setattr(sys, "argv", ["kernels_compile.py", *words])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "tests" / "kernels_compile.py"), run_name="__main__")
    assert ended.value.code == left
    assert said in capsys.readouterr().err
