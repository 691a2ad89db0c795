"""The text of one row, token by token, and whether it has reached a stop string.

Stop strings are looked for in the generated text, never in the prompt. They are looked for twice: in the text with its
special tokens, so that `</s>` or `<|im_end|>` can be a stop string, and in the text without them, as it is shown.
"""

import copy
from bisect import bisect_right
from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

BROKEN = "\N{REPLACEMENT CHARACTER}"  # decoding gives it for bytes that are not, or not yet, a character
LONGEST_CHARACTER = 4  # bytes in UTF-8; each may be a token of its own
PENDING = 4 * LONGEST_CHARACTER  # after so many tokens, bytes that make no character are left as they are

Decode = Callable[[Sequence[int]], str]


class Text:
    """`add` takes the tokens one by one. `final` is their text, up to the first stop string."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = (), visible: Sequence[str] = ()
    ) -> None:
        """stop: the stop strings. visible: texts of special tokens that are shown, such as `</think>`."""
        self._tokenizer, self._stop, self._visible = tokenizer, stop, visible
        self._hidden: dict[int, bool] = {}
        self._tokens: list[int] = []
        longest = max(map(len, stop), default=0)
        self._whole = _Ending(self._decode_all, longest)
        self._shown: _Ending | None = None  # set when the shown text begins to differ from the whole

    def add(self, token: int) -> bool:
        """Add a token -> whether it completes a stop string."""
        self._tokens.append(token)
        if not self._stop:
            return False
        hidden = self._is_hidden(token)
        if hidden and self._shown is None:
            self._shown = copy.copy(self._whole)
        ends = [self._whole.add(token)]
        if self._shown is not None and not hidden:
            ends.append(self._shown.add(token))
        return any(s in end for s in self._stop for end in ends) and self._stopped() is not None

    def final(self) -> str:
        """The shown text up to the first stop string, without an incomplete character at its end."""
        stopped = self._stopped()
        return self._complete(self._tokens) if stopped is None else stopped

    def _stopped(self) -> str | None:
        """The shown text before the first stop string; None if there is no stop string in it."""
        shown = self._decode_shown(self._tokens)
        found = [shown[:at] for s in self._stop if (at := shown.find(s)) >= 0]
        if self._shown is not None:  # there are special tokens
            whole = self._decode_all(self._tokens)
            others = (s for s in self._stop if s not in shown)
            found += [self._shown_before(whole, at) for s in others if (at := whole.find(s)) >= 0]
        return min(found, key=len, default=None)

    def _shown_before(self, whole: str, at: int) -> str:
        """The shown part of the first `at` characters of the whole text."""

        def characters(count: int) -> int:
            return len(self._decode_all(self._tokens[:count]).rstrip(BROKEN))

        count = bisect_right(range(len(self._tokens)), at, key=characters) - 1  # tokens that end at or before `at`
        shown = self._complete(self._tokens[:count])
        return shown if self._is_hidden(self._tokens[count]) else shown + whole[characters(count) : at]

    def _complete(self, tokens: Sequence[int]) -> str:
        """The shown text without an incomplete character at its end.

        Some decoders drop all bytes before such a character too. The text of fewer tokens may then be longer, and is
        taken.
        """
        text = self._decode_shown(tokens)
        if not text.endswith(BROKEN):
            return text
        fewer = (self._decode_shown(tokens[:-n]) for n in range(1, LONGEST_CHARACTER))
        return max([text.rstrip(BROKEN), *(t for t in fewer if not t.endswith(BROKEN))], key=len)

    def _is_hidden(self, token: int) -> bool:
        """Whether the token is a special token that is not shown."""
        if token not in self._hidden:
            text = self._decode_all([token])
            special = text != "" and self._decode([token], skip_special_tokens=True) == ""
            self._hidden[token] = special and text.strip() not in self._visible
        return self._hidden[token]

    def _decode_all(self, tokens: Sequence[int]) -> str:
        return self._decode(tokens, skip_special_tokens=False)

    def _decode_shown(self, tokens: Sequence[int]) -> str:
        if self._visible:
            return self._decode_all([token for token in tokens if not self._is_hidden(token)])
        return self._decode(tokens, skip_special_tokens=True)

    def _decode(self, tokens: Sequence[int], skip_special_tokens: bool) -> str:
        text = self._tokenizer.decode(
            list(tokens), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text


class _Ending:
    """The end of a text that grows by one token at a time. A new token costs the decoding of a few tokens only.

    New tokens are decoded together with a few before them, since a token's text depends on its neighbours: the first
    token of a text may lose its space, and a character may take several tokens.
    """

    def __init__(self, decode: Decode, characters: int) -> None:
        self._decode, self._characters = decode, characters
        self._context: list[int] = []
        self._context_text = ""
        self._fresh: list[int] = []  # tokens after the context whose text is not complete yet
        self._end = ""

    def add(self, token: int) -> str:
        """-> the end of the text: the characters of this token, and those before it, as many as a stop string has."""
        fresh = [*self._fresh, token]
        text = self._decode(self._context + fresh)[len(self._context_text) :]
        seen = self._end + text
        if (text and not text.endswith(BROKEN)) or len(fresh) >= PENDING:
            self._context, self._context_text = fresh, self._decode(fresh)
            self._end, fresh = seen[-self._characters :], []
        self._fresh = fresh  # a new list, since a copy of this object shares the old one
        return seen
