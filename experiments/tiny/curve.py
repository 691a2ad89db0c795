"""The learning curve of the embedded model as a picture: `python -m experiments.tiny.curve`.

Reads the log of a training run (log.jsonl) and writes curve.png: the accuracy of each kind of token over the tokens
seen, with the stages of the curriculum.
"""

import argparse
import json
from itertools import groupby
from pathlib import Path

from analysis.panels import apart, dress, legend, panels, style
from scope.tasks.language import Kind

HERE = Path(__file__).parent
LOOKED_UP = {  # what the model has to find somewhere else; the other kinds are beside it
    Kind.FACT: ("a question's facts", "#0072B2"),
    Kind.TURNED: ("verbs turned by the weather", "#009E73"),
    Kind.REFERENCE: ("an earlier answer", "#D55E00"),
    Kind.RESULT: ("sums", "#CC79A7"),
    Kind.NUMBER: ("the next question's number", "#4F4F4F"),
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

    with style():
        figure, (axis,) = panels(1, ratio=0.42)
        for place, (kind, (label, colour)) in enumerate(LOOKED_UP.items()):
            name = kind.name.lower()
            seen = [line for line in lines if name in line["accuracy"]]
            axis.plot(
                [line["tokens"] / 1e6 for line in seen],
                [100 * line["accuracy"][name] for line in seen],
                color=colour,
                label=label,
                ls=apart(place)["ls"],
            )
        for i, (stage, of_stage) in enumerate(groupby(lines, key=lambda line: line["stage"])):
            start = next(of_stage)["tokens"] / 1e6
            axis.axvline(start, color="#000000", lw=0.6, ls=":")
            height = 102 + 6 * (i % 3)  # stages may be short: their names stand on three lines
            axis.annotate(stage, (start, height), fontsize=6, xytext=(2, 0), textcoords="offset points")
        axis.set_xscale("log")
        axis.set_xticks(ticks := [0.1, 0.3, 1, 3, 10, 30], [f"{tick:g}" for tick in ticks])
        dress(axis, "", "tokens seen, millions", "tokens right, %")
        axis.set_ylim(0, 121)
        axis.set_yticks(range(0, 101, 20))
        legend(figure, [axis])
        figure.savefig(args.out, metadata={"Software": None})


if __name__ == "__main__":
    main()
