"""Composes several configurations from the same files, and reads each file once."""

import copy
from dataclasses import replace
from itertools import takewhile
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository, IConfigRepository
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.default_element import ResultDefault
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, flag_override

Place = tuple[str | None, str | None]  # the path of a configuration, and its package


class RememberingRepository(ConfigRepository):
    """Reads each configuration file once: all jobs of a sweep are composed from the same files."""

    def __init__(self, repository: IConfigRepository) -> None:
        self.sources = repository.get_sources()
        self._read: dict[str, ConfigResult | None] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "RememberingRepository":
        return self  # Hydra copies it for every job; a copy would read the files again

    def load_config(self, config_path: str) -> ConfigResult | None:
        if config_path not in self._read:
            self._read[config_path] = super().load_config(config_path)
        return self._read[config_path]


class RememberingLoader(ConfigLoaderImpl):
    """Composes as Hydra does, but composes Hydra's own part, which all jobs share, only once."""

    def __init__(self, search_path: ConfigSearchPath) -> None:
        super().__init__(search_path)
        self.repository = RememberingRepository(self.repository)
        self._loaded: dict[Place, ConfigResult] = {}
        self._composed: dict[tuple[Place, ...], DictConfig] = {}

    def _load_single_config(self, default: ResultDefault, repo: IConfigRepository) -> ConfigResult:
        place = default.config_path, default.package
        if place not in self._loaded:
            self._loaded[place] = super()._load_single_config(default, repo)
        loaded = self._loaded[place]
        return replace(loaded, config=copy.deepcopy(loaded.config))  # composing changes these nodes

    def _compose_config_from_defaults_list(self, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
        shared = list(takewhile(lambda default: (default.config_path or "").startswith("hydra/"), defaults))
        key = tuple((default.config_path, default.package) for default in shared)
        if key not in self._composed:
            self._composed[key] = super()._compose_config_from_defaults_list(shared, repo)
        composed = copy.deepcopy(self._composed[key])
        with flag_override(composed, "no_deepcopy_set_nodes", True):
            composed.merge_with(super()._compose_config_from_defaults_list(defaults[len(shared) :], repo))
        return composed
