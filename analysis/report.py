"""One self-contained HTML page of one or several sweeps: open it in any browser, with or without a network.

python -m analysis.report outputs/demo
python -m analysis.report outputs/demo --prompts    # with the prompts' texts, made again from each run's config.yaml
"""

import html
import json
import math
import os
import re
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from analysis.colours import colour, marker
from analysis.columns import Place
from analysis.command import command
from analysis.contexts import ordered
from analysis.frame import columns_in, of_runs, settings
from analysis.prompts import prompts_of
from analysis.provenance import warnings
from analysis.records import Run
from analysis.settings import settings_of
from analysis.sheets import bytes_unit
from analysis.speeds import remarks_on
from analysis.story import story
from scope.records.read import read_run
from scope.scoring import PRIMARY
from scope.util.files import make_folder, write_whole

Shown = dict[str, Any]
"""A column as the page's script has it: heading; key of the rows; digits; of scores the keys of `bounds` and `best`;
`factor`: what the script multiplies the rows' numbers by."""


def page(runs: Sequence[Run], frame: pd.DataFrame, with_prompts: bool = False, folder: Path | None = None) -> str:
    """The HTML text; all data stand in it as one JSON object, which its script draws from. frame: of the same runs.

    folder: where the page will lie, so that it can link to the runs' folders; None: it has no links.
    """
    in_order, prompts, forced = ordered(runs), Texts(), Forced()
    data = {
        "columns": columns(frame),
        "rows": [_plain(row) for row in frame.to_dict("records")],
        "runs": [_run(run, with_prompts, prompts, forced) | {"link": _link(run, folder)} for run in in_order],
        "prompts": prompts.found,
        "pieces": forced.pieces.found,
        "likely": forced.likely.found,
        "story": list(story(frame)),
        "warnings": [*warnings(runs), *remarks_on(frame)],
        "differences": differences(in_order),
    }
    template = resources.files("analysis").joinpath("report.html").read_text(encoding="utf-8")
    # "<" never appears inside the script's data: a generation that writes </script> stays text.
    packed = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    parts = {"@TITLE@": html.escape(", ".join(frame["experiment"].unique())), "@DATA@": packed}
    return re.sub("|".join(parts), lambda place: parts[place[0]], template)  # in one go: a title may be `@DATA@`


class Texts:
    """Long texts, or lists of them, each once, by their number."""

    def __init__(self) -> None:
        self.found: list[Any] = []
        self._numbers: dict[Any, int] = {}

    def number(self, text: str | tuple[Any, ...] | None) -> int | None:
        if text is None:
            return None
        if text not in self._numbers:
            self._numbers[text] = len(self.found)
            self.found.append(text)
        return self._numbers[text]


class Forced:
    """What the page shows of replays. All runs of a sweep share the forced texts and the full cache's side: each once.

    pieces: texts of tokens. likely: probabilities of the tokens with the full cache.
    """

    def __init__(self) -> None:
        self.pieces, self.likely = Texts(), Texts()

    def told(self, replay: Mapping[str, Any]) -> dict[str, Any]:
        """Of a record's `replay`: `top` has the most likely tokens of the compressed cache where these are others.

        Older records have no texts; numbers in the vocabulary stand for them.
        """
        texts = replay.get("texts") or [f"#{token} " for token in replay["tokens"]]
        full = replay.get("full_top")
        tops = enumerate(zip(replay.get("top", ()), replay["agrees"], strict=False))
        return {
            "texts": self.pieces.number(tuple(texts)),
            "full_top": self.pieces.number(None if full is None else tuple(full)),
            "top": {place: own for place, (own, agrees) in tops if agrees == "0"},
            "kl": [_short(max(0.0, kl)) for kl in replay["kl"]],
            "p": [_short(math.exp(value)) for value in replay["log_likelihood"]],
            "full_p": self.likely.number(tuple(_short(math.exp(value)) for value in replay["full_log_likelihood"])),
            "answers": replay["answers"],
        }


def _short(value: float) -> float:
    """With three decimals: the page has as many such numbers as there are forced tokens."""
    return round(value, 3)


def _link(run: Run, folder: Path | None) -> str | None:
    """The address of a run's folder, seen from `folder`."""
    return None if folder is None else quote(os.path.relpath(run.folder, folder.resolve()).replace(os.sep, "/")) + "/"


def columns(frame: pd.DataFrame) -> list[Shown]:
    """The columns of the page's table: labels, settings, and those of the table of columns that the page shows."""
    keys = [key for key in ("model", "task", "method", "decoding") if frame[key].any()] + settings(frame)
    found: list[Shown] = [{"heading": key, "key": key} for key in keys]
    for column in columns_in(frame, Place.PAGE):
        shown: Shown = {"heading": column.one_line, "key": column.name, "digits": column.digits}
        if column.unit == "MiB":
            unit, factor = bytes_unit(frame[column.name])
            shown |= {"heading": replace(column, unit=unit).one_line, "factor": factor}
        if column.statistic is not None:
            shown |= {"bounds": [column.low, column.high], "best": column.best or None}
        found.append(shown)
    return [shown for shown in found if frame[shown["key"]].notna().any()]


def differences(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Settings whose value is not the same in all runs: the key, and the value of each run in turn."""
    found = [settings_of(run) for run in runs]
    keys = dict.fromkeys(key for values in found for key in values)
    rows = [
        {"key": key, "values": [_finite(values.get(key), str(values.get(key))) for values in found]} for key in keys
    ]
    return [row for row in rows if len({repr(value) for value in row["values"]}) > 1]


def _run(run: Run, with_prompts: bool, texts: Texts, forced: Forced) -> dict[str, Any]:
    answered = read_run(run.folder).answered
    prompts, reason = prompts_of(run.folder, answered) if with_prompts else ({}, "made again with --prompts")
    samples = {
        name: {
            "prompt": texts.number(prompts.get(line.get("prompt", name))),
            "generation": line["generation"],
            "finish": line["finish"],
            "tokens": [line["prompt_tokens"], line["generated_tokens"]],
            "questions": [_question(question) for question in line["questions"]],
            **({"replay": forced.told(line["replay"])} if "replay" in line else {}),
        }
        for name, line in answered.items()
    }
    return {
        "title": f"{run.labels['method']} + {run.labels['decoding']} ({run.name[-8:]})",
        "decoding": run.labels["decoding"],
        "method": run.labels["method"],
        "colour": colour(run.labels["decoding"]),
        "marker": marker(run.labels["method"]),
        "no_prompt": reason,
        "samples": samples,
    }


def _question(question: Mapping[str, Any]) -> list[Any]:
    """Its number, the right answer, what the primary scorer found and whether it is right; the others' by name."""
    by_name = {name: [score["found"], score["correct"]] for name, score in question["scores"].items()}
    return [question["number"], question["expected"], *by_name.pop(PRIMARY), by_name]


def _finite(value: Any, otherwise: Any) -> Any:
    """The value, or what stands for it where it is infinite or NaN, which JSON does not have."""
    return otherwise if isinstance(value, float) and not math.isfinite(value) else value


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as JSON can hold it: no NaN, no numpy scalar."""
    values = {str(key): value.item() if hasattr(value, "item") else value for key, value in row.items()}
    return {key: _finite(value, None) for key, value in values.items()}


def _work(runs: list[Run], out: Path, given: Namespace) -> None:
    make_folder(out.parent)
    write_whole(out, page(runs, of_runs(runs), given.prompts, out.parent))
    print(out)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write report.html; -> the exit code, as `command` has it."""
    prompts = {"action": "store_true", "help": "show the prompts too: builds each run's task again, loads no model"}
    return command("report", __doc__, "report.html", _work, arguments, {"--prompts": prompts})


if __name__ == "__main__":
    sys.exit(main())
