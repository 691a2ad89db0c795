"""The code, libraries and hardware of a run, and what of it changed since the run was started."""

import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "hydra-core",
    "omegaconf",
    "pandas",
    "datasets",
    "rouge-score",
    "wandb",
    "flash-attn",
    "triton",
)


def surroundings() -> dict[str, Any]:
    """Time, the project's commit, versions of libraries, and hardware, as the manifest holds them."""
    import torch  # imported late: reading records needs no torch

    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "versions": {"python": platform.python_version()} | {name: v for name in PACKAGES if (v := _version(name))},
        "hardware": {
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The checkout's commit, with `+` where files differ from it; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def mismatch(manifest: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What of the project and its libraries changed since a run was started, in words; empty if nothing did."""
    before, after = ({"commit": m.get("commit"), **m.get("versions", {})} for m in (manifest, now))
    return ", ".join(
        f"{name} {before.get(name)} (now {after.get(name)})"
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    )
