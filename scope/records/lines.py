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


def seal(record: Mapping[str, Any], identity: str) -> bytes:
    """A record as a line, newline included. identity: of the run that it belongs to."""
    body = json.dumps(dict(record)).encode()
    return body[:-1] + _CHECK + _checksum(body, identity) + b'"}\n'


def parse(line: bytes, identity: str) -> dict[str, Any]:
    """The record of a line, its newline left out. Raises DamagedLineError."""
    body, mark, check = line.rpartition(_CHECK)
    if not mark:
        raise DamagedLineError("it has no checksum")
    body += b"}"
    if check != _checksum(body, identity) + b'"}':
        raise DamagedLineError("its checksum is another: it was changed, or another run wrote it")
    record = as_record(body)
    if record is None:
        raise DamagedLineError("it names no sample")
    return record


def as_record(line: bytes) -> dict[str, Any] | None:
    """The JSON object of a line where it names a sample, whether or not it has a checksum; else None.

    Raises DamagedLineError for what cannot be read: no JSON, no UTF-8, numbers too long, brackets too deep.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DamagedLineError(" ".join(str(error).split())) from error
    return record if isinstance(record, dict) and isinstance(record.get("sample"), str) else None


def has_checksum(line: bytes) -> bool:
    """Whether there is a checksum on a line, right or not."""
    return _CHECK in line


def _checksum(body: bytes, identity: str) -> bytes:
    return b"%08x" % zlib.crc32(body, zlib.crc32(identity.encode()))
