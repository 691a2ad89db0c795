"""Prints the result of a search at its end."""

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from scope.util.secrets import redact

FOUND = "optimization_results.yaml"  # the searching sweeper's own
MEASURED = "{:.1%} of the answers right", "{:.0%} of the full cache's bytes for its own text"  # what main.py returns


class Best(Callback):
    """Prints the best trials of a sweeper that searches, and the file that it wrote."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        path = Path(config.hydra.sweep.dir) / FOUND
        if not config.hydra.sweeper.get("direction") or not path.exists():
            return
        found = OmegaConf.load(path)
        solutions = found.get("solutions") or []
        if "best_value" in found:  # there was one direction
            solutions = [OmegaConf.create({"params": found.best_params, "values": [found.best_value]})]
        if len(solutions) > 1:
            print(f"best: {len(solutions)} trials, none of them better than another in both")
        for solution in solutions:
            params = " ".join(f"{key}={value}" for key, value in solution.params.items())
            values = [text.format(value) for text, value in zip(MEASURED, solution["values"], strict=False)]
            print(redact(f"best: {params}: {', '.join(values)}"))
        print(f"written: {path}")
