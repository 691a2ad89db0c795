"""Figures: what they draw, by naive loops over the records, and the files they leave."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.sweeps import sample, write_run, write_sweep

from analysis.colours import COLOURS, MARKERS, OTHER, colour, marker
from analysis.figures import FIGURES, by_position, main, pareto, prompt_share, save
from analysis.frame import build
from analysis.panels import MOST, REST, WIDTHS, NothingToShowError, chosen, dress, logarithmic, panels, style
from analysis.records import read_runs
from analysis.traces import highest

pytest.importorskip("matplotlib")


def test_the_front_is_what_no_other_point_beats() -> None:
    points = [(5.0, 80.0), (1.0, 20.0), (3.0, 80.0), (2.0, 10.0), (4.0, 50.0), (1.0, 30.0)]
    beaten = [p for p in points if any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in points)]
    assert pareto(points) == sorted(set(points) - set(beaten))


def test_accuracy_by_position_counts_each_place_alone(tmp_path: Path) -> None:
    answers = [(True, False, True), (True, True), (False, False, True)]
    write_run(tmp_path, "run", [sample(i, correct) for i, correct in enumerate(answers)])
    places, values = by_position(read_runs([tmp_path])[0].samples)
    shares, low, high = zip(*values, strict=True)
    assert places == [1, 2, 3]
    assert shares == pytest.approx([200 / 3, 100 / 3, 100])
    assert all(a <= share <= b for a, share, b in zip(low, shares, high, strict=True))


def test_the_prompt_share_is_that_of_the_records(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "run", [sample(0, prefill_evicted=40), sample(1, prefill_evicted=88)])
    lines = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    own = evicted = 0
    for line in lines:
        for _ in line["slots_kept"]:
            own += line["prompt_tokens"]
        evicted += line["prefill_evicted"]
    assert prompt_share(read_runs([tmp_path])[0].samples) == pytest.approx(100 * (own - evicted) / own)


def test_a_name_has_one_colour_and_no_two_listed_strategies_share_it() -> None:
    assert colour("a new one") == colour("a new one")
    strategies = set(COLOURS) - {"full"}  # full keeps all the prompt, none all the generation: the same reference
    assert len({COLOURS[name] for name in strategies}) == len(strategies)


def test_what_can_be_chosen_is_told_apart() -> None:
    """Every option has a colour among its like, every method a mark, and the page can draw it."""
    conf = Path(__file__).parents[1] / "conf"
    decodings, methods = ([path.stem for path in (conf / part).glob("*.yaml")] for part in ("decoding", "method"))
    for names in (decodings, methods):
        assert set(names) <= set(COLOURS)
        assert len({colour(name) for name in names}) == len(names)
    assert len({marker(name) for name in methods}) == len(methods)
    drawn = (Path(__file__).parents[1] / "analysis" / "report.html").read_text()
    shapes = drawn.partition("const SHAPES = {")[2].partition("};")[0]
    for mark in {*MARKERS.values(), OTHER}:
        assert re.search(rf'(?:"{re.escape(mark)}"|\b{re.escape(mark)}): "M', shapes)


@pytest.mark.slow
def test_every_figure_is_written_twice_and_again_the_same(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweep")
    assert main([str(sweep)]) == 0
    files = {path.name: path.read_bytes() for path in (sweep / "figures").iterdir()}
    assert set(files) == {
        f"{name}.{kind}"
        for name in ("frontier", "position", "prefill_share", "decode_budget", "cost")
        for kind in ("png", "pdf")
    }
    with style():
        again = save(FIGURES["position"](read_runs([sweep]), build(sweep)), tmp_path, "position")
    assert [path.read_bytes() for path in again] == [files[path.name] for path in again]


def test_what_cannot_be_drawn_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, "run", [sample(0, (True,))], budgets=(None, None), method="full", decoding="none")
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "position: not drawn, no run asks several questions" in out
    assert "prefill_share: not drawn, no run compresses the prompt" in out
    assert "decode_budget: not drawn, no method has runs with several decode budgets" in out
    assert main([str(tmp_path / "nowhere")]) == 2


def test_runs_without_questions_have_no_accuracy_to_draw(tmp_path: Path) -> None:
    """Such as replays, or summaries; beside runs with questions they are left out."""
    for budget in (16, 32):
        write_run(tmp_path / "none", f"run{budget}", [sample(0, ())], budgets=(0.5, budget))
    for name in ("prefill_share", "decode_budget"):
        with pytest.raises(NothingToShowError, match="no run answers a question"):
            FIGURES[name](read_runs([tmp_path]), build(tmp_path))
    for budget in (16, 32):
        write_run(tmp_path / "some", f"run{budget}", [sample(0)], budgets=(0.5, budget), method="h2o", decoding="h2o")
    for name in ("prefill_share", "decode_budget"):
        figure = FIGURES[name](read_runs([tmp_path]), build(tmp_path))
        assert len(figure.axes) == 1
        assert figure.axes[0].get_legend_handles_labels()[1] == ["h2o"]


@pytest.mark.parametrize(
    ("low", "high"), [(0.21, 0.29), (0.13, 1.2), (0.11, 0.99), (0.19, 2.1), (0.011, 1.2), (0.9e-4, 0.2), (1e-7, 30)]
)
def test_a_logarithmic_axis_has_enough_labels_of_one_kind_and_size(low: float, high: float) -> None:
    with style():
        axis = panels(1)[1][0]
        axis.plot([0, 1], [low, high])
        dress(axis, "", "x", "KL")
        logarithmic(axis, 1e-5)
        axis.figure.draw_without_rendering()
    bottom, top = axis.get_ylim()
    ticks = axis.yaxis.get_major_ticks() + axis.yaxis.get_minor_ticks()
    labels = [tick.label1 for tick in ticks if bottom <= tick.get_loc() <= top and tick.label1.get_text()]
    assert 3 <= len(labels) <= 10
    assert {label.get_fontsize() for label in labels} == {6.5}
    assert all(re.fullmatch(r"\d+(\.\d*[1-9])?", label.get_text()) for label in labels)
    for tick in axis.yaxis.get_major_ticks():
        if tick.label1 in labels:
            assert float(tick.label1.get_text()) == pytest.approx(tick.get_loc())


def test_accuracy_over_decode_budgets_is_that_of_each_run(tmp_path: Path) -> None:
    for budget, right in ((64, 1), (16, 3), (32, 2)):
        records = [sample(k, [n < right for n in range(4)]) for k in range(3)]
        write_run(tmp_path, f"run{budget}", records, budgets=(0.5, budget))
    figure = FIGURES["decode_budget"](read_runs([tmp_path]), build(tmp_path))
    line = figure.axes[0].lines[0]
    assert list(line.get_xdata()) == [16, 32, 64]
    assert list(line.get_ydata()) == [75, 50, 25]
    assert len(figure.axes) == 1  # beta2 is the same in all


def test_tasks_of_one_name_that_ask_otherwise_have_panels_of_their_own(tmp_path: Path) -> None:
    """Also where no method has both, so that no pair of rows alike in all else shows the difference."""
    for position, (count, decoding) in enumerate(((8, "slide"), (58, "h2o"))):
        write_run(
            tmp_path, decoding, [sample(k, [True] * count) for k in range(2)], decoding=decoding, created=position
        )
        path = tmp_path / decoding / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["settings"]["task"]["questions"] = count
        path.write_text(json.dumps(manifest))
    runs, frame = read_runs([tmp_path]), build(tmp_path)
    assert list(frame["task.questions"]) == [8, 58]
    for name, count_of_panels in {"frontier": 2, "position": 2, "prefill_share": 2, "cost": 4}.items():
        titles = [axis.get_title().replace("\n", " ") for axis in FIGURES[name](runs, frame).axes]
        assert len(titles) == count_of_panels
        for count in (8, 58):
            assert sum(f"arithmetic, questions {count}" in title for title in titles) == count_of_panels / 2, name


def test_one_prompt_has_no_error_bar(tmp_path: Path) -> None:
    write_run(tmp_path, "one", [sample(0)], created=1)
    write_run(tmp_path, "two", [sample(0), sample(1, (True, True))], method="h2o")
    runs, frame = read_runs([tmp_path]), build(tmp_path)
    for name in ("frontier", "prefill_share"):
        bars = [bar.get_segments()[0] for bar in FIGURES[name](runs, frame).axes[0].collections]
        assert sorted(map(len, bars)) == [0, 2], name


def test_where_bytes_bind_there_is_no_decode_budget(tmp_path: Path) -> None:
    for budget in (36, 64):
        folder = write_run(tmp_path, f"run{budget}", [sample(k) for k in range(3)], budgets=(0.5, budget))
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["settings"]["cache"] = {"granularity": "layer", "max_bytes": 1000 * budget}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(NothingToShowError, match="several decode budgets"):
        FIGURES["decode_budget"](read_runs([tmp_path]), build(tmp_path))


def test_no_peak_of_a_map_falls_between_two_pixels() -> None:
    values = np.random.default_rng(0).random((3, 1001))
    pooled = highest(values, 240)
    assert pooled.shape == (3, 240)
    for row, columns in zip(values, pooled, strict=True):
        assert (
            sorted(columns)[-100:]
            == sorted(max(row[round(k * 1001 / 240) : round((k + 1) * 1001 / 240)]) for k in range(240))[-100:]
        )
    assert (highest(values, 2000) == values).all()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.slow
def test_a_figure_has_the_width_that_was_asked_for(tmp_path: Path, width: str) -> None:
    """In inches of the PDF, so that a paper places it without scaling; and no letter is below 6 points."""
    assert main([str(write_sweep(tmp_path / "sweep")), "--width", width, "--out", str(tmp_path / "out")]) == 0
    for path in (tmp_path / "out").glob("*.pdf"):
        box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", path.read_bytes())
        assert box
        assert float(box[1]) / 72 == pytest.approx(WIDTHS[width], abs=0.01)
        assert float(box[2]) / 72 < 9.7  # inches of a page's text


def test_at_most_eight_have_a_colour() -> None:
    few, many = list("abcdefgh"), list("abcdefghij")
    assert chosen(few) == few
    worth = {name: -abs(place - 4) for place, name in enumerate(many)}  # e is worth most, then d and f, ...
    assert chosen(many, worth) == [name for name in many if name not in "ij"]
    evenly = chosen(many)
    assert (len(evenly), evenly[0], evenly[-1]) == (MOST, "a", "j")
    assert evenly == sorted(evenly)


def many_runs(folder: Path) -> tuple[list[tuple[str, int, int]], Path]:
    """Twelve policies: name, bytes, and right answers of 10 in each of 4 prompts. Four are on the front."""
    levels = [(100, 3), (200, 6), (300, 8), (400, 10), *((200 + 10 * n, 1 + n % 3) for n in range(8))]
    policies = []
    for place, (size, right) in enumerate(levels):
        name = f"policy{place}"
        records = [sample(k, [n < right for n in range(10)], cache_bytes=size * 1024) for k in range(4)]
        write_run(folder, name, records, method="h2o", decoding=name, created=place)
        policies.append((name, size, right))
    return policies, folder


def test_the_front_has_colours_and_the_rest_is_grey(tmp_path: Path) -> None:
    policies, folder = many_runs(tmp_path / "sweep")
    front = {
        name
        for name, size, right in policies
        if not any(s <= size and r >= right and (s, r) != (size, right) for _, s, r in policies)
    }
    assert len(front) == 4
    runs, frame = read_runs([folder]), build(folder)
    axis = FIGURES["frontier"](runs, frame).axes[0]
    labels = axis.get_legend_handles_labels()[1]
    assert {label.partition(" + ")[2] for label in labels if ":" in label and "+" in label} == front
    grey = [line for line in axis.lines if line.get_color() == REST and len(line.get_xdata())]
    assert sorted(round(float(x)) for line in grey for x in line.get_xdata()) == sorted(
        size for name, size, _ in policies if name not in front
    )
    cost = FIGURES["cost"](runs, frame).axes[0]
    assert len({line.get_color() for line in cost.lines} - {REST}) <= MOST


def test_places_are_small_multiples_with_the_others_of_the_method_behind(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweep")
    runs = read_runs([sweep])
    figure = FIGURES["position"](runs, build(sweep))
    policies = {(run.labels["method"], run.labels["decoding"]) for run in runs}
    assert sorted(axis.get_title() for axis in figure.axes if axis.get_title()) == sorted(
        f"{method} + {decoding}" for method, decoding in policies
    )
    for axis in figure.axes:
        if title := axis.get_title():
            method, decoding = title.split(" + ")
            others = [run for run in runs if run.labels["method"] == method and run.labels["decoding"] != decoding]
            own = [run for run in runs if (run.labels["method"], run.labels["decoding"]) == (method, decoding)]
            colours = [line.get_color() for line in axis.lines]
            assert colours.count(REST) == len(others)
            assert colours.count(colour(decoding)) == len(own)
