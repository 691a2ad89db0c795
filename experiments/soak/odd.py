"""Odd values, and damage to files: what the fuzzer makes its cases of. All drawn from the lots that it is given."""

import json
from pathlib import Path
from random import Random
from typing import Any

from scope.records.lines import DamagedLineError, parse, seal

NUMBERS = ("0", "1", "-1", "2", "3", "7", "64", "0.5", "-0.0", "1.5", "1e-320", "1e400", "nan", "-inf", ".inf", "1_000")
NUMBERS += ("0x1F", "1e3", str(2**31), str(2**63), str(10**30), "9" * 400, "9" * 5000, "-" + "9" * 5000)
WORDS = ("null", "true", "false", "yes", "''", '""', "x", "none", "auto", "~", " ", "embedded", "nowhere/else")
WORDS += (
    "a" * 300,
    "a" * 5000,
    "ü",
    "漢字",
    "\u202eabc",
    "🙂",
    "\x1b[31mred",
    "\udcff",
    "tab\there",
    "two\nlines",
    " ",
)
WORDS += ("/dev/null", "/dev/null/x", "../x", "a/b", ".", "..", "%", "$", "#", "!!python/name:os.system", "*", "&a")
WORDS += ("it's", 'say "x"', "back\\slash", "a: b", "- x", "@x", "x=y", "\\", "'", '"', "(", ")", "[", "]", "{", "}")
POINTERS = ("${", "${}", "${model.path}", "${seed}", "${budget}", "${oc.env:SCOPE_NOT_SET}", "${foo:bar}", "${.x}")
POINTERS += (
    "${oc.decode:'['}",
    "${hydra:job.num}",
    "${hydra.job.name}",
    "${oc.create:{a:1}}",
    "a${seed}b",
    "${now:%Y}",
)
SWEEPS = (
    "1,2",
    "x,null",
    "h2o,snapkv",
    "choice(1,2)",
    "choice()",
    "range(3)",
    "range(1,3)",
    "range(x)",
    "range(0,1,0)",
)
SWEEPS += ("glob(*)", "glob([s*],exclude=x)", "glob(1)", "interval(0,1)", "shuffle(1,2)", "sort(2,1)", "sort(a,1)")
SWEEPS += (
    "int(2.5)",
    "int(x)",
    "float(x)",
    "bool(x)",
    "str(1)",
    "json_str({a:1})",
    "tag(a,1)",
    "extend_list(1)",
    "f(x)",
)
PLAIN: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2**63,
    10**30,
    0.5,
    -1e300,
    "",
    "x",
    "nan",
    "1",
    "<script>",
    [],
    {},
)
PLAIN += (
    [None],
    {"a": 1},
    [[]],
    "\ud800",
    "ü" * 400,
    float("nan"),
    float("inf"),
    "2026-01-01T00:00:00+00:00",
    ["x", 1],
)


def text(lots: Random) -> str:
    """A value as a person may type it."""
    pool = lots.choice((NUMBERS, NUMBERS, WORDS, WORDS, POINTERS, SWEEPS, None))
    if pool is not None:
        return lots.choice(pool)
    deep = lots.choice((1, 2, 5, 40))
    inner = lots.choice(("", "1", "a:1", "x,y"))
    return lots.choice(
        (f"{'[' * deep}{inner}{']' * deep}", f"{'{a:' * deep}{inner}{'}' * deep}", "[" * deep, "{a:[1,{b:x}]}")
    )


def plain(lots: Random) -> Any:
    """A value as JSON or YAML may hold it."""
    if lots.random() < 0.1:
        return nested(lots.choice((3, 50, 300)), lots)
    return lots.choice(PLAIN)


def nested(deep: int, lots: Random) -> Any:
    value: Any = 1
    for _ in range(deep):
        value = [value] if lots.random() < 0.5 else {"a": value}
    return value


def damage(folder: Path, lots: Random) -> str:
    """Change one file of a run. -> what was done, in words."""
    path = lots.choice([path for path in sorted(folder.iterdir()) if path.suffix in (".json", ".jsonl", ".yaml")])
    how = lots.choice((flip, cut, lines, replaced, *[retyped] * 6))
    how(path, lots)
    return f"{how.__name__} {path.name}"


def flip(path: Path, lots: Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(lots.choice((1, 1, 5))):
        data[lots.randrange(len(data))] ^= 1 << lots.randrange(8)
    path.write_bytes(data)


def cut(path: Path, lots: Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: lots.choice((0, 1, lots.randrange(len(data))))])


def lines(path: Path, lots: Random) -> None:
    """A line more: once again, an old one, none of ours, one that is nested too deep."""
    data = path.read_bytes()
    more = [data, data.splitlines()[0], b"null", b"[]", b"{}", b'"x"', b"\xff\xfe", b"9" * 5000, b"[" * 100_000]
    more += [b'{"sample": "x", "check": "00000000"}', b'{"a":' * 100_000]
    added = lots.choice(more)
    path.write_bytes(lots.choice((data + added, data + added + b"\n", added + b"\n" + data, added)))


def replaced(path: Path, lots: Random) -> None:
    """Something that is no file, or nothing."""
    path.unlink()
    match lots.randrange(4):
        case 0:
            path.mkdir()
        case 1:
            path.symlink_to(path)
        case 2:
            path.symlink_to(path.parent)


def retyped(path: Path, lots: Random) -> None:
    """One value is another, of whatever type; a record is sealed again, so that its checksum is right."""
    if path.suffix == ".yaml":
        return lines(path, lots)
    if path.suffix == ".json":
        path.write_text(json.dumps(_changed(json.loads(path.read_text()), lots)))
        return None
    identity = json.loads(path.with_name("manifest.json").read_text())["identity"]
    found = path.read_bytes().splitlines()
    at = lots.randrange(len(found))
    try:
        record = parse(found[at], identity)
    except DamagedLineError:
        return flip(path, lots)
    record.pop("check", None)
    changed = _changed(record, lots)
    found[at] = seal(changed, identity)[:-1] if isinstance(changed, dict) else json.dumps(changed).encode()
    path.write_bytes(b"\n".join(found) + b"\n")
    return None


def _changed(data: Any, lots: Random) -> Any:
    """The same with one value, however deep, replaced or left out."""
    if isinstance(data, dict) and data and lots.random() < 0.97:
        key = lots.choice(sorted(data))
        if lots.random() < 0.15:
            return {name: value for name, value in data.items() if name != key}
        return data | {key: _changed(data[key], lots) if lots.random() < 0.6 else plain(lots)}
    if isinstance(data, list) and data and lots.random() < 0.8:
        at = lots.randrange(len(data))
        return [*data[:at], _changed(data[at], lots), *data[at + 1 :]]
    return plain(lots)
