"""python -m scope.chat model=...: talk to a model, and see what its compressed cache holds."""

import sys

from scope.cli.chat import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
