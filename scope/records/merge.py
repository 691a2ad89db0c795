"""python -m scope.records merge FOLDER...: the shards of runs, wherever they were made, become runs."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from scope.errors import ScopeError
from scope.records.folder import CONFIG, MANIFEST, RecordKeeping, Records, read, read_manifest


def merge(folders: Sequence[Path], out: Path | None = None) -> list[tuple[Path, int, int]]:
    """Join all shards in and below `folders`, each run's into the folder that it would have had undivided.

    out: the sweep's folder to write to; by default where the first shard of a run lies. What is there already stays, so
    it can be done again when more shards have come. -> for each run its folder, the samples it has, and how many of its
    shards are missing. Raises ScopeError for a folder without shards, and for shards that do not belong together.
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


def _merge_run(shards: Sequence[Path], out: Path | None) -> tuple[Path, int, int]:
    manifests = [read_manifest(shard) for shard in shards]
    parts = {manifest["shard"] for manifest in manifests}
    numbers = {part.partition("/")[2] for part in parts}
    if len(numbers) > 1:
        raise ScopeError(
            f"{shards[0].parent}: shards of {' and of '.join(sorted(numbers))}: merge those of one division"
        )
    of_part = {manifest["shard"]: manifest["samples"] for manifest in manifests}
    first = manifests[0]
    folder = out / first["run"] if out else shards[0].parent.parent
    manifest = {key: value for key, value in first.items() if key != "shard"}
    lines = {line["sample"]: line for shard in shards for line in read(shard)}
    with closing(
        Records(
            folder, (shards[0] / CONFIG).read_text(), manifest | {"samples": sum(of_part.values())}, RecordKeeping()
        )
    ) as kept:
        kept.append([line for name, line in lines.items() if name not in kept.done])
        return folder, len(kept.done), int(numbers.pop()) - len(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """0; 1 where shards are missing; 2 with one line on stderr where nothing could be merged."""
    parser = argparse.ArgumentParser(prog="python -m scope.records")
    command = parser.add_subparsers(required=True).add_parser("merge", help="join the shards of runs")
    command.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="outputs/<experiment>, of any host")
    command.add_argument("--out", type=Path, help="the sweep's folder to write to (default: where the shards lie)")
    options = parser.parse_args(arguments)
    try:
        merged = merge(options.folders, options.out)
    except (ScopeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for folder, samples, missing in merged:
        print(f"{folder}: {samples} samples" + (f"; {missing} shards are missing" if missing else ""))
    return int(any(missing for *_, missing in merged))
