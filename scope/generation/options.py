"""Options and hooks of `generate` and `stream`. They do not change the answers."""

from collections.abc import Callable
from dataclasses import dataclass, field

from scope.cache import CompressedCache
from scope.cache.storage import StorageFactory
from scope.generation.engine import AUTO, KINDS, check_count_or_auto
from scope.policy.attention import Attention
from scope.util.errors import check_choice, check_count


@dataclass(frozen=True)
class Hooks:
    """Functions that are called while a batch is written. None: nothing is called.

    progress: is called after each step with the number of rows that go on, and after each prefill with the number of
    its rows that do.
    observe: is called with the cache once the first prompts are in, and after each step.
    watch: is called with the attention of each layer, for the prompt and in each step, before anything is evicted. It
    must not keep the tensors. With it steps run eagerly.
    """

    progress: Callable[[int], None] | None = None
    observe: Callable[[CompressedCache], None] | None = None
    watch: Callable[[Attention], None] | None = None


@dataclass(frozen=True)
class Options:
    """How a batch is run. It changes speed and memory, not the answers.

    engine: how a decode step is run: `eager`, `graph`, `compile` or `auto`, as in `Engine`.
    batch_size: rows that are written at a time; None: all prompts together.
    prefill_rows: prompts that are read at a time, a number or `auto`, as in `Engine`.
    prefill_chunk: tokens of a prompt that are fed at a time; None: all.
    ahead: launch step t+1 before the tokens of step t are copied to the host, so that a GPU does not wait. A row then
    runs one step too many, and this token is dropped. None: on a GPU with greedy decoding.
    storage: makes the storage of each layer, for tests; None: the usual one.
    hooks: functions to call meanwhile.

    Raises SettingError for a value that is not allowed.
    """

    engine: str = "eager"
    batch_size: int | None = None
    prefill_rows: int | str = AUTO
    prefill_chunk: int | None = None
    ahead: bool | None = None
    storage: StorageFactory | None = None
    hooks: Hooks = field(default_factory=Hooks)

    def __post_init__(self) -> None:
        check_choice(self, "engine", KINDS)
        check_count_or_auto(self, "prefill_rows")
        for name in ("batch_size", "prefill_chunk"):
            if getattr(self, name) is not None:
                check_count(self, name, low=1)
