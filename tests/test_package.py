"""What is installed from a wheel and from an sdist: every module, conf/, and commands that work in any folder."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from helpers.command import ROOT, SMALLEST

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_command_is_a_function_without_arguments() -> None:
    for name, place in PROJECT["project"]["scripts"].items():
        module, _, function = place.partition(":")
        assert name.startswith("scope-")
        assert callable(getattr(import_module(module), function))


def test_the_citation_is_that_of_the_readme() -> None:
    paper = yaml.safe_load((ROOT / "CITATION.cff").read_text())["preferred-citation"]
    (entry,) = re.findall(r"```bibtex\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    bibtex = dict(re.findall(r"^ +(\w+) += \{(.*)\},?$", entry.replace("{{SCOPE}", "{SCOPE"), re.MULTILINE))
    assert bibtex["title"] == paper["title"]
    assert bibtex["booktitle"] == paper["collection-title"]
    assert bibtex["author"] == " and ".join(f"{a['family-names']}, {a['given-names']}" for a in paper["authors"])
    assert (bibtex["year"], bibtex["pages"]) == (str(paper["year"]), f"{paper['start']}--{paper['end']}")


def run(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command outside of the checkout, which has to succeed."""
    told = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(word) for word in words], cwd=cwd, env=told, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel, an sdist, and an environment `env` that has what builds them and what scope needs."""
    folder = tmp_path_factory.mktemp("package")
    run(sys.executable, "-m", "venv", "env", cwd=folder)
    requires = PROJECT["build-system"]["requires"]
    fetched = subprocess.run([folder / "env/bin/pip", "install", *requires], capture_output=True, text=True)
    if fetched.returncode:
        pytest.skip(f"the package index cannot be reached, for {', '.join(requires)}")
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    there = [path for path in sys.path if path.endswith("site-packages")]  # without the .pth of an editable install
    (site / "there.pth").write_text("\n".join(there))
    run(folder / "env/bin/python", "-m", "hatchling", "build", "-d", folder / "dist", cwd=ROOT)
    return folder


def names(built: Path) -> set[str]:
    """The files of the wheel, without its own metadata."""
    (wheel,) = (built / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        return {name for name in files.namelist() if ".dist-info/" not in name}


@pytest.mark.slow
def test_wheel_and_sdist_hold_every_module_and_the_configuration(built: Path) -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    tracked = {name for name in listed if name.startswith(("scope/", "analysis/", "hydra_plugins/", "conf/"))}
    assert names(built) == {f"scope/{name}" if name.startswith("conf/") else name for name in tracked}
    (sdist,) = (built / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as files:
        held = {name.partition("/")[2] for name in files.getnames()}
    assert held >= tracked | {"main.py", "pyproject.toml", "README.md", "CITATION.cff"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_an_installed_scope_runs_in_an_empty_folder(kind: str, built: Path, tmp_path: Path) -> None:
    (made,) = (built / "dist").glob(kind)
    commands = built / "env" / "bin"
    install = ["install", "--no-deps", "--no-build-isolation", "--force-reinstall", made]
    run(commands / "pip", *install, cwd=tmp_path)
    where = run(commands / "python", "-c", "import scope; print(scope.__file__)", cwd=tmp_path).stdout
    assert Path(where).is_relative_to(built / "env")
    run(commands / "scope-run", *SMALLEST, cwd=tmp_path)
    said = run(
        commands / "scope-run", "-m", "method=snapkv,h2o", "hydra/launcher=basic", *SMALLEST, cwd=tmp_path
    ).stdout
    assert "snapkv + slide" in said
    assert len(list((tmp_path / "outputs" / "default").glob("*/records.jsonl"))) == 3  # one with the full cache
    assert "snapkv" in run(commands / "scope-tables", "outputs/default", cwd=tmp_path).stdout
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]


@pytest.mark.slow
def test_an_installed_command_says_how_it_is_repeated(built: Path, tmp_path: Path) -> None:
    (made,) = (built / "dist").glob("*.whl")
    run(built / "env/bin/pip", "install", "--no-deps", "--force-reinstall", made, cwd=tmp_path)
    words = [built / "env/bin/scope-run", "-m", f"model.path={tmp_path / 'nowhere'},embedded", *SMALLEST]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "repeat it alone: scope-run model" in done.stdout
