"""What each departure of the released code does to the embedded model: `python -m experiments.fidelity`.

Each switch is turned on alone, where it can matter, and its run is paired with the paper's meaning over the same
prompts. Runs are recorded below outputs/fidelity and found there again; the table is printed, and written beside them.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from experiments.measure import measure, points
from scope.util.files import write_whole

SHORT = "budget.prefill=600"  # longer than most prompts


@dataclass(frozen=True)
class Switch:
    """One departure and the pair of methods on which it is tried."""

    key: str
    value: str
    method: str
    decoding: str
    also: tuple[str, ...] = ()


SWITCHES = (
    Switch("votes", "mean", "h2o", "none"),
    Switch("votes", "released", "h2o", "none"),
    Switch("votes", "released", "h2o", "slide"),
    Switch("votes", "released", "pyramidinfer", "slide"),
    Switch("granularity", "query_head", "snapkv", "none"),
    Switch("granularity", "query_head", "full", "slide"),
    Switch("granularity", "query_head", "h2o", "slide"),
    Switch("boundary", "budget", "snapkv", "slide", (SHORT,)),
    Switch("boundary", "budget", "pyramidkv", "slide"),
    Switch("order", "score", "pyramidkv", "slide", ("fidelity.boundary=budget",)),
    Switch("short", "flat", "pyramidkv", "slide"),
    Switch("pyramid", "floor", "pyramidkv", "slide"),
    Switch("pyramid", "floor", "pyramidinfer", "slide"),
    Switch("beside", "true", "pyramidinfer", "slide", ("fidelity.short=flat",)),
    Switch("delta", "15", "snapkv", "adaptive"),
    Switch("growth", "start", "full", "adaptive"),
    Switch("capped", "false", "full", "adaptive", ("fidelity.growth=start",)),
    Switch("wait", "full", "full", "discontinuous", ("fidelity.growth=start", "fidelity.capped=false")),
    Switch("spread", "flat", "pyramidinfer", "pyramidinfer"),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.fidelity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--output", type=Path, default=Path("outputs/fidelity"))
    args = parser.parse_args()
    console = Console(highlight=False)
    lines = [
        "| switch | on | paper, % right | switched, % right | difference, points [95%] | cache bytes |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for switch in SWITCHES:
        base = [f"method={switch.method}", f"decoding={switch.decoding}", f"task.prompts={args.prompts}", *switch.also]
        paper = measure(base, args.output)
        switched = measure([*base, f"fidelity.{switch.key}={switch.value}"], args.output)
        difference = "no answer differs" if switched.marks == paper.marks else points(switched.minus(paper))
        pair = " ".join([f"{switch.method} + {switch.decoding}", *switch.also])
        lines.append(
            f"| `{switch.key}={switch.value}` | {pair} | {100 * paper.accuracy.estimate:.1f} "
            f"| {100 * switched.accuracy.estimate:.1f} | {difference} "
            f"| {switched.cache_bytes / paper.cache_bytes:.2f}x |"
        )
        console.print(lines[-1], soft_wrap=True)
    write_whole(args.output / "table.md", "\n".join(lines) + "\n")
    console.print(f"written: {args.output / 'table.md'}", soft_wrap=True)


if __name__ == "__main__":
    main()
