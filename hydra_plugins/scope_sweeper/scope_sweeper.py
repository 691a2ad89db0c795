"""Hydra's sweeper for SCOPE: checks all jobs first, skips impossible ones, continues after failures, prints tables."""

import gc
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, open_dict

from scope.cli.composing import RememberingLoader
from scope.cli.hydra_part import require_same
from scope.util.importing import uncollected


@dataclass
class ScopeSweeperConf:
    _target_: str = "hydra_plugins.scope_sweeper.scope_sweeper.ScopeSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = None
    pairs: list[str] | None = None
    jobs: int | None = None  # set by the sweeper itself, for its jobs: how many it runs, and since when in seconds
    began: float | None = None


LAUNCHING = ("hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper", "hydra.mode")


ConfigStore.instance().store(group="hydra/sweeper", name="scope", node=ScopeSweeperConf, provider="scope")
# The arguments of a chat template are not known in advance, so keys may be added without a +. YAML cannot say that.
# It is in a group of its own, since it is no model.
ConfigStore.instance().store(
    group="model/parts", name="template", node={"template": DictConfig({}, flags={"struct": False})}, provider="scope"
)


class ScopeSweeper(BasicSweeper):
    """Hydra's basic sweeper (a Cartesian product), with checks before, a report after, and `pairs`.

    pairs: lines of overrides that belong together, such as `method=h2o decoding=slide`. Each job of the product is
    combined with each line. If the command line sets one of their keys, only the lines that agree are used.
    """

    def __init__(
        self,
        max_batch_size: int | None,
        params: dict[str, str] | None = None,
        pairs: list[str] | None = None,
        jobs: int | None = None,
        began: float | None = None,
    ) -> None:
        super().__init__(max_batch_size, params)
        self.pairs = pairs

    def sweep(self, arguments: list[str]) -> Any:
        with uncollected():
            from scope.cli.explain import accounted
            from scope.cli.sweep import paired
            from scope.util.errors import ConfigError
        if self.max_batch_size is not None and self.max_batch_size < 1:
            raise ConfigError(f"hydra.sweeper.max_batch_size={self.max_batch_size}: must be null or at least 1")
        gc.freeze()  # nor searched while jobs are composed, which makes many more objects

        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        (jobs,) = self.split_arguments(overrides, max_batch_size=None)
        if self.pairs:
            jobs = paired(jobs, self.pairs)
        self.hydra_context.config_loader = RememberingLoader(self.hydra_context.config_loader.config_search_path)
        composed = [(tuple(job), self._compose(job)) for job in jobs]
        with accounted():
            self._run(composed)
        return []

    def _run(self, composed: Sequence[tuple[tuple[str, ...], Any]]) -> None:
        """Check jobs, run those that can run, and report. composed: each job's overrides and its configuration."""
        from scope.cli.crowded import cores, crowded, threads_asked
        from scope.cli.sweep import Sweep, shared_keys

        sweep = Sweep.check(composed)
        if sweep.show_plan():
            return
        sweep.require_data()
        sweep.require_place(Path(self.config.hydra.sweep.dir))
        outcomes: dict[int, Path | Exception] = {i: f for i, f in enumerate(sweep.finished()) if f}
        todo = [i for i in range(len(sweep.jobs)) if i not in outcomes]  # a finished run costs no launch
        hydra = [o for o in self.config.hydra.overrides.hydra if not o.startswith(LAUNCHING)]
        with open_dict(self.config):  # tells each job which of its overrides differ from the others', and its place
            same = ",".join(f"'{key}'" for key in shared_keys(sweep.jobs))
            self.config.hydra.overrides.hydra += [
                f"hydra.job.config.override_dirname.exclude_keys=[{same}]",
                f"hydra.sweeper.jobs={len(todo)}",
                f"hydra.sweeper.began={time.time()}",
            ]
        if todo and (printed := self.config.hydra.launcher.get("submitit_folder")):
            sweep.tell(f"what a job prints, %j its id: {printed}")
        if todo and (jobs := self.config.hydra.launcher.get("n_jobs")):
            threads = sweep.built[todo[0]].experiment.model.threads or threads_asked()
            if note := crowded(min(jobs, len(todo)), threads, cores()):
                sweep.tell(note)
        size = self.max_batch_size or len(todo) or 1
        for at in range(0, len(todo), size):
            some = todo[at : at + size]
            outcomes |= zip(some, self._launch([sweep.jobs[i] for i in some], at), strict=True)
        repeat = ["-m", *hydra] if self.params else hydra  # an experiment that is a sweep does not run without
        sweep.report([outcomes[i] for i in range(len(sweep.jobs))], repeat)

    def _launch(self, jobs: Sequence[Sequence[str]], first: int) -> list[Path | Exception]:
        """Run jobs. If the launcher fails as a whole (a worker was killed), run each job again, one by one."""
        try:
            returns = self.launcher.launch([list(job) for job in jobs], initial_job_idx=first)
        except Exception as error:
            if len(jobs) == 1:
                return [error]
            logging.getLogger(__name__).warning("%s; going on with its jobs one by one", " ".join(str(error).split()))
            return [self._launch([job], first + i)[0] for i, job in enumerate(jobs)]
        return [_outcome(job, ran) for job, ran in zip(jobs, returns, strict=True)]

    def _compose(self, overrides: Sequence[str]) -> Any:
        composed = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        require_same(composed.hydra, self.config.hydra)
        return composed


def _outcome(job: Sequence[str], ran: JobReturn) -> Path | Exception:
    """The folder that a job wrote, or why it failed."""
    if ran.status == JobStatus.COMPLETED:
        return Path(ran.return_value)
    error = ran._return_value
    logging.getLogger("scope").debug("job %s failed", " ".join(job), exc_info=error)
    return error if isinstance(error, Exception) else RuntimeError(str(error))
