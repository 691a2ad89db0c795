"""Rows of a data set: from the hub, or from a file or folder of your own."""

import csv
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from scope.util.errors import ConfigError, ScopeError, nearest, shown

Row = dict[str, Any]
MOST_FILES = 100_000  # a folder with more files is not searched
WORKED = Path(__file__).with_name("worked")  # examples, instructions and templates of our own


@dataclass(frozen=True)
class Hub:
    """Where the hub keeps a data set.

    dataset: its id. subset: its configuration, None for the only one. split: such as "test". revision: a commit, or
    None.
    columns: column -> dtype (`[dtype]` for a list), needed only if the data set's files do not state it.
    """

    dataset: str
    subset: str | None
    split: str
    revision: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)

    def rows(self, advice: str) -> list[Row]:
        """All rows. Raises ScopeError if the data set cannot be had; `advice` ends the message and says what to do."""
        try:
            import datasets
        except ImportError as error:
            raise ScopeError(f"{self.dataset}: reading it needs: pip install -e '.[data]'") from error
        import huggingface_hub

        try:
            if not huggingface_hub.constants.HF_HUB_OFFLINE:  # datasets would retry for half a minute
                huggingface_hub.HfApi().auth_check(self.dataset, repo_type="dataset")
            features = datasets.Features({name: _feature(datasets, kind) for name, kind in self.columns.items()})
            found = datasets.load_dataset(
                self.dataset, self.subset, split=self.split, revision=self.revision, features=features or None
            )
        except Exception as error:  # the libraries raise errors of many kinds
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise ScopeError(f"{self.dataset}: not built here and cannot be downloaded ({reason}); {advice}") from error
        return [dict(row) for row in found]


def _feature(datasets: Any, kind: str) -> Any:
    return datasets.List(datasets.Value(kind[1:-1])) if kind.startswith("[") else datasets.Value(kind)


def read(source: str, names: Sequence[str]) -> list[Row]:
    """The rows of a file, or of one file in a folder. Each of `names` in turn narrows down the files named after it.

    Raises ConfigError, naming the file, if it cannot be read, has no rows, or the choice is not clear.
    """
    if not isinstance(source, str) or not source:
        raise ConfigError(f"task.source={shown(source)}: must be a file or a folder")
    path, kind = Path(source), None
    try:
        path = path.expanduser()
        kind = path.stat().st_mode
    except FileNotFoundError as error:
        raise ConfigError(f"task.source={source}: there is no such file or folder") from error
    except (OSError, RuntimeError, ValueError) as error:  # an unknown user, an invalid path, a path that is too long
        raise ConfigError(f"task.source={source}: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
        raise ConfigError(f"task.source={source}: is neither a file nor a folder")
    files = [path] if stat.S_ISREG(kind) else _choose(path, names)
    rows = [row for file in files for row in _read_file(file)]
    if not rows:
        raise ConfigError(f"task.source={source}: holds no rows")
    return rows


def _choose(folder: Path, names: Sequence[str]) -> list[Path]:
    """One file of the folder, or all parts (name-00000-of-00002) of one."""
    below = list(islice(_files(folder), MOST_FILES + 1))
    if len(below) > MOST_FILES:
        raise ConfigError(f"task.source={folder}: holds more than {MOST_FILES} files: name one")
    found = sorted(path for path in below if path.suffix in IN_FOLDERS and path.is_file())
    if not found:
        raise ConfigError(f"task.source={folder}: holds no {', '.join(IN_FOLDERS)} file")
    for name in names:
        found = [path for path in found if _is_named(path.relative_to(folder), name)] or found
    if len({(path.parent, path.stem.partition("-")[0], path.suffix) for path in found}) > 1:
        raise ConfigError(f"task.source={folder}: several files could be meant by {', '.join(names)}: name one")
    return found


def _files(folder: Path) -> Iterator[Path]:
    """All files in the folder and below it. Folders that may not be read are skipped."""
    for place, _, names in os.walk(folder):
        yield from (Path(place, name) for name in names)


def _is_named(path: Path, name: str) -> bool:
    return name in path.parts[:-1] or path.stem == name or path.stem.startswith((f"{name}-", f"{name}_"))


def _read_file(path: Path) -> list[Row]:
    reader = READERS.get(path.suffix)
    if reader is None:
        kinds = ", ".join(READERS)
        raise ConfigError(f"task.source={path}: must be {kinds}, or a folder of such files")
    try:
        return list(reader(path))
    except ConfigError:
        raise
    except Exception as error:  # the libraries raise errors of many kinds for a damaged file
        reason = " ".join(str(error).split())
        raise ConfigError(f"task.source={path}: cannot be read: {reason}") from error


def _read_jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ConfigError(f"task.source={path}: line {number} is no JSON object")
                yield row


def _read_json(path: Path) -> Iterator[Row]:
    rows = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(f"task.source={path}: must be a list of JSON objects")
    yield from rows


def _read_csv(path: Path) -> Iterator[Row]:
    """A cell that holds a list or an object is read as JSON. Cells beyond the last column stand under the key None."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        for row in csv.DictReader(stream):
            yield {name: _cell(cell) for name, cell in row.items()}


def _cell(text: Any) -> Any:
    if isinstance(text, str) and text.startswith(("[", "{")):
        try:
            return json.loads(text)
        except ValueError:  # a text that begins in brackets
            return text
    return text


def _read_parquet(path: Path) -> Iterator[Row]:
    from pyarrow import parquet

    yield from parquet.read_table(path).to_pylist()


# Not by pandas: it turns "007" into 7 and a whole number beside a gap into a float, refuses a file for one huge number,
# and takes the first cell of a row that is too long for the row's name.
IN_FOLDERS = {".jsonl": _read_jsonl, ".parquet": _read_parquet, ".csv": _read_csv}
READERS = IN_FOLDERS | {".json": _read_json}  # in a folder, a .json file describes the data


def require(row: Mapping[str, Any], columns: Sequence[str], where: str, keys: Mapping[str, str] | None = None) -> None:
    """Raise ConfigError, naming `where`, if a row lacks one of the columns or its cell is empty.

    keys: the settings by which a user names the columns.
    """
    for column in columns:
        if column not in row:
            there = ", ".join(sorted(map(str, row)))
            meant = nearest(column, map(str, row)) if not keys else _named(column, row, keys)
            raise ConfigError(f"{where} has no column {column}; it has {there}{meant}")
        if row[column] is None or row[column] == "":
            raise ConfigError(f"{where} has nothing in column {column}")


def _named(column: str, row: Mapping[str, Any], keys: Mapping[str, str]) -> str:
    """Says how to name another column of the row in place of a column that it lacks."""
    free = [str(name) for name in row if name not in keys]
    short = [name for name in free if name and column.lower().startswith(name.lower())]  # q is the question
    meant = nearest(column, free, f"{keys[column]}=")
    if not meant and len(short) == 1:
        meant = f"; did you mean {keys[column]}={short[0]}?"
    return meant or f"; {keys[column]}=... names another"


def read_text(file: Path, key: str) -> str:
    """The text of a file. Raises ConfigError, naming the key, if the file cannot be read or is empty."""
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # a device or pipe may never end
            raise ConfigError(f"{key}={file}: must be a file")
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{key}={file}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not text.strip():
        raise ConfigError(f"{key}={file}: is empty")
    return text


def read_examples(file: Path, where: str) -> list[Row]:
    """Worked examples from a .yaml or .json file. Raises ConfigError, naming `where`, if it holds no list of rows."""
    try:
        rows = yaml.safe_load(read_text(file, "task.examples"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(f"{where}: must be a list of examples, each with question, steps and answer")
    return rows
