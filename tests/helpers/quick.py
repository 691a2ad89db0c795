"""Which parameters `make test` takes: where many guard alike code, a few of them."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow(*values: Any) -> Any:
    """A parameter of the slow tests."""
    return pytest.param(*values, marks=pytest.mark.slow)


def every(n: int, values: Iterable[Any]) -> list[Any]:
    """These parameters: the first of each n as it is, the others for the slow tests. A tuple is one test's values."""
    return [value if i % n == 0 else later(value) for i, value in enumerate(values)]


def later(value: Any) -> Any:
    if isinstance(value, type(pytest.param())):
        return pytest.param(*value.values, marks=[*value.marks, pytest.mark.slow], id=value.id)
    return slow(*value) if isinstance(value, tuple) else slow(value)
