"""python -m scope.calibrate model=...: makes a model's query statistics, once."""

import sys

from scope.cli.calibrate import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
