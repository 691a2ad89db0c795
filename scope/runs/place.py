"""Where a run is kept: its folder, and the identity by which the same run is found again."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scope import records
from scope.generation.prompts import Encoded
from scope.records import RecordKeeping
from scope.runs.batches import OK
from scope.runs.experiment import Experiment, Request
from scope.util.errors import ConfigError

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """The place of one run.

    identity: a hash of all settings that can change an answer. code: source file -> hash, for the classes of the run.
    output: the sweep's folder. name: of the run's folder in it.
    keeping: how the run treats records that are there already; a shard has a folder of its own within the run's.
    """

    identity: str
    output: Path
    name: str
    keeping: RecordKeeping
    code: Mapping[str, str]

    @classmethod
    def of(cls, experiment: Experiment, output: Path, keeping: RecordKeeping) -> "Place":
        """Computes the identity, once. Raises ScopeError for a model, or data, out of reach."""
        identity = experiment.identity()
        return cls(identity, output, experiment.folder_name(identity), keeping, experiment.code())

    @property
    def folder(self) -> Path:
        """Where this run's records go."""
        return self.keeping.place(self.output / self.name)

    def begun(self) -> dict[str, Any] | None:
        """The manifest of the run that this one continues; None where this one starts from the beginning.

        Raises ConfigError if samples were answered by other code, unless `on_mismatch` is `rerun` or `accept`.
        """
        if self.keeping.rerun or not (self.folder / records.MANIFEST).exists():
            return None
        manifest = records.read_manifest(self.folder)
        if manifest["identity"] != self.identity:
            return None
        on_mismatch = self.keeping.on_mismatch
        if edited := records.changed_code(manifest.get("code"), self.code):
            if on_mismatch == "rerun":
                return None
            if self.answered():
                said = f"{self.folder}: was answered by other code than there is now, changed: {records.listed(edited)}"
                if on_mismatch != "accept":
                    raise ConfigError(
                        f"{said}; rerun=true answers all anew, another name=... keeps both, and "
                        "records.on_mismatch=accept keeps the answers"
                    )
                _logger.warning("%s", said)
        changed = on_mismatch == "rerun" and records.mismatch(manifest, records.surroundings())
        return None if changed else manifest

    def answered(self) -> Mapping[str, Mapping[str, Any]]:
        """Sample -> its record, for the samples that were answered."""
        return {line["sample"]: line for line in records.read(self.folder) if line.get("status") == OK}

    def require_same_prompts(self, asked: Sequence[Request], prompts: Sequence[Encoded]) -> None:
        """Raises ConfigError if a sample was answered for another prompt than it has now.

        asked: the requests of this run or shard; prompts: those of all requests, by `Request.index`.
        """
        self._require_same("prompt", {request.name: prompts[request.index].hash for request in asked})

    def require_same_forced(self, hashes: Mapping[str, str]) -> None:
        """Raises ConfigError if another text was forced than is now. hashes: of the texts' tokens, by sample."""
        self._require_same("forced", hashes)

    def _require_same(self, what: str, hashes: Mapping[str, str]) -> None:
        was_for, made_by = {
            "prompt": ("answered for another prompt", "what makes prompts"),
            "forced": ("replayed with another text", "what makes these texts"),
        }[what]
        answered = self.answered()
        for name, now in hashes.items():
            was = answered.get(name, {}).get(f"{what}_hash")
            if was is not None and was != now:
                raise ConfigError(
                    f"{self.folder}: {name} was {was_for} ({was}, now {now}): {made_by} has changed since; rerun=true "
                    "answers all anew, and another name=... keeps both"
                )
