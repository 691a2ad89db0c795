"""Talk to a model in the terminal, and see what its compressed cache holds.

python -m scope.chat model=smollm2 method=snapkv decoding=slide budget.prefill=0.5 budget.decode=128
python -m scope.chat model=embedded < lines.txt         # without a terminal: a line of input is a turn

A turn is a line. /quit, or the end of the input, ends it. Ctrl-C stops an answer. An answer has at most
task.max_new_tokens tokens. Under it stand its speed, the slots and bytes of the cache, and how many slots were evicted.
"""

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from threading import Event
from types import FrameType

from rich.console import Console

from scope.cli.door import answered, composed
from scope.runs.experiment import Experiment
from scope.util.errors import before_it_runs

QUIT = "/quit"
INTERRUPTED = 128 + signal.SIGINT  # the shell's exit code for it


def chat(overrides: Sequence[str]) -> None:
    """Talk until the input ends. Raises ScopeError for anything that a user can fix."""
    from scope.cli.explain import accounted

    job, _ = composed(overrides)
    with accounted():
        talk(job.experiment, Console(highlight=False))


def talk(experiment: Experiment, console: Console) -> None:
    """Answer each line of the standard input. Raises ScopeError as `chat` does."""
    from scope.chat.conversation import Conversation  # here, since they load torch
    from scope.chat.framing import Framing
    from scope.chat.screen import Screen, held
    from scope.generation import models

    with before_it_runs():
        experiment.require()
        loaded = models.load(experiment.model)
    most, engine = experiment.task.max_new_tokens, experiment.engine
    conversation = Conversation(loaded, experiment.policy, experiment.sampling, most, engine)
    framing = Framing(loaded.tokenizer, experiment.model, date.today())

    def below() -> str:
        return held(conversation.cache.summary(), len(conversation.answer) - 1, conversation.seconds)

    for line in _lines(console):
        tokens = framing.tokens(line)
        with Screen(loaded.tokenizer, console, below) as screen, _interrupts() as asked:
            for token in conversation.say(tokens):
                screen.show(token)
                if asked.is_set():
                    break


def _lines(console: Console) -> Iterator[str]:
    """What is typed, or piped, line by line. Empty lines are left out."""
    while True:
        try:
            line = input("> " if sys.stdin.isatty() and console.is_terminal else "")
        except EOFError:
            return
        if line.strip() == QUIT:
            return
        if line.strip():
            yield line


@contextmanager
def _interrupts() -> Iterator[Event]:
    """Until the context ends, Ctrl-C sets the event. A second one interrupts."""
    asked = Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def main(given: Sequence[str] | None = None) -> int:
    """-> the exit code, as of `answered`; 130 after Ctrl-C where no answer was under way. given: None reads the
    command line."""
    arguments = sys.argv[1:] if given is None else given
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    try:
        return answered(lambda: chat(arguments), arguments)
    except KeyboardInterrupt:
        return INTERRUPTED
