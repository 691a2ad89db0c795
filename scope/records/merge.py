"""python -m scope.records merge FOLDER...: joins the shards of runs."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scope.records.code import changed_code, listed
from scope.records.folder import RecordKeeping, Records, as_json, read
from scope.records.read import CONFIG, MANIFEST, read_manifest
from scope.util.errors import ScopeError, print_anything
from scope.util.files import write_whole
from scope.util.visible import visible

JOINED = "joined"  # key of the manifest: the shards that were merged, while others are missing


@dataclass(frozen=True)
class Joined:
    """The shards that a run is made of: `i/n` -> its samples. Raises ScopeError for shards of several divisions."""

    shards: Mapping[str, int]

    def __post_init__(self) -> None:
        numbers = sorted({n for _, n in self._parts})
        if len(numbers) > 1:
            raise ScopeError(f"shards of {' and of '.join(map(str, numbers))}: merge those of one division")

    @property
    def _parts(self) -> dict[tuple[int, int], int]:
        return {RecordKeeping(shard=shard).part: samples for shard, samples in self.shards.items()}

    @property
    def division(self) -> int:
        return next(n for _, n in self._parts)

    @property
    def missing(self) -> list[int]:
        there = {i for i, _ in self._parts}
        return [i for i in range(1, self.division + 1) if i not in there]

    @property
    def samples(self) -> int:
        return sum(self.shards.values())

    @property
    def most_samples(self) -> int:
        """How many samples the undivided run has; where shards are missing, at the most.

        No shard knows that. Its m samples are every n-th of the run from the i-th on, so the run ends before the place
        where it would have one more: fewer than n too many are assumed, and a part is never taken for the whole.
        """
        ends = [samples * n + i - 1 for (i, n), samples in self._parts.items()]
        return max(self.samples, min(ends)) if self.missing else self.samples

    @property
    def lacks(self) -> str:
        """`shard 2 of 3 is missing`, `shards 1, 3-5 of 7 are missing`; nothing where none is."""
        rows: list[list[int]] = []
        for i in self.missing:
            if rows and rows[-1][-1] == i - 1:
                rows[-1].append(i)
            else:
                rows.append([i])
        named = ", ".join(str(row[0]) if len(row) == 1 else f"{row[0]}-{row[-1]}" for row in rows)
        several = len(self.missing) > 1
        verb = "are" if several else "is"
        return f"shard{'s' * several} {named} of {self.division} {verb} missing" if rows else ""


def merge(folders: Sequence[Path], out: Path | None = None) -> list[tuple[Path, int, Joined]]:
    """Join all shards in and below `folders`, each run's shards into the folder of the whole run.

    out: the sweep's folder to write to; by default, where the first shard of a run lies. Records that are there stay,
    so this can be repeated when more shards are finished. -> for each run its folder, how many samples it has, and its
    shards. Raises ScopeError for a folder without shards, and for shards that do not belong together.
    """
    found: dict[str, list[Path]] = {}
    for folder in folders:
        for path in sorted(folder.rglob(MANIFEST)):
            manifest = read_manifest(path.parent)
            if "shard" in manifest:
                found.setdefault(manifest["identity"], []).append(path.parent)
    if not found:
        raise ScopeError(f"{', '.join(map(str, folders))}: no shards here or below")
    return [_merge_run(shards, out) for shards in found.values()]


def _merge_run(shards: Sequence[Path], out: Path | None) -> tuple[Path, int, Joined]:
    first = read_manifest(shards[0], needs=("run",))
    folder = out / first["run"] if out else shards[0].parent.parent
    joined = _joined(shards, folder)
    asked = {key: value for key, value in first.items() if key != "shard"} | {"samples": joined.samples}
    lines = {line["sample"]: line for shard in shards for line in read(shard)}
    with closing(Records(folder, (shards[0] / CONFIG).read_bytes(), asked, RecordKeeping())) as kept:
        kept.append([line for name, line in lines.items() if name not in kept.done])
        _say_what_is_missing(folder, joined)
        return folder, len(kept.done), joined


def _joined(shards: Sequence[Path], folder: Path) -> Joined:
    """These shards, and those that were merged into `folder` earlier."""
    manifests = [read_manifest(shard) for shard in shards]
    before = read_manifest(folder) if (folder / MANIFEST).exists() else {}
    same = [before] if before.get("identity") == manifests[0]["identity"] else []
    _require_one_day(folder, [*manifests, *same])
    _require_one_code(folder, [*manifests, *same])
    found: dict[str, int] = {}
    for manifest in manifests:
        found[manifest["shard"]] = max(manifest["samples"], found.get(manifest["shard"], 0))
    try:
        division = Joined(found).division
    except ScopeError as error:
        raise ScopeError(f"{shards[0].parent}: {error}") from error
    if same:
        earlier = {shard: n for shard, n in before.get(JOINED, {}).items() if shard.endswith(f"/{division}")}
        found = earlier | found
    return Joined(found)


def _require_one_day(folder: Path, manifests: Sequence[Mapping[str, Any]]) -> None:
    """Raises ScopeError if the shards' prompts hold different dates."""
    days = sorted({str(day) for manifest in manifests if (day := manifest.get("template_date"))})
    if len(days) > 1:
        told = f"the prompts of its shards hold different dates, {' and '.join(days)}"
        raise ScopeError(f"{folder}: {told}: answer all shards with model.template_date={days[0]}")


def _require_one_code(folder: Path, manifests: Sequence[Mapping[str, Any]]) -> None:
    """Raises ScopeError if the shards were answered by different code. Older manifests do not tell."""
    codes = [manifest["code"] for manifest in manifests if "code" in manifest]
    for code in codes:
        if edited := changed_code(codes[0], code):
            told = f"its shards were answered by different code of {listed(edited)}"
            raise ScopeError(f"{folder}: {told}: answer them with rerun=true by the same code")


def _say_what_is_missing(folder: Path, joined: Joined) -> None:
    """Write into the manifest which shards are merged, as long as others are missing.

    `samples` stays the number of samples of the merged shards. A manifest that plans more samples is of a whole run
    that was started in this folder, and is not changed.
    """
    manifest = read_manifest(folder)
    if manifest["samples"] > joined.samples:
        return
    now = {key: value for key, value in manifest.items() if key != JOINED}
    now |= {JOINED: dict(joined.shards)} if joined.missing else {}
    if now != manifest:
        write_whole(folder / MANIFEST, as_json(now))


def main(arguments: Sequence[str] | None = None) -> int:
    """0; 1 where shards or answers are missing; 2 with one line on stderr where nothing could be merged."""
    parser = argparse.ArgumentParser(prog="python -m scope.records")
    command = parser.add_subparsers(required=True).add_parser("merge", help="join the shards of runs")
    command.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="outputs/<experiment>, of any host")
    command.add_argument("--out", type=Path, help="the sweep's folder to write to (default: where the shards lie)")
    options = parser.parse_args(arguments)
    print_anything()
    try:
        merged = merge(options.folders, options.out)
    except (ScopeError, OSError) as error:
        print(f"error: {visible(str(error))}", file=sys.stderr)
        return 2
    for folder, samples, joined in merged:
        lacks = [joined.lacks] * bool(joined.missing)
        lacks += [f"{joined.samples - samples} of its shards' samples have no answer"] * (samples < joined.samples)
        print("; ".join([f"{folder}: {samples} sample{'s' * (samples != 1)}", *lacks]))
    return int(any(joined.missing or samples < joined.samples for _, samples, joined in merged))
