"""What each departure of the released code does to the embedded model: `python -m experiments.fidelity`.

Each switch is turned on alone, where it can matter, and its run is paired with the paper's meaning over the same
prompts. Runs are recorded below outputs/fidelity and found there again; the table is printed, and written beside them.
"""

import argparse
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir
from rich.console import Console

from analysis.statistics import paired_difference
from scope import records
from scope.config import build
from scope.files import write_whole
from scope.run import run

CONF = Path(__file__).resolve().parents[1] / "conf"
SHORT = "budget.prefill=480"  # longer than most prompts


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
    Switch("beside", "true", "pyramidinfer", "slide", ("fidelity.short=flat",)),
    Switch("delta", "15", "snapkv", "adaptive"),
    Switch("growth", "start", "full", "adaptive"),
    Switch("capped", "false", "full", "adaptive", ("fidelity.growth=start",)),
    Switch("wait", "full", "full", "discontinuous", ("fidelity.growth=start", "fidelity.capped=false")),
    Switch("spread", "flat", "pyramidinfer", "pyramidinfer"),
)


def accuracies(overrides: list[str], output: Path) -> tuple[dict[str, float], float]:
    """Run a configuration -> accuracy in % of each prompt, and mean bytes of a sequence's cache."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        job = build(compose("config", [*overrides, f"output={output.parent}", f"name={output.name}"]), {})
    folder = run(job.experiment, job.tracker, job.output, Console(file=io.StringIO()))
    names = {sample.name for sample in job.experiment.task.samples()}
    lines = [line for line in records.read(folder) if line["sample"] in names]
    right = {line["sample"]: 100 * float(np.mean([a["correct"] for a in line["questions"]])) for line in lines}
    return right, float(np.mean([line["cache_bytes"] for line in lines]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
        paper, paper_bytes = accuracies(base, args.output)
        switched, bytes_ = accuracies([*base, f"fidelity.{switch.key}={switch.value}"], args.output)
        found = paired_difference([(switched[name] - paper[name]) / 100 for name in paper])
        difference = f"{100 * found.estimate:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
        if switched == paper:
            difference = "no answer differs"
        pair = " ".join([f"{switch.method} + {switch.decoding}", *switch.also])
        lines.append(
            f"| `{switch.key}={switch.value}` | {pair} | {np.mean(list(paper.values())):.1f} "
            f"| {np.mean(list(switched.values())):.1f} "
            f"| {difference} | {bytes_ / paper_bytes:.2f}x |"
        )
        console.print(lines[-1], soft_wrap=True)
    write_whole(args.output / "table.md", "\n".join(lines) + "\n")
    console.print(f"written: {args.output / 'table.md'}", soft_wrap=True)


if __name__ == "__main__":
    main()
