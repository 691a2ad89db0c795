"""The frontier as a picture: KL against bytes, a panel for each workload."""

from collections.abc import Mapping
from pathlib import Path

from analysis.colours import colour, marker
from analysis.panels import panels
from experiments.frontier.rows import POLICIES, QUANTISED, SHARES, Row, Workload
from experiments.results import Result

DRAWN = ("slide, protected", "salient", "snapkv_d", "distinct", "keydiff", "raas", "triattention")  # the rest is grey
GREY = "0.75"
NAMES = {"embedded": "embedded model", "smollm2": "SmolLM2-135M", "gemma3_270m": "Gemma-3-270M"}


def draw(found: Mapping[Workload, Mapping[Row, Result[Row]]], path: Path) -> None:
    figure, axes = panels(len(found), (3.6, 3.2), 3)
    for axis, (workload, results) in zip(axes, found.items(), strict=True):
        for name in sorted(POLICIES, key=lambda name: name in DRAWN):  # grey lines lie below
            there = [row for share in sorted(SHARES) if (row := Row(name, share)) in results]
            means = [results[row].mean("kl") for row in there]
            shade = colour(name.partition(",")[0]) if name in DRAWN else GREY
            bars = [[m.estimate - m.low for m in means], [m.high - m.estimate for m in means]]
            x, y = [100 * row.share for row in there], [m.estimate for m in means]
            label = name if name in DRAWN and axis is axes[0] else None
            shape = marker(name.partition(",")[0]) if name in DRAWN else ""
            axis.errorbar(
                x,
                y,
                yerr=bars if name in DRAWN else None,
                color=shade,
                marker=shape,
                ms=5,
                lw=1.3,
                elinewidth=0.6,
                label=label,
            )
        for row in QUANTISED:
            if row in results:
                mean = results[row].mean("kl").estimate
                axis.plot(100 * row.share, mean, "k+", ms=8)
                axis.annotate(
                    row.precision, (100 * row.share, mean), fontsize=7, xytext=(3, 3), textcoords="offset points"
                )
        axis.set_title(f"{NAMES[workload.model]}, {workload.task}", fontsize=9)
        axis.set_yscale("log")
        axis.set_xlabel("bytes, % of the full cache in 16 bits", fontsize=8)
        axis.set_ylabel("KL from the full cache, nats a token", fontsize=8)
        axis.grid(alpha=0.25, lw=0.5)
        axis.tick_params(labelsize=8)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, title="grey: other rows; +: the full cache, rounded")
    figure.savefig(path, dpi=130, metadata={"Software": None})
