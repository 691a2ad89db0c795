"""A run's folder: nothing lost, nothing doubled, nothing half written."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from scope import records
from scope.errors import ScopeError
from scope.records import Records

MANIFEST = {"identity": "a" * 64, "samples": 2}


def line(name: str) -> dict[str, object]:
    return {"sample": name, "generation": "äöü\n\u2028 done"}


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    kept = Records(tmp_path / "run", "name: x\n", MANIFEST)
    kept.append([line("one"), line("two")])
    kept.close()
    assert records.read(tmp_path / "run") == [line("one"), line("two")]
    assert (tmp_path / "run" / "config.yaml").read_text() == "name: x\n"
    assert json.loads((tmp_path / "run" / "manifest.json").read_text()) == MANIFEST


def test_a_run_goes_on_behind_what_is_there(tmp_path: Path) -> None:
    Records(tmp_path, "", MANIFEST).append([line("one")])
    again = Records(tmp_path, "", MANIFEST)
    assert set(again.done) == {"one"}
    again.append([line("two")])
    assert [r["sample"] for r in records.read(tmp_path)] == ["one", "two"]


def test_a_torn_line_is_kept_aside_and_its_sample_is_to_do_again(tmp_path: Path) -> None:
    Records(tmp_path, "", MANIFEST).append([line("one"), line("two")])
    path = tmp_path / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    again = Records(tmp_path, "", MANIFEST)
    assert set(again.done) == {"one"}
    assert (tmp_path / "records.torn").read_text().startswith('{"sample": "two"')
    again.append([line("two")])
    assert records.read(tmp_path) == [line("one"), line("two")]


def test_another_runs_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    Records(tmp_path, "mine", MANIFEST).append([line("one")])
    with pytest.raises(ScopeError, match="another run"):
        Records(tmp_path, "yours", {"identity": "b" * 64, "samples": 2})
    assert (tmp_path / "config.yaml").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ScopeError, match=r"file/run: cannot be written"):
        Records(tmp_path / "file" / "run", "", MANIFEST)


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


def test_a_spoilt_line_in_the_middle_is_passed_over_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Records(tmp_path, "", MANIFEST).append([line("one"), line("two")])
    path = tmp_path / "records.jsonl"
    first, second, _ = path.read_text().split("\n")
    path.write_text(f"{first[:20]}\n{second}\n")
    assert set(Records(tmp_path, "", MANIFEST).done) == {"two"}
    assert "records.jsonl:1 cannot be read" in caplog.text


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    first = Records(tmp_path, "", MANIFEST)
    with pytest.raises(ScopeError, match="another process is writing this run"):
        Records(tmp_path, "", MANIFEST)
    first.close()
    Records(tmp_path, "", MANIFEST).append([line("one")])


def test_asking_for_fewer_samples_takes_nothing_away(tmp_path: Path) -> None:
    Records(tmp_path, "prompts: 9", MANIFEST | {"samples": 9}).close()
    Records(tmp_path, "prompts: 2", MANIFEST | {"samples": 2}).close()
    assert json.loads((tmp_path / "manifest.json").read_text())["samples"] == 9
    assert (tmp_path / "config.yaml").read_text() == "prompts: 9"
    Records(tmp_path, "prompts: 12", MANIFEST | {"samples": 12}).close()
    assert json.loads((tmp_path / "manifest.json").read_text())["samples"] == 12
