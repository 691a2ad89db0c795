"""What `generate` and `stream` may be told beside the prompts and the policy. None of it changes an answer."""

from collections.abc import Callable
from dataclasses import dataclass, field

from scope.cache import CompressedCache
from scope.cache.slots import StorageFactory
from scope.generation.engine import KINDS
from scope.policy.attention import Attention
from scope.util.errors import check_choice, check_count


@dataclass(frozen=True)
class Hooks:
    """Functions that are called while a batch is written.

    progress: after each step, with the number of rows that are still being written; after a prefill into freed rows,
    with the number of these. observe: with the cache, after the first prefill and after each step. watch: with each
    layer's attention, before anything is evicted; it must not keep the tensors, and steps then run eagerly.
    """

    progress: Callable[[int], None] | None = None
    observe: Callable[[CompressedCache], None] | None = None
    watch: Callable[[Attention], None] | None = None


@dataclass(frozen=True)
class Options:
    """How a batch is run.

    engine: how steps are run: `eager`, `graph`, `compile` or `auto`, as in `Engine`. batch_size: rows written at a
    time; None: all prompts at once. prefill_chunk: tokens of a prompt that are fed at a time; None: all. ahead: a step
    is launched before the tokens of the one before it are copied to the host, so that a GPU need not wait; a row then
    runs one step too far, and that token is dropped. None: on a GPU, where tokens are chosen greedily. storage: what
    makes the layers' storage, for tests; None: slots. Raises SettingError for what cannot be.
    """

    engine: str = "eager"
    batch_size: int | None = None
    prefill_chunk: int | None = None
    ahead: bool | None = None
    storage: StorageFactory | None = None
    hooks: Hooks = field(default_factory=Hooks)

    def __post_init__(self) -> None:
        check_choice(self, "engine", KINDS)
        for name in ("batch_size", "prefill_chunk"):
            if getattr(self, name) is not None:
                check_count(self, name, low=1)
