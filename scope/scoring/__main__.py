"""python -m scope.scoring FOLDER...: score generations again, without a model."""

import sys

from scope.cli.rescore import main

if __name__ == "__main__":
    sys.exit(main())
