"""What replay forces: the right answer that a sample knows, and which of its tokens have to be recalled.

Oracles: the rows that a set was built from, read again by hand, and the scorers, which must find every answer right.
"""

import json
import re
from pathlib import Path

import made_up
import pytest
from golden import composed
from helpers.command import Scope, runs
from helpers.tokenizers_made import KINDS, made
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import Row, write
from transformers import AutoTokenizer

from scope.generation.models import ModelSource
from scope.generation.prompts import forced_tokens
from scope.models.published import PUBLISHED
from scope.records import read
from scope.scoring import score, scorers
from scope.tasks import Arithmetic, Questions, Reference, Sample
from scope.tasks.sets import write_set
from scope.util.errors import ConfigError

GSM8K = Path(__file__).resolve().parents[2] / "shared" / "data" / "gsm8k" / "test.jsonl"
ROWS = {"gsm8k": made_up.gsm8k, "mmlu": made_up.mmlu, "csqa": made_up.csqa}


def samples(*overrides: str) -> list[Sample]:
    composed.cache_clear()
    return composed(*overrides).task.samples()


def values(gold: Reference | None) -> list[str]:
    assert gold is not None
    return [gold.text[begin:end] for begin, end in gold.spans]


def all_right(sample: Sample) -> bool:
    """Whether each scorer of the standard ones, and the strict one, finds every answer of the gold text right."""
    assert sample.gold is not None
    by = scorers(["aligned", "released", "strict"])
    answers = score(sample.questions, sample.gold.text, by=by)
    return all(found.correct and found.given == 1 for answer in answers for found in answer.scores.values())


# which tokens are answer tokens


def test_a_token_counts_where_it_shares_a_character_with_a_value() -> None:
    gold = Reference("a bcd ef", ((2, 5), (6, 7)))
    offsets = [(0, 1), (1, 2), (1, 3), (3, 4), (4, 6), (5, 6), (5, 7), (7, 8), (2, 2)]
    assert gold.answer_tokens(offsets) == [False, False, True, True, True, False, True, False, False]


def test_pieces_make_a_text_and_blanks_around_a_value_are_none_of_it() -> None:
    gold = Reference.of([("It is", False), (" 12 ", True), ("", True), (" ", True), ("now", True)])
    assert gold.text == "It is 12  now"
    assert values(gold) == ["12", "now"]


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)  # the first makes the tokenizer
@given(parts=st.lists(st.tuples(st.sampled_from(["ab", " cd", "1", " 20", "é", " 漢", "\n", ". "]), st.booleans())))
def test_answer_tokens_are_those_that_spell_the_values(kind: str, parts: list[tuple[str, bool]]) -> None:
    """Oracle: character by character, which token has it."""
    gold = Reference.of(parts)
    tokens, marked = forced_tokens(made(kind), gold)
    offsets = made(kind)(gold.text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    inside = {at for begin, end in gold.spans for at in range(begin, end)}
    assert len(tokens) == len(marked)
    assert marked == [bool(inside & set(range(*offset))) for offset in offsets]
    assert {at for (b, e), is_value in zip(offsets, marked, strict=True) if is_value for at in range(b, e)} >= {
        at for at in inside if any(b <= at < e for b, e in offsets)
    }


# the tasks that were there


def test_the_embedded_task_marks_what_an_answer_looks_up_and_nothing_that_it_works_out() -> None:
    task = Arithmetic(questions=12, prompts=3)
    for index, sample in enumerate(task.samples()):
        assert all_right(sample)
        looked_up = []
        for question in task.document(index).questions:  # from the question's own fields
            looked_up += [question.change] if question.change else []
            looked_up += (
                [f": {question.name} has", str(question.start)]
                if question.refers_to is None
                else [f": {question.name} has as many as Answer", f"_{question.refers_to}", f"= {question.start}"]
            )
            looked_up += [part for step in question.steps for part in (step.meant.strip(), str(step.amount))]
        assert values(sample.gold) == looked_up
        tokens, marked = forced_tokens(ModelSource().tokenizer(), sample.gold)  # type: ignore[arg-type]
        assert sum(marked) == len(looked_up)
        assert ModelSource().tokenizer().decode(tokens) == sample.gold.text  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ROWS)
def test_the_benchmarks_gold_text_has_every_question_answered_with_its_steps(name: str, tmp_path: Path) -> None:
    rows = ROWS[name](5)
    made_of = samples(
        f"task={name}_4k",
        f"task.source={write(tmp_path / 'raw.jsonl', rows)}",
        f"output={tmp_path}",
        "task.questions=5",
    )
    for sample in made_of:
        assert all_right(sample)
        assert values(sample.gold) == [question.expected for question in sample.questions]
        assert sample.gold
        assert re.findall(r"^Answer_(\d+):$", sample.gold.text, re.M) == [str(q.number) for q in sample.questions]
        assert "<<" not in sample.gold.text
    if name == "gsm8k":
        assert made_of[0].gold
        assert made_of[0].gold.text.startswith(
            "Answer_9:\n1 and 1 are 2.\nThe answer is 2,000.\n\nAnswer_10:\n2 and 2 are"
        )


def test_gold_text_changes_no_run(tmp_path: Path) -> None:
    """Of two sets with other steps and the same answers, every generation is the same."""
    rows = made_up.gsm8k(4)
    other = [row | {"answer": "By heart.\n" + row["answer"]} for row in rows]
    made_of = [
        samples("task=gsm8k_4k", f"task.source={write(tmp_path / name, part)}", "task.questions=4")
        for name, part in (("one.jsonl", rows), ("two.jsonl", other))
    ]
    assert made_of[0][0].origin == made_of[1][0].origin
    assert made_of[0][0].gold != made_of[1][0].gold


def questions(file: Path, **settings: object) -> list[Sample]:
    columns = {"question": "question", "answer": "answer"}
    return Questions("mine", columns, "number", 50, source=str(file), **settings).samples()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("row", "settings", "said"),
    [
        ({"answer": 7}, {}, "The answer is 7."),
        ({"answer": "3 + 4 = <<3+4=7>>7\n#### 7"}, {}, "3 + 4 = 7\nThe answer is 7."),
        ({"answer": "7", "steps": "3 + 4."}, {}, "3 + 4.\nThe answer is 7."),
        ({"answer": "7", "note": "7 of 7"}, {"answer_format": "{note}: The answer is {answer}, not 77."}, None),
        ({"answer": "7"}, {"answer_format": "{why}. The answer is {answer}."}, "The answer is 7."),
    ],
)
def test_rows_of_ones_own_are_answered_as_worked_ones_are(
    row: Row, settings: dict[str, object], said: str | None, tmp_path: Path
) -> None:
    file = write(tmp_path / "raw.jsonl", [{"question": "How many?"} | row])
    (sample,) = questions(file, **settings)
    assert sample.gold
    assert sample.gold.text == f"Answer_1:\n{said or '7 of 7: The answer is 7, not 77.'}\n"
    assert values(sample.gold) == ["7"]
    assert sample.gold.text[: sample.gold.spans[0][0]].endswith("The answer is ")


def test_a_written_set_holds_the_gold_text_and_a_spoilt_one_is_named(tmp_path: Path) -> None:
    made_of = questions(write(tmp_path / "raw.jsonl", made_up.gsm8k(3)), questions=3)
    write_set(tmp_path / "set.jsonl", made_of)
    assert questions(tmp_path / "set.jsonl", questions=3) == made_of
    row = json.loads((tmp_path / "set.jsonl").read_text())
    for gold in ("text", {"text": 3}, {"text": "abc", "spans": [[0, 4]]}, {"text": "abc", "spans": [[2, 2]]}, [1], {}):
        spoilt = write(tmp_path / "spoilt.jsonl", [row | {"gold": gold}])
        with pytest.raises(ConfigError, match=r"spoilt.jsonl: prompt 1: gold=.*: must be a text and its spans"):
            questions(spoilt, questions=3)
    assert questions(write(tmp_path / "bare.jsonl", [row | {"gold": {"text": "abc"}}]), questions=3)[
        0
    ].gold == Reference("abc")


def test_a_summary_is_the_gold_text_and_has_no_values(tmp_path: Path) -> None:
    pytest.importorskip("rouge_score")
    made_of = samples("task=en_sum", f"task.source={write(tmp_path / 'raw.jsonl', made_up.novels(2))}")
    assert [sample.gold for sample in made_of] == [Reference("Ann has 1 apples."), Reference("Ann has 2 apples.")]


@pytest.mark.skipif(not GSM8K.exists(), reason="the GSM8K test set is not here")
def test_gsm8k_itself_is_answered_by_its_own_solutions() -> None:
    rows = [json.loads(line) for line in GSM8K.open()]
    made_of = samples("task=gsm8k_4k", f"task.source={GSM8K}")
    assert len(made_of) == 43
    finals = [row["answer"].split("#### ")[1] for row in rows]
    assert [value for sample in made_of for value in values(sample.gold)] == finals[: 43 * 30]
    for at, sample in enumerate(made_of):
        assert sample.gold
        solutions = re.split(r"^Answer_\d+:\n", sample.gold.text, flags=re.M)[1:]
        for row, solution in zip(rows[at * 30 : at * 30 + 30], solutions, strict=True):
            steps = re.sub("<<.*?>>", "", row["answer"].split("\n####")[0]).strip()
            assert solution.strip().startswith(steps)
        answers = score(sample.questions, sample.gold.text)
        assert all(answer.correct for answer in answers)


# LongGenBench's real questions, through a real chat template


@pytest.mark.slow
def test_the_benchmarks_own_questions_are_replayed_through_a_real_chat_template(
    scope: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not GSM8K.exists():
        pytest.skip(f"{GSM8K.name} of GSM8K is not there")
    if not PUBLISHED["smollm2"].made:
        pytest.skip("not fetched: python -m scope.models get smollm2")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    asked = ["task=gsm8k_4k", f"task.source={GSM8K}", "task.questions=2", "task.max_new_tokens=200", "limit=1"]
    budget = ["budget.prefill=0.2", "budget.decode=32", "budget.recent=16"]
    scope("-m", "measure=replay", "model=smollm2", "method=full,snapkv", "decoding=none,slide", *asked, *budget)
    rows = [json.loads(line) for line in GSM8K.read_text().splitlines()[:2]]
    tokenizer = AutoTokenizer.from_pretrained(PUBLISHED["smollm2"].folder, local_files_only=True)
    kl = {}
    for folder in runs(scope.folder):
        (line,) = read(folder)
        assert line["finish"] == "forced"  # whole
        said = tokenizer.decode(line["replay"]["tokens"])
        for row in rows:
            steps, answer = re.sub("<<.*?>>", "", row["answer"]).split("\n#### ")
            assert f"{steps}\nThe answer is {answer}." in said
        marked = [n for n, flag in zip(line["replay"]["tokens"], line["replay"]["answers"], strict=True) if flag == "1"]
        assert tokenizer.decode(marked).replace(" ", "") == "".join(row["answer"].split("#### ")[1] for row in rows)
        labels = json.loads((folder / "manifest.json").read_text())["labels"]
        kl[labels["method"], labels["decoding"]] = line["kl"]
    assert len(kl) == 4
    assert abs(kl["full", "none"]) < 1e-5
    assert min(value for pair, value in kl.items() if pair != ("full", "none")) > 1e-4
