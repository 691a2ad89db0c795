"""The model `scope` of lm-evaluation-harness, by the real package and without a hub, on small tasks of our own.

Oracle: lm-eval's own model `hf`, which knows nothing of our cache, request by request.
"""

import json
import logging
import random
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import yaml

import scope
from scope import EMBEDDED, Arithmetic
from scope.models.published import PUBLISHED
from scope.util.errors import ConfigError

if find_spec("lm_eval") is None:
    pytest.skip("the extra lm-eval is not installed", allow_module_level=True)

from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from scope.lm_eval.__main__ import MODEL, main
from scope.lm_eval.generating import Asked
from scope.lm_eval.model import ScopeLM
from scope.lm_eval.rolling import parts
from scope.lm_eval.settings import Settings

ROOT = Path(__file__).parents[1]
FULL = "method=full,decoding=none"
SMALL = "method=snapkv,decoding=slide,budget.prefill=0.5,budget.decode=12,budget.recent=6"
TASKS = ("sums", "choices", "texts")
CLOSE = {"rel": 2e-6, "abs": 1e-4}  # sums of some hundred log-likelihoods in float32


def write_tasks(folder: Path) -> Path:
    """Three tasks over the embedded model's language, one of each kind of request."""
    rows = []
    for sample in Arithmetic(prompts=4, questions=6).samples():
        assert sample.gold
        first, *others = sample.gold.text.split("\n")
        right = first.removesuffix(".").rpartition(" ")[2]
        choices = [f"{first[: -len(right) - 1]}{value}." for value in (right, "7", "41")] + [others[0]]
        rows.append({"prompt": sample.prompt, "first": first, "choices": choices, "text": f"{sample.prompt}\n{first}"})
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    shared = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "fewshot_split": "test",
        "doc_to_text": "{{prompt}}\n",
        "target_delimiter": "",
    }
    sums = {
        "output_type": "generate_until",
        "doc_to_target": "first",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 40},
        "metric_list": [{"metric": "exact_match"}],
    }
    choices = {"output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": 0}
    texts = {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}],
    }
    for name, own in zip(TASKS, (sums, choices, texts), strict=True):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, **shared, **own}))
    return folder


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """lm-eval seeds every generator of the process, and sets a variable."""
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("TQDM_DISABLE", "1")
    states = random.getstate(), numpy.random.get_state()
    with torch.random.fork_rng():
        yield
    random.setstate(states[0])
    numpy.random.set_state(states[1])


@cache
def hf(path: str = str(EMBEDDED), max_length: int | None = None, rows: int = 2) -> HFLM:
    return HFLM(path, dtype="float32", device="cpu", batch_size=rows, max_length=max_length)


def ours(arguments: str, rows: str = "2", model: str = "embedded") -> ScopeLM:
    return ScopeLM.create_from_arg_string(f"pretrained={model},{arguments}", {"batch_size": rows})


def answers(
    model: LM, folder: Path, name: str, limit: int | None = None, chat: bool = False, **config: Any
) -> list[list[Any]]:
    """What the model said to each request of the task, sample by sample. config: changes of the task."""
    loaded = TaskManager(include_path=str(folder), include_defaults=False).load([name])
    for key, value in config.items():
        loaded["tasks"][name].set_config(key=key, value=value, update=isinstance(value, dict))
    loaded["tasks"][name].set_fewshot_seed(seed=1234)
    done = evaluate(model, loaded, limit=limit, apply_chat_template=chat, bootstrap_iters=0)
    assert done
    return [sample["resps"] for sample in sorted(done["samples"][name], key=lambda sample: sample["doc_id"])]


def flat(resps: Any) -> list[Any]:
    """The numbers, flags and texts in nested lists, in order."""
    return [leaf for part in resps for leaf in flat(part)] if isinstance(resps, list | tuple) else [resps]


def require_equal(made: Any, expected: Any) -> None:
    made, expected = flat(made), flat(expected)
    assert [each for each in made if not isinstance(each, float)] == [e for e in expected if not isinstance(e, float)]
    numbers = [[each for each in side if isinstance(each, float)] for side in (made, expected)]
    assert numbers[0] == pytest.approx(numbers[1], **CLOSE)
    assert made


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("more", ["", ",max_length=150,window=0", ",max_length=150,window=60"])
def test_with_the_full_cache_every_request_is_as_with_hf(tasks: Path, name: str, more: str) -> None:
    """Past 150 tokens, prompts lose their beginning and rolling texts are cut into pieces."""
    expected = answers(hf(max_length=150 if more else None), tasks, name, num_fewshot=1)
    require_equal(answers(ours(FULL + more), tasks, name, num_fewshot=1), expected)


@pytest.mark.parametrize("name", TASKS)
def test_with_compression_requests_differ_and_batches_do_not(tasks: Path, name: str) -> None:
    models = [ours(SMALL, rows) for rows in ("1", "3", "auto")]
    made = [answers(model, tasks, name) for model in models]
    for other in made[1:]:
        require_equal(other, made[0])
    assert flat(made[0]) != flat(answers(ours(FULL), tasks, name))
    for model in models:
        (held,) = model.get_model_info()["held"].values()
        assert held["requests"] == {"sums": 4, "choices": 16, "texts": 4}[name]
        assert 0.25 < held["share_of_bytes"] < 0.75


def test_the_first_token_of_a_continuation_costs_nothing_and_later_ones_do() -> None:
    """The oracle stands in test_likelihood.py; this is what lm-eval gets of it."""
    (sample,) = Arithmetic(prompts=1).samples()
    assert sample.gold
    pairs = [((), sample.prompt, sample.gold.text[:length]) for length in (7, 80)]
    full, small = (
        [m._loglikelihood_tokens([(("", ""), m.tok_encode(c), m.tok_encode(t, False)) for _, c, t in pairs], True)
         for m in (ours(FULL), ours(SMALL))]
    )  # fmt: skip
    assert small[1][0] != pytest.approx(full[1][0], abs=0.01)


def test_the_window_says_what_of_a_text_is_read_as_a_prompt(tasks: Path) -> None:
    """Whatever is only read is not changed by compression; with the full cache no window changes anything."""
    full = answers(ours(FULL), tasks, "texts")
    found = {window: answers(ours(f"{SMALL},window={window}"), tasks, "texts") for window in ("0", "0.5", "100000")}
    require_equal(found["100000"], full)
    assert len({str(flat(made)) for made in found.values()}) == 3


def test_every_token_of_a_rolling_text_is_asked_for_once() -> None:
    for length in (1, 2, 9, 10, 11, 25):
        for window in (0, 3, 0.5, 0.99, 50):
            text, asked = list(range(100, 100 + length)), []
            for part in parts(text, 1, 10, window):
                assert part.context
                assert part.forced
                whole = [*part.context, *part.prompt, *part.forced]
                assert len(whole) <= 11
                at = len(asked) + len(part.prompt) + len(part.forced)
                assert whole == [1, *text][at + 1 - len(whole) : at + 1]  # it stands so in the text
                asked += [*part.prompt, *part.forced]
            assert asked == text


def test_sampling_is_seeded_by_the_request(tasks: Path) -> None:
    """The same in any batch, another in another seed, and greedy without do_sample."""
    drawn = {"generation_kwargs": {"do_sample": True, "temperature": 1.5, "top_p": 0.9}}
    one, three = (answers(ours(FULL, rows), tasks, "sums", **drawn) for rows in ("1", "3"))
    assert one == three
    assert answers(ours(f"{FULL},seed=1"), tasks, "sums", **drawn) != one
    assert answers(ours(FULL), tasks, "sums") != one
    assert answers(ours(FULL), tasks, "sums", limit=2, **drawn) == one[:2]


def test_what_a_generation_is_asked_for() -> None:
    sampling = Settings.of({"pretrained": "embedded"}, {}).experiment().sampling

    def asked(**given: Any) -> Asked:
        return Asked.of(given, sampling, 256, "<eos>")

    plain = asked(until="a", temperature=0.7, do_sample=False, num_beams=1, repetition_penalty=1.0)
    assert (plain.most, plain.stop, plain.sampling.temperature) == (256, ("a", "<eos>"), 0)
    assert asked(until=["", "b"], max_new_tokens=9) == Asked(9, plain.sampling, ("b", "<eos>"))
    drawn = asked(temperature=0.7, top_p=0.9, top_k=5, do_sample=True).sampling
    assert (drawn.temperature, drawn.top_p, drawn.top_k, drawn.processors) == (0.7, 0.9, 5, "model")
    for given, said in (
        ({"num_beams": 4}, r"^gen_kwargs: num_beams=4: is not done here"),
        ({"do_sample": True}, r"do_sample=true: needs a temperature above 0"),
        (
            {"do_sample": True, "temperature": 0.5, "top_p": 2.0},
            r"^gen_kwargs: top_p=2.0: must be a number from 0 to 1",
        ),
        ({"max_gen_toks": 0}, r"max_gen_toks=0: must be at least 1"),
    ):
        with pytest.raises(ConfigError, match=said):
            asked(**given)


TURNS = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "1 + 1 ?"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "2 + 2 ?"},
]
EACH = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<answer>{% endif %}"
)
TEMPLATES = {
    "plain": EACH,
    "dated": "{{ strftime_now('%d %B %Y') }}" + EACH,
    "without system": "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + EACH,
}


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("turns", [TURNS, TURNS[:3]])
def test_a_chat_is_framed_as_with_hf(
    template: str, turns: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, begins = ours(FULL), turns[-1]["role"] == "user"
    for each in (model, hf()):
        monkeypatch.setattr(each.tokenizer, "chat_template", TEMPLATES[template])
    expected = hf().apply_chat_template([*turns], begins)
    assert model.apply_chat_template([*turns], begins) == expected
    assert "1 + 1" in expected
    assert model.tok_encode(f"<bos>{expected}") == hf().tok_encode(f"<bos>{expected}")
    assert model.chat_template(True) == TEMPLATES[template]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("method=snapkv", "pretrained: must be given: a folder, a hub id, a GGUF file, or a name of conf/model"),
        ("pretrained=embedded,method=snapkw", "method=snapkw: must be one of"),
        ("pretrained=embedded,metod=snapkv", "metod: no such key; did you mean method?"),
        ("pretrained=embedded,budget.prefil=0.5", "budget.prefil: no such key; did you mean budget.prefill?"),
        ("pretrained=embedded,budget.prefill=-1", "budget.prefill=-1: must be a number of slots"),
        ("pretrained=embedded,budget.window=many", "budget.window=many: must be a whole number"),
        ("pretrained=embedded,window=1.5", "window=1.5: must be a number of tokens (0 or more), or a share"),
        ("pretrained=embedded,max_length=0", "max_length=0: must be a whole number of at least 1"),
        ("pretrained=embedded,task=recall", "task: is not set here: lm-eval has --tasks"),
        ("pretrained=embedded,model.layout=chat", "model.layout: is not set here: lm-eval has --apply_chat_template"),
        ("pretrained=no/such folder", "model.path=no/such folder: there is no such folder"),
        ("pretrained=embedded,device=abacus", "model.device=abacus: must be"),
        ("pretrained=embedded,batch_size=0", "engine.batch_size=0: must be a whole number of at least 1"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        ScopeLM.create_from_arg_string(arguments)
    assert str(refused.value).startswith(said)
    assert "\n" not in str(refused.value)


def test_what_does_not_fit_the_context_is_one_line(tasks: Path) -> None:
    with pytest.raises(ConfigError, match=r"^gen_kwargs: max_gen_toks=40: must be below 40, of which a prompt takes"):
        answers(ours(f"{FULL},max_length=40"), tasks, "sums")
    with pytest.raises(ConfigError, match=r"^loglikelihood: a continuation has \d+ tokens, and the model's context 9$"):
        answers(ours(f"{FULL},max_length=9"), tasks, "choices")


def test_lm_evals_defaults_run_anywhere() -> None:
    """It names a GPU where there may be none, and may ask for a batch size to be found several times."""
    found = Settings.of(
        {"pretrained": "embedded"}, {"batch_size": "auto:4", "device": "cuda:0", "max_batch_size": None}
    )
    run = found.experiment()
    assert (run.engine.batch_size, run.model.device) == ("auto", "auto")
    typed = Settings.of({"pretrained": "embedded", "device": "cpu", "batch_size": 3}, {"batch_size": "1"}).experiment()
    assert (typed.engine.batch_size, typed.model.device) == (3, "cpu")


def test_what_a_budget_does_not_do_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(logging.getLogger("lm_eval.scope"), "warning", said.append)
    Settings.of({"pretrained": "random", "method": "h2o", "budget.decode": 40, "decoding": None}, {})
    assert said == ["note: budget.decode=40 changes nothing: none of the options taken uses it"]
    Settings.of({"pretrained": "random", "method": "h2o", "decoding": "none"}, {})
    assert said[1].startswith("note: budget=tiny is the default")


def test_t_of_a_request_reaches_the_policies_that_plan_with_it() -> None:
    settings = Settings.of({"pretrained": "embedded", "decoding": "adaptive", "max_gen_toks": 77}, {})
    assert settings.experiment().decoding.tokens == 77
    assert settings.experiment(30).decoding.tokens == 30
    assert settings.experiment(30).policy.tokens == 30


def test_the_names_of_conf_paths_and_nothing_are_models(tmp_path: Path) -> None:
    def path(name: str) -> str:
        return Settings.of({"pretrained": name}, {}).experiment().model.path

    strange = tmp_path / "it's, {mine} = 1"
    assert path("smollm2") == "smollm2"
    assert path("some/model") == "some/model"
    assert path(str(strange)) == str(strange)
    assert path(r"C:\a\'b") == r"C:\a\'b"


def test_without_the_package_it_is_one_line(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.models", None)
    assert main() == 2
    assert capfd.readouterr().err == "error: lm_eval.models: is not installed: pip install 'scope-kv[lm-eval]'\n"


def test_newer_releases_find_the_class_where_the_command_does() -> None:
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["lm_eval.models"]
    assert named == {"scope": MODEL}
    module, _, name = MODEL.partition(":")
    assert issubclass(getattr(import_module(module), name), LM)


# the command


def command(tasks: Path, arguments: str, *words: str) -> subprocess.CompletedProcess[str]:
    shared = ["--model", "scope", "--tasks", "sums", "--include_path", str(tasks), "--model_args", arguments]
    line = [sys.executable, "-m", "scope.lm_eval", "run", *shared, *words]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_lm_evals_own_options_work_and_results_carry_the_policy(tasks: Path, tmp_path: Path) -> None:
    words = ["--limit", "2", "--num_fewshot", "1", "--batch_size", "2", "--output_path", str(tmp_path / "out")]
    words += ["--log_samples", "--use_cache", str(tmp_path / "answered"), "--gen_kwargs", "max_gen_toks=30"]
    first = command(tasks, f"pretrained=embedded,{SMALL}", *words)
    assert first.returncode == 0, first.stderr
    assert "exact_match" in first.stdout
    assert "generate_until: 2 requests: the cache held" in first.stderr
    (file,) = (tmp_path / "out").rglob("results_*.json")
    (logged,) = (tmp_path / "out").rglob("samples_sums_*.jsonl")
    told = json.loads(file.read_text())["config"]
    assert (told["method"]["type"], told["method"]["budget"]) == ("scope.prefill.snapkv.SnapKV", 0.5)
    assert (told["decoding"]["type"], told["decoding"]["budget"]) == ("scope.decoding.slide.Slide", 12)
    assert told["budget"]["recent"] == 6
    assert told["scope_version"] == scope.__version__
    held = told["held"]["generate_until"]
    assert held["requests"] == 2
    assert 0 < held["cache_bytes"] < held["full_cache_bytes"]
    assert held["share_of_bytes"] == pytest.approx(held["cache_bytes"] / held["full_cache_bytes"], abs=1e-3)
    made = [json.loads(line)["resps"] for line in logged.read_text().splitlines()]
    options: dict[str, Any] = {"limit": 2, "num_fewshot": 1, "generation_kwargs": {"max_gen_toks": 30}}
    assert made == answers(ours(SMALL), tasks, "sums", **options)
    again = command(tasks, f"pretrained=embedded,{SMALL}", *words)
    assert "Cached requests: 2, Requests remaining: 0" in again.stderr
    assert again.stdout == first.stdout


@pytest.mark.slow
def test_the_command_refuses_in_one_line_with_exit_code_2(tasks: Path) -> None:
    done = command(tasks, "pretrained=embedded,metod=snapkv")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: metod: no such key; did you mean method?"
    assert "Traceback" not in done.stderr


SMOLLM2 = PUBLISHED["smollm2"]


@pytest.mark.slow
@pytest.mark.skipif(not SMOLLM2.made, reason="SmolLM2 is not here: python -m scope.models get smollm2")
@pytest.mark.parametrize("name", TASKS)
def test_smollm2_answers_as_with_hf(tasks: Path, name: str) -> None:
    options: dict[str, Any] = {"limit": 2, "chat": name == "sums"}
    if name == "sums":
        options["generation_kwargs"] = {"max_gen_toks": 12}
    expected = answers(hf(str(SMOLLM2.folder), rows=1), tasks, name, **options)
    require_equal(answers(ours(FULL, model="smollm2"), tasks, name, **options), expected)
    assert flat(answers(ours(SMALL, model="smollm2"), tasks, name, **options)) != flat(expected)
