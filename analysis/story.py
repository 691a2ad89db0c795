"""What compression saved and what it cost, in plain words, for each model and task of a table."""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from analysis.frame import blocks, complete
from analysis.sheets import bytes_unit
from scope.util.speeds import written

Row = Mapping[str, Any]


def story(frame: pd.DataFrame) -> Iterator[str]:
    """One line for each block of `analysis.frame` in which a full cache and a compressed one have answered questions,
    and one for each block with compressed replays.

    Of several compressed runs it tells of the one with the most right answers. Runs that have not answered all their
    prompts are left out. Speeds are told only where the frame says that they compare.
    """
    for block in blocks(frame):
        yield from _replays(block)
        answered = block[complete(block) & block["accuracy_percent"].notna()]
        full = answered[~answered["compressed"]]
        compressed = answered[answered["compressed"] & answered["points_lost"].notna()]
        if len(full) and len(compressed):
            best = compressed.loc[compressed["accuracy_percent"].idxmax()].to_dict()
            name = f"{best['method']} + {best['decoding']}"
            several = f"Of {len(compressed)} compressed runs, {name} has the most right answers. It keeps"
            yield f"{several if len(compressed) > 1 else f'{name} keeps'} {_told(best, full.iloc[0].to_dict())}"


def _told(best: Row, full: Row) -> str:
    """What a run keeps, answers and takes, beside the full cache."""
    unit, scale = bytes_unit(pd.Series([best["cache_mib"], full["cache_mib"]]))
    own, whole = (f"{scale * row['cache_mib']:.{2 if unit == 'MiB' else 0}f}" for row in (best, full))
    right = [f"{row['accuracy_percent']:.1f}%" for row in (best, full)]
    said = [
        f"{best['cache_percent']:.0f}% of the full cache's bytes ({own} of {whole} {unit} a prompt).",
        f"It answers {right[0]} right, the full cache {right[1]}: {_lost(best)}.",
    ]
    speeds = [row["tokens_per_second"] for row in (best, full)]
    if not (best["speed_differs"] or full["speed_differs"] or any(map(pd.isna, speeds))):
        said.append(f"It writes {written(speeds[0])} tokens/s, the full cache {written(speeds[1])}.")
    return " ".join(said)


def _lost(row: Row) -> str:
    """The difference in right answers, turned so that it is above 0, with what its interval says."""
    lost, low, high = (row[name] for name in ("points_lost", "points_lost_low", "points_lost_high"))
    if lost < 0:
        lost, low, high = -lost, -high, -low
    points = f"{lost:.1f} points {'more' if row['points_lost'] < 0 else 'fewer'}"
    if pd.isna(low):
        return f"{points}, without an interval"
    doubt = f", which {row['paired_prompts']} prompts cannot tell from none" if low <= 0 <= high else ""
    return f"{points} [{low:.1f}, {high:.1f}]{doubt}"


def _replays(block: pd.DataFrame) -> Iterator[str]:
    """A line where the block's compressed runs are replays: which is nearest to the full cache, and with what bytes."""
    if not {"kl", "agreement_percent"} <= set(block):
        return
    replayed = block[complete(block) & block["compressed"] & block["kl"].notna()]
    if len(replayed):
        best = replayed.loc[replayed["kl"].idxmin()].to_dict()
        name = f"{best['method']} + {best['decoding']}"
        of = f"Of {len(replayed)} compressed replays, {name} is" if len(replayed) > 1 else f"{name} is"
        nearest = "nearest to the full cache: " if len(replayed) > 1 else ""
        interval = "" if pd.isna(best["kl_low"]) else f" [{best['kl_low']:.2g}, {best['kl_high']:.2g}]"
        yield (
            f"{of} {nearest}KL {best['kl']:.2g}{interval} nats a token, with {best['cache_percent']:.0f}% of its "
            f"bytes. {best['agreement_percent']:.1f}% of the tokens have the same most likely token."
        )
