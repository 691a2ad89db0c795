"""What a run replays: which texts are forced after the prompts."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from scope import records
from scope.tasks import Sample
from scope.util.errors import ConfigError, ImpossibleError, SettingError, check_count, nearest, shown

GOLD, FULL = "gold", "full"


@dataclass(frozen=True)
class Replaying:
    """The texts of a replay, and how it is run.

    of: `gold`: the right answer that each sample of the task knows. `full`: what the model writes with its full cache,
    with the run's sampling. Otherwise the folder of a run with records of the same prompts, whose texts are forced.
    block: tokens of a row whose logits exist at once; it changes no result.
    Raises SettingError for a value that is not allowed.
    """

    of: str = GOLD
    block: int = field(default=128, metadata={"limit": True})

    def __post_init__(self) -> None:
        if not isinstance(self.of, str) or not self.of:
            raise SettingError(self, "of", self.of, "gold, full or the folder of a run")
        check_count(self, "block", low=1)

    @cached_property
    def folder(self) -> Path | None:
        """The folder whose texts are forced; None for `gold` and `full`. Raises ConfigError where it is no run's."""
        if self.of in (GOLD, FULL):
            return None
        folder = Path(self.of).expanduser()
        if not (folder / records.MANIFEST).is_file():
            why = "it has no manifest.json" if folder.is_dir() else "there is no such folder"
            allowed = f"must be gold, full or the folder of a run: {why}"
            raise ConfigError(f"replay.of={shown(self.of)}: {allowed}{nearest(self.of, (GOLD, FULL))}")
        return folder

    @property
    def told(self) -> str:
        """`of` as it is recorded: a folder by its run's identity, since its place changes nothing."""
        folder = self.folder
        return self.of if folder is None else f"run {records.read_manifest(folder)['identity'][:16]}"

    def origin(self, samples: Sequence[Sample]) -> str:
        """A hash of the first right answer, where these are forced; else empty. `Sample.origin` does not cover it.

        All others are compared with the records when a run goes on. Raises ImpossibleError where there is none, and for
        a task whose prompts have later turns, or questions that come later.
        """
        if any(sample.asking for sample in samples):
            refused = "forces a text right after the compressed prompt, and here a question comes between"
            raise ImpossibleError(f"measure=replay: {refused}: task.question=in_prompt")
        if any(sample.turns for sample in samples):
            raise ImpossibleError("measure=replay: forces one text a prompt, and this task asks again: task.turns=1")
        if self.of != GOLD:
            return ""
        for sample in samples:
            if sample.gold is None or not sample.gold.text:
                raise ImpossibleError(
                    f"replay.of=gold: {sample.name} has no right answer to force: take replay.of=full or a run's folder"
                )
        return hashlib.sha256(repr(samples[0].gold).encode()).hexdigest()
