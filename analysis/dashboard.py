"""A Weights & Biases workspace for sweeps, and a W&B run with their tables and figures; offline unless told otherwise.

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

from analysis.columns import Column, columns_for
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
TABLE, SAMPLES = "runs", "samples"  # the first is logged here, the second by each run
METHOD, DECODING = "method._target_", "decoding._target_"  # where a run's configuration in W&B has them
FIGURE = "figures/"


def workspace(
    entity: str, project: str, figures: Sequence[str], artifact: str, columns: Sequence[Column] | None = None
) -> Any:
    """The dashboard as wandb-workspaces has it.

    figures: names of those in the W&B run that `log` makes. artifact: the name of that run's files. columns: those with
    `tracked` have panels; by default the table of columns without any runs.
    """
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    tracked = [column for column in (columns or columns_for([])) if column.tracked]
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

    sections = [
        ws.Section(
            "Accuracy against cost",
            is_open=True,
            panels=[
                *[over_bytes(column) for column in tracked if column.larger_is_better and column is not share],
                *[bars(column) for column in tracked],
            ],
        ),
        ws.Section(
            "Tables, with 95% intervals",
            is_open=True,
            panels=[wr.WeavePanelSummaryTable(table_name=name) for name in (TABLE, SAMPLES)],
        ),
        ws.Section(
            "Figures and files",
            panels=[
                *[wr.MediaBrowser(title=name, media_keys=[f"{FIGURE}{name}"]) for name in figures],
                wr.WeavePanelArtifact(artifact=artifact, tab="files"),
            ],
        ),
        ws.Section(
            "While runs go on",
            panels=[
                wr.LinePlot("Accuracy so far", x="Step", y=["accuracy"]),
                wr.LinePlot("Tokens/s of an answer", x="Step", y=["sample_tokens_per_second"]),
            ],
        ),
        ws.Section("Settings that differ", panels=[wr.RunComparer(diff_only="split")]),
    ]
    by = ws.RunsetSettings(groupby=[ws.Config(METHOD), ws.Config(DECODING)])
    return ws.Workspace(entity, project, NAME, sections, runset_settings=by, auto_generate_panels=False)


def log(runs: Sequence[Run], frame: pd.DataFrame, folder: Path, given: Namespace, figures: Sequence[str]) -> str:
    """One W&B run with the table of runs, the figures, and all files as an artifact; -> the artifact's name."""
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
    """What saving a workspace sends, as JSON."""
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
        print(f"offline, nothing was sent: {out / 'workspace.json'} is what --online would send")
        print(f"tables and figures: wandb sync {out}/wandb/offline-run-*")
        return
    if given.url:  # what is there is kept, but for its sections
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
        "--online": {"action": "store_true", "help": "send it; without, it is written only"},
        "--url": {"help": "a workspace to bring up to date instead of making one"},
    }
    return command("dashboard", __doc__, "dashboard", _work, arguments, options, extra="dashboard,figures")


if __name__ == "__main__":
    sys.exit(main())
