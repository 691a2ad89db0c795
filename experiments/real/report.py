"""Tables and figures of the rows that have run: `results.md`, `protection.png`, `methods.png`."""

from collections.abc import Mapping, Sequence

from experiments.measure import cell
from experiments.real import picture
from experiments.real.questions import ORDERS, QUESTIONS, Difference, Results, agreement, told_alike
from experiments.real.results import HERE, read
from experiments.real.rows import FULL, MAIN, PLANS, ROWS, SHARES, TASKS, VARIANTS
from experiments.tables import pipe_table
from scope.util.files import write_whole

All = Mapping[tuple[str, str], Results]  # by model and task
EMBEDDED = ("embedded", "arithmetic")


def write() -> None:
    """Write the tables and figures. Rows that have not run are left out."""
    found = everything()
    write_whole(HERE.parent / "results.md", markdown(found))
    picture.draw(found, HERE.parent)


def everything(free: bool = False) -> dict[tuple[str, str], Results]:
    """The results so far, of those models and tasks that have some, variants aside.

    free: of generations, else of replays.
    """
    measure = "generation" if free else "replay"
    pairs = dict.fromkeys(
        (m, task) for m, tasks, _ in PLANS for task in tasks if TASKS[task].measure == measure and task not in VARIANTS
    )
    return {pair: results for pair in pairs if (results := read(*pair))}


def markdown(found: All) -> str:
    parts = ["Made by `python -m experiments.real --recorded`. The plan and the reading are in [README.md](README.md)."]
    parts.append(_progress())
    for question, differences in QUESTIONS.items():
        parts += [
            f"## {question}",
            _differences(found, differences, "kl", "KL, nats a token; less is better"),
            _differences(found, differences, "answers_recalled", "answer tokens recalled, points; more is better"),
        ]  # fmt: skip
    parts += ["## 5. Is the order of policies the same?", _orders(found), _variants(found)]
    parts += _free(everything(free=True))
    for pair, results in found.items():
        parts += [f"## {' + '.join(pair)}: the main rows", _main(results, TASKS[pair[1]].answers)]
        parts += [f"## {' + '.join(pair)}: all shares", _shares(results, TASKS[pair[1]].answers)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _progress() -> str:
    planned: dict[tuple[str, str], int] = {}
    for model, tasks, rows in PLANS:
        for task in tasks:
            planned[model, task] = planned.get((model, task), 0) + len(rows)
    lines = []
    for pair, count in planned.items():
        results = read(*pair)
        prompts = len(next(iter(results.values())).prompts) if results else 0
        hours = sum(result.seconds for result in results.values()) / 3600
        lines.append([", ".join(pair), f"{len(results)}", f"{count}", f"{prompts}", f"{hours:.1f}"])
    return pipe_table(["model, task", "rows that have run", "planned", "prompts", "hours"], lines)


def _differences(found: All, differences: Sequence[Difference], measure: str, title: str) -> str:
    pairs = [pair for pair in found if measure == "kl" or TASKS[pair[1]].answers]
    scale, form = (1, "+.3f") if measure == "kl" else (100, "+.1f")
    lines = []
    for difference in differences:
        cells = [
            cell(results[difference.one].minus(results[difference.other], measure), scale, form)
            if (results := found[pair]) and difference.one in results and difference.other in results
            else ""
            for pair in pairs
        ]
        if any(cells):
            lines.append([difference.label, *cells])
    return pipe_table([title, *map(" ".join, pairs)], lines) if lines else ""


def _orders(found: All) -> str:
    lines = []
    for pair, results in found.items():
        if pair == EMBEDDED or EMBEDDED not in found:
            continue
        cells = []
        for rows in ORDERS.values():
            correlation, count = agreement(found[EMBEDDED], results, rows)
            cells.append(f"{cell(correlation, 1, '.2f', star=False)}; {count}" if count >= 3 else "")
        lines.append([" ".join(pair), *cells])
    return pipe_table(["against the embedded task: Spearman's correlation of mean KL [95%]; rows", *ORDERS], lines)


def _variants(found: All) -> str:
    """How far each form of the embedded task orders policies as real models do."""
    real = {pair: results for pair, results in found.items() if pair[0] != EMBEDDED[0]}
    lines = []
    for task in (EMBEDDED[1], *VARIANTS):
        if not (results := read(EMBEDDED[0], task)):
            continue
        for name in ("32 strategies", "12 prefill methods"):
            cells = []
            for other in real.values():
                correlation, count = agreement(results, other, ORDERS[name])
                cells.append(cell(correlation, 1, ".2f", star=False) if count == len(ORDERS[name]) else "")
            lines.append([f"{task}: {name}", *cells])
    return pipe_table(["forms of the embedded task: Spearman's correlation [95%]", *map(" ".join, real)], lines)


def _free(found: All) -> list[str]:
    """Whether a generation of the model's own and a replay tell the same of a policy."""
    parts = []
    for (model, task), results in found.items():
        replayed = read(model, task.removesuffix("_free"))
        rows = [row for row in results if row in replayed]
        if len(rows) < 3:
            continue
        prompts = len(next(iter(results.values())).prompts)
        groups = {
            "all rows": rows,
            "prompt kept whole": [row for row in rows if row.design != "prefill"],
            "prefill methods": [row for row in rows if row.design == "prefill"],
        }
        correlations = []
        for name, some in groups.items():
            if len(some) >= 3:
                found_alike = told_alike({row: results[row] for row in some}, replayed)[:2]
                told = (cell(correlation, 1, ".2f", star=False) for correlation in found_alike)
                correlations.append([f"{name}: {len(some)}", *told])
        head = [f"rows; {prompts} prompts", "Pearson's correlation [95%]", "Spearman's correlation [95%]"]
        said = pipe_table(head, correlations)
        lines = [
            [row.label, *(cell(side, 100, ".1f", star=False) for side in
             (results[row].mean("values"), replayed[row].mean("answers_recalled")))]
            for row in sorted(rows, key=lambda row: -results[row].mean("values").estimate)
        ]  # fmt: skip
        head = ["policy", "values right that the model wrote, %", "answer tokens recalled in replay, %"]
        parts += [f"## {model} + recall: what the model writes by itself, and replay", said, pipe_table(head, lines)]
    return parts


def _main(results: Results, answers: bool) -> str:
    rows = sorted((row for row in MAIN if row in results), key=lambda row: results[row].mean("kl").estimate)
    lines = []
    for row in rows:
        result = results[row]
        lines.append([
            f"{row.label}{'' if row == FULL else f' ({row.share:.0%})'}",
            cell(result.mean("kl"), 1, ".4f", star=False),
            cell(result.mean("agreement"), 100, ".1f", star=False),
            *([cell(result.mean("answers_recalled"), 100, ".1f", star=False)] if answers else []),
            f"{100 * result.of_full:.1f}",
        ])  # fmt: skip
    recalled = ["answer tokens recalled, %"] if answers else []
    return pipe_table(["policy", "KL, nats a token", "same top token, %", *recalled, "bytes, % of full"], lines)


def _shares(results: Results, answers: bool) -> str:
    """KL, and answer tokens recalled, at each share: one line a policy, designs below each other."""
    lines: dict[str, dict[float, str]] = {}
    for row in ROWS:
        if row in results and row != FULL:
            kl = f"{results[row].mean('kl').estimate:.3f}"
            recalled = f"; {100 * results[row].mean('answers_recalled').estimate:.0f}%" if answers else ""
            lines.setdefault(f"{row.design}: {row.label}", {})[row.share] = kl + recalled
    if all(len(cells) < 2 for cells in lines.values()):
        return "Only the main rows have run."
    what = "KL; answer tokens recalled" if answers else "KL"
    return pipe_table(
        [f"{what}, by share", *(f"{share:.0%}" for share in SHARES)],
        [[label, *(cells.get(share, "") for share in SHARES)] for label, cells in lines.items()],
    )
