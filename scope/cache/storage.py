"""What a layer asks of its storage, and what a storage starts from."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from torch import Tensor

from scope.cache.ahead import Known
from scope.cache.sizes import reached
from scope.policy.plan import Plan
from scope.policy.rule import Rule


class Storage(Protocol):
    """The interface of a layer's storage. Shapes: B rows, H heads, S slots, D head dim.

    A decode step calls `begin`, `append`, `attend`, `write` if there are channels, and `evict`, in this order.
    """

    @property
    def stored(self) -> list[int]: ...  # tokens in each row: the same number in every head, or the mean over the heads

    @property
    def keys(self) -> Tensor: ...  # [B, H, S, D], made at every look if the storage rounds them

    @property
    def values(self) -> Tensor: ...  # [B, H, S, D], likewise

    @property
    def positions(self) -> Tensor: ...  # [B, H, S] int32, -1 = empty

    @property
    def newest(self) -> Tensor: ...  # [B] int32: the position of each row's newest token

    @property
    def nbytes(self) -> int: ...  # bytes allocated for keys, values and channels

    @property
    def channels(self) -> Mapping[str, Tensor]: ...  # [B, H, S] float32 each

    def begin(self, plans: Sequence[Plan | None]) -> Hashable:
        """Begin a step, on the host. plans: what each row keeps, after it got its new token; None: everything.

        Afterwards `stored` has the counts at the end of the step. -> equal for steps that run the same operations;
        None: the step cannot be replayed.
        """
        ...

    def append(self, keys: Tensor, values: Tensor) -> None:
        """Store one new token in each row: keys and values [B, H, 1, D]. Its channels are 0."""
        ...

    def attend(self, query: Tensor, rule: Rule, scored: bool) -> tuple[Tensor, Tensor | None]:
        """Attend over all slots: query [B, Hq, 1, D] -> output [B, 1, Hq, D], and probabilities.

        rule: of the layer. scored: whether probabilities are needed; if not, they may be None. They are [B, H, G, S]
        for the G query heads that share a head, or [B, H, 1, S], their mean.
        """
        ...

    def ahead(self, query: Tensor, keys: Tensor, values: Tensor, rule: Rule) -> Known | None:
        """The attention of the next n steps, whose queries [B, Hq, n, D], keys and values [B, H, n, D] are known, for
        `look`; None: this storage attends step by step."""
        ...

    def look(self, ahead: Any, rule: Rule) -> Tensor:
        """`attend` by what this storage's `ahead` gave -> probabilities; the output comes with the other steps'."""
        ...

    def write(self, channels: Mapping[str, Tensor]) -> None:
        """Set the channels of all slots, [B, H, S] float32 each."""
        ...

    def evict(self, scores: Tensor | None) -> None:
        """Free the slots that the step's plans do not keep.

        scores [B, H, S]: higher stays, of equal scores the newer; None: newer stays.
        """
        ...

    def extend(self, kept: "Kept", capacity: int, fronts: Sequence[int] | None) -> None:
        """Store what the prefill method kept of a later turn, between two steps.

        capacity: slots that a row may need from then on. fronts: in each row the tokens of the prompt and of earlier
        turns. The new ones count as younger than these and as older than what was generated. None: as the youngest.
        In a layer with a sliding window, slots out of sight are freed for them, so that no more are held than the next
        token can see. The oldest of `fronts` are then no longer counted.
        """
        ...

    def replace(self, rows: Sequence[int], other: Self) -> None:
        """Put the rows of `other` in place of these rows, whose tokens are dropped."""
        ...

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows, in this order. A row may come several times."""
        ...

    def clear(self, rows: Sequence[int]) -> None:
        """Drop all tokens of these rows."""
        ...


@dataclass(frozen=True)
class Kept:
    """What the prefill left of the prompts in one layer: B rows, n slots in the longest head, the oldest first.

    Of a later turn the positions go on from those before it.
    """

    keys: Tensor  # [B, H, n, D]
    values: Tensor  # [B, H, n, D]
    positions: Tensor  # [B, H, n] int: of the tokens in the text; -1 behind the last of a shorter row or head
    stored: tuple[int, ...]  # tokens in each row, in the mean over the heads
    newest: Tensor  # [B] int32: the position of the prompt's last token
    channels: Mapping[str, Tensor]  # [B, H, n] float32 each
    window: int | None = None  # the layer's sliding window: tokens that a query sees, its own included
    precision: str = "float"  # in which keys and values are to be stored, as of `Policy`


def stays(plan: Plan | None, held: int, window: int | None) -> int:
    """How many of `held` slots a step leaves: those that the plan keeps, but no more than the next token can see."""
    slots = held if plan is None else min(held, plan.slots)
    return reached(slots, window)


class StorageFactory(Protocol):
    """Makes the storage of a layer from what the prefill kept."""

    def __call__(self, kept: Kept, capacity: int, whole: bool) -> Storage:
        """capacity: slots to allocate. whole: attend over all of them from the start, with the empty ones masked."""
        ...


@dataclass(frozen=True)
class Layout:
    """How a cache lies in memory. It changes speed and memory, not the answers. It is for engines and tests.

    tokens: T, the most tokens that will be generated; None: unknown. If it is known, all slots that they may need are
    allocated at once, else piece by piece.
    storage: makes the storage of each layer; None: `Slots`, with Triton kernels where they run.
    whole: a step attends over all allocated slots, with the empty ones masked. Its shapes then never change.
    prompts: tokens of prompts that will take rows of the cache later. A row has slots for the longest of them, too.
    """

    tokens: int | None = None
    storage: StorageFactory | None = None
    whole: bool = False
    prompts: tuple[int, ...] = ()
