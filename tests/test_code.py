"""A run whose method was edited is not taken for the one that was recorded.

Oracle: what an edit does to the slots that stay. A changed formula has to be refused or answered anew; a comment not.
"""

import json
import sys
from pathlib import Path

import pytest
from helpers.command import SMALL, Scope, forget, runs
from helpers.quick import every

from scope import records
from scope.prefill import KNorm, SnapKV
from scope.records import changed_code, code_of, merge, scorer_code
from scope.util.errors import ScopeError

METHOD = '''"""A method of my own."""

from dataclasses import dataclass

from torch import Tensor

from mykv.parts import norm
from scope.policy.attention import Attention
from scope.prefill.budget import Windowed


@dataclass(frozen=True)
class Mine(Windowed):
    """Keep long keys."""

    def score(self, attention: Attention) -> Tensor:
        return norm(attention.keys)
'''
PARTS = '''def norm(states):
    """The length."""
    return states.norm(dim=-1)
'''
EDITS = {  # what is changed: file, from, to, whether answers may differ
    "the sign": ("methods.py", "return norm", "return -norm", True),
    "a part that it imports": ("parts.py", "return states", "return -states", True),
    "a comment": ("methods.py", "return norm", "# long\n        return norm", False),
    "a docstring": ("methods.py", "Keep long keys.", "Keep the long keys.", False),
    "a docstring of a part": ("parts.py", "The length.", "A length.", False),
    "the layout": ("methods.py", "norm(attention.keys)", "(norm(\n            attention.keys,\n        ))", False),
}


@pytest.fixture
def scope(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Scope:
    package = tmp_path / "mykv"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "methods.py").write_text(METHOD)
    (package / "parts.py").write_text(PARTS)
    group = tmp_path / "conf" / "method"
    group.mkdir(parents=True)
    (group / "mine.yaml").write_text(
        "_target_: mykv.methods.Mine\nbudget: ${budget.prefill}\nwindow: ${budget.window}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("SCOPE_ALLOW", "mykv")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    forget("mykv")
    return Scope(tmp_path, capfd, monkeypatch)


def edit(folder: Path, name: str) -> bool:
    file, old, new, counts = EDITS[name]
    path = folder / "mykv" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    forget("mykv")
    return counts


def command(folder: Path) -> list[str]:
    return [f"hydra.searchpath=[file://{folder / 'conf'}]", "method=mine", "decoding=none", *SMALL]


@pytest.mark.parametrize("what", every(4, EDITS))
def test_a_finished_run_is_refused_once_its_formula_was_edited(what: str, scope: Scope, tmp_path: Path) -> None:
    words = command(tmp_path)
    scope(*words)
    (folder,) = runs(tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    counts = edit(tmp_path, what)
    said = scope(*words, code=2 if counts else 0)
    assert ("was finished already" in said.out) is not counts
    if counts:
        assert said.err.count("\n") == 1
        assert f"mykv/{EDITS[what][0]}" in said.err
        assert "rerun=true" in said.err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.slow
def test_what_to_do_about_it(scope: Scope, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = command(tmp_path)
    scope(*words)
    (folder,) = runs(tmp_path)
    edit(tmp_path, "the sign")
    accepted = scope(*words, "records.on_mismatch=accept")
    assert "was finished already" in accepted.out
    assert "answered by other code than there is now, changed: mykv/methods.py" in caplog.text
    scope(*words, "records.on_mismatch=refuse", code=2)
    assert "finished already" not in scope(*words, "rerun=true").out
    assert "finished already" in scope(*words).out  # the new code is the recorded one now
    edit(tmp_path, "a part that it imports")
    assert "finished already" not in scope(*words, "records.on_mismatch=rerun").out
    assert "finished already" in scope(*words).out
    assert len(list(folder.glob("records*.jsonl"))) == 3


def test_a_run_with_more_to_do_is_refused_too_and_an_old_manifest_is_not(scope: Scope, tmp_path: Path) -> None:
    words = command(tmp_path)
    scope(*words, "limit=1")
    (folder,) = runs(tmp_path)
    path = folder / "manifest.json"
    edit(tmp_path, "the sign")
    assert "mykv/methods.py" in scope(*words, code=2).err
    manifest = json.loads(path.read_text())
    del manifest["code"]
    path.write_text(json.dumps(manifest))
    scope(*words)
    assert len(records.read(folder)) == 2


def test_accepted_code_is_noted_and_the_first_stays(scope: Scope, tmp_path: Path) -> None:
    words = command(tmp_path)
    scope(*words, "limit=1")
    (folder,) = runs(tmp_path)
    first = records.read_manifest(folder)["code"]
    edit(tmp_path, "the sign")
    scope(*words, "records.on_mismatch=accept")
    after = records.read_manifest(folder)
    assert after["code"] == first
    assert [changed_code(first, note["code"]) for note in after["continued"]] == [["mykv/methods.py"]]
    scope(*words, code=2)


def test_a_run_without_an_answer_goes_on_with_mended_code(scope: Scope, tmp_path: Path) -> None:
    path = tmp_path / "mykv" / "methods.py"
    path.write_text(METHOD.replace("norm(attention.keys)", "norm(attention.kys)"))
    words = command(tmp_path)
    scope(*words, code=1)
    path.write_text(METHOD)
    forget("mykv")
    scope(*words)
    assert "finished already" in scope(*words).out


def test_a_sweep_names_the_run_of_the_edited_method(scope: Scope, tmp_path: Path) -> None:
    words = ["-m", *command(tmp_path), "method=mine,recent", "name=two"]
    words.remove("method=mine")
    scope(*words)
    edit(tmp_path, "the sign")
    said = scope(*words, code=1)
    assert "REFUSED mine + none" in said.out
    assert "mykv/methods.py" in said.out
    assert "recent + none: " in said.out


def test_shards_of_different_code_do_not_merge(scope: Scope, tmp_path: Path) -> None:
    words = command(tmp_path)
    scope(*words, "records.shard=1/2")
    edit(tmp_path, "the sign")
    scope(*words, "records.shard=2/2")
    with pytest.raises(ScopeError, match=r"different code of mykv/methods\.py"):
        merge.merge([tmp_path / "outputs"])


def test_what_counts_of_a_shipped_method() -> None:
    code = code_of([KNorm(40, 8)])
    assert {"scope/prefill/knorm.py", "scope/prefill/budget.py", "scope/policy/scores.py"} <= set(code)
    assert not [name for name in code if name.startswith(("scope/util", "scope/cache")) or "__init__" in name]
    assert "scope/prefill/snapkv.py" not in code
    assert "scope/prefill/snapkv.py" in code_of([SnapKV(40, 8)])
    assert not [name for name in code if name.startswith("scope/scoring")]
    assert scorer_code("scope.scoring.aligned") != scorer_code("scope.scoring.strict")
    assert changed_code(None, code) == []


def test_an_edit_of_a_file_of_scope_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the class's own file, and of a part that it takes its score from."""
    before = code_of([KNorm(40, 8)])
    for name, old, new in (
        ("scope.prefill.knorm", "scores.key_norm(attention)", "-scores.key_norm(attention)"),
        ("scope.policy.scores", "return -norm", "return norm"),
    ):
        module = sys.modules[name]
        text = Path(str(module.__file__)).read_text()
        assert old in text
        copy = tmp_path / f"{name.rpartition('.')[2]}.py"
        copy.write_text(text.replace(old, new))
        with monkeypatch.context() as patched:
            patched.setattr(module, "__file__", str(copy))
            assert changed_code(before, code_of([KNorm(40, 8)])) == [name.replace(".", "/") + ".py"]
