"""Where a model's statistics are kept: one small file in the user's cache folder, found by what the model is."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from scope.generation.models import ModelSource, RandomModel
from scope.models.published import PUBLISHED
from scope.policy.query_statistics import QueryStatistics
from scope.util.errors import ConfigError, ScopeError, of_the_machine
from scope.util.files import make_folder, user_cache, write_whole
from scope.util.secrets import command_line


@dataclass(frozen=True)
class OfModel(QueryStatistics):
    """The statistics that `python -m scope.calibrate` has made of a model.

    model: where it comes from; the file is found by its fingerprint.
    Raises ConfigError where there are none, or where the file is damaged.
    """

    recorded_as: ClassVar[str] = QueryStatistics.recorded_as

    means: Tensor = field(init=False, repr=False, compare=False)
    magnitudes: Tensor = field(init=False, repr=False, compare=False)
    model: ModelSource = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        path = place_of(self.model)
        if not path.is_file():
            raise ConfigError(f"decoding=triattention: needs statistics of the model, once: {_command(self.model)}")
        try:
            with safe_open(path, "pt") as stored:
                for name in ("means", "magnitudes"):
                    object.__setattr__(self, name, stored.get_tensor(name))
                told = (stored.metadata() or {}).get("sha256")
            super().__post_init__()
        except (SafetensorError, ScopeError) as error:
            raise ConfigError(f"{path}: is damaged: {error}: {_command(self.model)} makes it anew") from error
        except OSError as error:
            raise ConfigError(of_the_machine(error)) from error
        if told != self.sha256:
            raise ConfigError(f"{path}: is damaged: {_command(self.model)} makes it anew")


def keep(model: ModelSource, statistics: QueryStatistics) -> Path:
    """Write the statistics of a model, in place of those that were there. -> the file.

    Raises ConfigError for a folder that cannot be made, OSError for a disk that cannot be written.
    """
    path = place_of(model)
    make_folder(path.parent)
    tensors = {"means": statistics.means, "magnitudes": statistics.magnitudes}
    write_whole(path, save(tensors, {"sha256": statistics.sha256}))
    return path


def place_of(model: ModelSource) -> Path:
    """The file of a model's statistics, whether it is there or not. Raises ScopeError for a model out of reach."""
    return user_cache() / "statistics" / f"{model.fingerprint()}.safetensors"


def _command(model: ModelSource) -> str:
    """What makes the statistics of this model."""
    words = [f"model={model.path}"]
    if isinstance(model, RandomModel):
        words.append(f"model.preset={model.preset}")
    elif model.path not in ("embedded", *PUBLISHED):
        words = ["model=hf", f"model.path={model.path}"]
    if model.revision is not None:
        words.append(f"model.revision={model.revision}")
    return command_line(["python", "-m", "scope.calibrate", *words])
