"""Speed and memory, measured: `python -m experiments.benchmarks`."""

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # read with torch: its profiler else says when it starts and stops
