"""The sweep: check every job before the first one runs, skip the impossible, go on after failures, then the table."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus


@dataclass
class ScopeSweeperConf:
    _target_: str = "hydra_plugins.scope_sweeper.scope_sweeper.ScopeSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = None
    pairs: list[str] | None = None


ConfigStore.instance().store(group="hydra/sweeper", name="scope", node=ScopeSweeperConf, provider="scope")


class ScopeSweeper(BasicSweeper):
    """Hydra's basic sweeper (a Cartesian product) with manners.

    pairs: overrides that belong together, each a line such as `method=h2o decoding=slide`; the product is taken with
    these lines. Where the command line sets one of their keys, it takes the lines that agree.
    """

    def __init__(
        self, max_batch_size: int | None, params: dict[str, str] | None = None, pairs: list[str] | None = None
    ) -> None:
        super().__init__(max_batch_size, params)
        self.pairs = pairs

    def sweep(self, arguments: list[str]) -> Any:
        from scope.sweep import Sweep, paired

        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        (jobs,) = self.split_arguments(overrides, max_batch_size=None)
        if self.pairs:
            jobs = paired(jobs, self.pairs)
        sweep = Sweep.check([(tuple(job), self._compose(job)) for job in jobs])
        if sweep.show_plan():
            return []
        returns: list[JobReturn] = []
        for batch in self.split_overrides_to_chunks([list(job) for job in sweep.jobs], self.max_batch_size):
            returns += self.launcher.launch(batch, initial_job_idx=len(returns))
        sweep.report([_outcome(job, ran) for job, ran in zip(sweep.jobs, returns, strict=True)])
        return [returns]

    def _compose(self, overrides: Sequence[str]) -> Any:
        return self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))


def _outcome(job: Sequence[str], ran: JobReturn) -> Path | Exception:
    """The folder that a job wrote, or why it failed."""
    if ran.status == JobStatus.COMPLETED:
        return Path(ran.return_value)
    error = ran._return_value
    logging.getLogger("scope").debug("job %s failed", " ".join(job), exc_info=error)
    return error if isinstance(error, Exception) else RuntimeError(str(error))
