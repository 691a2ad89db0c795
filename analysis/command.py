"""What the commands of this package share: folders of records in, one place out, and in one line what is wrong."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.provenance import warnings
from analysis.records import Run, read_runs
from scope.util.errors import ScopeError, before_it_runs, of_the_machine, one_line, print_anything
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
    """Read the runs of the folders given and have `work` done with them; -> 0, or with one line on stderr 2 or 1.

    2: nothing was made of them; 1: what was made of them could not be written.

    work: given the runs, where the output goes, and all options. place: where that is by default, in the one FOLDER.
    options: further ones, with what argparse has to know of each. extra: what brings the packages that work needs.
    """
    parser = argparse.ArgumentParser(prog=f"python -m analysis.{name}", description=about.split("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a sweep: outputs/<experiment>")
    there = f"`{place}` in the one FOLDER" if place else "the one FOLDER"
    parser.add_argument("--out", type=Path, help=f"where it goes (default: {there})")
    for flag, settings in (options or {}).items():
        parser.add_argument(flag, **settings)
    given = parser.parse_args(arguments)
    if given.out is None and len(given.folders) > 1:
        parser.error("several folders: say with --out where what comes of them goes")
    print_anything()
    try:
        with before_it_runs():
            runs = read_runs(given.folders)
        for warning in warnings(runs):
            print(f"warning: {visible(warning)}", file=sys.stderr)
        work(runs, given.out or given.folders[0] / place, given)
        sys.stdout.flush()
    except ModuleNotFoundError as error:
        print(f"error: this needs {error.name}: pip install 'scope-kv[{extra}]'", file=sys.stderr)
        return 2
    except ScopeError as error:
        print(f"error: {one_line(str(redact(str(error))))}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {one_line(of_the_machine(error))}", file=sys.stderr)
        return 1
    return 0
