"""A run's folder: nothing lost, nothing doubled, nothing half written."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from scope import records
from scope.records import RecordKeeping, Records
from scope.records.lines import DamagedLineError, parse, seal
from scope.records.merge import Joined, main, merge
from scope.records.read import AGAIN, TORN, UNREADABLE, read_lines, read_run
from scope.util.errors import ScopeError

MANIFEST = {"identity": "a" * 64, "samples": 2}
KEEP = RecordKeeping()


def line(name: str) -> dict[str, object]:
    return {"sample": name, "generation": "äöü\n\u2028 done"}


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    kept = Records(tmp_path / "run", "name: x\n", MANIFEST, KEEP)
    kept.append([line("one"), line("two")])
    kept.close()
    assert records.read(tmp_path / "run") == [line("one"), line("two")]
    assert (tmp_path / "run" / "config.yaml").read_text() == "name: x\n"
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert MANIFEST.items() <= manifest.items()
    assert {"created", "commit", "versions", "hardware"} < set(manifest)


def test_a_run_goes_on_behind_what_is_there(tmp_path: Path) -> None:
    Records(tmp_path, "", MANIFEST, KEEP).append([line("one")])
    again = Records(tmp_path, "", MANIFEST, KEEP)
    assert set(again.done) == {"one"}
    again.append([line("two")])
    assert [r["sample"] for r in records.read(tmp_path)] == ["one", "two"]


def test_a_torn_line_is_kept_aside_and_its_sample_is_to_do_again(tmp_path: Path) -> None:
    Records(tmp_path, "", MANIFEST, KEEP).append([line("one"), line("two")])
    path = tmp_path / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    again = Records(tmp_path, "", MANIFEST, KEEP)
    assert set(again.done) == {"one"}
    assert (tmp_path / "records.damaged").read_text().startswith('{"sample": "two"')
    again.append([line("two")])
    assert records.read(tmp_path) == [line("one"), line("two")]


def test_a_record_that_lacks_only_its_newline_counts_and_the_next_begins_a_line(tmp_path: Path) -> None:
    Records(tmp_path, "", MANIFEST, KEEP).append([line("one")])
    path = tmp_path / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    again = Records(tmp_path, "", MANIFEST, KEEP)
    assert set(again.done) == {"one"}
    again.append([line("two")])
    assert records.read(tmp_path) == [line("one"), line("two")]


def test_a_run_that_plans_no_more_leaves_its_manifest_alone(tmp_path: Path) -> None:
    Records(tmp_path, "name: x\n", MANIFEST, KEEP).close()
    before = [(tmp_path / name).stat().st_ino for name in ("manifest.json", "config.yaml")]
    Records(tmp_path, "name: x\n", MANIFEST, KEEP).close()
    assert [(tmp_path / name).stat().st_ino for name in ("manifest.json", "config.yaml")] == before


def test_a_line_without_a_checksum_is_told_as_such() -> None:
    with pytest.raises(DamagedLineError, match="no checksum"):
        parse(b'{"sample": "one"}', MANIFEST["identity"])


def test_only_the_last_line_can_be_torn(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(b'{"sample\n{"sample')
    assert [problem.kind for problem in read_lines(path, "a" * 64)[1]] == [UNREADABLE, TORN]


def test_a_part_of_the_shards_bounds_the_samples_of_the_run() -> None:
    """Shard 1 of 3 with 4 samples has the places 1, 4, 7, 10; so a run of 13 would give it another."""
    assert Joined({"1/3": 4}).most_samples == 12
    assert Joined({"1/3": 4, "2/3": 3}).most_samples == 10  # places 2, 5, 8; not 11


def test_another_runs_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    Records(tmp_path, "mine", MANIFEST, KEEP).append([line("one")])
    with pytest.raises(ScopeError, match="another run"):
        Records(tmp_path, "yours", {"identity": "b" * 64, "samples": 2}, KEEP)
    assert (tmp_path / "config.yaml").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ScopeError, match=r"file/run: cannot be written"):
        Records(tmp_path / "file" / "run", "", MANIFEST, KEEP)


@dataclass(frozen=True)
class Settings:
    budget: int
    prompts: int = field(default=3, metadata={"limit": True})


def test_identity_changes_with_what_changes_answers_and_not_with_limits() -> None:
    def identity(settings: Settings) -> str:
        return records.identity(records.describe(settings, limits=False))

    assert identity(Settings(1)) == identity(Settings(1, prompts=9))
    assert identity(Settings(1)) != identity(Settings(2))
    assert records.describe(Settings(1))["prompts"] == 3


def test_surroundings_name_versions_and_hardware() -> None:
    found = records.surroundings()
    assert found["versions"]["torch"].split(".")[0].isdigit()
    assert found["hardware"]["cores"] >= 1


def spoil_first(path: Path, spoil: Callable[[bytes], bytes]) -> None:
    first, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(spoil(first) + b"\n" + rest)


SPOILT = {
    "cut": lambda line: line[:20],
    "a flipped bit in a text": lambda line: line.replace(b"done", b"dnne"),
    "a flipped bit in the key of the checksum": lambda line: line.replace(b'"check"', b'"chack"'),
    "not UTF-8": lambda line: line.replace(b"done", b"\xff\xfe"),
    "empty": lambda line: b"",
    "another run's": lambda line: seal({"sample": "one"}, "b" * 64)[:-1],
    "no record": lambda line: seal({"simple": "one"}, "a" * 64)[:-1],
    "no JSON object": lambda line: b'[1, "check": "00000000"}',
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_spoilt_line_is_named_set_aside_and_to_do_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    Records(tmp_path, "", MANIFEST, KEEP).append([line("one"), line("two")])
    path = tmp_path / "records.jsonl"
    spoil_first(path, SPOILT[kind])
    spoilt = path.read_bytes().split(b"\n")[0]
    assert [r["sample"] for r in records.read(tmp_path)] == ["two"]
    again = Records(tmp_path, "", MANIFEST, KEEP)
    assert set(again.done) == {"two"}
    assert "records.jsonl:1 cannot be used, its sample is answered again" in caplog.text
    assert (tmp_path / "records.damaged").read_bytes() == spoilt + b"\n"
    again.append([line("one")])
    caplog.clear()
    assert [r["sample"] for r in records.read(tmp_path)] == ["two", "one"]
    assert caplog.text == ""


@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_flipped_bit_goes_unseen(at: float, bit: int) -> None:
    whole = seal(line("one"), "a" * 64)[:-1]
    flipped = bytearray(whole)
    flipped[int(at * len(whole))] ^= 1 << bit
    with pytest.raises(DamagedLineError):
        parse(bytes(flipped), "a" * 64)


@given(st.binary())
def test_any_bytes_are_a_record_or_refused(data: bytes) -> None:
    with pytest.raises(DamagedLineError):
        parse(data, "a" * 64)


@given(st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.floats(allow_nan=False)))
def test_any_record_comes_back(record: dict[str, object]) -> None:
    sealed = seal(record | {"sample": "one"}, "a" * 64)
    assert sealed.count(b"\n") == 1
    assert parse(sealed[:-1], "a" * 64) == record | {"sample": "one"}


def test_a_disk_that_fills_leaves_what_was_there(tmp_path: Path) -> None:
    script = """
import resource, sys
from pathlib import Path
from scope.util.errors import ScopeError
from scope.records import RecordKeeping, Records
kept = Records(Path(sys.argv[1]), "", {"identity": "a" * 64, "samples": 2}, RecordKeeping())
kept.append([{"sample": "one"}])
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))  # the kernel takes a part of the next write, and refuses the rest
try:
    kept.append([{"sample": "two", "generation": "x" * 1000}])
except ScopeError as error:
    print(error, sorted(kept.done))
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "records.jsonl: cannot be written: File too large; what was recorded before is intact" in done.stdout
    assert done.stdout.endswith("['one']\n")
    assert (tmp_path / "records.jsonl").read_bytes() == seal({"sample": "one"}, "a" * 64)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full to stand for a full disk")
def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    tmp_path.joinpath("records.jsonl").symlink_to("/dev/full")
    kept = Records.__new__(Records)
    kept.folder, kept.identity, kept.done = tmp_path, "a" * 64, {}
    kept._path = tmp_path / "records.jsonl"
    kept._file = kept._path.open("ab", buffering=0)
    with pytest.raises(ScopeError, match="No space left on device; what was recorded before is intact"):
        kept.append([line("one")])


def test_a_file_that_was_removed_is_noticed(tmp_path: Path) -> None:
    kept = Records(tmp_path, "", MANIFEST, KEEP)
    (tmp_path / "records.jsonl").unlink()
    with pytest.raises(ScopeError, match="was removed while the run was writing it"):
        kept.append([line("one")])


def test_a_manifest_that_is_none_is_one_clear_line(tmp_path: Path) -> None:
    Records(tmp_path, "", MANIFEST, KEEP).append([line("one")])
    for text in ("", "[]", "{", '{"identity": 1}'):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(ScopeError, match=r"manifest.json: is not the manifest of a run"):
            Records(tmp_path, "", MANIFEST, KEEP)


def test_a_rerun_keeps_what_was_there_under_another_name(tmp_path: Path) -> None:
    for n in (1, 2):
        kept = Records(tmp_path, "", MANIFEST, RecordKeeping(rerun=True))
        assert kept.done == {}
        kept.append([line(f"of session {n}")])
        kept.close()
    assert b"of session 1" in (tmp_path / "records.1.jsonl").read_bytes()
    assert [r["sample"] for r in records.read(tmp_path)] == ["of session 2"]


@pytest.mark.parametrize("on_mismatch", ["warn", "refuse", "rerun"])
def test_a_run_begun_with_other_versions(tmp_path: Path, caplog: pytest.LogCaptureFixture, on_mismatch: str) -> None:
    Records(tmp_path, "", MANIFEST, KEEP).append([line("one")])
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["versions"]["torch"] = "1.0"
    path.write_text(json.dumps(manifest))
    keeping = RecordKeeping(on_mismatch=on_mismatch)
    if on_mismatch == "refuse":
        with pytest.raises(ScopeError, match=r"was begun with torch 1.0 \(now 2"):
            Records(tmp_path, "", MANIFEST, keeping)
        assert json.loads(path.read_text()) == manifest
        return
    kept = Records(tmp_path, "", MANIFEST, keeping)
    after = json.loads(path.read_text())
    if on_mismatch == "rerun":
        assert kept.done == {}
        assert after["versions"]["torch"] != "1.0"
        assert (tmp_path / "records.1.jsonl").exists()
    else:
        assert set(kept.done) == {"one"}
        assert "was begun with torch 1.0 (now 2" in caplog.text
        assert after["versions"]["torch"] == "1.0"
        assert after["continued"][0]["versions"]["torch"] != "1.0"


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    first = Records(tmp_path, "", MANIFEST, KEEP)
    with pytest.raises(ScopeError, match="another process is writing this run"):
        Records(tmp_path, "", MANIFEST, KEEP)
    first.close()
    Records(tmp_path, "", MANIFEST, KEEP).append([line("one")])


def test_asking_for_fewer_samples_takes_nothing_away(tmp_path: Path) -> None:
    Records(tmp_path, "prompts: 9", MANIFEST | {"samples": 9}, KEEP).close()
    Records(tmp_path, "prompts: 2", MANIFEST | {"samples": 2}, KEEP).close()
    assert json.loads((tmp_path / "manifest.json").read_text())["samples"] == 9
    assert (tmp_path / "config.yaml").read_text() == "prompts: 9"
    Records(tmp_path, "prompts: 12", MANIFEST | {"samples": 12}, KEEP).close()
    assert json.loads((tmp_path / "manifest.json").read_text())["samples"] == 12


# --- shards ----------------------------------------------------------------------------------------------------------


def write_shard(sweep: Path, part: str, whole: int) -> None:
    """A shard of a run of `whole` samples, as the run itself leaves it."""
    keeping = RecordKeeping(shard=part)
    i, n = keeping.part
    mine = [f"sample-{at}" for at in range(whole)][i - 1 :: n]
    about = {"identity": "a" * 64, "run": "run", "samples": len(mine), "shard": part}
    kept = Records(keeping.place(sweep / "run"), "", about, keeping)
    kept.append([line(name) for name in mine])
    kept.close()


def test_a_merge_says_which_shards_are_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shard(tmp_path, "1/3", 3)
    assert main(["merge", str(tmp_path)]) == 1
    assert capsys.readouterr().out == f"{tmp_path / 'run'}: 1 sample; shards 2-3 of 3 are missing\n"
    write_shard(tmp_path, "3/3", 3)
    assert main(["merge", str(tmp_path)]) == 1
    assert capsys.readouterr().out == f"{tmp_path / 'run'}: 2 samples; shard 2 of 3 is missing\n"
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["joined"] == {"1/3": 1, "3/3": 1}
    write_shard(tmp_path, "2/3", 3)
    assert main(["merge", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'run'}: 3 samples\n"
    assert "joined" not in json.loads((tmp_path / "run" / "manifest.json").read_text())


def test_shards_that_were_merged_before_need_not_come_again(tmp_path: Path) -> None:
    for host, part in (("a", "1/2"), ("b", "2/2")):
        write_shard(tmp_path / host, part, 5)
        ((folder, samples, joined),) = merge([tmp_path / host], tmp_path / "all")
    assert (samples, joined.missing) == (5, [])
    assert json.loads((folder / "manifest.json").read_text())["samples"] == 5


def test_empty_shards_make_a_run_whole_too(tmp_path: Path) -> None:
    write_shard(tmp_path, "1/3", 1)
    assert merge([tmp_path])[0][2].missing == [2, 3]
    for part in ("2/3", "3/3"):
        write_shard(tmp_path, part, 1)
    ((folder, samples, joined),) = merge([tmp_path])
    assert (samples, joined.missing, joined.most_samples) == (1, [], 1)
    assert "joined" not in json.loads((folder / "manifest.json").read_text())


def test_a_merge_before_shards_were_counted_is_mended(tmp_path: Path) -> None:
    write_shard(tmp_path, "1/3", 3)
    ((folder, *_),) = merge([tmp_path])
    path = folder / "manifest.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "joined"}))
    before = (folder / "records.jsonl").read_bytes()
    merge([tmp_path])
    assert (folder / "records.jsonl").read_bytes().startswith(before)
    assert not [problem for problem in read_run(folder).problems if problem.kind == AGAIN]
    assert json.loads(path.read_text())["joined"] == {"1/3": 1}


def test_a_run_begun_undivided_keeps_its_plan(tmp_path: Path) -> None:
    Records(tmp_path / "run", "", {"identity": "a" * 64, "run": "run", "samples": 9}, KEEP).close()
    write_shard(tmp_path, "1/3", 3)
    merge([tmp_path])
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert (manifest["samples"], "joined" in manifest) == (9, False)


@given(whole=st.integers(0, 30), n=st.integers(1, 7), data=st.data())
def test_a_part_is_never_taken_for_the_whole(whole: int, n: int, data: st.DataObject) -> None:
    parts = data.draw(st.sets(st.integers(1, n), min_size=1))
    joined = Joined({f"{i}/{n}": len(range(whole)[i - 1 :: n]) for i in parts})
    assert whole <= joined.most_samples < whole + n
    assert joined.missing or joined.most_samples == whole
    assert bool(joined.lacks) == bool(joined.missing)


def test_missing_shards_in_words() -> None:
    assert Joined({"2/7": 1, "6/7": 1}).lacks == "shards 1, 3-5, 7 of 7 are missing"
    assert Joined({"1/2": 1}).lacks == "shard 2 of 2 is missing"


def test_shards_of_two_divisions_are_refused(tmp_path: Path) -> None:
    write_shard(tmp_path, "1/3", 3)
    write_shard(tmp_path, "1/2", 3)
    with pytest.raises(ScopeError, match=r"shards of 2 and of 3: merge those of one division"):
        merge([tmp_path])


# two processes at one folder


def disk_full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.name != ".lock"}


@pytest.mark.parametrize("when", ["before the folder is made", "before the lock is taken"])
@pytest.mark.parametrize("failing", ["write_whole", "sync_folder", "surroundings"])
def test_the_one_that_gives_up_leaves_the_other_ones_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, failing: str
) -> None:
    """Both see no folder; the other is quicker, writes its run and ends; then this one cannot write."""
    folder, theirs = tmp_path / "run", {}
    owner, name = (Path, "mkdir") if when == "before the folder is made" else (FileLock, "acquire")
    true = getattr(owner, name)

    def later(self: object, *given: object, **more: object) -> object:
        monkeypatch.setattr(owner, name, true)
        other = Records(folder, "theirs", MANIFEST, KEEP)
        other.append([line("one")])
        other.close()
        theirs.update(contents(folder))
        monkeypatch.setattr(f"scope.records.folder.{failing}", disk_full)
        return true(self, *given, **more)

    monkeypatch.setattr(owner, name, later)
    with pytest.raises(ScopeError, match="cannot be written: No space left"):
        Records(folder, "mine", {**MANIFEST, "samples": 3}, KEEP)
    found = contents(folder)
    assert (found["records.jsonl"], json.loads(found["manifest.json"])["identity"]) == (
        theirs["records.jsonl"],
        MANIFEST["identity"],
    )
    monkeypatch.undo()
    again = Records(folder, "mine", MANIFEST, KEEP)  # the lock is free again
    assert set(again.done) == {"one"}


def test_one_that_waits_for_another_that_gives_up_makes_the_folder_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, true = tmp_path / "run", FileLock.acquire

    def later(self: FileLock, *given: object, **more: object) -> object:
        """The other one, which made the folder, takes it away just before the lock is asked for."""
        monkeypatch.setattr(FileLock, "acquire", true)
        folder.rmdir()
        return true(self, *given, **more)

    monkeypatch.setattr(FileLock, "acquire", later)
    kept = Records(folder, "", MANIFEST, KEEP)
    kept.append([line("one")])
    kept.close()
    assert records.read(folder) == [line("one")]


@pytest.mark.parametrize("failing", ["write_whole", "sync_folder", "surroundings"])
def test_one_that_gives_up_leaves_nothing_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    for name, before in (("new", {}), ("empty", {}), ("foreign", {"notes.txt": b"mine"})):
        folder = tmp_path / name
        if name != "new":
            folder.mkdir()
        for file, text in before.items():
            (folder / file).write_bytes(text)
        with monkeypatch.context() as patch:
            patch.setattr(f"scope.records.folder.{failing}", disk_full)
            with pytest.raises(ScopeError, match="cannot be written"):
                Records(folder, "mine", MANIFEST, KEEP)
        assert folder.exists() == (name != "new")
        assert contents(folder) == before


def test_a_folder_that_cannot_be_locked_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FileLock, "acquire", disk_full)
    with pytest.raises(ScopeError, match="cannot be written"):
        Records(tmp_path / "run", "", MANIFEST, KEEP)
    assert not (tmp_path / "run").exists()


def test_one_that_does_not_get_the_lock_touches_nothing(tmp_path: Path) -> None:
    kept = Records(tmp_path / "run", "mine", MANIFEST, KEEP)
    kept.append([line("one")])
    before = contents(tmp_path / "run")
    with pytest.raises(ScopeError, match="another process is writing this run"):
        Records(tmp_path / "run", "yours", {**MANIFEST, "samples": 9}, KEEP)
    assert contents(tmp_path / "run") == before


def test_what_is_neither_input_nor_output_frees_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr("scope.records.folder.surroundings", broken)
        with pytest.raises(RuntimeError):
            Records(tmp_path / "run", "", MANIFEST, KEEP)
    Records(tmp_path / "run", "", MANIFEST, KEEP).close()


RACER = """
import sys
from pathlib import Path
from scope.util.errors import ScopeError
from scope.records import RecordKeeping, Records, folder
name, fails, place, keeping = sys.argv[1], sys.argv[2] == "fails", Path(sys.argv[3]), RecordKeeping(wait_seconds=30)
print("ready", flush=True)
sys.stdin.readline()
if fails:
    def full(*_):
        raise OSError(28, "No space left on device")
    folder.sync_folder = full
try:
    kept = Records(place, name, {"identity": "a" * 64, "samples": 9}, keeping)
    kept.append([{"sample": name}])
    kept.close()
except ScopeError as error:
    print(error)
"""


@pytest.mark.slow
def test_processes_that_begin_at_once_lose_nothing(tmp_path: Path) -> None:
    """Two write, two fail once they have the lock: what the two wrote is there, whatever the order."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, f"s{n}", "fails" if n % 2 else "writes", str(tmp_path / "run")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        for n in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert {r["sample"] for r in records.read(tmp_path / "run")} == {"s0", "s2"}
    assert ["cannot be written" in text for text in said] == [bool(n % 2) for n in range(4)]
