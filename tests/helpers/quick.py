"""Which parameters `make test` takes: where many guard alike code, a few of them."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow(*values: Any) -> Any:
    """A parameter of the slow tests."""
    return pytest.param(*values, marks=pytest.mark.slow)


def every(n: int, values: Iterable[Any]) -> list[Any]:
    """These parameters: the first of each n as it is, the others for the slow tests."""
    return [value if i % n == 0 else slow(value) for i, value in enumerate(values)]
