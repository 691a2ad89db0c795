"""The one reader of a run's folder, and all who use it: what is not as the run wrote it is named, and never scored."""

import io
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.quick import every
from made_up import answered_record
from rich.console import Console

from analysis import report, tables
from analysis.records import read_runs
from scope import records
from scope.cli.rescore import main as scoring_main
from scope.records import RecordKeeping, Records
from scope.records.lines import seal
from scope.records.merge import main as merge_main
from scope.records.merge import merge
from scope.records.read import RecordsError, read_run
from scope.util.errors import ScopeError

IDENTITY = "a" * 64
LABELS = {"model": "embedded", "task": "arithmetic", "method": "snapkv", "decoding": "slide"}
ASKED = {"number": 1, "expected": "7", "found": "7", "correct": True, "given": 1}
ASKED |= {"released_found": "7", "released_correct": True}


def record(name: str, **changed: Any) -> dict[str, Any]:
    return answered_record(name) | {"generation": "Answer_1: The answer is 7.", "questions": [ASKED]} | changed


def manifest(**changed: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "model": {"path": "embedded"},
        "task": {},
        "method": {"budget": 0.5},
        "decoding": {"budget": 64},
    }
    return {
        "identity": IDENTITY,
        "experiment": "sweep",
        "run": "run",
        "seed": 0,
        "labels": LABELS,
        "settings": settings,
        "samples": 3,
        "created": "2026-01-01T00:00:00+00:00",
        "commit": None,
        "versions": {"torch": "2.13.0"},
        "hardware": {"cores": 2, "gpu": None},
    } | changed


def write(folder: Path, lines: bytes, about: bytes | None = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("name: x\n")
    (folder / "manifest.json").write_bytes(json.dumps(manifest()).encode() if about is None else about)
    (folder / "records.jsonl").write_bytes(lines)
    return folder


def resume(folder: Path) -> set[str]:
    """What a run that goes on in this folder has not to answer again."""
    about = {"identity": IDENTITY, "samples": 3}
    kept = Records(folder, "", about, RecordKeeping())
    kept.close()
    return set(kept.done)


def deep(levels: int) -> Any:
    found: Any = 1
    for _ in range(levels):
        found = [found]
    return found


# --- lines -----------------------------------------------------------------------------------------------------------

GOOD = seal(record("a"), IDENTITY)
CHANGED = GOOD.replace(b'"sample": "a"', b'"sample": "b"').replace(b'"expected": "7"', b'"expected": "8"')


def with_check(text: bytes) -> bytes:
    """A line of any text whose checksum is right."""
    from scope.records.lines import _CHECK, _checksum

    return text[:-1] + _CHECK + _checksum(text, IDENTITY) + b'"}\n'


def wrong(**changed: Any) -> bytes:
    return seal(record("b", **changed), IDENTITY)


SPOILT = {
    "changed": (CHANGED, "lines changed since, or of another run: 1 (line 2)"),
    "of another run": (seal(record("b"), "c" * 64), "lines changed since, or of another run: 1 (line 2)"),
    "no checksum": (json.dumps(record("b")).encode() + b"\n", "lines without a checksum: 1 (line 2)"),
    "cut": (GOOD[:50] + b"\n", "unreadable lines: 1 (line 2)"),
    "empty": (b"\n", "unreadable lines: 1 (line 2)"),
    "not UTF-8": (b'{"sample": "\xff"}\n', "unreadable lines: 1 (line 2)"),
    "NUL": (b"\0" * 20 + b"\n", "unreadable lines: 1 (line 2)"),
    "no object": (b"[1]\n", "lines that are no record: 1 (line 2)"),
    "no sample": (seal({"simple": "b"}, IDENTITY), "lines that are no record: 1 (line 2)"),
    "a sample that is no text": (seal({"sample": ["b"]}, IDENTITY), "lines that are no record: 1 (line 2)"),
    "too deep": (with_check(b'{"sample": "b", "x": ' + b"[" * 100_000 + b"}"), "unreadable lines: 1 (line 2)"),
    "a long number": (with_check(b'{"sample": "b", "x": ' + b"7" * 5000 + b"}"), "unreadable lines: 1 (line 2)"),
    "no brackets, deep": (b"[" * 100_000 + b"\n", "unreadable lines: 1 (line 2)"),
}
WRONG = {
    "questions a number": (wrong(questions=3), "b: questions: must be a valid list"),
    "a question a text": (wrong(questions=["x"]), "b: questions.0: must be a valid dictionary"),
    "correct a text": (wrong(questions=[ASKED | {"correct": "yes"}]), "b: questions.0.correct: must be a valid bool"),
    "expected a number": (wrong(questions=[ASKED | {"expected": 7}]), "b: questions.0.expected: must be a valid str"),
    "no generation": (wrong(generation=None), "b: generation: must be a valid string"),
    "bytes a text": (wrong(cache_bytes="7"), "b: cache_bytes: must be a valid integer"),
    "bytes a truth": (wrong(cache_bytes=True), "b: cache_bytes: must be a valid integer"),
    "negative bytes": (wrong(cache_bytes=-1), "b: cache_bytes: must be greater than or equal to 0"),
    "NaN": (wrong(batch_seconds=float("nan")), "b: holds nan, which is no number"),
    "infinite": (wrong(measures={"rougeL": float("inf")}), "b: holds inf, which is no number"),
    "too large": (wrong(prompt_tokens=10**400), "b: holds a whole number of more than 64 bits"),
    "half a character": (wrong(generation="\ud83d"), "b: holds half a character"),
    "in its name": (wrong(sample="b\ud83d\nc"), "b? c: holds half a character"),
    "deep": (wrong(more=deep(500)), "b: lists and objects stand more than 32 deep inside each other"),
    "no slots": (wrong(slots_kept=[]), "b: slots_kept: "),
    "slots a number": (wrong(slots_kept=7), "b: slots_kept: must be a valid list"),
    "a field lacks": (seal({k: v for k, v in record("b").items() if k != "batch"}, IDENTITY), "b lacks 'batch'"),
    "status a number": (wrong(status=1), "b: status: must be a valid string"),
}


@pytest.mark.parametrize("kind", every(3, [*SPOILT, *WRONG]))
def test_everybody_leaves_out_the_same_lines_and_names_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """Of three lines the second is spoilt: the table, the report, the scorer and the run that goes on see two."""
    line, told = SPOILT[kind] if kind in SPOILT else WRONG[kind]
    folder = write(tmp_path / "sweep" / "run", GOOD + line + seal(record("c"), IDENTITY))
    sweep = folder.parent
    (run,) = read_runs([sweep])
    (note,) = run.notes
    assert [sample.name for sample in run.samples] == ["a", "c"]
    assert told in note
    assert "\n" not in note
    (row,) = tables.build(sweep).to_dict("records")
    assert row["prompts"] == 2
    assert note in row["notes"]
    assert tables.main([str(sweep)]) == 0
    assert report.main([str(sweep)]) == 0
    capsys.readouterr()
    assert scoring_main([str(sweep)]) == 1
    out, err = capsys.readouterr()
    assert "100.00" in out
    assert err.count("\n") == 2
    assert f"warning: {folder.resolve()}: {note}" in err.replace(str(folder), str(folder.resolve()))
    assert [line["sample"] for line in records.read(folder)] == ["a", "c"]
    assert f"{folder / 'records.jsonl'}:2 cannot be used: " in caplog.text
    assert resume(folder) == {"a", "c"}
    assert (folder / "records.damaged").read_bytes() == line
    assert read_run(folder).problems == ()


def test_expected_values_that_were_rewritten_give_no_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = b"".join(seal(record(name), IDENTITY) for name in "abc")
    write(tmp_path / "run", lines.replace(b'"expected": "7"', b'"expected": "6"'))
    assert scoring_main([str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "lines changed since, or of another run: 3 (line 1, 2, 3)" in err
    assert err.splitlines()[-1] == f"error: {tmp_path}: no record that can be scored is left"
    with pytest.raises(RecordsError, match=r"no run with records here or below: .*changed since.*: 3"):
        read_runs([tmp_path])


def test_a_killed_writers_last_line_is_named_and_is_no_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder = write(tmp_path / "run", GOOD + seal(record("b"), IDENTITY)[:-30])
    assert scoring_main([str(tmp_path)]) == 0
    assert capsys.readouterr().err == f"warning: {folder}: torn last line\n"
    assert read_run(folder).notes == ("torn last line",)
    assert resume(folder) == {"a"}
    assert "cannot be used" not in caplog.text


def test_a_changed_last_line_without_its_end_is_not_taken_for_a_torn_one(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", GOOD + CHANGED[:-1])
    assert read_run(folder).notes == ("lines changed since, or of another run: 1 (line 2)",)
    assert scoring_main([str(tmp_path)]) == 1


def test_a_whole_line_that_lacks_its_newline_counts_and_the_next_starts_a_new_one(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", GOOD[:-1])
    assert [sample.name for sample in read_runs([tmp_path])[0].samples] == ["a"]
    kept = Records(folder, "", {"identity": IDENTITY, "samples": 3}, RecordKeeping())
    assert set(kept.done) == {"a"}
    kept.append([record("b")])
    kept.close()
    assert (folder / "records.jsonl").read_bytes() == GOOD + seal(record("b"), IDENTITY)
    assert not (folder / "records.damaged").exists()


def test_of_a_sample_written_again_the_last_counts_for_everybody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = {"sample": "a", "status": "failed", "reason": "no"}
    better = record("a", generation="Answer_1: The answer is 8.", questions=[ASKED | {"correct": False}])
    folder = write(tmp_path / "run", seal(failed, IDENTITY) + GOOD + seal(better, IDENTITY))
    again = "samples written again, the last counts: 2 (line 2, 3)"
    (run,) = read_runs([tmp_path])
    assert (run.notes, [sample.correct for sample in run.samples]) == ((again,), [(False,)])
    assert scoring_main([str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert err == f"warning: {folder}: {again}\n"
    assert " 0.00" in out


# --- manifests -------------------------------------------------------------------------------------------------------

MANIFESTS: dict[str, Any] = {
    "labels a list": manifest(labels=["embedded"]),
    "a label a number": manifest(labels=LABELS | {"task": 3}),
    "identity a number": manifest(identity=7),
    "samples a fraction": manifest(samples=3.0),
    "samples a truth": manifest(samples=True),
    "samples negative": manifest(samples=-1),
    "settings a text": manifest(settings="none"),
    "settings a list": manifest(settings=[]),
    "method a text": manifest(settings={"method": "snapkv"}),
    "a budget a text": manifest(settings={"decoding": {"budget": "many"}}),
    "max_bytes a text": manifest(settings={"cache": {"max_bytes": "many"}}),
    "max_slots a text": manifest(settings={"cache": {"max_slots": "many"}}),
    "markers a text": manifest(settings={"model": {"thinking": "think"}}),
    "three markers": manifest(settings={"model": {"thinking": ["a", "b", "c"]}}),
    "created no date": manifest(created="yesterday"),
    "created a number": manifest(created=5),
    "created before there were years": manifest(created="0001-01-01T00:00:00"),
    "joined a list": manifest(joined=["1/2"]),
    "joined nothing": manifest(joined={}),
    "joined no shard": manifest(joined={"one": 1}),
    "joined a text": manifest(joined={"1/2": "all"}),
    "joined of two divisions": manifest(joined={"1/2": 1, "1/3": 1}),
    "shard 3/2": manifest(shard="3/2"),
    "shard a number": manifest(shard=1),
    "another folder": manifest(run="../../elsewhere", shard="1/2"),
    "NUL in a name": manifest(run="a\0b", shard="1/2"),
    "continued an object": manifest(continued={}),
    "continued a text": manifest(continued=["later"]),
    "versions a list": manifest(versions=["2.13"]),
    "a version a list": manifest(versions={"torch": [2, 13]}),
    "hardware a text": manifest(hardware="big"),
    "seed a text": manifest(seed="lucky"),
    "experiment a list": manifest(experiment=["sweep"]),
    "half a character": manifest(experiment="\ud83d"),
    "too deep inside": manifest(more=deep(900)),
    "a large number": manifest(more=10**4000),
    "NaN": manifest(more=float("nan")),
    "null": None,
    "a text": "text",
    "an empty object": {},
}
RAW = {
    "100,000 brackets": b"[" * 100_000,
    "100,000 keys": b'{"a":' * 100_000,
    "a number of 5,000 digits": b'{"identity": "a", "samples": ' + b"7" * 5000 + b"}",
    "not UTF-8": b'{"identity": "\xff\xfe"}',
    "UTF-16": json.dumps(manifest()).encode("utf-16")[:-3],
    "NUL bytes": b"\0" * 100,
    "empty": b"",
    "cut": json.dumps(manifest()).encode()[:-1],
}
READERS: dict[str, Callable[[Path], object]] = {
    "tables": lambda folder: tables.main([str(folder)]),
    "report": lambda folder: report.main([str(folder)]),
    "scoring": lambda folder: scoring_main([str(folder)]),
    "merge": lambda folder: merge_main(["merge", str(folder)]),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", [*MANIFESTS, *RAW])
def test_a_manifest_that_is_none_is_one_line_for_everybody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, reader: str
) -> None:
    about = RAW[kind] if kind in RAW else json.dumps(MANIFESTS[kind]).encode()
    folder = write(tmp_path / "run", GOOD, about)
    assert READERS[reader](tmp_path) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {folder / 'manifest.json'}: is not the manifest of a run (")
    assert err.count("\n") == 1


@pytest.mark.parametrize("kind", [*MANIFESTS, *RAW])
def test_a_run_does_not_go_on_from_a_manifest_that_is_none(tmp_path: Path, kind: str) -> None:
    about = RAW[kind] if kind in RAW else json.dumps(MANIFESTS[kind]).encode()
    folder = write(tmp_path / "run", GOOD, about)
    for attempt in (lambda: resume(folder), lambda: records.read(folder)):
        with pytest.raises(ScopeError, match=r"manifest\.json: is not the manifest of a run"):
            attempt()
    assert (folder / "manifest.json").read_bytes() == about
    assert (folder / "records.jsonl").read_bytes() == GOOD


@pytest.mark.parametrize("key", ["experiment", "run", "created", "labels", "settings"])
def test_a_table_says_what_a_manifest_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str) -> None:
    about = {name: value for name, value in manifest().items() if name != key}
    folder = write(tmp_path / "run", GOOD, json.dumps(about).encode())
    assert tables.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(
        f"error: {folder / 'manifest.json'}: is not the manifest of a run (lacks '{key}')"
    )


@pytest.mark.parametrize("name", ["records.jsonl", "manifest.json"])
@pytest.mark.parametrize("made", [Path.mkdir, os.mkfifo], ids=["a folder", "a pipe"])
def test_what_is_no_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], made: Callable[[Path], None], name: str
) -> None:
    folder = write(tmp_path / "run", GOOD)
    (folder / name).unlink()
    made(folder / name)
    for reader in ("tables", "report", "scoring"):
        assert READERS[reader](tmp_path) == 2
        assert capsys.readouterr().err == f"error: {folder / name}: is not a file\n"
    with pytest.raises(ScopeError, match="is not a file"):
        resume(folder)
    with pytest.raises(ScopeError, match="is not a file"):
        records.read(folder)


# --- shards ----------------------------------------------------------------------------------------------------------


def test_the_scorer_counts_no_shard_beside_the_run_that_it_went_into(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in (1, 2):
        about = manifest(shard=f"{part}/2", samples=1)
        write(
            tmp_path / "run" / "shards" / f"{part}-of-2", seal(record(str(part)), IDENTITY), json.dumps(about).encode()
        )
    merge([tmp_path])
    assert scoring_main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("embedded + snapkv + slide") == 1


def test_a_merge_of_a_shard_with_a_changed_line_says_that_an_answer_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    shard = tmp_path / "run" / "shards" / "1-of-1"
    write(shard, GOOD + CHANGED, json.dumps(manifest(shard="1/1", samples=2)).encode())
    assert merge_main(["merge", str(tmp_path)]) == 1
    assert capsys.readouterr().out == f"{tmp_path / 'run'}: 1 sample; 1 of its shards' samples have no answer\n"
    assert f"{shard / 'records.jsonl'}:2 cannot be used: its checksum is another" in caplog.text
    console = Console(file=io.StringIO(), width=200)
    tables.show(tables.build(tmp_path), console)
    assert "partial: 1 of 2" in console.file.getvalue()
