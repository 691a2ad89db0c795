"""One record as one line: JSON that ends in a checksum of itself and of the run it belongs to.

The checksum tells a line that this run wrote from one that was changed since, torn, or written by another run.
"""

import json
import zlib
from collections.abc import Mapping
from typing import Any

_CHECK = b', "check": "'


class DamagedLineError(ValueError):
    """A line that is not as this run wrote it; the message says why."""


class UnsealedLineError(DamagedLineError):
    """A line without a checksum: torn, not one of ours, or from before lines had one."""


def seal(record: Mapping[str, Any], identity: str) -> bytes:
    """A record as a line, newline included. identity: of the run that it belongs to."""
    body = json.dumps(dict(record)).encode()
    return body[:-1] + _CHECK + _checksum(body, identity) + b'"}\n'


def parse(line: bytes, identity: str) -> dict[str, Any]:
    """The record of a line, its newline left out. Raises DamagedLineError."""
    body, mark, check = line.rpartition(_CHECK)
    if not mark:
        raise UnsealedLineError("it has no checksum")
    body += b"}"
    if check != _checksum(body, identity) + b'"}':
        raise DamagedLineError("its checksum is another: it was changed, or another run wrote it")
    record = json.loads(body)
    if not isinstance(record, dict) or not isinstance(record.get("sample"), str):
        raise DamagedLineError("it names no sample")
    return record


def _checksum(body: bytes, identity: str) -> bytes:
    return b"%08x" % zlib.crc32(body, zlib.crc32(identity.encode()))
