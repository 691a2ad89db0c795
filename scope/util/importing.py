"""Faster imports of large packages, and which packages a configuration may name."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """A context for importing torch or transformers, with garbage collection off.

    What an import makes stays. Searching it for garbage takes a fifth of the time and finds nothing.
    """
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
