"""Tables and figures of the rows that have run: `results.md`, `frontier.png` and `protection.png`."""

from collections.abc import Mapping
from pathlib import Path

from experiments.frontier import picture
from experiments.frontier.rows import ALSO_ROUNDED, FULL, QUANTISED, ROWS, SHARES, WORKLOADS, Row, Workload
from experiments.measure import cell
from experiments.results import Result, read
from experiments.tables import pipe_table
from scope.util.files import write_whole

HERE = Path(__file__).parent / "results"
AGAINST = ("slide, protected", "keydiff", "triattention", "morphkv", "snapkv_d", "snapkv_d, recent 15%", "vase", "raas",
           "distinct")  # fmt: skip
Results = Mapping[Row, Result[Row]]


def path_of(workload: Workload) -> Path:
    return HERE / f"{workload.name}.jsonl"


def write() -> None:
    """Write the tables and the figure. Rows that have not run are left out."""
    found = everything()
    write_whole(HERE.parent / "results.md", markdown(found))
    picture.draw(found, HERE.parent)


def everything() -> dict[Workload, Results]:
    """The results so far, of those workloads that have some."""
    return {workload: results for workload in WORKLOADS if (results := read(path_of(workload), ROWS))}


def markdown(found: Mapping[Workload, Results]) -> str:
    parts = [
        "Made by `python -m experiments.frontier --recorded`. The plan and the reading are in [README.md](README.md).",
        "Bytes are those of the full cache in 16 bits. A star: the row with the lowest mean, or one whose paired "
        "difference from it has a 95% interval with 0 in it.",
    ]
    for workload, results in found.items():
        prompts = len(next(iter(results.values())).prompts)
        parts.append(f"## {workload.model}, {workload.task}: {prompts} prompts")
        parts.append(_rounded(workload, results))
        for share in sorted(SHARES):
            if table := _at(workload, results, share):
                parts += [f"### {share:.0%} of the bytes", table]
    parts += ["## salient minus another row, paired", *(_differences(found, share) for share in sorted(SHARES))]
    parts += ["## Slots in 4 bits, a quarter of the bytes: salient minus another row, paired", _in_four_bits(found)]
    parts += ["## What protection is worth", _protection(found)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(workload: Workload, *first: str) -> list[str]:
    answers = ["answer tokens recalled, % [95%]"] if workload.answers else []
    return [*first, "KL, nats a token [95%]", "same top token, %", *answers]


def _cells(workload: Workload, result: Result[Row]) -> list[str]:
    answers = [cell(result.mean("answers_recalled"), 100, ".1f", star=False)] if workload.answers else []
    return [cell(result.mean("kl"), 1, ".4f", star=False), f"{100 * result.mean('agreement').estimate:.1f}", *answers]


def _rounded(workload: Workload, results: Results) -> str:
    lines = [
        [row.label, f"{row.share:.0%}", *_cells(workload, results[row])] for row in (FULL, *QUANTISED) if row in results
    ]
    return pipe_table(_head(workload, "full cache", "bytes"), lines)


def _at(workload: Workload, results: Results, share: float) -> str:
    here = {row: results[row] for row in ROWS if row in results and row.share == share and row.policy != "full"}
    if not here:
        return ""
    order = sorted(here, key=lambda row: here[row].mean("kl").estimate)
    tied = {row for row in order if row == order[0] or not here[row].minus(here[order[0]], "kl").low > 0}
    lines = [
        [row.label + (" *" if row in tied else ""), f"{row.slots:.0%}", *_cells(workload, here[row])] for row in order
    ]
    return pipe_table(_head(workload, "policy", "slots"), lines)


def _differences(found: Mapping[Workload, Results], share: float) -> str:
    """KL of salient less that of another row, of every workload."""
    lines = []
    for row in [*(Row(name, share) for name in AGAINST), *QUANTISED]:
        cells = _minus(found, Row("salient", share), row)
        if any(cells):
            bytes_ = "" if row.policy != "full" else f" ({row.share:.0%} of the bytes)"
            lines.append([row.label + bytes_, *cells])
    return pipe_table([f"KL at {share:.0%} of the bytes", *(w.name for w in found)], lines) if lines else ""


def _in_four_bits(found: Mapping[Workload, Results]) -> str:
    """KL of salient less that of each policy that has run with slots in 4 bits too."""
    ours = Row("salient", 0.25, "int4")
    lines = [[name, *_minus(found, ours, Row(name, 0.25, "int4"))] for name in ALSO_ROUNDED]
    ran = [line for line in lines if any(line[1:])]
    return pipe_table(["KL at 25% of the bytes, int4", *(w.name for w in found)], ran) if ran else ""


def _protection(found: Mapping[Workload, Results]) -> str:
    """Unprotected minus protected, of the two scores that run both ways."""
    lines = []
    for one, other in (("h2o", "slide, protected"), ("distinct", "distinct, protected")):
        for share in sorted(SHARES):
            cells = _minus(found, Row(one, share), Row(other, share))
            if any(cells):
                lines.append([f"{one} - {other}, {share:.0%}", *cells])
    return pipe_table(["KL, unprotected minus protected", *(w.name for w in found)], lines) if lines else ""


def _minus(found: Mapping[Workload, Results], one: Row, other: Row) -> list[str]:
    """KL of one row less that of another, of every workload; empty where one of them has not run."""
    return [
        cell(results[one].minus(results[other], "kl"), 1, "+.4f", star=False) if {one, other} <= set(results) else ""
        for results in found.values()
    ]
