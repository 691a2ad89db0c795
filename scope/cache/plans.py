"""The plans of the rows of one layer in one decode step: whole numbers, made on the host."""

from collections.abc import Sequence

from scope.decoding import DecodingStrategy
from scope.policy.plan import Plan, View

COARSE = 64  # slots: the protected front is rounded down to a multiple of it, so that there are few step keys


def plans_of(
    decoding: DecodingStrategy, views: Sequence[View], stored: Sequence[int], steps: Sequence[int]
) -> list[Plan | None]:
    """The plan of each row at the step t of `steps`, with so many slots stored.

    The strategy is asked once for rows with equal views.
    """
    made: dict[tuple[View, int, int], Plan | None] = {}
    plans = []
    for key in zip(views, stored, steps, strict=True):
        if key not in made:
            view, n, step = key
            made[key] = decoding.plan(view.at(step, n))
        plans.append(made[key])
    return plans


def protected_front(plans: Sequence[Plan | None], fronts: Sequence[int]) -> int:
    """How many slots at the front no row can lose: a multiple of COARSE. fronts: of each row, those of its prompt."""
    heads = [plan.head for plan in plans if plan]
    if not heads:
        return 0
    front = min(*heads, *fronts)
    return front - front % COARSE
