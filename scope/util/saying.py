"""Lines for people: a terminal breaks them between words, a file keeps each as one line."""

from rich.console import Console
from rich.text import Text


def say(console: Console, line: str, style: str = "") -> None:
    """Print a line without markup."""
    console.print(Text(line, style), soft_wrap=not console.is_terminal)
