"""A disturbed sweep must end with the records of an undisturbed one. The disturbances are kills, full disks, damaged
files, two processes on one run, and failing tracking servers.

python -m experiments.soak [--kills 50] [--minutes 8] [--only WORD] prints the results and writes them, with versions
and surroundings, to experiments/soak/results/. It exits 1 if anything was lost.

python -m experiments.soak --fuzz 5000 [--seed 0] [--first 0] tries 5000 odd requests instead, in about ten minutes. It
exits 1 if one gave a traceback or an exit code other than 0, 1 and 2.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.soak import costs, disk, fuzz, processes, server
from experiments.soak.sweep import PROMPTS, RUNS, Answers, Found, Loss, NotTried, answers, must_finish
from scope.records import surroundings

RESULTS = Path(__file__).with_name("results")
Fault = Callable[[Path, Answers], Found]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.soak", description=" ".join(__doc__.split("\n\n")[0].split())
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=8, help="for the kills; all else takes some four more")
    parser.add_argument(
        "--only", default="", metavar="WORD", help="only what has this word in its name; writes no results"
    )
    parser.add_argument("--fuzz", type=int, metavar="N", help="try so many odd requests instead")
    parser.add_argument("--seed", type=int, default=0, help="of the odd requests")
    parser.add_argument(
        "--first", type=int, default=0, metavar="N", help="of the odd requests, the number to begin with"
    )
    options = parser.parse_args()
    if options.fuzz is not None:
        return fuzz.main(options.fuzz, options.seed, options.first)
    root = Path(tempfile.mkdtemp(prefix="scope-soak-"))
    began = time.monotonic()
    must_finish(root / "whole")
    whole, seconds = answers(root / "whole"), time.monotonic() - began
    if len(whole) != RUNS * PROMPTS:
        print(f"LOSS uninterrupted: {len(whole)} samples, see {root}")
        return 1
    print(f"uninterrupted: {len(whole)} samples in {seconds:.1f} s", flush=True)
    end = time.monotonic() + 60 * options.minutes
    faults: dict[str, Fault] = {
        "killed at random": lambda _, whole: processes.kills(root, whole, options.kills, seconds, end),
        "torn line": disk.damaged(disk.tear),
        "flipped bit": disk.damaged(disk.flip),
        "full disk": disk.full,
        "read-only disk": disk.read_only,
        "two at once": processes.twice,
        "tracking server hangs": server.tracked(server.hanging),
        "tracking server refuses": server.tracked(server.refusing),
        "tracking server dies": server.tracked(server.dying),
        "joblib worker killed": processes.killed_worker("joblib"),
        "ray worker killed": processes.killed_worker("ray"),
        "overhead": costs.overhead,
        "finished sweep": costs.finished,
    }
    found: dict[str, Any] = {}
    losses = 0
    for name, fault in faults.items():
        if options.only not in name:
            continue
        try:
            made = fault(root / name.replace(" ", "-"), whole)
            found[name] = {"found": made.said, **made.figures}
            print(f"{name}: {made.said}", flush=True)
        except NotTried as reason:
            found[name] = {"not tried": str(reason)}
            print(f"{name}: not tried: {reason}", flush=True)
        except Loss as loss:
            losses += 1
            found[name] = {"LOSS": str(loss)}
            print(f"LOSS {name}: {loss}", flush=True)
    if not options.only:
        RESULTS.mkdir(exist_ok=True)
        load = [round(x, 2) for x in os.getloadavg()]
        text = json.dumps({"surroundings": surroundings() | {"load": load}, "found": found}, indent=2)
        (RESULTS / "cpu.json").write_text(text + "\n")
    if losses:
        print(f"{losses} losses; what was written is in {root}")
        return 1
    shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
