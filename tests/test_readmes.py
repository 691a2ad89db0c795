"""What the READMEs say holds: links and paths exist, examples run, commands compose, and nothing is left out."""

import importlib.util
import inspect
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.command import SMALLEST, Scope, forget
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from markdown_it import MarkdownIt
from markdown_it.token import Token
from tiny_models import WORDS, generate, random_prompts, tiny
from torch import Tensor
from transformers import DynamicCache

import scope
import scope.decoding
import scope.prefill
from hydra_plugins.scope_sweeper import scope_sweeper  # noqa: F401  # stores model.template
from scope.cli.config import build
from scope.decoding import KeepAll

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
READMES = [
    ROOT / "README.md",
    *sorted(path for top in ("conf", "scope", "analysis", "experiments") for path in (ROOT / top).rglob("README.md")),
]
NAMES = [str(path.relative_to(ROOT)) for path in READMES]
COMMANDS = ("python", "make", "pip", "oracle/bin/python", "python3", "eval")
PATH = re.compile(r"(?=.*[a-z])[\w.-]+(?:/[\w.-]+)*/?")
SUFFIXES = {".py", ".md", ".json", ".jsonl", ".yaml", ".png", ".csv", ".txt", ".toml"}
WRITTEN = {  # by runs and commands, so not in the tree
    *("config.yaml", "manifest.json", "records.jsonl", "records.1.jsonl", "table.csv", "table.md", "workspace.json"),
}
GROUPS = (
    "model",
    "method",
    "decoding",
    "budget",
    "task",
    "measure",
    "sampling",
    "fidelity",
    "engine",
    "tracking",
    "trace",
)
KEY = re.compile(rf"({'|'.join((*GROUPS, 'records', 'replay'))})((?:\.[a-z_]+)+)(?:=.*)?")
FILE = re.compile(r"# ((?:scope|conf|mykv|myconf)/\S+\.(?:py|yaml))$", re.MULTILINE)  # an example that is a whole file

every = pytest.mark.parametrize("readme", READMES, ids=NAMES)


@cache
def tokens(readme: Path) -> list[Token]:
    parsed = MarkdownIt("commonmark").enable("table").parse(readme.read_text())
    return [token for block in parsed for token in (block, *(block.children or ()))]


def spans(readme: Path) -> list[str]:
    """What stands in `backticks`."""
    return [token.content for token in tokens(readme) if token.type == "code_inline"]


def headings(readme: Path) -> set[str]:
    """Anchors, as the web makes them of headings."""
    found = tokens(readme)
    after = [found[at + 1].content for at, token in enumerate(found) if token.type == "heading_open"]
    return {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in after}


def python_blocks(readme: Path) -> list[str]:
    return [token.content for token in tokens(readme) if token.type == "fence" and token.info == "python"]


def commands(readme: Path) -> list[str]:
    """Lines of shell, without their comments."""
    found = [span for span in spans(readme) if span.startswith(("python ", "make ", "pip ", "eval "))]
    for token in tokens(readme):
        if token.type == "code_block":
            found += [line for line in token.content.splitlines() if _first_word(line) in COMMANDS]
    return [re.sub(r"\s+# .*", "", line) for line in found]


def _first_word(line: str) -> str:
    return next((word for word in line.split() if "=" not in word), "")


def test_the_first_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


@every
def test_every_link_leads_somewhere(readme: Path) -> None:
    links = [str(token.attrs.get("href") or token.attrs.get("src") or "") for token in tokens(readme)]
    local = [link for link in links if link and "://" not in link]
    assert local, "no link to anywhere: a reader is stranded"
    for link in local:
        path, _, anchor = link.partition("#")
        target = (readme.parent / path).resolve() if path else readme
        assert target.exists(), link
        assert ROOT in target.parents, f"{link}: leads out of the project"
        if anchor:
            assert anchor in headings(target), f"{link}: no such heading"


@every
def test_every_path_that_is_named_exists(readme: Path) -> None:
    for span in spans(readme):
        if not PATH.fullmatch(span) or not ("/" in span or Path(span).suffix in SUFFIXES):
            continue
        if span in WRITTEN or span.split("/")[0] == "outputs" or span.endswith("/...") or _is_repository(span):
            continue
        if span.startswith("myconf/") or span.startswith(("hydra/launcher", "hydra/sweeper")):
            continue
        assert (readme.parent / span).exists() or (ROOT / span).exists(), f"`{span}` is not there"


def _is_repository(span: str) -> bool:
    """Whether it is the name of a data set on the hub that some task reads."""
    return any(f"dataset: {span}\n" in path.read_text() for path in (CONF / "task").glob("*.yaml"))


@every
def test_every_command_can_be_parsed_by_a_shell(readme: Path) -> None:
    for command in commands(readme):
        done = subprocess.run(["bash", "-n"], input=command, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}"


def arguments(readme: Path) -> list[list[str]]:
    """Of each command, its words from the first that is no `NAME=value`."""
    found = []
    for command in commands(readme):
        words = shlex.split(command)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        found.append(words)
    return found


@every
def test_every_run_that_is_shown_composes(readme: Path) -> None:
    for words in arguments(readme):
        if words[:2] != ["python", "main.py"] or any(word.startswith(("hydra.searchpath", "<")) for word in words):
            continue
        if shown_options(readme).intersection(",".join(words).replace("=", ",").split(",")):
            continue  # they run below, with the files that the README shows
        for job in jobs(words[2:]):
            with initialize_config_dir(str(CONF), version_base="1.3"):
                cfg = compose("config", job, return_hydra_config=True)
            HydraConfig.instance().set_config(cfg)
            assert build(cfg, cfg.hydra.runtime.choices).experiment.labels, words


def jobs(words: list[str]) -> Iterator[list[str]]:
    """The overrides of each run of a command; `--cfg job` and such are left out."""
    flags = [word for word in words if word.startswith("-")]
    assert set(flags) <= {"-m", "--help", "--cfg", "--hydra-help"}, words
    overrides = [word for word in words if "=" in word]
    if "-m" not in flags:
        yield overrides
        return
    (several,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(overrides), max_batch_size=None)
    yield from (list(job) for job in several)


@every
def test_every_module_flag_target_and_extra_exists(readme: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for words in arguments(readme):
        if words[0] == "make":
            assert all(re.search(rf"^{re.escape(t)}:", makefile, re.MULTILINE) for t in words[1:] if "=" not in t), (
                words
            )
        elif words[1:2] == ["-m"] and words[0] == "python":
            spec = importlib.util.find_spec(words[2])
            assert spec is not None, words
            assert spec.origin is not None
            files = (
                [Path(spec.origin)] if spec.submodule_search_locations is None else Path(spec.origin).parent.glob("*")
            )
            source = "".join(file.read_text() for file in files if file.suffix == ".py")
            for command in re.findall(r"^from (scope\.cli\.\w+) import main$", source, re.MULTILINE):  # behind a door
                source += (ROOT / (command.replace(".", "/") + ".py")).read_text()
            if "from lm_eval.__main__ import cli_evaluate" in source:  # the flags are lm-eval's own
                if importlib.util.find_spec("lm_eval") is None:
                    continue
                source += inspect.getsource(importlib.import_module("lm_eval._cli.run"))
            assert all(f'"{word}"' in source for word in words[3:] if word.startswith("--")), words
        elif words[0] in ("python", "oracle/bin/python") and words[1].endswith(".py"):
            assert (ROOT / words[1]).exists(), words
    assert "scope-kv[" not in readme.read_text(), "an extra is installed from a clone: pip install -e '.[data]'"
    for named in re.findall(r"'\.\[([\w,]+)\]'", readme.read_text()):
        assert set(named.split(",")) <= set(extras), named


@every
def test_every_key_that_is_named_is_one(readme: Path) -> None:
    for span in spans(readme):
        found = KEY.fullmatch(span)
        if found and span not in WRITTEN and span != "records.damaged":
            assert found[2].split(".")[1] in keys_of(found[1]), f"`{span}`: no option has this key"


@cache
def keys_of(group: str) -> set[str]:
    group = {"replay": "measure"}.get(group, group)  # the node that these options fill
    whole = yaml.safe_load((CONF / "config.yaml").read_text())
    nodes = [whole.get(group, {}), *(yaml.safe_load(path.read_text()) for path in (CONF / group).glob("*.yaml"))]
    # what no file can say, such as model.template; a group within this one is a mapping, and has no node
    stored = [getattr(option, "node", None) for option in ConfigStore.instance().repo.get(group, {}).values()]
    stored += [option.node for option in ConfigStore.instance().repo.get(group, {}).get("parts", {}).values()]
    return {str(key) for node in [*nodes, *stored] for key in node or ()}


def options(group: str) -> set[str]:
    return {path.stem for path in (CONF / group).glob("*.yaml")}


@pytest.mark.parametrize(
    ("group", "readme"),
    [
        ("method", "README.md"),
        ("method", "scope/prefill/README.md"),
        ("decoding", "README.md"),
        ("decoding", "scope/decoding/README.md"),
        ("task", "scope/tasks/README.md"),
        ("experiment", "conf/README.md"),
        ("budget", "conf/README.md"),
        ("model", "scope/README.md"),
        ("engine", "scope/README.md"),
        ("sampling", "scope/README.md"),
        ("sampling", "conf/README.md"),
    ],
)
def test_every_option_is_in_its_table(group: str, readme: str) -> None:
    text = (ROOT / readme).read_text()
    missing = [name for name in options(group) if not re.search(rf"\b{re.escape(name)}\b", text)]
    assert not missing, f"conf/{group} has {', '.join(sorted(missing))}: add a row, or the name, to {readme}"


def test_every_switch_of_fidelity_is_explained_with_the_released_codes_value() -> None:
    table = (CONF / "README.md").read_text().partition("## Fidelity")[2].partition("\n## ")[0]
    rows = {row[0].strip(" `"): row for row in (line.split("|")[1:] for line in table.splitlines() if "|" in line)}
    paper, released = (
        yaml.safe_load((CONF / "fidelity" / f"{name}.yaml").read_text()) for name in ("paper", "released")
    )
    assert set(paper) <= set(rows)
    for key, value in released.items():
        plain = "15" if value is None else str(value).lower()  # delta: by method, conf/fidelity_of
        assert plain in rows[key][2], key


@every
def test_an_example_gives_generate_the_mask_and_imports_the_short_way(readme: Path) -> None:
    for block in python_blocks(readme):
        calls = re.findall(r"\bmodel\.generate\(([^,)]+)", block)
        assert all(first.startswith("**") for first in calls), "a batch without its mask gives wrong answers"
        if not re.search(r"\bgenerate\(", block):
            continue
        for package, names in re.findall(r"^from (scope\.[\w.]+) import (.*)$", block, re.MULTILINE):
            assert not set(names.split(", ")) & set(scope.__all__), f"{package}: `from scope import {names}`"


RUNNING = [(name, b) for name, readme in zip(NAMES, READMES, strict=True) for b in python_blocks(readme)]


@pytest.mark.parametrize(
    ("name", "block"), [pair for pair in RUNNING if not FILE.match(pair[1])], ids=lambda value: value[:20]
)
def test_what_a_readme_shows_runs(
    name: str, block: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    exec(compile(block, name, "exec"), {"__name__": __name__})
    assert capsys.readouterr().out.strip()


def files(readme: Path) -> dict[str, str]:
    """The whole files that a README shows: path -> text."""
    blocks = [token.content for token in tokens(readme) if token.type == "fence"]
    return {found[1]: block for block in blocks if (found := FILE.match(block))}


def shown_options(readme: Path) -> set[str]:
    """The options whose YAML a README shows, and that are not in conf."""
    return {Path(name).stem for name in files(readme) if name.endswith(".yaml")}


RECIPES = ROOT / "scope" / "README.md"


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of the recipes, which Python and SCOPE_ALLOW find."""
    for name, text in files(RECIPES).items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for package in (scope.prefill, scope.decoding):
        place = tmp_path / package.__name__.replace(".", "/")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(place)])
    forget("mykv")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("SCOPE_ALLOW", "mykv")
    return tmp_path


def recipe_commands() -> list[list[str]]:
    shown = shown_options(RECIPES)
    return [words for words in arguments(RECIPES) if shown.intersection(",".join(words).replace("=", ",").split(","))]


def test_the_recipes_take_names_that_are_free_and_are_all_run() -> None:
    names = list(files(RECIPES))
    assert len(names) == 6
    assert not [name for name in names if (ROOT / name).exists()]
    assert len(recipe_commands()) == 5


@pytest.mark.parametrize("words", recipe_commands(), ids=lambda words: " ".join(words[2:])[:60])
@pytest.mark.slow
def test_the_recipes_run(
    words: list[str], recipes: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [word for word in words[2:] if not word.startswith("hydra.searchpath")]
    search = f"hydra.searchpath=[file://{recipes / 'conf'},file://{recipes / 'myconf'}]"
    said = Scope(recipes, capfd, monkeypatch)(search, *given, *SMALLEST, "task.max_new_tokens=60")
    assert "answers right" in said.out


def test_the_recipes_are_linted_and_laid_out(recipes: Path) -> None:
    for name, text in files(RECIPES).items():
        if name.endswith(".py"):
            for command in (["check"], ["format", "--check"]):
                words = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(ROOT / name), "-"]
                body = text.split("\n", 1)[1]  # without the line that names the file
                done = subprocess.run(words, input=body, cwd=ROOT, capture_output=True, text=True)
                assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"


@pytest.mark.slow
def test_the_recipes_pass_the_type_checker(recipes: Path) -> None:
    for name in files(RECIPES):
        if name.endswith(".py"):
            alone = recipes / f"{name.replace('/', '_')}"
            alone.write_text((recipes / name).read_text())
            words = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(alone)]
            done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, f"{name}: {done.stdout}"


def test_the_recipe_of_a_method_keeps_the_longest_values() -> None:
    names: dict[str, Any] = {"__name__": __name__}
    exec(files(RECIPES)["scope/prefill/vnorm.py"], names)
    budget, window = 12, 4
    (prompt,) = random_prompts(30)
    kept: list[Tensor] = []
    generate(
        tiny(),
        WORDS,
        [prompt],
        names["VNorm"](budget, window),
        KeepAll(),
        1,
        observe=lambda cache: kept.extend(cache.positions(layer)[0].clone() for layer in range(len(cache.layers))),
    )
    whole = DynamicCache(config=tiny("llama", "sdpa").config)
    with torch.inference_mode():
        tiny("llama", "sdpa")(torch.tensor([prompt.tokens]), past_key_values=whole, use_cache=True)
    for layer, positions in zip(whole.layers, kept, strict=True):
        for norms, slots in zip(layer.values[0].norm(dim=-1).tolist(), positions.tolist(), strict=True):
            longest = sorted(range(26), key=lambda slot: -norms[slot])[: budget - window]
            assert sorted(slots) == [*sorted(longest), *range(26, 30)]


def test_make_help_names_every_target() -> None:
    done = subprocess.run(["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    listed = re.findall(r"^make (\S+) +\S", done.stdout, re.MULTILINE)
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(phony.split())
