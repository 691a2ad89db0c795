"""Habits of the tests themselves."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def imported(source: str) -> set[str]:
    """The modules that are imported anywhere in a file, at its top or within a function."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module or ''}.{alias.name}" for alias in node.names}
    return names


def other_tests(source: str, own: str) -> list[str]:
    parts = {part for name in imported(source) for part in name.split(".")}
    return sorted(part for part in parts if part != own and (TESTS / f"{part}.py").exists() and part[:5] == "test_")


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: path.stem)
def test_no_test_file_is_imported(path: Path) -> None:
    """What two files share is in tests/helpers: else a test that moves breaks others, and its fixtures go."""
    assert other_tests(path.read_text(), path.stem) == []


@pytest.mark.parametrize(
    "source",
    [
        "import test_run",
        "from test_run import go",
        "from tests.test_run import go",
        "from tests import test_run",
        "from . import test_run",
        "def late():\n    import tests.test_run as other",
    ],
)
def test_an_import_of_a_test_file_is_found(source: str) -> None:
    assert other_tests(source, "test_cache") == ["test_run"]
