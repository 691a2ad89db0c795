"""How many parameters functions have: more than seven are not read, they are counted."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST = 7


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """All but the object or class that a method belongs to; `*args` and `**kwargs` are one each."""
    given = function.args
    named = [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs) if a.arg not in ("self", "cls")]
    return len(named) + (given.vararg is not None) + (given.kwarg is not None)


def is_kernel(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether Triton compiles it: it takes flat arguments only."""
    return any("triton.jit" in ast.unparse(decorator) for decorator in function.decorator_list)


def functions(source: str) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


@pytest.mark.parametrize("package", ["scope", "analysis"])
def test_no_function_has_more_than_seven_parameters(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert len(files) > 10
    many = {
        f"{path.relative_to(ROOT)}:{function.name}": parameters(function)
        for path in files
        for function in functions(path.read_text())
        if parameters(function) > MOST and not is_kernel(function)
    }
    assert many == {}


def test_parameters_of_every_kind_are_counted() -> None:
    source = (
        "class A:\n def f(self, a, b=1, /, c=2, *d, e, f=3, **g): ...\n"
        "async def h(a, b, c, d, e, f, g, h): ...\n"
        "@triton.jit(do_not_specialize=['x'])\ndef k(a): ..."
    )
    found = {function.name: (parameters(function), is_kernel(function)) for function in functions(source)}
    assert found == {"f": (7, False), "h": (8, False), "k": (1, True)}
