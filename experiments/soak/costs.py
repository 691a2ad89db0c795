"""The processor time of the framework itself. A busy machine changes it less than it changes the elapsed time."""

import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hydra import compose, initialize_config_dir
from rich.console import Console

import scope.runs.answers
from experiments.soak.sweep import Answers, Found, Loss, ended, log_of, start
from scope.cli.config import build
from scope.generation import models
from scope.runs.run import run

ROOT = Path(__file__).resolve().parents[2]
HUNDRED = ["-m", "method=full,snapkv,h2o,streamingllm,recent", "decoding=none,slide,h2o,adaptive,discontinuous"]
HUNDRED += ["budget.decode=20,22,24,26", "task.questions=1", "task.max_new_tokens=4", "task.prompts=1", "name=hundred"]
HUNDRED += ["budget.recent=8"]
MOST_SECONDS, MOST_SHARE = 12.0, 0.02  # of the seconds, half are Hydra's, which composes a hundred configurations


def finished(folder: Path, _: Answers) -> Found:
    """A finished sweep of a hundred runs, asked for again by a process that starts from nothing."""
    if code := ended(start(folder, sweep=HUNDRED)):
        raise Loss(f"{folder}: exit code {code}, see {log_of(folder)}")
    command = [sys.executable, str(ROOT / "main.py"), *HUNDRED, f"output={folder}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    began = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout
    out = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    clock, seconds = time.monotonic() - began, used.ru_utime + used.ru_stime
    if process.returncode or (found := out.count("was finished already")) != 100:
        raise Loss(f"{folder}: exit code {process.returncode}, {found} of 100 runs were recognised")
    if seconds >= MOST_SECONDS:
        raise Loss(f"a finished sweep of 100 runs took {seconds:.1f} processor seconds (less than {MOST_SECONDS:g})")
    figures = {"processor_seconds": round(seconds, 2), "clock_seconds": round(clock, 2)}
    return Found(f"100 of 100 runs in {seconds:.1f} processor seconds, {clock:.1f} by the clock", figures)


def overhead(folder: Path, _: Answers) -> Found:
    """The embedded task as it comes, 16 prompts, on one thread: processor time within generate, and beside it."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        job = build(compose("config", [f"output={folder}", "name=overhead", "model.threads=1"]), {})
    models.load(job.experiment.model)  # this and the hashes of the code: once a process, and not once a sample
    hashing = time.process_time()
    job.experiment.code()
    job.experiment.scoring_code()
    hashing = time.process_time() - hashing
    within = 0.0
    stream = scope.runs.answers.stream

    def timed(*arguments: Any, **more: Any) -> Iterator[Any]:
        nonlocal within
        answers = stream(*arguments, **more)
        while True:
            began = time.process_time()
            try:
                answer = next(answers)
            except StopIteration:
                return
            finally:
                within += time.process_time() - began
            yield answer

    began = time.process_time()
    with patch.object(scope.runs.answers, "stream", timed):  # to measure a run just as it is
        run(job.experiment, job.tracker, job.output, Console(file=io.StringIO()), job.keeping)
    beside = time.process_time() - began - within
    samples = len(job.experiment.requests())
    share = beside / within
    if share >= MOST_SHARE:
        raise Loss(f"{share:.1%} of the time within generate is spent beside it (less than {MOST_SHARE:.0%})")
    figures = {
        "ms_beside_a_sample": round(1000 * beside / samples, 2),
        "ms_within_a_sample": round(1000 * within / samples, 2),
        "share": round(share, 4),
        "ms_once_for_hashes_of_the_code": round(1000 * hashing),
    }
    said = "{ms_beside_a_sample} ms a sample beside {ms_within_a_sample} ms within generate".format(**figures)
    once = "; once a process, {ms_once_for_hashes_of_the_code} ms for hashes of the code".format(**figures)
    return Found(f"{said}: {share:.2%}{once}", figures)
