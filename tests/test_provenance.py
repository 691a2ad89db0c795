"""What stands behind a table's rows: other code, other machines, one configuration twice, lines of other runs."""

import json
from pathlib import Path

import pytest
from helpers.sweeps import sample, write_run

from analysis.frame import build
from analysis.provenance import warnings
from analysis.records import read_runs
from analysis.tables import main, write
from scope.records.lines import seal

VERSIONS = {"torch": "2.13.0", "transformers": "5.23.0"}
HARDWARE = {"machine": "x86_64", "cores": 2, "threads": 1, "gpu": None}


def write_three(folder: Path, **changed: object) -> None:
    """Three runs of one code, the last one changed."""
    for position, method in enumerate(("a", "b", "c")):
        made = {"commit": "1" * 40, "versions": VERSIONS, "hardware": HARDWARE}
        made |= changed if method == "c" else {}
        write_run(folder, method, [sample(0), sample(1)], method=method, created=position, **made)


def test_one_code_raises_no_question(tmp_path: Path) -> None:
    write_three(tmp_path)
    assert warnings(read_runs([tmp_path])) == []
    assert set(build(tmp_path)["notes"]) == {""}


@pytest.mark.parametrize(
    ("changed", "note"),
    [
        ({"commit": "2" * 40 + "+"}, "other code than most: commit 222222222+, not 111111111"),
        ({"versions": VERSIONS | {"torch": "2.12"}}, "other code than most: torch 2.12, not 2.13.0"),
        (
            {"hardware": HARDWARE | {"cores": 8}},
            "other machine than most, speeds do not compare: cores 8, not 2",
        ),
        (
            {"continued": [{"commit": "1" * 40, "versions": VERSIONS | {"torch": "2.14"}, "hardware": HARDWARE}]},
            "continued by other code: torch 2.14, not 2.13.0",
        ),
    ],
)
def test_the_run_that_differs_says_in_what(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, object], note: str
) -> None:
    write_three(tmp_path, **changed)
    notes = build(tmp_path).set_index("run")["notes"]
    assert note in notes["c"]
    assert notes["a"] == notes["b"] == ""
    assert main([str(tmp_path)]) == 0
    assert f"warning: {note} (1 run: c)" in capsys.readouterr().err
    for path in write(build(tmp_path), tmp_path)[1:]:
        assert note in path.read_text().replace("\\_", "_")


def test_one_configuration_twice_says_how_the_two_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    same = [sample(index, (True, False)) for index in range(4)]
    other = [sample(0, (True, False)), sample(1, (True, True)), sample(2, (True, False))]
    write_run(tmp_path / "one", "run", same, commit="1" * 40)
    write_run(tmp_path / "two", "run", other, created=1, commit="2" * 40)
    frame = build([tmp_path / "one", tmp_path / "two"])
    assert len(frame) == 2  # neither is dropped, and they are not averaged
    assert frame["notes"][0].startswith("other code than most") or frame["notes"][0] == ""
    told = "same configuration as one/run: commit 222222222, not 111111111, answers differ in 1 of 3 common prompts"
    assert told in frame["notes"][1]
    assert main([str(tmp_path / "one"), str(tmp_path / "two"), "--out", str(tmp_path)]) == 0
    assert told in capsys.readouterr().err


def test_another_seed_or_model_is_another_configuration(tmp_path: Path) -> None:
    labels = {"model": "other", "task": "arithmetic", "method": "snapkv", "decoding": "slide"}
    write_run(tmp_path, "a", [sample(0)])
    write_run(tmp_path, "b", [sample(0)], seed=1)
    write_run(tmp_path, "c", [sample(0)], labels=labels)
    assert warnings(read_runs([tmp_path])) == []


def test_lines_that_this_run_did_not_write_are_left_out_and_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "run", [sample(0)])
    mine, theirs = "0" * 64, "b" * 64
    changed = seal(sample(2, (True, True)), mine).replace(b'"eos"', b'"END"')
    bare = json.dumps(sample(3)).encode() + b"\n"
    with (folder / "records.jsonl").open("ab") as stream:
        stream.write(seal(sample(1), theirs) + changed + bare)
    (run,) = read_runs([tmp_path])
    assert [s.name for s in run.samples] == ["arithmetic-0"]
    assert run.notes == (
        "lines without a checksum: 1 (line 4)",
        "lines changed since, or of another run: 2 (line 2, 3)",
    )


def test_shards_are_not_counted_beside_the_run_they_made(tmp_path: Path) -> None:
    whole = write_run(tmp_path, "run", [sample(0), sample(1)])
    for part in (0, 1):
        write_run(whole / "shards", f"{part + 1}-of-2", [sample(part)], shard=f"{part + 1}/2")
    assert len(read_runs([tmp_path])) == 1
    (whole / "manifest.json").unlink()
    frame = build(tmp_path)
    assert len(frame) == 2
    assert "shard 1/2, not merged" in frame["notes"][0]


def test_a_run_that_lacks_shards_is_partial(tmp_path: Path) -> None:
    write_run(tmp_path, "run", [sample(0)], joined={"1/3": 1})
    (row,) = build(tmp_path).to_dict("records")
    assert (row["prompts"], row["planned_prompts"]) == (1, 3)
    assert "partial: 1 of 3; shards 2-3 of 3 are missing: at most 3 samples in all" in row["notes"]
