"""Importing what takes seconds, and what may be imported by its name."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Import torch or transformers within: what they make stays, so that to look it through for garbage costs a fifth
    of the time and finds none."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def allowed_packages() -> set[str]:
    """The packages whose modules a configuration may name: scope, and those that the user allows by SCOPE_ALLOW."""
    return {"scope", *os.environ.get("SCOPE_ALLOW", "").split(",")} - {""}
