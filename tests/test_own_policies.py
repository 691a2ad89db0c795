"""What a method of one's own is told when it is wrong: its name, its layer or its line, and what is expected.

Each case is a class that a newcomer might write. Oracle: the line that a reader needs, worked out from its text.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from helpers.command import SMALLEST, Scope, in_a_process, runs
from helpers.quick import every
from tiny_models import tiny
from torch import Tensor

from scope import decoding, prefill
from scope.cache import CompressedCache, Policy
from scope.decoding.eviction import Eviction
from scope.policy.attention import Attention
from scope.policy.plan import Plan, View
from scope.prefill.budget import Budget, Windowed
from scope.util.errors import ScopeError, SettingError

LINES = """from dataclasses import dataclass
from scope.decoding.eviction import Eviction
from scope.prefill.budget import Windowed

@dataclass(frozen=True)
class Mine({base}):
    def score(self, attention):
        return {body}
"""
CALL = 8  # the line of LINES that returns the score


@pytest.fixture
def scope(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Scope:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("SCOPE_ALLOW", "ownkv")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    sys.modules.pop("ownkv", None)
    return Scope(tmp_path, capfd, monkeypatch)


def write(folder: Path, text: str) -> list[str]:
    """A package and a YAML for it; -> the words of the command that chooses it."""
    group, size = ("method", "budget: ${budget.prefill}\nwindow: ${budget.window}")
    if "(Eviction)" in text:
        group, size = ("decoding", "budget: ${budget.decode}\nrecent: ${budget.recent}")
    (folder / "ownkv.py").write_text(text)
    preset = folder / "conf" / group / "mine.yaml"
    preset.parent.mkdir(parents=True, exist_ok=True)
    preset.write_text(f"_target_: ownkv.Mine\n{size}\n")
    return [f"hydra.searchpath=[file://{folder / 'conf'}]", f"{group}=mine", *SMALLEST, "task.max_new_tokens=60"]


# --- a score that is missing ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Misspelt(Windowed):
    def scores(self, attention: Attention) -> Tensor:
        return attention.keys.norm(dim=-1)


@dataclass(frozen=True)
class NoScore(Eviction):
    pass


@dataclass(frozen=True)
class OwnPlan(Budget):
    def plan(self, view: View) -> Plan | None:
        return None if view.prompt <= self.slots(view.prompt) else Plan(0, self.slots(view.prompt) - 4, 4)


@dataclass(frozen=True)
class FirstSlots(Budget):
    def plan(self, view: View) -> Plan | None:
        return None if view.prompt <= self.slots(view.prompt) else Plan(self.slots(view.prompt), 0, 0)


def test_a_method_that_keeps_the_best_has_to_have_a_score() -> None:
    for method in (Misspelt(40, 8), OwnPlan(40), Windowed(40, 8), Misspelt(0.5, 8)):
        with pytest.raises(SettingError, match=f"prefill={type(method).__name__}: .*has no `score` of its own"):
            Policy(method)
        with pytest.raises(SettingError, match="has no `score`"):
            CompressedCache(tiny().config, method)
    for strategy in (NoScore(32, 16), decoding.Slide.__mro__[1](32, 16)):
        with pytest.raises(SettingError, match=f"decoding={type(strategy).__name__}: .*has no `score` of its own"):
            Policy(decoding=strategy)
    with pytest.raises(SettingError, match="is its scores meant"):
        Policy(Misspelt(40, 8))


def test_where_nothing_is_ranked_no_score_is_needed() -> None:
    Policy(FirstSlots(40))
    Policy(prefill.StreamingLLM(40), decoding.StreamingLLM(32, 16))
    Policy(prefill.Recent(40, 8), decoding.Recent(32, 16))
    Policy(decoding=NoScore(16, 16))  # the recent slots are all that stay


def test_the_base_itself_gives_no_score() -> None:
    for policy in (Misspelt(40, 8), NoScore(32, 16)):
        with pytest.raises(ScopeError, match=f"{type(policy).__name__}: keeps the slots of the best score"):
            policy.score(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("base", "key"), [("Windowed", "method"), ("Eviction", "decoding")])
def test_a_misspelt_score_is_refused_before_anything_runs(base: str, key: str, scope: Scope, tmp_path: Path) -> None:
    text = LINES.format(base=base, body="attention.keys.norm(dim=-1)").replace("def score(", "def scores(")
    said = scope(*write(tmp_path, text), code=2)
    assert said.err.count("\n") == 1
    assert said.err.startswith(f"error: {key}=Mine: ")
    assert "is its scores meant" in said.err
    assert not runs(tmp_path)


# --- a score that is wrong ------------------------------------------------------------------------------------------

WRONG = {
    "one dimension less": (
        "attention.keys.norm(dim=-1).mean(1)",
        r"gave \[1, \d+\] in layer 0: .*\[B, H, S\], here \[",
    ),
    "one more": ("attention.keys", r"gave \[1, \d+, \d+, \d+\] in layer 0: .*\[B, H, S\]"),
    "no tensor": ("None", r"gave NoneType in layer 0: must be a tensor \[B, H, S\]"),
    "NaN": ("attention.keys.norm(dim=-1) * float('nan')", "gave NaN in layer 0"),
    "NaN in one layer": ("attention.keys.norm(dim=-1) / (attention.layer != 1) * 0", "gave NaN in layer 1"),
}


@pytest.mark.parametrize("base", ["Windowed", "Eviction"])
@pytest.mark.parametrize("case", every(4, WRONG))
def test_a_wrong_score_is_told_in_one_line(case: str, base: str, scope: Scope, tmp_path: Path) -> None:
    body, wanted = WRONG[case]
    said = scope(*write(tmp_path, LINES.format(base=base, body=body)), code=1)
    assert re.search(f"^error: Mine.score: {wanted}", said.err), said.err
    assert said.err.count("\n") == 1
    assert "full cache's bytes" not in said.out


def test_numbers_that_are_no_nan_are_taken(scope: Scope, tmp_path: Path) -> None:
    body = "attention.keys.norm(dim=-1) + (attention.positions % 2) * float('inf') * 1 if False else "
    body += "attention.positions.float().masked_fill(attention.positions < 5, float('-inf'))"
    scope(*write(tmp_path, LINES.format(base="Windowed", body=body)))


RAISES = {
    "a misspelt field": ("attention.kys.norm(dim=-1)", "AttributeError: 'Attention' object has no attribute 'kys'"),
    "shapes that do not fit": ("attention.keys @ attention.keys", "RuntimeError: "),
}


@pytest.mark.parametrize("base", ["Windowed", "Eviction"])
@pytest.mark.parametrize("case", RAISES)
def test_a_score_that_raises_is_told_with_its_line(case: str, base: str, scope: Scope, tmp_path: Path) -> None:
    body, wanted = RAISES[case]
    said = scope(*write(tmp_path, LINES.format(base=base, body=body)), code=1)
    assert said.err.count("\n") == 1
    assert f"the first with {wanted}" in said.err
    assert f"/ownkv.py:{CALL}, in Mine.score)" in said.err
    assert "HYDRA_FULL_ERROR=1" in said.err
    assert "full cache's bytes" not in said.out
    assert "tokens/s" not in said.out


@pytest.mark.slow
def test_the_traceback_can_be_had(tmp_path: Path) -> None:
    words = write(tmp_path, LINES.format(base="Windowed", body="attention.kys"))
    about = {"SCOPE_ALLOW": "ownkv", "PYTHONPATH": str(tmp_path)}
    quiet = in_a_process(tmp_path, *words, HYDRA_FULL_ERROR="0", **about)
    assert "Traceback" not in quiet.stderr
    told = in_a_process(tmp_path, *words, HYDRA_FULL_ERROR="1", **about)
    assert f'ownkv.py", line {CALL}, in score' in told.stderr


def test_padding_and_empty_slots_may_have_any_score() -> None:
    """A score is asked for them too, and what it says of them does not count."""

    @dataclass(frozen=True)
    class Holes(Windowed):
        def score(self, attention: Attention) -> Tensor:
            return attention.keys.norm(dim=-1).masked_fill(attention.positions < 0, torch.nan)

    cache = CompressedCache(tiny().config, Holes(12, 4))
    tokens = torch.randint(5, 50, (2, 30), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    mask[0, :6] = 0
    tiny()(tokens, attention_mask=mask, past_key_values=cache, use_cache=True)
    assert (cache.positions(0) >= 0).all()


# --- a class that is not there --------------------------------------------------------------------------------------

TARGETS = {
    "scope.prefill.knrm.KNorm": "there is no module scope.prefill.knrm; did you mean scope.prefill.knorm?",
    "scope.prefil.knorm.KNorm": "there is no module scope.prefil; did you mean scope.prefill?",
    "scope.prefill.tova.TOVa": "there is no class TOVa in scope.prefill.tova; did you mean scope.prefill.tova.TOVA?",
    "scope.prefill.SnapKv": "there is no class SnapKv in scope.prefill; did you mean scope.prefill.SnapKV?",
    "scope.prefill.knorm.scores": "must be a settings class, which is a dataclass",
    "scope.records.folder.os.system": "there is no module scope.records.folder.os",
    "ownkv.Mime": "there is no class Mime in ownkv; did you mean ownkv.Mine?",
    "ownkv.methods.Mine": "there is no module ownkv.methods",
    "os.system": "must be a settings class of scope; set SCOPE_ALLOW=package for one of yours",
    "ownkv2.Mine": "must be a settings class of scope; set SCOPE_ALLOW=package for one of yours",
}


@pytest.mark.parametrize("target", every(2, TARGETS))
def test_a_target_that_names_no_class_says_which_part_is_wrong(target: str, scope: Scope, tmp_path: Path) -> None:
    words = write(tmp_path, LINES.format(base="Windowed", body="attention.keys.norm(dim=-1)"))
    (tmp_path / "conf" / "method" / "mine.yaml").write_text(
        f"_target_: {target}\nbudget: ${{budget.prefill}}\nwindow: ${{budget.window}}\n"
    )
    said = scope(*words, code=2)
    assert said.err.startswith(f"error: method._target_={target}: {TARGETS[target]}"), said.err
    assert said.err.count("\n") == 1
    assert ("SCOPE_ALLOW" in said.err) is ("SCOPE_ALLOW" in TARGETS[target])


def test_a_package_that_python_does_not_find(scope: Scope, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCOPE_ALLOW", "nowherekv,ownkv")
    words = write(tmp_path, "import absent\n" + LINES.format(base="Windowed", body="attention.keys"))
    assert "its module ownkv needs absent, which is not installed" in scope(*words, code=2).err
    (tmp_path / "conf" / "method" / "mine.yaml").write_text("_target_: nowherekv.Mine\n")
    assert "there is no module nowherekv: PYTHONPATH must name" in scope(*words, code=2).err
