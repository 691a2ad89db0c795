"""One self-contained HTML page of one or several sweeps: open it in any browser, with or without a network.

python -m analysis.report outputs/demo
"""

import html
import json
import math
import sys
from argparse import Namespace
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.colours import colour
from analysis.command import command
from analysis.frame import IDENTITY, flat, of_runs
from analysis.records import Run, read_records
from scope.files import write_whole

SHOWN = (
    *("prompts", "questions", "accuracy_percent", "accuracy_low_percent", "accuracy_high_percent", "points_lost"),
    *("missing_percent", "kept_percent", "cache_mib", "cache_percent", "tokens_per_second", "notes"),
)


def page(runs: Sequence[Run], frame: pd.DataFrame) -> str:
    """The HTML text; all data stand in it as one JSON object, which its script draws from."""
    names = ", ".join(frame["experiment"].unique())
    data = {
        "columns": [column for column in frame if column in ("model", "task", "method", "decoding")]
        + [column for column in frame if column not in IDENTITY and column in _settings(frame)]
        + list(SHOWN),
        "rows": [_plain(row) for row in frame.to_dict("records")],
        "runs": {run.name: _run(run) for run in runs},
        "differences": differences(runs),
    }
    template = resources.files("analysis").joinpath("report.html").read_text(encoding="utf-8")
    # "<" never appears inside the script's data: a generation that writes </script> stays text.
    packed = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    return template.replace("@TITLE@", html.escape(names)).replace("@DATA@", packed)


def differences(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Settings whose value is not the same in all runs: the key, and each run's value."""
    settings = {run.name: flat(run.settings) | {"seed": run.seed} for run in runs}
    keys = dict.fromkeys(key for values in settings.values() for key in values)
    found = [{"key": key, "values": {name: values.get(key) for name, values in settings.items()}} for key in keys]
    return [row for row in found if len({repr(value) for value in row["values"].values()}) > 1]


def _settings(frame: pd.DataFrame) -> list[str]:
    return [column for column in frame if "." in column or column == "seed"]


def _run(run: Run) -> dict[str, Any]:
    lines, _ = read_records(run.folder / "records.jsonl", run.identity)
    samples = {
        name: {
            "generation": line["generation"],
            "finish": line["finish"],
            "tokens": [line["prompt_tokens"], line["generated_tokens"]],
            "questions": [[q["number"], q["expected"], q["found"], q["correct"]] for q in line["questions"]],
        }
        for name, line in lines.items()
        if line.get("status") == "ok"
    }
    title = f"{run.labels['method']} + {run.labels['decoding']} ({run.name[-8:]})"
    return {"title": title, "colour": colour(run.labels["decoding"]), "samples": samples}


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row as JSON can hold it: no NaN, no numpy scalar."""
    values = {key: value.item() if hasattr(value, "item") else value for key, value in row.items()}
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def _work(runs: list[Run], out: Path, _: Namespace) -> None:
    write_whole(out, page(runs, of_runs(runs)))
    print(out)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write report.html; 0, or 2 with one line on stderr."""
    return command("report", __doc__, "report.html", _work, arguments)


if __name__ == "__main__":
    sys.exit(main())
