"""python -m scope.records merge FOLDER...: joins the shards of runs."""

import sys

from scope.records.merge import main

if __name__ == "__main__":
    sys.exit(main())
