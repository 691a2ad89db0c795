"""What wandb wrote to its offline files, for the tests. No test."""

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

wandb: Any = pytest.importorskip("wandb")


@dataclass
class Record:
    """What one `.wandb` file says about its run."""

    run_id: str = ""
    project: str = ""
    group: str = ""
    name: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    finished: bool = False


def messages(data: bytes) -> Iterator[bytes]:
    """The messages of a LevelDB log: in 32 KiB blocks, each piece headed by checksum, length and kind of piece."""
    block, header = 32 * 1024, struct.Struct("<IHB")
    whole, first, last = 1, 2, 4
    assert data[:4] == b":W&B"
    position, message = 7, b""
    while position + header.size <= len(data):
        room = block - position % block
        if room < header.size:  # too little for a header, so the block ends in padding
            position += room
            continue
        _, length, kind = header.unpack_from(data, position)
        position += header.size
        piece = data[position : position + length]
        if len(piece) < length:  # wandb-core is still writing it
            return
        position += length
        message = piece if kind in (whole, first) else message + piece
        if kind in (whole, last):
            yield message


def finished_record(folder: Path) -> Record:
    """The last W&B run recorded under `folder`, once wandb-core, which does not hurry, has written its end."""
    wait_for(lambda: read_record(folder).finished)
    return read_record(folder)


def read_record(folder: Path) -> Record:
    from wandb.proto.wandb_internal_pb2 import Record as Entry  # type: ignore[attr-defined]

    def values(items: Any) -> dict[str, Any]:
        return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}

    record = Record()
    for message in messages(record_files(folder)[-1].read_bytes()):
        entry = Entry.FromString(message)
        match entry.WhichOneof("record_type"):
            case "run":
                record.run_id, record.project = entry.run.run_id, entry.run.project
                record.group, record.name = entry.run.run_group, entry.run.display_name
                record.tags = list(entry.run.tags)
                record.config |= values(entry.run.config.update)
            case "config":
                record.config |= values(entry.config.update)
            case "history":
                record.history.append(values(entry.history.item))
            case "summary":
                record.summary |= values(entry.summary.update)
            case "exit":
                record.finished = entry.exit.exit_code == 0
    record.config.pop("_wandb", None)
    return record


def record_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("wandb/*run-*/*.wandb"))


def wait_for(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
