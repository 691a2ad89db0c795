"""python -m scope.calibrate model=...: measures a model's queries and attention, once."""

import sys

from scope.cli.calibrate import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
