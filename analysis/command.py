"""What the commands of this package share: reading folders of records, one place for output, one-line errors."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from analysis.provenance import warnings
from analysis.records import Run, read_runs
from scope.util.errors import ScopeError, before_it_runs, of_the_machine, one_line, print_anything
from scope.util.saying import say
from scope.util.secrets import redact
from scope.util.visible import visible

Work = Callable[[list[Run], Path, argparse.Namespace], None]


def command(
    name: str,
    about: str,
    place: str,
    work: Work,
    arguments: Sequence[str] | None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    extra: str = "",
) -> int:
    """Read the runs of the folders on the command line and call `work` with them. Returns the exit code.

    0: done. 2: nothing was made. 1: the output could not be written. With 2 and 1, stderr has one line that says why.

    name: of the module, `tables` for `python -m analysis.tables`. about: its help text; the first line is shown. place:
    the file or folder inside the one FOLDER that output goes to by default. work: called with the runs, the place of
    the output, and all options. arguments: the command line, by default that of the process. options: further options,
    each with the settings of argparse. extra: the optional dependencies of this project that `work` needs, for the
    message where they are missing.
    """
    parser = argparse.ArgumentParser(prog=f"python -m analysis.{name}", description=about.split("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a sweep: outputs/<experiment>")
    there = f"`{place}` in the one FOLDER" if place else "the one FOLDER"
    parser.add_argument("--out", type=Path, help=f"where it goes (default: {there})")
    for flag, settings in (options or {}).items():
        parser.add_argument(flag, **settings)
    given = parser.parse_args(arguments)
    if given.out is None and len(given.folders) > 1:
        parser.error("several folders need --out: the place to write to")
    print_anything()
    try:
        with before_it_runs():
            runs = read_runs(given.folders)
        for warning in warnings(runs):
            say(Console(stderr=True, highlight=False), f"warning: {visible(warning)}")
        work(runs, given.out or given.folders[0] / place, given)
        sys.stdout.flush()
    except ModuleNotFoundError as error:
        print(f"error: this needs {error.name}: pip install -e '.[{extra}]'", file=sys.stderr)
        return 2
    except ScopeError as error:
        print(f"error: {one_line(str(redact(str(error))))}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {one_line(of_the_machine(error))}", file=sys.stderr)
        return 1
    return 0
