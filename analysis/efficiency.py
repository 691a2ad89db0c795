"""The paper's table 3: memory and tokens/s, as measured and as a share of the uncompressed run's.

Machines, lengths and batches differ from the paper's. So only the shares are compared with the published ones.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.columns import OWN_TEXTS
from analysis.contexts import ordered
from analysis.entries import extra
from analysis.frame import settings
from analysis.published import published
from analysis.records import Run
from analysis.sheets import NOTHING, STAR, Cells, Sheet, bytes_unit, counts
from analysis.speeds import DAGGER, SPEED_COLUMNS, batches, remarks_on

MODELS = (
    "llama3.1_8b",
    "mistral_7b_v0.3",
)  # of the paper's table; their tokens take equal bytes
UNKNOWN = float("nan")


def efficiency(runs: Sequence[Run], frame: pd.DataFrame) -> tuple[list[Sheet], pd.DataFrame]:
    """The table from runs, and `frame`, which `analysis.frame.of_runs` made of them.

    -> a sheet for each model and task, and all figures as a frame of one row per run.
    """
    lines = [_line(figures, run, settings(frame)) for figures, run in _rows(frame, runs)]
    tidy = pd.DataFrame(lines)
    blocks = [block.copy() for _, block in tidy.groupby(["model", "task"], sort=False)]
    for block in blocks:
        full = block.loc[~block["compressed"], "tokens_per_second"]
        block["speed_percent"] = 100 * block["tokens_per_second"] / (full.iloc[0] if len(full) else UNKNOWN)
    tidy = pd.concat(blocks, ignore_index=True)
    return [_sheet(block.reset_index(drop=True)) for block in blocks], tidy


def _rows(frame: pd.DataFrame, runs: Sequence[Run]) -> list[tuple[dict[str, Any], Run]]:
    return list(zip(frame.to_dict("records"), ordered(runs), strict=True))


def _line(figures: Mapping[str, Any], run: Run, telling: Sequence[str]) -> dict[str, Any]:
    made = [(batch.rows, batch.rows * batch.cache_bytes / 2**20) for batch in batches(run.samples)]
    return {
        **{key: figures[key] for key in ("model", "task", "method", "decoding")},
        "setting": extra(figures, telling),
        **{key: figures[key] for key in ("compressed", "prompts", "planned_prompts", "slots", "cache_mib")},
        "batch_rows": max((count for count, _ in made), default=0),
        "batch_mib": max((mib for _, mib in made), default=UNKNOWN),
        "cache_percent": figures["cache_percent"],
        "cache_percent_of": figures["cache_percent_of"],
        "tokens_per_second": figures["tokens_per_second"],
        **{key: figures[key] for key in SPEED_COLUMNS if key != "batch_rows"},
        **_published(figures["model"], figures["method"], figures["decoding"]),
        **{key: figures[key] for key in ("notes", "experiment", "run", "commit")},
    }


def _published(model: str, method: str, decoding: str) -> dict[str, float]:
    table = published("table3.csv").set_index(["method", "decoding"])
    there = model in MODELS and (method, decoding) in table.index
    gib, speed = table.loc[(method, decoding)] if there else (UNKNOWN, UNKNOWN)
    full_gib, full_speed = table.loc[("full", "none")]
    return {
        "published_gib": gib,
        "published_cache_percent": 100 * gib / full_gib,
        "published_tokens_per_second": speed,
        "published_speed_percent": 100 * speed / full_speed,
    }


def _sheet(found: pd.DataFrame) -> Sheet:
    model, task = found.loc[0, ["model", "task"]]
    whole = found["prompts"] >= found["planned_prompts"]
    keys = {"method": list(found["method"]), "decoding": list(found["decoding"])}
    if any(found["setting"]):
        keys["setting"] = [setting or NOTHING for setting in found["setting"]]
    papers = bool(found["published_gib"].notna().any())
    columns = _figures(found, papers)
    about = ["Cache: bytes of keys and values, the most at once. Tokens/s: of a batch, while decoding."]
    if papers:
        about.append(
            "publ.: RTX 3090, batch 8, eager attention. diff.: ours minus the published one, in percentage points."
        )
    remarks = []
    own = found["cache_percent_of"] == OWN_TEXTS
    if own.any():
        rows = ", ".join(found.loc[own, "method"] + " + " + found.loc[own, "decoding"])
        which = "all rows" if own.all() else rows
        remarks.append(
            f"MISSING: the uncompressed run (full + none) of {which}; bytes in % of what each needed itself."
        )
    if not whole.all():
        remarks.append(f"PARTIAL ({STAR}): not all prompts answered.")
    return Sheet(
        f"{'PARTIAL: ' * bool(remarks)}As table 3, {model}, {task}",
        " ".join(about),
        "tab:" + re.sub(r"[^a-z0-9]+", "-", f"as-table-3-{model}-{task}".lower()),
        pd.DataFrame(keys),
        columns,
        remarks=(*remarks, *remarks_on(found)),
    )


def _figures(found: pd.DataFrame, papers: bool) -> dict[str, Cells]:
    """The columns of figures. papers: whether the paper has any of these rows."""
    whole = found["prompts"] >= found["planned_prompts"]
    unit, scale = bytes_unit(found["cache_mib"])
    marks = [DAGGER * bool(reason) + STAR * (not w) for reason, w in zip(found["speed_differs"], whole, strict=True)]
    columns = {
        "prompts": counts(found["prompts"], found["planned_prompts"]),
        "batch": Cells(list(found["batch_rows"]), 0),
        "slots": Cells(list(found["slots"]), 0),
        f"cache, {unit}\nsequence": Cells(list(found["cache_mib"] * scale), 2),
        f"cache, {unit}\nlargest batch": Cells(list(found["batch_mib"] * scale), 2),
        **_beside("cache, % of full", found["cache_percent"], found["published_cache_percent"], papers),
        "tokens/s\nours": Cells(list(found["tokens_per_second"]), "significant", marks=marks),
        **_beside("tokens/s, % of full", found["speed_percent"], found["published_speed_percent"], papers),
    }
    if papers:
        columns["published\nGiB"] = Cells(list(found["published_gib"]))
        columns["published\ntokens/s"] = Cells(list(found["published_tokens_per_second"]), 2)
    return columns


def _beside(heading: str, ours: "pd.Series[float]", theirs: "pd.Series[float]", papers: bool) -> dict[str, Cells]:
    found = {f"{heading}\nours": Cells(list(ours))}
    if papers:
        found[f"{heading}\npubl."] = Cells(list(theirs))
        found[f"{heading}\ndiff."] = Cells([a - b for a, b in zip(ours, theirs, strict=True)], signed=True)
    return found
