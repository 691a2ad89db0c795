"""A Weights & Biases workspace for sweeps, and a W&B run with their tables and figures. Offline by default.

python -m analysis.dashboard outputs/demo
python -m analysis.dashboard outputs/demo --online --entity me [--url https://wandb.ai/me/scope?nw=...]
"""

import json
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.columns import Column, columns_for, missing
from analysis.command import command
from analysis.figures import draw_all
from analysis.frame import columns_of, of_runs
from analysis.records import Run
from analysis.report import page
from analysis.tables import write
from scope.util.errors import ScopeError
from scope.util.files import make_folder, write_whole
from scope.util.secrets import redact

NAME = "SCOPE"
TABLE, SAMPLES = "runs", "samples"  # tables in W&B: the first is logged here, the second by each run
METHOD, DECODING = "method._target_", "decoding._target_"  # keys of a run's configuration in W&B
FIGURE = "figures/"


def workspace(
    entity: str, project: str, figures: Sequence[str], artifact: str, columns: Sequence[Column] | None = None
) -> Any:
    """The dashboard as wandb-workspaces has it.

    figures: names of those in the W&B run that `log` makes. artifact: the name of that run's files. columns: those with
    `tracked` have panels; by default the table of columns without any runs.
    """
    import wandb_workspaces.workspaces as ws

    tracked = [column for column in (columns or columns_for([])) if column.tracked]
    sections = [
        ws.Section("Accuracy against cost", is_open=True, panels=_summaries(tracked)),
        ws.Section("Tables, with 95% intervals", is_open=True, panels=_tables()),
        ws.Section("Figures and files", panels=_files(figures, artifact)),
        ws.Section("While runs go on", panels=_progress()),
        ws.Section("Settings that differ", panels=_differences()),
    ]
    by = ws.RunsetSettings(groupby=[ws.Config(METHOD), ws.Config(DECODING)])
    return ws.Workspace(entity, project, NAME, sections, runset_settings=by, auto_generate_panels=False)


def _summaries(tracked: Sequence[Column]) -> list[Any]:
    """What W&B knows of each run: scores and speeds over the bytes of the cache, and bars of each by method."""
    import wandb_workspaces.reports.v2 as wr

    share = next(column for column in tracked if column.name == "cache_percent")
    of_full = "as a share of a full cache's for the same texts"  # a single run knows no other run

    def title(column: Column) -> str:
        return f"Bytes, {of_full}" if column is share else column.title.capitalize()

    def bars(column: Column) -> Any:
        groups = {"groupby": wr.Config(METHOD), "groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
        metrics = [wr.SummaryMetric(column.tracked)]
        return wr.BarPlot(title=f"{title(column)}, by prefill method", metrics=metrics, **groups)

    def over_bytes(column: Column) -> Any:
        x, y = wr.SummaryMetric(share.tracked), wr.SummaryMetric(column.tracked)
        return wr.ScatterPlot(title=f"{title(column)} over bytes, {of_full}", x=x, y=y)

    over = [column for column in tracked if column.name not in (share.name, missing().name)]
    return [*map(over_bytes, over), *map(bars, tracked)]


def _tables() -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    return [wr.WeavePanelSummaryTable(table_name=name) for name in (TABLE, SAMPLES)]


def _files(figures: Sequence[str], artifact: str) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    shown = [wr.MediaBrowser(title=name, media_keys=[f"{FIGURE}{name}"]) for name in figures]
    return [*shown, wr.WeavePanelArtifact(artifact=artifact, tab="files")]


def _progress() -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    lines = {"Accuracy so far": "accuracy", "Tokens/s of an answer": "sample_tokens_per_second"}
    return [wr.LinePlot(title, x="Step", y=[metric]) for title, metric in lines.items()]


def _differences() -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    return [wr.RunComparer(diff_only="split")]


def log(runs: Sequence[Run], frame: pd.DataFrame, folder: Path, given: Namespace, figures: Sequence[str]) -> str:
    """Write one W&B run with the table of runs, the figures, and all files of `folder` as an artifact.

    figures: names of .png files in `folder`. given: the options of the command line. -> the artifact's name.
    """
    import wandb

    name = f"{runs[0].experiment}-analysis"
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    settings = wandb.Settings(
        mode="online" if given.online else "offline",
        silent=True,
        console="off",
        x_disable_meta=redact(sys.argv[1:]) != sys.argv[1:],
    )
    asked = {"project": given.project, "entity": given.entity, "name": name, "job_type": "analysis"}
    with wandb.init(**asked, dir=folder, reinit="create_new", settings=settings) as run:
        cells = frame.astype(object).where(frame.notna(), None)
        table = wandb.Table(columns=list(cells), data=cells.to_numpy().tolist(), allow_mixed_types=True)
        pictures = {f"{FIGURE}{figure}": wandb.Image(str(folder / f"{figure}.png")) for figure in figures}
        run.log({TABLE: table, **pictures})
        files = wandb.Artifact(name, type="analysis")
        for path in sorted(folder.iterdir()):
            if path.is_file():
                files.add_file(str(path))
        run.log_artifact(files)
    return name


def spec(made: Any) -> str:
    """What W&B is sent to save a workspace, as JSON."""
    return json.dumps(made._to_model().model_dump(mode="json", by_alias=True, exclude_none=True), indent=2) + "\n"


def _work(runs: list[Run], out: Path, given: Namespace) -> None:
    import wandb
    import wandb_workspaces.workspaces as ws

    if given.online and not (given.entity and wandb.login(prompt=False, verify=False)):
        raise ScopeError("--online needs --entity and a login: `wandb login`, or WANDB_API_KEY")
    frame = of_runs(runs)
    make_folder(out)
    write(frame, out)
    write_whole(out / "report.html", page(runs, frame))
    figures = list(draw_all(runs, out))
    artifact = log(runs, frame, out, given, figures)
    made = workspace(given.entity or "ENTITY", given.project, figures, artifact, columns_of(frame))
    write_whole(out / "workspace.json", spec(made))
    if not given.online:
        print(f"offline, nothing was sent: --online would send {out / 'workspace.json'}")
        print(f"tables and figures: wandb sync {out}/wandb/offline-run-*")
        return
    if given.url:  # of the workspace that is there, only the sections and the grouping change
        there = ws.Workspace.from_url(given.url)
        there.sections, there.runset_settings = made.sections, made.runset_settings
        made = there
    try:
        print(made.save().url)
    except Exception as error:
        raise ScopeError(f"W&B refused the workspace: {' '.join(str(error).split())}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or send the dashboard; -> the exit code, as `command` has it."""
    options: dict[str, dict[str, Any]] = {
        "--project": {"default": "scope", "help": "the W&B project of the runs (default: scope)"},
        "--entity": {"help": "the W&B user or team"},
        "--online": {"action": "store_true", "help": "send it to W&B; without this it is only written"},
        "--url": {"help": "update this workspace instead of making a new one"},
    }
    return command("dashboard", __doc__, "dashboard", _work, arguments, options, extra="dashboard,figures")


if __name__ == "__main__":
    sys.exit(main())
