"""What the commands share: where conf/ is, their own name, a composed configuration, and errors told in one line."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scope.cli.trust import permitted
from scope.util.errors import print_anything

ROOT = Path(__file__).resolve().parents[2]  # the folder that `scope` is imported from
_PLACES = (ROOT / "scope" / "conf", ROOT / "conf")  # in an installed package, and in a checkout
CONF = next(folder for folder in _PLACES if folder.is_dir())


def program() -> list[str]:
    """The words that start the running command: `python main.py`, or the name of an installed one."""
    name = Path(sys.argv[0]).name
    return ["python", name] if name.endswith(".py") else [name]


def composed(overrides: Sequence[str]) -> tuple[Any, Any]:
    """The job that these overrides ask for, and the configuration as composed.

    Raises ScopeError for anything that a user can fix, and what Hydra raises for what it cannot compose.
    """
    from hydra import compose, initialize_config_dir  # the library runs without it
    from hydra.core.hydra_config import HydraConfig

    from scope.cli import config
    from scope.cli.explain import accounted

    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        with accounted():
            return config.build(cfg, cfg.hydra.runtime.choices, config.files_of(cfg.hydra)), cfg


def answered(act: Callable[[], None], arguments: Sequence[str]) -> int:
    """Act, and tell an error in one line. arguments: the words of the command.

    -> the exit code: 0 done, 1 it could not be written, 2 refused, 70 a bug of this project.
    """
    from scope.cli.explain import exit_code, told

    print_anything()
    try:
        with permitted(arguments):
            act()
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(told(error, CONF, arguments), file=sys.stderr)
        return exit_code(error)
    return 0
