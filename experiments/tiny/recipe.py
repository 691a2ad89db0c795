"""The recipe of the embedded model (recipe.yaml) as values."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from experiments.tiny.curriculum import Stage

RECIPE = Path(__file__).with_name("recipe.yaml")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what weights come out; `overrides` are `key=value`."""

    seed: int
    workers: int
    tokens: int
    decay_from: float
    model: dict[str, Any]
    muon_lr: float
    adam_lr: float
    warmup_steps: int
    reference_weight: float
    turned_weight: float
    gate: float
    stages: tuple[Stage, ...]

    @classmethod
    def read(cls, overrides: list[str]) -> "Recipe":
        cfg = OmegaConf.merge(OmegaConf.load(RECIPE), OmegaConf.from_dotlist(overrides))
        values: dict[str, Any] = OmegaConf.to_container(cfg)  # type: ignore[assignment]
        stages = tuple(Stage(**stage) for stage in values.pop("stages"))
        return cls(stages=stages, **values)

    def digest(self) -> str:
        """Names the recipe beside the weights that it made."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]
