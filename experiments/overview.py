"""The README's picture, from two recorded results: `python -m experiments.overview`.

Left: where to save slots, in the prompt or in the generation (experiments/tiny). Right: which generated slots to keep,
at equal bytes (experiments/distinct). Nothing is run; bars are 95% intervals clustered by prompt.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.colours import colour
from analysis.panels import apart, bars, dress, panels, style

HERE = Path(__file__).parent
PICTURE = HERE / "overview.png"
SAVED = "where to save: slots taken from one phase"  # a section of the calibration
PHASES = {"h2o": "prompt, by h2o", "snapkv": "prompt, by snapkv", "slide": "generation, by slide"}
KEPT = {
    "full + distinct, recent 26": "distinct, prompt protected",
    "full + keydiff, recent 26": "keydiff, prompt protected",
    "full + slide": "slide, prompt protected",
    "full + recent": "recent, prompt protected",
    "full + h2o, prompt unprotected": "h2o, prompt not protected",
}
Point = tuple[float, float, float, float]  # where on the x axis; accuracy and its bounds in percent


def saved(calibration: Mapping[str, Any]) -> dict[str, list[Point]]:
    """By phase: accuracy over the slots that were taken from it."""
    lines: dict[str, list[Point]] = {name: [] for name in PHASES}
    for row in calibration["sections"][SAVED]:
        name = row["method"] if row["decoding"] == "none" else row["decoding"]
        lines[name].append((row["budget"], row["accuracy"], row["low"], row["high"]))
    return lines


def kept(frontier: Mapping[str, Any]) -> dict[str, list[Point]]:
    """By strategy: accuracy over a sequence's bytes, in percent of the full cache's."""
    lines: dict[str, list[Point]] = {label: [] for label in KEPT}
    for row in frontier["rows"]:
        if row["label"] in KEPT:
            lines[row["label"]].append((100 * row["of_full"], *row["accuracy"]))
    return lines


def draw(calibration: Mapping[str, Any], frontier: Mapping[str, Any], path: Path) -> None:
    """Write the PNG."""
    with style():
        figure, (left, right) = panels(2, ratio=0.75)
        for place, (name, points) in enumerate(saved(calibration).items()):
            _line(left, points, PHASES[name], colour(name), place)
        dress(left, "Where to save", "slots taken away, of some 1,026 a head", "answers right, %")
        for place, (label, points) in enumerate(kept(frontier).items()):
            _line(right, points, KEPT[label], colour(label.split(" + ")[1].split(",")[0]), place)
        size = "bytes of a sequence's cache, % of full"
        dress(right, "Which slots of the generation to keep", size, "answers right, %")
        for axis in (left, right):
            axis.axhline(100, color="#000000", lw=0.8, ls=":")
            axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
        figure.savefig(path, metadata={"Software": None})


def _line(axis: Any, points: Sequence[Point], label: str, shade: str, place: int) -> None:
    where, *values = zip(*sorted(points), strict=True)
    bars(axis, where, list(zip(*values, strict=True)), color=shade, label=label, **apart(place))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.overview",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=PICTURE)
    args = parser.parse_args()
    calibration, frontier = HERE / "tiny" / "calibration.json", HERE / "distinct" / "frontier.json"
    draw(json.loads(calibration.read_bytes()), json.loads(frontier.read_bytes()), args.out)
    print(args.out)


if __name__ == "__main__":
    main()
