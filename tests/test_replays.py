"""`measure=replay`: its records, what is forced, its resuming and identity, and its columns.

Oracles: a loop that feeds one token after the other, and sums over the records by hand.
"""

import io
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command import SMALL, Scope
from helpers.latex import compile_table
from helpers.library import Silent, Skies, but_for_timings, experiment, go
from helpers.sweeps import sample, write_run
from rich.console import Console
from torch import Tensor

from analysis import dashboard, figures, report
from analysis.frame import asked, build, columns_of
from analysis.records import read_runs
from analysis.statistics import clustered_proportion, mean_by_prompt
from analysis.story import story
from analysis.tables import write
from scope import records
from scope.cache import CompressedCache, Layout, Policy
from scope.decoding import KeepAll, Slide
from scope.generation.engine import Engine
from scope.generation.models import ModelSource, load
from scope.generation.sampling import Sampling
from scope.prefill import Full
from scope.records.fields import fault_of_record, scored
from scope.runs.replaying import Replaying
from scope.runs.replays import means
from scope.runs.run import run
from scope.runs.summary import summary
from scope.runs.traces import Trace
from scope.tasks import Arithmetic, Reference, Sample
from scope.util.errors import ConfigError, ImpossibleError, SettingError

GOLD = Replaying()
TASK = Arithmetic(questions=4, max_new_tokens=100, prompts=3)


@dataclass(frozen=True)
class Told:
    """Skies with right answers of one's own, of which the middle is a value."""

    texts: tuple[str, ...] = field(metadata={"limit": True})  # right answers are no settings of a task
    clusters: tuple[str, ...] = ("", "")
    max_new_tokens: int = 12
    sentences: tuple[int, ...] = (3, 10)

    def samples(self) -> list[Sample]:
        skies = [replace(s, name=name) for s, name in zip(Skies(self.sentences).samples(), ("3", "10"), strict=True)]
        golds = [Reference(text, ((4, 8),)) for text in self.texts]
        return [replace(s, gold=g, cluster=c) for s, g, c in zip(skies, golds, self.clusters, strict=True)]

    def measures(self, sample: Sample, generation: str) -> dict[str, float]:
        return {}


@torch.inference_mode()
def by_hand(policy: Policy, prompt: Sequence[int], forced: Sequence[int]) -> Tensor:
    """Log-probabilities [T, V] that predict each forced token, fed one by one."""
    model = load(ModelSource()).model
    cache = CompressedCache.of(model.config, policy, Layout(len(forced)))
    logits = [model(torch.tensor([list(prompt)]), past_key_values=cache).logits[0, -1]]
    for token in forced[:-1]:
        logits.append(model(torch.tensor([[token]]), past_key_values=cache).logits[0, -1])
    return torch.stack(logits).double().log_softmax(-1)


def test_a_record_holds_the_numbers_of_token_by_token_decoding(tmp_path: Path) -> None:
    what = experiment(replay=GOLD)
    tracker = Silent()
    _, lines = go(what, tmp_path / "sweep", tracker)
    assert tracker.told == ["start", "log 1", "log 2", "log 3", "finish 3 3"]
    for name in ("kl", "agreement", "log_likelihood_lost", "answers_recalled", "answers_kl"):
        mean = sum(line[name] for line in lines) / 3
        assert tracker.metrics[name] == tracker.summary[name] == pytest.approx(mean)
        assert sorted(row[name] for row in tracker.samples) == sorted(line[name] for line in lines)
    tokenizer = load(what.model).tokenizer
    samples = {s.name: s for s in what.task.samples()}
    assert {line["sample"] for line in lines} == set(samples)
    for line in lines:
        of_sample, tokens = samples[line["sample"]], line["replay"]
        assert of_sample.gold
        encoded = tokenizer(of_sample.gold.text, add_special_tokens=False, return_offsets_mapping=True)
        forced = encoded.input_ids
        assert tokens["tokens"] == forced
        assert "".join(tokens["texts"]) == tokenizer.decode(forced)
        inside = {at for begin, end in of_sample.gold.spans for at in range(begin, end)}
        marked = [bool(inside & set(range(*offset))) for offset in encoded.offset_mapping]
        assert [flag == "1" for flag in tokens["answers"]] == marked
        prompt = tokenizer(of_sample.prompt).input_ids
        assert len(prompt) == line["prompt_tokens"]
        full, own = by_hand(Policy(), prompt, forced), by_hand(what.policy, prompt, forced)
        at = torch.tensor(forced)
        assert tokens["kl"] == pytest.approx((full.exp() * (full - own)).sum(-1).tolist(), abs=2e-4, rel=1e-3)
        for name, side in (("log_likelihood", own), ("full_log_likelihood", full)):
            expected = side.gather(-1, at[:, None])[:, 0].tolist()
            assert tokens[name] == pytest.approx(expected, abs=2e-4, rel=1e-3)
        flags = {
            "agrees": full.argmax(-1) == own.argmax(-1),
            "recalls": own.argmax(-1) == at,
            "full_recalls": full.argmax(-1) == at,
        }
        for name, side in (("top", own), ("full_top", full)):
            after = [tokenizer.decode([forced[0], token]) for token in side.argmax(-1).tolist()]
            assert [tokenizer.decode(forced[:1]) + text for text in tokens[name]] == after
        for name, expected_flags in flags.items():
            assert tokens[name] == "".join(str(int(flag)) for flag in expected_flags)
        later = torch.arange(len(forced)) > 0
        answers = torch.tensor(marked) & later
        kl = torch.tensor(tokens["kl"], dtype=torch.float64)
        lost = torch.tensor(tokens["full_log_likelihood"]) - torch.tensor(tokens["log_likelihood"])
        assert line["kl"] == pytest.approx(float(kl[later].mean()), rel=1e-4)
        assert line["agreement"] == pytest.approx(float(flags["agrees"][later].double().mean()), rel=1e-4)
        assert line["log_likelihood_lost"] == pytest.approx(float(lost[later].mean()), rel=1e-3)
        assert line["answer_tokens"] == int(answers.sum()) > 0
        assert line["answers_recalled"] == pytest.approx(float(flags["recalls"][answers].double().mean()), rel=1e-4)
        assert line["answers_kl"] == pytest.approx(float(kl[answers].mean()), rel=1e-4)
        fed = len(forced) - 1
        assert line["slots_kept"] == [40 + min(32, fed)] * 3
        assert line["cache_bytes"] == (40 + min(33, fed)) * 3 * 2 * 32 * 4 * 2
        assert line["questions"] == []
        assert fault_of_record(line) == ""
    assert max(line["kl"] for line in lines) > 0.01


def test_where_nothing_is_evicted_nothing_diverges(tmp_path: Path) -> None:
    _, lines = go(experiment(replay=GOLD, method=Full(), decoding=KeepAll()), tmp_path / "sweep")
    for line in lines:
        assert max(map(abs, line["replay"]["kl"])) < 1e-5
        assert line["agreement"] == 1
        assert abs(line["log_likelihood_lost"]) < 1e-5
        assert line["replay"]["recalls"] == line["replay"]["full_recalls"]


def test_a_replay_goes_on_where_it_was_cut_and_batches_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    what = experiment(replay=GOLD)
    whole, lines = go(replace(what, engine=Engine(batch_size=3)), tmp_path / "whole")
    folder, _ = go(replace(what, task=replace(TASK, prompts=1)), tmp_path / "cut")
    with (folder / "records.jsonl").open("a") as stream:
        stream.write('{"sample": "arithmetic-4-0-1", "kl')
    again, resumed = go(replace(what, replay=Replaying(block=7)), tmp_path / "cut")
    assert (again, again.name) == (folder, whole.name)
    for one, other in zip(but_for_timings(resumed), but_for_timings(lines), strict=True):
        assert one["kl"] == pytest.approx(other["kl"], abs=1e-4)
        assert one["forced_hash"] == other["forced_hash"]
        assert one["trace"] == other["trace"]
    monkeypatch.setattr("scope.generation.models.load", lambda source: pytest.fail("the model was loaded"))
    assert go(what, tmp_path / "cut") == (folder, resumed)


def test_the_full_caches_side_is_made_once_for_all_policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load(ModelSource())
    loaded.references.clear()
    _, alone = go(experiment(replay=GOLD), tmp_path / "alone")
    assert len(loaded.references) == 3
    loaded.references.clear()
    go(experiment(replay=GOLD, method=Full()), tmp_path / "sweep")
    with monkeypatch.context() as patched:
        patched.setattr("scope.runs.replays.reference", lambda *_: pytest.fail("it was made again"))
        _, shared = go(experiment(replay=GOLD), tmp_path / "sweep")
    assert but_for_timings(shared) == but_for_timings(alone)
    with monkeypatch.context() as patched:
        patched.setattr("scope.runs.replays.KEPT_BYTES", 1)
        go(experiment(replay=GOLD), tmp_path / "bounded")
    assert loaded.references == {}


def test_identity_is_what_is_forced(tmp_path: Path) -> None:
    generation = experiment()
    told = {
        "a": Told(("It is 7 pm.", "b")),
        "b": Told(("It is 8 pm.", "b")),
        "c": Told(("It is 7 pm.", "b"), ("x", "y")),
    }
    folder, _ = go(generation, tmp_path / "answers")
    moved = shutil.copytree(folder, tmp_path / "elsewhere" / "run")
    other, _ = go(experiment(sampling=Sampling(temperature=0.7)), tmp_path / "answers")
    same = experiment(replay=GOLD).identity()
    assert experiment(replay=Replaying(block=3)).identity() == same
    assert experiment(replay=GOLD, task=replace(TASK, prompts=9)).identity() == same
    by_folder = experiment(replay=Replaying(str(folder))).identity()
    assert experiment(replay=Replaying(str(moved))).identity() == by_folder
    told_apart = [
        generation.identity(),
        same,
        by_folder,
        experiment(replay=Replaying("full")).identity(),
        experiment(replay=Replaying("full"), sampling=Sampling(temperature=0.7)).identity(),
        experiment(replay=Replaying(str(other))).identity(),
        experiment(replay=GOLD, task=told["a"]).identity(),
        experiment(replay=GOLD, task=told["b"]).identity(),
    ]
    assert len(set(told_apart)) == len(told_apart)
    # the right answers are no part of a generation
    assert (
        experiment(task=told["a"]).settings()["task"]["type"] == experiment(task=told["b"]).settings()["task"]["type"]
    )


def test_the_full_caches_own_text_is_written_once_for_all_policies(tmp_path: Path) -> None:
    full = Replaying("full")
    said = io.StringIO()
    for decoding in (Slide(32, 16), KeepAll()):
        run(experiment(replay=full, decoding=decoding), Silent(), tmp_path / "sweep", Console(file=said))
    (writing,) = (tmp_path / "full_texts").iterdir()
    texts = {line["sample"]: line["generation"] for line in records.read(writing)}
    _, own = go(experiment(method=Full(), decoding=KeepAll()), tmp_path / "own")
    assert texts == {line["sample"]: line["generation"] for line in own}
    tokenizer = load(ModelSource()).tokenizer
    for folder in (tmp_path / "sweep").iterdir():
        for line in records.read(folder):
            forced = tokenizer(texts[line["sample"]], add_special_tokens=False).input_ids
            assert line["replay"]["tokens"] == forced
            assert line["answer_tokens"] == 0
            assert line["answers_recalled"] is None
            assert line["replay"]["full_recalls"].count("1") >= 0.95 * len(forced)  # greedy: it says the same again
    assert said.getvalue().count("(was finished already)") == 1  # the second policy's
    sampled = experiment(replay=full, sampling=Sampling(temperature=4.0, seed=5, samples=2))
    folder, lines = go(sampled, tmp_path / "sweep")
    assert len(lines) == 6
    assert len({line["forced_hash"] for line in lines}) > 3
    assert len(list((tmp_path / "full_texts").iterdir())) == 2


def test_the_texts_of_another_run_are_forced(tmp_path: Path) -> None:
    folder, written = go(experiment(), tmp_path / "answers")
    _, lines = go(experiment(replay=Replaying(str(folder))), tmp_path / "sweep")
    tokenizer = load(ModelSource()).tokenizer
    texts = {line["sample"]: line["generation"] for line in written}
    for line in lines:
        assert line["replay"]["tokens"] == tokenizer(texts[line["sample"]], add_special_tokens=False).input_ids
    with pytest.raises(ConfigError, match=r"answers.* has no text of arithmetic-4-0-\d+ to replay"):
        go(experiment(replay=Replaying(str(folder)), task=replace(TASK, prompts=4)), tmp_path / "more")
    with pytest.raises(ConfigError, match="has no text of"):
        go(experiment(replay=Replaying(str(folder)), task=Skies()), tmp_path / "others")
    assert not list((tmp_path / "more").glob("*"))
    one = Told(("It is 7 pm.", "b"))
    skies, _ = go(experiment(task=one), tmp_path / "answers")
    with pytest.raises(ConfigError, match=r"3 was written after another prompt \(\w+, here \w+\)"):
        go(experiment(replay=Replaying(str(skies)), task=replace(one, sentences=(4, 10))), tmp_path / "others")


def test_what_cannot_be_replayed_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ImpossibleError, match=r"replay.of=gold: 3 has no right answer to force"):
        go(experiment(replay=GOLD, task=Skies()), tmp_path / "out")
    with pytest.raises(ImpossibleError, match="no right answer"):
        go(experiment(replay=GOLD, task=Told(("", "b"))), tmp_path / "out")
    with pytest.raises(ConfigError, match=r"replay.of=golden: must be gold, full .* did you mean gold\?"):
        go(experiment(replay=Replaying("golden")), tmp_path / "out")
    with pytest.raises(ConfigError, match=r"it has no manifest.json"):
        go(experiment(replay=Replaying(str(tmp_path))), tmp_path / "out")
    with pytest.raises(ImpossibleError, match=r"sampling.samples=2: must be 1"):
        experiment(replay=GOLD, sampling=Sampling(temperature=1.0, samples=2))
    with pytest.raises(ImpossibleError, match="trace"):
        experiment(replay=GOLD, trace=Trace((0,)))
    for wrong in ({"of": ""}, {"of": 3}, {"block": 0}):
        with pytest.raises(SettingError):
            Replaying(**wrong)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_text_that_has_changed_is_not_mixed_with_the_old_one(tmp_path: Path) -> None:
    """Only the first right answer is part of the identity; the records hold a hash of each."""
    first = experiment(replay=GOLD, task=Told(("It is 7 pm.", "7 + 8 = 15")), method=Full())
    changed = experiment(replay=GOLD, task=Told(("It is 7 pm.", "7 + 9 = 16")), method=Full())
    folder, lines = go(first, tmp_path / "out")
    assert changed.identity() == first.identity()
    kept = [line for line in (folder / "records.jsonl").read_text().splitlines(True) if '"sample": "3"' not in line]
    (folder / "records.jsonl").write_text("".join(kept))  # something is left to do
    with pytest.raises(ConfigError, match=r"10 was replayed with another text \(\w+, now \w+\): .* rerun=true"):
        go(changed, tmp_path / "out")
    assert {line["sample"]: line["finish"] for line in lines} == {"3": "forced", "10": "forced"}


def test_a_long_text_is_cut_at_the_most_tokens_and_an_empty_one_fails_alone(tmp_path: Path) -> None:
    _, lines = go(experiment(replay=GOLD, task=Told(("It is 7 pm." * 9, "b")), method=Full()), tmp_path / "out")
    ends = {line["sample"]: (line["finish"], line["generated_tokens"]) for line in lines}
    assert ends["3"] == ("length", 12)
    assert ends["10"][0] == "forced"
    one = next(line for line in lines if line["sample"] == "10")
    if one["generated_tokens"] == 1:  # only the first token, which no policy changes
        assert one["kl"] is one["agreement"] is one["answers_kl"] is None


# the columns


def replayed(index: int, kl: Sequence[float], recalls: str, answers: str, **more: Any) -> dict[str, Any]:
    tokens = {
        "tokens": list(range(len(kl))),
        "kl": list(kl),
        "log_likelihood": [-1 - value for value in kl],
        "full_log_likelihood": [-1.0] * len(kl),
        "agrees": recalls,
        "recalls": recalls,
        "full_recalls": "1" * len(kl),
        "answers": answers,
    }
    return sample(index, (), questions=[], generation="", replay=tokens, **more)


def test_columns_are_means_by_cluster_with_their_intervals(tmp_path: Path) -> None:
    texts = ["a", "a", "b", "c", ""]
    kls = [[9.0, 0.1, 0.3], [9.0, 0.5], [9.0, 0.2, 0.2, 0.5], [9.0, 0.1], [9.0, 0.6]]
    recalls, answers = ["011", "00", "0101", "01", "00"], ["111", "10", "0110", "01", "01"]
    rows = [
        replayed(i, kl, has, asks, cluster=text)
        for i, (kl, has, asks, text) in enumerate(zip(kls, recalls, answers, texts, strict=True))
    ]
    full = [
        replayed(i, [0.0] * len(kl), "1" * len(kl), asks, cluster=text)
        for i, (kl, asks, text) in enumerate(zip(kls, answers, texts, strict=True))
    ]
    write_run(tmp_path / "sweep", "slide", rows, created=2)
    write_run(tmp_path / "sweep", "full", full, method="full", decoding="none", budgets=(None, None))
    frame = build(tmp_path / "sweep")
    none, slide = frame.to_dict("records")
    # by hand: without each text's first token; a has two windows, the last text is its own
    means = [(0.2 + 0.5) / 2, 0.3, 0.1, 0.6]
    interval = mean_by_prompt(means, float("inf"))
    assert slide["kl"] == pytest.approx(sum(means) / 4)
    assert (slide["kl_low"], slide["kl_high"]) == pytest.approx((max(0.0, interval.low), interval.high))
    assert slide["log_likelihood_lost"] == pytest.approx(sum(means) / 4)
    assert slide["agreement_percent"] == pytest.approx(100 * (0.5 + 2 / 3 + 1 + 0) / 4)
    right, asked = [2, 1, 1, 0], [2, 2, 1, 1]
    share = clustered_proportion(right, asked)
    found = [slide[name] / 100 for name in ("answers_recalled_percent", "answers_recalled_low_percent")]
    assert found == pytest.approx([share.estimate, share.low])
    assert slide["answers_lost"] == pytest.approx(100 * (0 + 0.5 + 0 + 1) / 4)
    assert slide["answers_kl"] == pytest.approx((0.4 / 2 + 0.4 / 2 + 0.1 + 0.6) / 4)
    assert (none["kl"], none["agreement_percent"], none["answers_recalled_percent"]) == (0, 100, 100)
    assert not slide["kl_best"]  # four texts are too few for a test
    assert slide["tokens_per_second"] != slide["tokens_per_second"]  # replay is not decoding


def test_a_smaller_divergence_is_better_and_replays_are_compared_with_replays_only(tmp_path: Path) -> None:
    for name, level in (("near", 0.1), ("far", 2.0)):
        rows = [replayed(i, [0, level * (1 + i / 50), level], "111", "001") for i in range(14)]
        write_run(tmp_path / "sweep", name, rows, method=name)
    write_run(
        tmp_path / "sweep", "full", [sample(i) for i in range(14)], method="full", decoding="none", budgets=(None, None)
    )
    frame = build(tmp_path / "sweep")
    assert dict(zip(frame["method"], frame["kl_best"], strict=True)) == {"full": False, "near": True, "far": False}
    (said,) = [line for line in story(frame) if "KL" in line]
    near = frame[frame["method"] == "near"].iloc[0]
    assert said.startswith(f"Of 2 compressed replays, near + slide is nearest to the full cache: KL {near['kl']:.2g} [")
    assert f"with {near['cache_percent']:.0f}% of its bytes. 100.0% of the tokens" in said
    only = build(tmp_path / "sweep" / "full")
    assert "kl" not in only


def test_the_kind_of_text_tells_rows_apart_whatever_their_methods(tmp_path: Path) -> None:
    rows = [replayed(i, [0, 1, 2], "111", "001") for i in range(6)]
    for name, of in (("near", "gold"), ("far", "full")):
        folder = write_run(tmp_path / "sweep", name, rows, method=name)
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["settings"]["replay"] = {"type": "scope.runs.replaying.Replaying", "of": of}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    frame = build(tmp_path / "sweep")
    assert dict(zip(frame["method"], frame["replay.of"], strict=True)) == {"near": "gold", "far": "full"}
    assert list(frame["kl_best"]) == [True, True]  # each the best of its own texts
    assert len(set(asked(frame))) == 2  # and in a panel of its own
    assert "replay.type" not in frame


def test_figures_of_replays(tmp_path: Path) -> None:
    for at, (name, level) in enumerate((("small", 1.0), ("large", 0.1))):
        rows = [replayed(i, [9, level, level / 2, 0], "1111", "0011", cache_bytes=1000 * (at + 1)) for i in range(4)]
        write_run(tmp_path / "sweep", name, rows, budgets=(0.5, 16 * (at + 1)), created=at)
    full = [replayed(i, [0, 0, 0, 0], "1111", "0011") for i in range(4)]
    write_run(tmp_path / "sweep", "full", full, method="full", decoding="none", budgets=(None, None))
    runs = read_runs([tmp_path / "sweep"])
    places, values = figures.divergence_by_place(runs[-1].samples)
    assert (places, [value[0] for value in values]) == ([2, 3, 4], pytest.approx([0.1, 0.05, 0]))
    drawn = figures.draw_all(runs, tmp_path / "figures")
    assert {"frontier_KL", "frontier_answer_tokens_recalled", "divergence_position"} <= set(drawn)
    frame = build(tmp_path / "sweep")
    kl = next(column for column in frame.attrs["columns"] if column.name == "kl")
    axis = figures.frontier(runs, frame, kl).axes[0]
    assert axis.get_yscale() == "log"
    axis.figure.canvas.draw()
    assert "$" not in "".join(label.get_text() for label in axis.get_yticklabels(which="both"))
    lines = [sorted(line.get_ydata()) for line in axis.lines if len(line.get_ydata()) == 2]
    assert pytest.approx([0.15 / 3, 1.5 / 3]) in lines  # one line through both budgets, and no uncompressed run


def replayed_sweep(sweep: Path) -> Path:
    """Replays of a compressed run and of the uncompressed one."""
    for at, (method, level) in enumerate((("snapkv", 0.5), ("full", 0.0))):
        rows = [replayed(i, [0, level, level / 2], "111", "011") for i in range(4)]
        budgets = (0.5, None) if level else (None, None)
        write_run(sweep, method, rows, method=method, decoding="none", budgets=budgets, created=at)
    return sweep


def test_the_page_has_replays_in_its_table_and_can_plot_them(tmp_path: Path) -> None:
    sweep = replayed_sweep(tmp_path / "sweep")
    assert report.main([str(sweep)]) == 0
    (packed,) = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', (sweep / "report.html").read_text())
    data = json.loads(packed)
    columns = {column["heading"]: column for column in data["columns"]}
    for heading in ("KL nats/token", "same top token %", "answer tokens recalled %", "KL on answer tokens nats/token"):
        assert set(columns[heading]["bounds"]) <= set(data["rows"][0])
    assert "accuracy %" not in columns
    assert "tokens/s" not in columns
    by_method = {row["method"]: row for row in data["rows"]}
    assert by_method["snapkv"]["kl"] == pytest.approx((0.5 + 0.25) / 2)
    assert by_method["full"]["kl"] == 0
    assert len(data["runs"]) == 2


def test_the_dashboard_asks_for_what_replays_report(tmp_path: Path) -> None:
    pytest.importorskip("wandb_workspaces.workspaces")
    frame = build(replayed_sweep(tmp_path / "sweep"))
    text = dashboard.spec(dashboard.workspace("me", "scope", ["frontier_KL"], "x", columns_of(frame)))
    shown = set(re.findall(r'"summary(?:_metrics\.|:)(\w+)"', text))
    of_replays = {"kl", "agreement", "log_likelihood_lost", "answers_recalled", "answers_kl"}
    assert of_replays <= shown
    line = scored(replayed(0, [0, 0.1], "11", "01"))
    assert shown <= set(summary([line | means(line["replay"])]))


def test_latex_of_replays_has_their_columns_and_compiles(tmp_path: Path) -> None:
    table = write(build(replayed_sweep(tmp_path / "sweep")), tmp_path / "out")[2]
    text = table.read_text()
    for heading in ("KL nats/token", r"answer tokens recalled \%", "KL on answer tokens nats/token"):
        assert f"{{{heading}}}" in text
    (row,) = [line for line in text.splitlines() if line.startswith("snapkv") and "0.3750" in line]
    assert "100.0" in row
    compile_table(table)


@pytest.mark.parametrize(
    ("field", "wrong"),
    [("kl", [0.1]), ("agrees", "2"), ("recalls", ""), ("tokens", []), ("kl", ["x"]), ("answers", None)],
)
def test_a_record_with_a_wrong_replay_is_left_out(field: str, wrong: Any) -> None:
    good = replayed(0, [0.0, 0.1], "11", "01")
    assert fault_of_record(good) == ""
    assert "replay" in fault_of_record(good | {"replay": good["replay"] | {field: wrong}})
    assert "replay" in fault_of_record(good | {"replay": {k: v for k, v in good["replay"].items() if k != field}})


# the command line


def test_a_sweep_of_replays_from_the_command_line(scope: Scope) -> None:
    words = ["-m", "measure=replay", "method=full,snapkv", "decoding=none,slide", *SMALL]
    said = scope(*words)
    for heading in ("KL nats/token", "same top token", "answer tokens recalled", "log-likelihood lost"):
        assert heading in said.out
    assert "Accuracy" not in said.out
    for kind in ("csv", "md", "tex"):
        text = (scope.folder / "outputs" / "default" / f"table.{kind}").read_text()
        assert "KL" in text or "kl" in text
    assert "was finished already" in scope(*words).out
    refused = scope("replay.of=full", code=2).err
    assert refused == "error: replay.of: measure=generation has no settings; measure=replay has of\n"
    assert "must be one of generation, replay" in scope("measure=reply", code=2).err
