"""The W&B dashboard: it asks for what runs really report, and offline it leaves what it would send. Nothing is sent."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.sweeps import sample, write_run, write_sweep
from helpers.wandb_files import finished_record

from analysis import dashboard, figures
from analysis.frame import build
from scope.records.fields import scored
from scope.runs.summary import running, summary

wandb: Any = pytest.importorskip("wandb")
ws: Any = pytest.importorskip("wandb_workspaces.workspaces")
pytest.importorskip("matplotlib")


def test_panels_ask_for_what_runs_report() -> None:
    text = dashboard.spec(dashboard.workspace("me", "scope", ["frontier"], "demo-analysis"))
    asked = set(re.findall(r'"summary(?:_metrics\.|:)(\w+)"', text))
    assert asked == {"accuracy", "missing", "tokens_per_second", "cache_share"}
    assert asked <= set(summary([scored(sample(0))]))
    lines = {name for panel in panels(text, "Run History Line Plot") for name in panel["config"]["metrics"]}
    assert lines == {"accuracy", "sample_tokens_per_second"}
    assert lines <= set(running([scored(sample(0))], [scored(sample(0))]))
    assert [panel["config"]["mediaKeys"] for panel in panels(text, "Media Browser")] == [["figures/frontier"]]
    assert '"val": "runs"' in text
    assert '"val": "samples"' in text
    assert "demo-analysis" in text
    groups = {panel["config"]["groupBy"] for panel in panels(text, "Bar Chart")}
    assert groups == {"method.value._target_"}  # as a run's config.yaml and W&B's config have it


def panels(text: str, kind: str) -> list[Any]:
    sections = json.loads(text)["spec"]["section"]["panelBankConfig"]["sections"]
    return [panel for section in sections for panel in section["panels"] if panel["viewType"] == kind]


@pytest.mark.slow
def test_offline_it_writes_what_it_would_send(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = write_sweep(tmp_path / "sweep")
    monkeypatch.setattr(figures, "FIGURES", {"frontier": figures.frontier})  # one stands for all
    assert dashboard.main([str(sweep), "--project", "trial"]) == 0
    assert "offline, nothing was sent" in capsys.readouterr().out
    out = sweep / "dashboard"
    view = json.loads((out / "workspace.json").read_text())
    assert (view["project"], view["displayName"]) == ("trial", "SCOPE")
    record = finished_record(out)
    assert (record.project, record.name) == ("trial", "sweep-analysis")
    shown = [key for panel in panels(json.dumps(view), "Media Browser") for key in panel["config"]["mediaKeys"]]
    assert shown == ["figures/frontier"]
    assert {*shown, "runs"} <= {key.partition(".")[0] for key in record.summary}
    (path,) = out.glob("wandb/offline-run-*/files/media/table/runs_*.table.json")
    table = json.loads(path.read_text())
    logged, frame = pd.DataFrame(table["data"], columns=table["columns"]), build(sweep)
    for column in (
        "accuracy_percent",
        "accuracy_low_percent",
        "accuracy_high_percent",
        "cache_mib",
        "tokens_per_second",
    ):
        assert logged[column].tolist() == pytest.approx(frame[column].tolist())


def test_online_it_makes_or_mends_a_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """W&B stands in: what would be saved is looked at."""
    write_run(tmp_path, "run", [sample(0), sample(1)])
    saved: list[Any] = []
    there = ws.Workspace("me", "scope", "mine", [ws.Section("old")])
    monkeypatch.setattr(wandb, "login", lambda **_: True)
    monkeypatch.setattr(dashboard, "log", lambda *_: "x-analysis")
    monkeypatch.setattr(figures, "FIGURES", {})

    def save(self: Any) -> Any:
        saved.append(self)
        return self

    monkeypatch.setattr(ws.Workspace, "save", save)
    monkeypatch.setattr(ws.Workspace, "url", "https://wandb.ai/me/scope?nw=abc")
    monkeypatch.setattr(ws.Workspace, "from_url", classmethod(lambda cls, url: there))
    asked = [str(tmp_path), "--online", "--entity", "me"]
    assert dashboard.main(asked) == 0
    assert dashboard.main([*asked, "--url", "https://wandb.ai/me/scope?nw=abc"]) == 0
    assert capsys.readouterr().out.count("https://wandb.ai/me/scope?nw=abc\n") == 2
    assert [workspace.name for workspace in saved] == ["SCOPE", "mine"]
    assert [section.name for section in saved[1].sections] == [section.name for section in saved[0].sections]

    def refuse(self: Any) -> None:
        raise ValueError("no such\nproject")

    monkeypatch.setattr(ws.Workspace, "save", refuse)
    assert dashboard.main(asked) == 2
    assert "error: W&B refused the workspace: no such project\n" in capsys.readouterr().err


def test_online_without_a_login_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path, "run", [sample(0)])
    monkeypatch.setattr(wandb, "login", lambda **_: False)
    for asked in (["--online"], ["--online", "--entity", "me"]):
        assert dashboard.main([str(tmp_path), *asked]) == 2
        assert (
            capsys.readouterr().err == "error: --online needs --entity and a login: `wandb login`, or WANDB_API_KEY\n"
        )
    assert not (tmp_path / "dashboard").exists()
