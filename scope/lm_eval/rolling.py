"""Which part of a rolling text is a prompt, and which is forced."""

from collections.abc import Sequence
from dataclasses import dataclass

from lm_eval.utils import get_rolling_token_windows, make_disjoint_window


@dataclass(frozen=True)
class Part:
    """A piece of a text, as much of it as the model's context holds.

    context: tokens before it, at least one, of which nothing is asked. prompt: its first tokens, which are read as a
    prompt; what the model says of them is the full cache's, since nothing is evicted while a prompt is read. forced:
    the others, at least one.
    """

    context: tuple[int, ...]
    prompt: tuple[int, ...]
    forced: tuple[int, ...]


def parts(tokens: Sequence[int], prefix: int, max_length: int, window: int | float) -> list[Part]:
    """The pieces of a text, cut as lm-eval's model `hf` cuts it.

    prefix: the token before the first. window: how many tokens of a piece, or which share of them, are the prompt.
    """
    made = []
    for pair in get_rolling_token_windows(list(tokens), prefix, max_length, 1):
        context, asked = make_disjoint_window(pair)
        read = min(int(window * len(asked)) if isinstance(window, float) else window, len(asked) - 1)
        made.append(Part(tuple(context), tuple(asked[:read]), tuple(asked[read:])))
    return made
