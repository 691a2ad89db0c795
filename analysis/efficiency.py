"""The paper's table 3: memory and tokens/s, as measured and as a share of the uncompressed run's.

Machines, lengths and batches differ from the paper's, so only the shares are held against the published ones.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.frame import OWN_TEXTS, batches, ordered, settings
from analysis.layouts import extra
from analysis.published import published
from analysis.records import Run
from analysis.sheets import NOTHING, STAR, Sheet, bytes_unit, number, signed, speed
from analysis.speeds import SPEED_COLUMNS, marks, remarks_on

MODELS = ("llama3.1_8b", "mistral_7b_v0.3")  # the paper's; one token's keys and values have equal bytes in both
UNKNOWN = float("nan")


def efficiency(runs: Sequence[Run], frame: pd.DataFrame) -> tuple[list[Sheet], pd.DataFrame]:
    """-> a sheet for each model and task, and all figures, tidy. frame: that of the same runs."""
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
    made = [(count, count * mean / 2**20) for _, count, _, mean in batches(run.samples)]
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
    unit, scale = bytes_unit(found["cache_mib"])
    keys = {"method": list(found["method"]), "decoding": list(found["decoding"])}
    if any(found["setting"]):
        keys["setting"] = [setting or NOTHING for setting in found["setting"]]
    papers = bool(found["published_gib"].notna().any())
    columns = {
        "prompts": [f"{p}" if p >= n else f"{p} of {n}" for p, n in found[["prompts", "planned_prompts"]].to_numpy()],
        "batch": [str(count) for count in found["batch_rows"]],
        "slots": [number(value, 0) for value in found["slots"]],
        f"cache, {unit}\nsequence": [number(value * scale, 2) for value in found["cache_mib"]],
        f"cache, {unit}\nlargest batch": [number(value * scale, 2) for value in found["batch_mib"]],
        **_beside("cache, % of full", found["cache_percent"], found["published_cache_percent"], papers),
        "tokens/s\nours": [
            f"{speed(v, mark)}{STAR * (not w and v == v)}"
            for v, mark, w in zip(found["tokens_per_second"], marks(found), whole, strict=True)
        ],
        **_beside("tokens/s, % of full", found["speed_percent"], found["published_speed_percent"], papers),
    }
    about = ["Cache: bytes of keys and values, the most at once. Tokens/s: of a batch, while decoding."]
    if papers:
        columns["published\nGiB"] = [number(value) for value in found["published_gib"]]
        columns["published\ntokens/s"] = [number(value, 2) for value in found["published_tokens_per_second"]]
        about.append("publ.: RTX 3090, batch 8, eager attention. diff.: ours less that, in points.")
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
        pd.DataFrame(columns),
        remarks=(*remarks, *remarks_on(found)),
    )


def _beside(heading: str, ours: "pd.Series[float]", theirs: "pd.Series[float]", papers: bool) -> dict[str, list[str]]:
    found = {f"{heading}\nours": [number(value) for value in ours]}
    if papers:
        found[f"{heading}\npubl."] = [number(value) for value in theirs]
        found[f"{heading}\ndiff."] = [signed(a - b) for a, b in zip(ours, theirs, strict=True)]
    return found
