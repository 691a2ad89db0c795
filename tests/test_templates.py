"""What a chat template makes of a prompt: its clock, its arguments, its faults, and a resume that sees another prompt.

Oracles: the texts that templates of our own are known to make, and transformers' own rendering of them.
"""

import hashlib
import io
import json
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from transformers import AutoTokenizer

from scope import records
from scope.decoding import Slide
from scope.generation import models
from scope.generation.engine import Engine
from scope.generation.models import EMBEDDED, ModelSource
from scope.generation.prompts import TemplateInput, encode, render, unused_arguments
from scope.generation.sampling import Sampling
from scope.prefill import SnapKV
from scope.records import RecordKeeping
from scope.records.lines import seal
from scope.records.merge import merge
from scope.runs import answers, prepare, run
from scope.runs.experiment import Experiment
from scope.runs.tracking import NoTracking
from scope.tasks import Arithmetic, Sample
from scope.util.errors import ConfigError, ScopeError

DATED = "Day {{ strftime_now('%d') | int }} {{ messages[0]['content'] }}"
UNDATED = "{{ messages[0]['content'] }}"
THINKS = "{{ messages[0]['content'] }}{% if enable_thinking is defined and not enable_thinking %} 7{% endif %}"
SAMPLE = Sample("p", "+ 1 2", ())
MONDAY, TUESDAY = date(2024, 7, 1), date(2024, 7, 2)


def folder_with(template: str, folder: Path) -> Path:
    """The embedded model with a chat template."""
    shutil.copytree(EMBEDDED, folder)
    (folder / "chat_template.jinja").write_text(template)
    return folder


def tokenizer_with(template: str) -> Any:
    made = AutoTokenizer.from_pretrained(EMBEDDED)
    made.chat_template = template
    return made


def experiment(folder: Path, prompts: int = 2, **model: Any) -> Experiment:
    return Experiment(
        model=ModelSource(path=str(folder), device="cpu", **model),
        method=SnapKV(40, 8),
        decoding=Slide(32, 16),
        task=Arithmetic(questions=2, max_new_tokens=4, prompts=prompts),
        sampling=Sampling(),
        labels={"model": "hf", "task": "arithmetic"},
        engine=Engine(batch_size=2),
    )


def go(what: Experiment, output: Path, **keeping: Any) -> tuple[Path, list[dict[str, Any]], str]:
    said = Console(file=io.StringIO(), width=400)
    folder = run.run(what, NoTracking(), output, said, RecordKeeping(**keeping))
    lines = sorted(records.read(folder), key=lambda line: line["sample"])
    return folder, lines, said.file.getvalue()  # type: ignore[attr-defined]


def on(monkeypatch: pytest.MonkeyPatch, day: date) -> None:
    """Have the run's calendar stand at that day."""

    class Calendar(date):
        @classmethod
        def today(cls) -> date:
            return day

    monkeypatch.setattr(prepare, "date", Calendar)


@pytest.fixture(autouse=True)
def nothing_loaded() -> None:
    models.load.cache_clear()
    models.load_shape.cache_clear()


# the clock


def test_a_templates_clock_stands_at_the_day_that_it_is_given() -> None:
    made = tokenizer_with("{{ strftime_now('%Y-%m-%d %H:%M:%S') }}|{{ strftime_now('%A') }}")
    assert render(made, SAMPLE, "chat", TemplateInput(day=date(2024, 7, 26))) == "2024-07-26 00:00:00|Friday"


@pytest.mark.parametrize(
    "template",
    [
        "\n {{ strftime_now('%d %b %Y') }}",
        "  {% if strftime_now is defined %}\n {{- strftime_now('%Y') | int + 1 }}{% endif %}\n",
        "{% for m in messages %}\n  {{ strftime_now('%d') ~ strftime_now(m['role'] ~ '%m') }}{% endfor %}",
        "{% set day = strftime_now('%d.') %}{% macro f(x) %}{{ strftime_now(x) }}{{ day }}{% endmacro %}{{ f('%y') }}",
    ],
)
def test_the_clock_is_transformers_own_but_for_the_day(template: str) -> None:
    turn = [{"role": "user", "content": "+ 1 2"}]
    made = tokenizer_with(template)
    assert render(made, SAMPLE, "chat", TemplateInput(day=date.today())) == made.apply_chat_template(
        turn, tokenize=False
    )
    assert render(made, SAMPLE, "chat") == made.apply_chat_template(turn, tokenize=False)


@pytest.mark.parametrize("template", [DATED, "{% macro day() %}{{ strftime_now('%d') }}{% endmacro %}{{ day() }}"])
def test_a_prompt_knows_whether_its_template_read_the_clock(template: str) -> None:
    given = TemplateInput(day=MONDAY)
    assert encode(tokenizer_with(template), SAMPLE, "chat", None, "refuse", given).dated
    assert not encode(tokenizer_with(UNDATED), SAMPLE, "chat", None, "refuse", given).dated
    unread = "{% if date_string is not defined %}{% set date_string = strftime_now('%d') %}{% endif %}{{ date_string }}"
    given = TemplateInput({"date_string": "9"}, MONDAY)
    assert not encode(tokenizer_with(unread), SAMPLE, "chat", None, "refuse", given).dated


def test_a_resume_on_another_day_makes_the_prompts_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = folder_with(DATED, tmp_path / "model")
    on(monkeypatch, MONDAY)
    whole, wanted, _ = go(experiment(model, prompts=3), tmp_path / "whole")
    folder, first, _ = go(experiment(model, prompts=1), tmp_path / "parts")
    on(monkeypatch, TUESDAY)
    again, resumed, _ = go(experiment(model, prompts=3), tmp_path / "parts")
    assert again == folder
    assert [line["prompt_hash"] for line in resumed] == [line["prompt_hash"] for line in wanted]
    assert [line["generation"] for line in resumed] == [line["generation"] for line in wanted]
    assert (
        records.read_manifest(folder)["template_date"] == records.read_manifest(whole)["template_date"] == "2024-07-01"
    )
    _, other, _ = go(experiment(model, prompts=1), tmp_path / "tuesday")
    assert other[0]["prompt_hash"] != first[0]["prompt_hash"]  # or nothing was shown


def test_a_day_that_is_given_makes_two_days_alike_and_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = folder_with(DATED, tmp_path / "model")
    given = experiment(model, prompts=1, template_date="2024-07-26")
    seen = []
    for day in (MONDAY, TUESDAY):
        on(monkeypatch, day)
        folder, lines, _ = go(given, tmp_path / str(day))
        seen.append(lines[0]["prompt_hash"])
        assert records.read_manifest(folder)["template_date"] == "2024-07-26"
    assert seen[0] == seen[1]
    others = [experiment(model), experiment(model, template_date="2024-07-27")]
    assert len({what.identity() for what in (given, *others)}) == 3


def test_a_run_whose_template_reads_no_clock_has_no_day(tmp_path: Path) -> None:
    folder, _, _ = go(experiment(folder_with(UNDATED, tmp_path / "model"), prompts=1), tmp_path / "out")
    assert records.read_manifest(folder)["template_date"] is None


def test_shards_of_different_days_do_not_make_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for template, one_run in ((DATED, False), (UNDATED, True)):
        output = tmp_path / str(one_run)
        model = folder_with(template, output / "model")
        for shard, day in (("1/2", MONDAY), ("2/2", TUESDAY)):
            on(monkeypatch, day)
            go(experiment(model), output / "runs", shard=shard)
        if one_run:
            ((_, samples, _),) = merge([output / "runs"])
            assert samples == 2
        else:
            with pytest.raises(ScopeError, match=r"2024-07-01 and 2024-07-02: .*model\.template_date=2024-07-01$"):
                merge([output / "runs"])


# another prompt


def test_a_record_holds_the_hash_of_what_the_model_was_fed(tmp_path: Path) -> None:
    what = experiment(EMBEDDED, prompts=2, layout="plain")
    _, lines, _ = go(what, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    for line, sample in zip(lines, what.task.samples(), strict=True):
        tokens = tokenizer(sample.prompt).input_ids
        assert line["prompt_hash"] == hashlib.sha256(" ".join(map(str, tokens)).encode()).hexdigest()[:16]
        assert line["prompt_tokens"] == len(tokens)


def test_a_resume_with_another_prompt_is_refused_and_leaves_all_as_it_was(tmp_path: Path) -> None:
    """As where a template throws dice, or a library makes other tokens of the same text."""
    model = folder_with(UNDATED, tmp_path / "model")
    folder, lines, _ = go(experiment(model, prompts=1), tmp_path / "out")
    changed = {key: value for key, value in lines[0].items() if key != "check"} | {"prompt_hash": "0" * 16}
    identity = records.read_manifest(folder)["identity"]
    (folder / records.RECORDS).write_bytes(seal(changed, identity))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ConfigError) as refused:
        go(experiment(model, prompts=2), tmp_path / "out")
    assert f"{lines[0]['sample']} was answered for another prompt" in str(refused.value)
    assert "rerun=true" in str(refused.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    _, again, _ = go(experiment(model, prompts=2), tmp_path / "out", rerun=True)
    assert again[0]["prompt_hash"] == lines[0]["prompt_hash"]


def test_records_from_before_prompts_were_hashed_go_on(tmp_path: Path) -> None:
    model = folder_with(UNDATED, tmp_path / "model")
    folder, lines, _ = go(experiment(model, prompts=1), tmp_path / "out")
    old = {key: value for key, value in lines[0].items() if key not in ("check", "prompt_hash")}
    (folder / records.RECORDS).write_bytes(seal(old, records.read_manifest(folder)["identity"]))
    assert len(go(experiment(model, prompts=2), tmp_path / "out")[1]) == 2


def test_a_failed_sample_holds_its_prompts_hash_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    what = experiment(EMBEDDED, prompts=1, layout="plain")
    _, lines, _ = go(what, tmp_path / "good")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(answers, "stream", fail)
    with pytest.raises(run.SamplesFailedError) as failed:
        go(what, tmp_path / "bad")
    (line,) = records.read(failed.value.folder)
    assert (line["status"], line["prompt_hash"]) != ("ok", None)
    assert line["prompt_hash"] == lines[0]["prompt_hash"]


# arguments


def test_arguments_reach_the_template_as_transformers_hands_them_over() -> None:
    made = tokenizer_with("{{ enable_thinking }} {{ words | join('-') }} {{ n + 1 }} {{ none is none }}")
    given = {"enable_thinking": False, "words": ["a", "b"], "n": 2, "none": None}
    turn = [{"role": "user", "content": "x"}]
    wanted = made.apply_chat_template(turn, tokenize=False, **given)
    assert render(made, SAMPLE, "chat", TemplateInput(given)) == wanted == "False a-b 3 True"


def test_arguments_make_another_prompt_and_another_run(tmp_path: Path) -> None:
    model = folder_with(THINKS, tmp_path / "model")
    plain, quiet = experiment(model, prompts=1), experiment(model, prompts=1, template={"enable_thinking": False})
    loud = experiment(model, prompts=1, template={"enable_thinking": True})
    lines = [go(what, tmp_path / "out")[1][0] for what in (plain, loud, quiet)]
    hashes = [line["prompt_hash"] for line in lines]
    assert hashes[0] == hashes[1] != hashes[2]
    assert len({what.identity() for what in (plain, loud, quiet)}) == 3


def test_an_argument_that_the_template_does_not_know_is_noted(tmp_path: Path) -> None:
    known = "{% for m in messages %}{% if loop.first and tone %}{% continue %}{% endif %}{% endfor %}"
    made = tokenizer_with(known + "{% generation %}{{ enable_thinking }}{% endgeneration %}")
    given = TemplateInput({"enable_thinking": 1, "tone": 2, "enable_thinkin": 3})
    assert unused_arguments(made, "auto", given) == ["enable_thinkin"]
    model = folder_with(UNDATED, tmp_path / "model")
    _, _, said = go(experiment(model, prompts=1, template={"enable_thinking": False}), tmp_path / "out")
    note = "note: model.template.enable_thinking=False changes nothing: the chat template has no such argument\n"
    assert said.count(note) == 1


def test_an_argument_without_a_template_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^model\.template\.x=1: the tokenizer has no chat template"):
        go(experiment(EMBEDDED, template={"x": 1}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


FAULTS = {
    "raises": "{{ raise_exception('only\nin pairs') }}",
    "does not parse": "{% if %}",
    "undefined": "{{ messages[3]['content'].upper() }}",
    "divides by nothing": "{{ 1 // 0 }}",
    "is blocked": "{{ ''.__class__.__mro__ }}{{ messages.append(1) }}",
    "asks for ever": "{% for i in range(99) %}{{ strftime_now('%d' ~ i) }}{% endfor %}",
    "recurses": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_template_that_fails_is_one_line_and_leaves_nothing(fault: str, tmp_path: Path) -> None:
    model = folder_with(FAULTS[fault], tmp_path / "model")
    with pytest.raises(ConfigError) as refused:
        go(experiment(model), tmp_path / "out")
    assert str(refused.value).startswith("the tokenizer's chat template fails (model.layout=plain uses none): ")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


# thinking


@pytest.mark.parametrize(
    ("ending", "inside"),
    [("<think>\n", True), ("<think>\n\n</think>\n\n", False), ("", False), ("</think> <think>", True)],
)
def test_a_prompt_knows_whether_the_generation_begins_in_a_thinking_part(ending: str, inside: bool) -> None:
    made = encode(tokenizer_with(UNDATED + ending), SAMPLE, "chat", None, "refuse")
    assert made.starts_thinking(("<think>", "</think>")) == inside
    assert not made.starts_thinking(None)


def test_markers_are_recorded_and_part_of_the_identity() -> None:
    seen = {
        markers: experiment(EMBEDDED, thinking=markers) for markers in (("<think>", "</think>"), ("[A]", "[B]"), None)
    }
    assert len({what.identity() for what in seen.values()}) == 3
    for markers, what in seen.items():
        recorded = json.loads(json.dumps(what.settings(limits=False)["model"]["thinking"]))
        assert recorded == (None if markers is None else list(markers))
    assert experiment(EMBEDDED, thinking=["[A]", "[B]"]).identity() == seen["[A]", "[B]"].identity()  # as YAML has it
