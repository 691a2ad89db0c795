"""What the READMEs say holds: links and paths exist, examples run, commands compose, and nothing is left out."""

import importlib.util
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
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
    *("config.yaml", "manifest.json", "records.jsonl", "records.1.jsonl", "table.csv", "workspace.json"),
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
FILE = re.compile(r"^# (scope/\S+\.py)$", re.MULTILINE)  # an example that is a whole file

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
            assert all(f'"{word}"' in source for word in words[3:] if word.startswith("--")), words
        elif words[0] in ("python", "oracle/bin/python") and words[1].endswith(".py"):
            assert (ROOT / words[1]).exists(), words
    for named in re.findall(r"scope-kv\[([\w,]+)\]", readme.read_text()):
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
    stored = ConfigStore.instance().repo.get(group, {}).values()  # what no file can say: model.template
    return {str(key) for node in [*nodes, *(option.node for option in stored)] for key in node or ()}


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
    assert not [name for name in options(group) if not re.search(rf"\b{re.escape(name)}\b", text)]


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


RUNNING = [(name, b) for name, readme in zip(NAMES, READMES, strict=True) for b in python_blocks(readme)]


@pytest.mark.parametrize(
    ("name", "block"), [pair for pair in RUNNING if not FILE.search(pair[1])], ids=lambda value: value[:20]
)
def test_what_a_readme_shows_runs(
    name: str, block: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    exec(compile(block, name, "exec"), {"__name__": __name__})
    assert capsys.readouterr().out.strip()


def test_the_example_of_a_method_keeps_the_lowest_key_norms() -> None:
    (block,) = (block for _, block in RUNNING if FILE.search(block))
    names: dict[str, Any] = {"__name__": __name__}
    exec(block, names)
    budget, window = 12, 4
    (prompt,) = random_prompts(30)
    kept: list[Tensor] = []
    generate(
        tiny(),
        WORDS,
        [prompt],
        names["KNorm"](budget, window),
        KeepAll(),
        1,
        observe=lambda cache: kept.extend(cache.positions(layer)[0].clone() for layer in range(len(cache.layers))),
    )
    whole = DynamicCache(config=tiny("llama", "sdpa").config)
    with torch.inference_mode():
        tiny("llama", "sdpa")(torch.tensor([prompt.tokens]), past_key_values=whole, use_cache=True)
    for layer, positions in zip(whole.layers, kept, strict=True):
        for norms, slots in zip(layer.keys[0].norm(dim=-1).tolist(), positions.tolist(), strict=True):
            lowest = sorted(range(26), key=lambda slot: norms[slot])[: budget - window]
            assert sorted(slots) == [*sorted(lowest), *range(26, 30)]


def test_make_help_names_every_target() -> None:
    done = subprocess.run(["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    listed = re.findall(r"^make (\S+) +\S", done.stdout, re.MULTILINE)
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(phony.split())
