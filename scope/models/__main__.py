"""python -m scope.models get NAME: makes a model's folder of what the package index holds; list: says which."""

import argparse
import os
import sys
from collections.abc import Sequence

from scope.models.fetch import get
from scope.models.published import PUBLISHED
from scope.util.errors import ConfigError, ScopeError, nearest, one_line, print_anything
from scope.util.secrets import redact


def main(arguments: Sequence[str] | None = None) -> int:
    """0; 2 with one line on stderr for a model that cannot be had."""
    parser = argparse.ArgumentParser(prog="python -m scope.models", description="Real models without a hub.")
    commands = parser.add_subparsers(required=True, dest="command", metavar="get|list")
    getting = commands.add_parser("get", help="make a model's folder in the user's cache folder, once")
    getting.add_argument("name", metavar="NAME", help=", ".join(PUBLISHED))
    commands.add_parser("list", help="which models there are, their licences, and where they lie")
    options = parser.parse_args(arguments)
    print_anything()
    try:
        if options.command == "get":
            _get(options.name)
        else:
            _list()
    except ScopeError as error:
        print(f"error: {one_line(str(redact(str(error))))}", file=sys.stderr)
        return 2
    return 0


def _get(name: str) -> None:
    if name not in PUBLISHED:
        raise ConfigError(f"get {name}: must be one of {', '.join(PUBLISHED)}{nearest(name, PUBLISHED)}")
    model = PUBLISHED[name]
    if model.made:
        print(f"model={name} is there: {model.folder}")
        return
    fetched, made = model.megabytes
    print(f"{model.about}: {fetched} MB to fetch, {made} MB on disk; licence: {model.licence}", file=sys.stderr)
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # read where the libraries that draw bars are first imported
    folder = get(model)
    print(f"model={name} is made: {folder}")


def _list() -> None:
    for name, model in PUBLISHED.items():
        where = str(model.folder) if model.made else f"python -m scope.models get {name}"
        print(f"model={name}: {model.about} ({model.hub}); licence: {model.licence}\n    {where}")


if __name__ == "__main__":
    sys.exit(main())
