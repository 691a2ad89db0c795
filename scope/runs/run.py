"""The story of one run: prepare it, open its records, make what is missing, batch by batch, and close.

How a run is kept is here and in `place`. What is measured of a sample is in `answers` and `replays`.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from scope import records
from scope.generation import models
from scope.records import RecordKeeping, Records
from scope.runs.answers import Answers
from scope.runs.batches import OK, attempts, share
from scope.runs.experiment import Experiment, Request
from scope.runs.forced import forced_texts, of_the_full_cache
from scope.runs.place import Place
from scope.runs.prepare import Prepared, prepare
from scope.runs.replaying import FULL, Replaying
from scope.runs.replays import Replays
from scope.runs.summary import headline, running, sample_row, summary
from scope.runs.traces import record_trace
from scope.runs.tracking import NoTracking, RunInfo, Tracker
from scope.runs.unscored import faults, how_to_score, unscored
from scope.util.errors import ScopeError, before_it_runs
from scope.util.progress import Among, Progress
from scope.util.saying import say
from scope.util.secrets import redact
from scope.util.stopping import Stopped, Stopping

FULL_TEXTS = "full_texts"  # beside the folders of all sweeps: what the full cache wrote, for replays
LONGEST_WAIT = 24 * 3600  # seconds, while another process has the full cache write


def run(
    experiment: Experiment,
    tracker: Tracker,
    output: Path,
    console: Console,
    keeping: RecordKeeping | None = None,
    among: Among | None = None,
) -> Path:
    """Run an experiment, or continue it where it stopped. -> the run's folder.

    output: the sweep's folder; the run's folder is made in it. keeping: how records that are there already are treated.
    among: the run's place among those of the command, which the progress bar shows.

    Raises ConfigError before anything is written: for what cannot run here, or for a folder that holds another run.
    Raises ScopeError for anything else that a user can mend, SamplesFailedError once the other samples are recorded,
    and Stopped after a signal, once the answers under way are recorded; its `done` is set if nothing is left to do.
    """
    keeping = keeping or RecordKeeping()
    with before_it_runs():
        experiment.require()  # first: a run that was finished on another machine does not excuse what cannot run here
        place = Place.of(experiment, output, keeping)
        asked = share(experiment.requests(), keeping.part)
        before = place.begun()
        if (answered := nothing_left(experiment, place, before, asked, console)) is not None:
            names, _ = unscored(experiment, answered.values(), place.folder)
            if names:
                announce(experiment, how_to_score(names, "1 finished run", [place.folder], experiment.scoring), console)
            return place.folder
        ready = prepare(experiment, place, before, asked)
    if experiment.replay:
        ready = with_forced(ready, experiment.replay, console)
    opened = Records(place.folder, as_yaml(experiment.config), ready.manifest, keeping)
    with closing(opened) as kept, Stopping() as stopping:
        failed = work(ready, kept, stopping, tracker, console, among)
    trace_prompts(ready)
    if kept.done:
        announce(experiment, headline(list(kept.done.values())), console)
    names, lacking = unscored(experiment, kept.done.values(), place.folder)
    if names:
        where = f"{lacking} of {len(kept.done)} answers"
        announce(experiment, how_to_score(names, where, [place.folder], experiment.scoring), console)
    if failed:
        reason = f"{len(failed)} of {len(asked)} samples failed, the first with {failed[0]}; "
        reason += f"{place.folder / records.RECORDS} has all reasons, HYDRA_FULL_ERROR=1 shows the traceback"
        raise SamplesFailedError(f"{reason}; the same command tries them again", place.folder)
    stopping.check(done=place.folder)
    return place.folder


def with_forced(ready: Prepared, replaying: Replaying, console: Console) -> Prepared:
    """The same with the texts to force. With `of=full` the full cache writes them first, in a run of its own.

    That run has its own records, outside of the sweep's folder: it is made once for all policies and names, and a kill
    loses what it loses of any run. Raises ScopeError as `run` does, and for a text that is not there.
    """
    place, folder = ready.place, replaying.folder
    if replaying.of == FULL:
        keeping = replace(place.keeping, rerun=False, wait_seconds=max(place.keeping.wait_seconds, LONGEST_WAIT))
        try:
            full = of_the_full_cache(ready.experiment)
            folder = run(full, NoTracking(), place.output.parent / FULL_TEXTS, console, keeping)
        except Stopped as stop:
            raise Stopped(stop.signal) from stop  # the texts may be done, this run is not
    with before_it_runs():
        tokenizer = models.load_shape(ready.experiment.model)[1]
        forced = forced_texts(ready.experiment, ready.asked, ready.prompts, tokenizer, folder)
        if place.begun():  # asked anew: the full cache may have written for hours
            place.require_same_forced({request.name: forced[request.index].hash for request in ready.asked})
    return replace(ready, forced=forced)


class SamplesFailedError(ScopeError):
    """Some samples of a run have no answer; the others are recorded in `folder`."""

    def __init__(self, message: str, folder: Path) -> None:
        super().__init__(message)
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.folder)


def finished(
    experiment: Experiment, output: Path, console: Console, keeping: RecordKeeping
) -> tuple[Path, list[str]] | None:
    """The folder of a run that has nothing left to do, which its files alone tell; prints its headline. None otherwise.

    With the scorers that are asked for and have not scored it. Arguments as of `run`. Raises ScopeError for a model,
    data or records out of reach.
    """
    place = Place.of(experiment, output, keeping)
    asked = share(experiment.requests(), keeping.part)
    answered = nothing_left(experiment, place, place.begun(), asked, console)
    return None if answered is None else (place.folder, unscored(experiment, answered.values(), place.folder)[0])


def nothing_left(
    experiment: Experiment,
    place: Place,
    before: Mapping[str, Any] | None,
    asked: Sequence[Request],
    console: Console,
) -> Mapping[str, Mapping[str, Any]] | None:
    """The records of a run whose samples are all answered, and of which no trace is to be made; None for any other.

    before: the manifest, as `place.begun()` gives it. Prints the run's headline.
    """
    if experiment.trace or not before:
        return None
    answered = place.answered()
    if any(request.name not in answered for request in asked):
        return None
    announce(experiment, f"{headline(list(answered.values()))} (was finished already)", console)
    return answered


def work(
    ready: Prepared, kept: Records, stopping: Stopping, tracker: Tracker, console: Console, among: Among | None
) -> list[str]:
    """Make the records that are missing, and report on the way. -> the reason of each sample that failed.

    Raises ScopeError if not even one row fits in memory, and Stopped after a signal, unless all is answered by then.
    """
    experiment = ready.experiment
    todo = [request for request in ready.asked if request.name not in kept.done]
    if not todo:
        return []
    todo.sort(key=lambda request: -len(ready.prompts[request.index].tokens))  # rows of like length share a prefill
    with before_it_runs():
        measure = measured(ready)
    for note in measure.notes():
        announce(experiment, note, console)
    rows = measure.rows(todo)
    tracker.start(run_info(ready))
    failed: list[str] = []
    faulty: set[str] = set()  # scorers that have failed, which is said once of each
    try:
        with Progress(experiment.title, len(todo), experiment.task.max_new_tokens, console, among) as progress:
            make = partial(measure.make, progress=progress, stopping=stopping)
            for _, lines in attempts(todo, rows, make, measure.failed):
                kept.append(lines)
                progress.finish(lines)
                failed += [str(line.get("reason")) for line in lines if line["status"] != OK]
                for fault in faults(lines):
                    if fault.scorer not in faulty:
                        announce(experiment, f"{fault}; the text is kept", console)
                    faulty.add(fault.scorer)
                tracker.log(running(list(kept.done.values()), lines))
            if experiment.trace or any(request.name not in kept.done for request in ready.asked):
                stopping.check()
    except KeyboardInterrupt:
        if kept.done:
            part = f"stopped, with the longest prompts first: {len(kept.done)} of {len(ready.asked)} samples"
            announce(experiment, f"{part}: {headline(list(kept.done.values()))}", console)
        raise
    finally:
        tracker.finish(summary(list(kept.done.values())), [sample_row(line) for line in kept.done.values()])
    return failed


def measured(ready: Prepared) -> Answers | Replays:
    """What is measured of each sample. Loads the model."""
    loaded = models.load(ready.experiment.model)
    if ready.forced is None:
        return Answers(ready.experiment, loaded, ready.prompts)
    return Replays(ready.experiment, loaded, ready.prompts, ready.forced)


def run_info(ready: Prepared) -> RunInfo:
    """What a tracker is told of a run."""
    place = ready.place
    config = redact(ready.experiment.config)
    return RunInfo(place.output.name, place.folder.name, place.identity, place.folder, config)


def trace_prompts(ready: Prepared) -> None:
    """Generate the traced samples again, one by one; nothing for a run without a trace.

    So recording a trace does not change the times in the records, and a finished run can be traced too.
    """
    experiment = ready.experiment
    if not experiment.trace:
        return
    measure = Answers(experiment, models.load(experiment.model), ready.prompts)
    for request in experiment.requests()[: experiment.trace.prompts]:
        record_trace(
            experiment.trace,
            measure.loaded,
            measure.prompt(request),
            experiment.policy,
            experiment.task.max_new_tokens,
            experiment.sampling,
            ready.place.folder,
        )


def announce(experiment: Experiment, said: str, console: Console) -> None:
    """Print a line that begins with the run's title."""
    say(console, f"{experiment.title}: {said}")


def as_yaml(config: Mapping[str, Any]) -> str:
    """Plain data as YAML, in its own order, without secrets."""
    text: str = yaml.safe_dump(redact(config), sort_keys=False)
    return text
