"""The learning curve of the embedded model as a picture: `python -m experiments.tiny.curve`.

Reads the log of a training run (log.jsonl) and writes curve.png: the accuracy of each kind of token over the tokens
seen, with the stages of the curriculum.
"""

import argparse
import json
from itertools import groupby
from pathlib import Path

from scope.tasks.language import Kind

HERE = Path(__file__).parent
LOOKED_UP = {  # what the model has to find somewhere else; the other kinds are beside it
    Kind.FACT: ("a question's facts", "#0072B2"),
    Kind.TURNED: ("verbs turned by the weather", "#009E73"),
    Kind.REFERENCE: ("an earlier answer", "#D55E00"),
    Kind.RESULT: ("sums", "#CC79A7"),
    Kind.NUMBER: ("the next question's number", "#7F7F7F"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.tiny.curve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--log", type=Path, default=HERE / "log.jsonl")
    parser.add_argument("--out", type=Path, default=HERE / "curve.png")
    args = parser.parse_args()
    lines = [json.loads(line) for line in args.log.read_text().splitlines()]

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
    for kind, (label, colour) in LOOKED_UP.items():
        name = kind.name.lower()
        seen = [line for line in lines if name in line["accuracy"]]
        axis.plot(
            [line["tokens"] / 1e6 for line in seen],
            [100 * line["accuracy"][name] for line in seen],
            color=colour,
            label=label,
            lw=1.5,
        )
    for i, (stage, of_stage) in enumerate(groupby(lines, key=lambda line: line["stage"])):
        start = next(of_stage)["tokens"] / 1e6
        axis.axvline(start, color="#000000", lw=0.6, ls=":")
        height = 102 + 5 * (i % 3)  # stages may be short: their names stand on three lines
        axis.annotate(stage, (start, height), fontsize=8, xytext=(2, 0), textcoords="offset points")
    axis.set_xscale("log")
    axis.set_xticks(ticks := [0.1, 0.3, 1, 3, 10, 30], [f"{tick:g}" for tick in ticks])
    axis.set_xlabel("tokens seen, millions")
    axis.set_ylabel("tokens right, %")
    axis.set_ylim(0, 119)
    axis.grid(alpha=0.25, lw=0.5)
    axis.legend(fontsize=8, loc="lower right")
    figure.savefig(args.out, dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    main()
