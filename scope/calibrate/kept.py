"""Where a model's statistics are kept: one small file in the user's cache folder, found by what the model is."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from scope.calibrate.collect import Calibrated
from scope.generation.models import ModelSource, RandomModel
from scope.models.published import PUBLISHED
from scope.policy.layer_entropies import LayerEntropies
from scope.policy.query_statistics import QueryStatistics
from scope.util.errors import ConfigError, ScopeError, of_the_machine
from scope.util.files import make_folder, user_cache, write_whole
from scope.util.secrets import command_line

QUERIES, ENTROPIES = ("means", "magnitudes"), ("nats",)  # the tensors of a file


@dataclass(frozen=True)
class OfModel(QueryStatistics):
    """The query statistics that `python -m scope.calibrate` has made of a model.

    model: where it comes from; the file is found by its fingerprint.
    Raises ConfigError where there are none, or where the file is damaged.
    """

    recorded_as: ClassVar[str] = QueryStatistics.recorded_as

    means: Tensor = field(init=False, repr=False, compare=False)
    magnitudes: Tensor = field(init=False, repr=False, compare=False)
    model: ModelSource = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        with _opened(self.model, "decoding=triattention", QUERIES) as stored:
            for name in QUERIES:
                object.__setattr__(self, name, stored.get_tensor(name))
            super().__post_init__()
            _require_whole(stored, "sha256", self.sha256)


@dataclass(frozen=True)
class EntropiesOfModel(LayerEntropies):
    """The entropies that `python -m scope.calibrate` has measured of a model.

    model: as for `OfModel`.
    Raises ConfigError where there are none, as in a file from before they were measured, or where the file is damaged.
    """

    recorded_as: ClassVar[str] = LayerEntropies.recorded_as

    nats: tuple[float, ...] = field(init=False)
    model: ModelSource = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        with _opened(self.model, "method=entropy", ENTROPIES) as stored:
            object.__setattr__(self, "nats", tuple(stored.get_tensor("nats").tolist()))
            super().__post_init__()
            _require_whole(stored, "entropies_sha256", self.sha256)


@contextmanager
def _opened(model: ModelSource, asking: str, names: Sequence[str]) -> Iterator[Any]:
    """The file of a model's statistics, which has these tensors.

    asking: the option that needs them, for the message. Raises ConfigError where they are not there, and where what is
    done with the file tells that it is damaged.
    """
    path = place_of(model)
    missing = ConfigError(f"{asking}: needs statistics of the model, once: {_command(model)}")
    if not path.is_file():
        raise missing
    try:
        with safe_open(path, "pt") as stored:
            if not {*names} <= {*stored.keys()}:
                raise missing
            yield stored
    except ConfigError:
        raise
    except (SafetensorError, ScopeError) as error:
        raise ConfigError(f"{path}: is damaged: {error}: {_command(model)} makes it anew") from error
    except OSError as error:
        raise ConfigError(of_the_machine(error)) from error


def _require_whole(stored: Any, name: str, sha256: str) -> None:
    """Raise ScopeError where what was read has another hash than the file says."""
    if (stored.metadata() or {}).get(name) != sha256:
        raise ScopeError("its contents and their hash differ")


def keep(model: ModelSource, found: Calibrated) -> Path:
    """Write the statistics of a model, in place of those that were there. -> the file.

    Raises ConfigError for a folder that cannot be made, OSError for a disk that cannot be written.
    """
    path, queries, entropies = place_of(model), found.queries, found.entropies
    make_folder(path.parent)
    nats = torch.tensor(entropies.nats, dtype=torch.float64)
    tensors = {"means": queries.means, "magnitudes": queries.magnitudes, "nats": nats}
    write_whole(path, save(tensors, {"sha256": queries.sha256, "entropies_sha256": entropies.sha256}))
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
