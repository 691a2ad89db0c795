"""The fuzzer: it finds what it is there to find, the same each time, and the project has nothing for it to find."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from experiments.soak import fuzz


def last(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(("cases", "seed"), [(10, 0), pytest.param(300, 1, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_odd_requests_are_answered_or_refused_in_a_line(
    cases: int, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (dict(os.environ), Path.cwd())
    code = fuzz.main(cases, seed)
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == f"{cases} cases, 0 tracebacks, 0 exit codes outside 0 1 2", said
    assert code == 0
    assert (dict(os.environ), Path.cwd()) == before


def raising(words: Sequence[str]) -> int:
    raise KeyError(words[0])


def printing(words: Sequence[str]) -> int:
    try:
        raising(words)
    except KeyError:
        fuzz.traceback.print_exc()
    return 1


def leaving(words: Sequence[str]) -> int:
    raise SystemExit(70)


def swallowing(words: Sequence[str]) -> int:
    try:
        while True:
            pass
    except Exception:
        return 0


BROKEN: dict[Callable[[Sequence[str]], int], tuple[int, int]] = {  # tracebacks, and exit codes
    raising: (4, 4),
    printing: (4, 0),
    leaving: (0, 4),
    swallowing: (0, 4),
    lambda words: 3: (0, 4),
    lambda words: 1: (0, 0),
}


@pytest.mark.parametrize("command", BROKEN)
@pytest.mark.slow
def test_what_is_broken_is_found(
    command: Callable[[Sequence[str]], int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fuzz, "finished_sweep", lambda: None)
    monkeypatch.setattr(fuzz, "KINDS", (lambda lots, base: ("broken", lambda: command(["x"])),))
    monkeypatch.setattr(fuzz, "SECONDS", 0.2)
    tracebacks, codes = BROKEN[command]
    assert fuzz.main(4, 0) == int(bool(tracebacks or codes))
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == f"4 cases, {tracebacks} tracebacks, {codes} exit codes outside 0 1 2"
    assert said.count("--fuzz 1 --seed 0 --first 2") == int(bool(tracebacks or codes))  # how to see it again


def test_a_seed_and_a_number_are_one_case(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fuzz, "answered", lambda call: fuzz.Answer(0, ""))
    (tmp_path / "base").mkdir()
    with fuzz.alone(tmp_path):
        fuzz.finished_sweep()
        monkeypatch.setattr(fuzz, "KINDS", (fuzz.overrides, fuzz.settings, fuzz.arguments))
        typed = [fuzz.tried(number, 5)[0] for number in range(20)]
        again = [fuzz.tried(number, 5)[0] for number in reversed(range(20))]
        other = [fuzz.tried(number, 6)[0] for number in range(20)]
    assert typed == again[::-1]
    assert len(set(typed)) > 15
    assert len(set(typed) & set(other)) < 5
    assert os.listdir(tmp_path) == ["base"]
