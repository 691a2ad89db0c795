"""The entry point of a checkout. `python main.py --help` says what can be chosen; scope/cli/run.py does the work."""

import sys

from scope.cli.run import cli

if __name__ == "__main__":
    sys.exit(cli())
