"""python -m scope.tasks build task=...: writes a task's set of prompts to a file and describes it."""

import sys

from scope.cli.build_set import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
