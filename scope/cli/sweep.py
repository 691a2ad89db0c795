"""A sweep: which of its jobs can run, and the report at its end."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from scope.cli.config import NO_USE, Job, build, default_budget, files_of, unused
from scope.cli.door import program
from scope.runs.forecast import show_plan
from scope.runs.run import SamplesFailedError, finished
from scope.runs.tracking import kept_offline
from scope.runs.unscored import how_to_score
from scope.util.errors import BugError, ConfigError, ImpossibleError, ScopeError, of_the_machine, one_line, shown
from scope.util.files import require_place
from scope.util.importing import uncollected
from scope.util.saying import say
from scope.util.secrets import command_line, redact

Overrides = tuple[str, ...]
ELSEWHERE = ("submitit_slurm", "ray")  # launchers whose jobs may run on other machines than this one


class SweepError(ScopeError):
    """Some jobs failed; the others are recorded."""


def paired(jobs: Sequence[Sequence[str]], pairs: Sequence[str]) -> list[list[str]]:
    """Each job combined with each line of `pairs` that does not contradict it.

    Raises ConfigError for a line that is not key=value words, and if a job contradicts all lines.
    """
    lines = [_line(pair) for pair in pairs]
    made = []
    for job in jobs:
        given = {_key_of(override): override for override in job}
        agreeing = []
        for line in lines:
            if all(given.get(key, override) == override for key, override in line.items()):
                agreeing.append(list((given | line).values()))
        if not agreeing:
            raise ConfigError(f"{' '.join(job)}: contradicts every pair of this sweep: {', '.join(pairs)}")
        made += agreeing
    return made


def _line(pair: object) -> dict[str, str]:
    """Key -> override, of one line of overrides."""
    words = pair.split() if isinstance(pair, str) else []
    if not words or not all(re.match(r"[\w./@]+=", word) for word in words):
        allowed = "must be a line of key=value, such as 'method=h2o decoding=slide'"
        raise ConfigError(f"hydra.sweeper.pairs: {shown(pair)}: {allowed}")
    return {_key_of(word): word for word in words}


def shared_keys(jobs: Sequence[Sequence[str]]) -> list[str]:
    """Keys of overrides that do not tell jobs apart: those with one value in all jobs, and the labels."""
    given: dict[str, set[str]] = {}
    for job in jobs:
        for override in job:
            given.setdefault(_key_of(override), set()).add(override)
    everywhere = [key for key in given if all(any(_key_of(o) == key for o in job) for job in jobs)]
    return [*(key for key in everywhere if len(given[key]) == 1), "method", "decoding"]


def setting_of(job: Sequence[str], shared: Sequence[str]) -> str:
    """A job's overrides without the shared keys, as one line without secrets."""
    return str(redact(" ".join(override for override in job if _key_of(override) not in shared)))


def _key_of(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def reason_of(error: Exception) -> str:
    """An error's message in one line. Of a traceback that another process sent as text, the line with the error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if len(lines) == 1:
        return lines[0]
    return next((line for line in reversed(lines) if re.match(r"[\w.]*(Error|Exception|Exit)\b", line)), lines[0])


@dataclass(frozen=True)
class Sweep:
    """The jobs that can run, and those that cannot with the reason."""

    jobs: tuple[Overrides, ...]
    skipped: tuple[tuple[Overrides, str], ...]
    built: tuple[Job, ...]
    elsewhere: bool = False  # whether other machines may run them

    @classmethod
    def check(cls, composed: Sequence[tuple[Overrides, Any]]) -> "Sweep":
        """Build all jobs and sort out those that cannot run. Loads no model, writes nothing.

        composed: each job's overrides and its configuration. Raises ConfigError for a wrong value, or if none can run.
        """
        jobs, skipped, built = [], [], []
        elsewhere = any(cfg.hydra.runtime.choices.get("hydra/launcher") in ELSEWHERE for _, cfg in composed)
        useless: dict[str, int] = {}
        notes: dict[str, None] = {}  # a dict keeps the order
        for overrides, cfg in composed:
            try:
                job = build(cfg, cfg.hydra.runtime.choices, files_of(cfg.hydra))
                if not elsewhere and not job.assumed_speed:  # a plan can be made anywhere
                    job.experiment.require()
                built.append(job)
                jobs.append(overrides)
                if note := default_budget(cfg, overrides, cfg.hydra.runtime.choices):
                    notes[note] = None
                for word in unused(cfg, overrides):
                    useless[word] = useless.get(word, 0) + 1
            except ImpossibleError as error:
                skipped.append((overrides, str(error)))
        if not jobs:
            raise ConfigError(f"no job of this sweep can run: {skipped[0][1]}" if skipped else "a sweep without jobs")
        shared = shared_keys(jobs)
        told_apart = [
            replace(job, experiment=replace(job.experiment, setting=setting_of(overrides, shared)))
            for overrides, job in zip(jobs, built, strict=True)
        ]
        sweep = cls(tuple(jobs), tuple(skipped), tuple(told_apart), elsewhere)
        sweep._announce()
        for note in notes:
            sweep.tell(note)
        for word, times in useless.items():
            if times == sum(word in overrides for overrides in jobs):
                sweep.tell(NO_USE.format(word))
        return sweep

    def _announce(self) -> None:
        skipped = f"; {len(self.skipped)} skipped, with the reason at the end" if self.skipped else ""
        self.tell(f"{len(self.jobs)} run{'s' * (len(self.jobs) > 1)}{skipped}")

    @staticmethod
    def tell(line: str) -> None:
        say(Console(highlight=False), str(redact(line)))

    def require_data(self) -> None:
        """Read each task's data once, before the first job runs. Raises ConfigError for malformed data."""
        tasks = {repr(job.experiment.task): job.experiment.task for job in self.built}
        for task in tasks.values():
            try:
                task.samples()
            except ConfigError:
                raise
            except ScopeError:
                continue  # cannot be reached: its own jobs say so, and the others run

    def require_place(self, launched: Path) -> None:
        """Raise ConfigError if an output folder cannot be made. launched: the folder that launchers write to."""
        for output in dict.fromkeys([*(job.output for job in self.built), launched]):
            require_place(output)

    def show_plan(self) -> bool:
        """With plan=true, print the sweep's cost and what it skips. -> whether a plan was asked for."""
        speed = self.built[0].assumed_speed
        if speed is None:
            return False
        console = Console(highlight=False)
        show_plan([job.experiment for job in self.built], speed, console)
        self._say_skipped(console)
        return True

    def _say_skipped(self, console: Console) -> None:
        for overrides, reason in self.skipped:
            said = one_line(str(redact(f"skipped {' '.join(overrides)}: {reason}")))
            say(console, said)

    def finished(self) -> list[Path | None]:
        """For each job the folder of a run that has nothing left to do; None where there is work.

        Says in one line which scorers have not scored such runs.
        """
        found = [self._finished(job, Console(highlight=False)) for job in self.built]
        lacking = [(job, run[1]) for job, run in zip(self.built, found, strict=True) if run and run[1]]
        if lacking:
            names = dict.fromkeys(name for _, names in lacking for name in names)
            scoring = dict.fromkeys(name for job, _ in lacking for name in job.experiment.scoring)
            where = f"{len(lacking)} finished run{'s' * (len(lacking) > 1)}"
            self.tell(how_to_score(list(names), where, dict.fromkeys(job.output for job, _ in lacking), scoring))
        return [run and run[0] for run in found]

    def _finished(self, job: Job, console: Console) -> tuple[Path, list[str]] | None:
        if self.elsewhere and not job.experiment.model.same_everywhere:
            return None  # its identity may differ on the other machine
        try:
            return finished(job.experiment, job.output, console, job.keeping)
        except (ScopeError, OSError):
            return None  # its own job says so, and the others run

    def report(self, outcomes: Sequence[Path | Exception], repeat: Sequence[str] = ()) -> None:
        """Print and write the tables, and name the jobs that failed. repeat: the first words of each job's command.

        Raises SweepError if a job failed or the tables cannot be written, ConfigError if every job was refused, and
        BugError if a bug of this project stopped one.
        """
        with uncollected():
            from analysis import tables

        console = Console(highlight=False)
        folders = [o.folder if isinstance(o, SamplesFailedError) else o for o in outcomes]
        written = [folder for folder in folders if isinstance(folder, Path)]
        unwritten: OSError | None = None
        if written and self.built[0].keeping.shard is None:
            frame = tables.build(written)
            tables.show(frame, console)
            try:
                for path in tables.write(frame, written[0].parent):
                    console.print(f"written: {path}", soft_wrap=True, markup=False)
            except OSError as refused:  # reported at the end, where it is seen
                unwritten = refused
        if offline := kept_offline(written):
            console.print(offline, soft_wrap=True, markup=False)
        runs = zip(self.jobs, self.built, outcomes, strict=True)
        failed = [(overrides, job, outcome) for overrides, job, outcome in runs if isinstance(outcome, Exception)]
        self._say_skipped(console)
        if unwritten:
            reason = f"{of_the_machine(unwritten)}: the tables are not written; the records are whole"
            if not failed:
                raise SweepError(reason) from unwritten
            self.tell(reason)
        for overrides, job, error in failed:
            command = command_line([*program(), *repeat, *overrides])
            word = "REFUSED" if isinstance(error, ConfigError) else "FAILED"
            self.tell(f"{word} {job.experiment.title}: {one_line(str(redact(reason_of(error))))}")
            self.tell(f"  repeat it alone: {command}")
        if errors := [error for *_, error in failed]:
            raise self._failure(errors, bool(written))(_counted(errors, len(outcomes)))

    @staticmethod
    def _failure(errors: Sequence[Exception], ran: bool) -> type[Exception]:
        """The class to raise: a bug's first; ConfigError only if nothing ran. ran: whether something ran."""
        if any(isinstance(error, BugError) for error in errors):
            return BugError
        refused = not ran and all(isinstance(error, ConfigError) for error in errors)
        return ConfigError if refused else SweepError


def _counted(errors: Sequence[Exception], runs: int) -> str:
    """How many of the runs were refused before anything ran, and how many failed, in words."""
    refused = sum(isinstance(error, ConfigError) for error in errors)
    said = [f"{refused} of {runs} runs refused, with the reason above"] * bool(refused)
    if failed := len(errors) - refused:
        said.append(f"{failed} of {runs} runs failed; the same command tries them again")
    return "; ".join(said)
