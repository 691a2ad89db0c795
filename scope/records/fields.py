"""What a run's manifest and its records hold: the fields, their types and their bounds. Every reader uses this check.

Other fields are kept as they are, unless `strange` refuses their values.
"""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, NotRequired

from pydantic import (
    AfterValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    with_config,
)
from typing_extensions import TypedDict

from scope.util.errors import shown

MOST = 2**63  # no whole number that a run writes is larger; a float holds all below it
DEEPEST = 32  # levels of lists and objects inside each other; a run writes about five

Whole = Annotated[int, Field(gt=-MOST, lt=MOST)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Positive = Annotated[int, Field(ge=1, lt=2**53)]
Seconds = Annotated[float, Field(ge=0, le=1e9)]
Number = Annotated[float, Field(ge=-1e15, le=1e15)]


def _moment(text: str) -> str:
    try:
        datetime.fromisoformat(text).timestamp()
    except (OverflowError, OSError) as error:
        raise ValueError("must be a date that there is") from error
    return text


def _folder(text: str) -> str:
    if text in ("", ".", "..") or set(text) & set("/\\\0"):
        raise ValueError("must be the name of a folder")
    return text


def _shard(text: str) -> str:
    part, _, whole = text.partition("/")
    if not (re.fullmatch(r"[1-9]\d{0,5}/[1-9]\d{0,5}", text, re.ASCII) and int(part) <= int(whole)):
        raise ValueError("must be i/n, such as 1/4, with i from 1 to n")
    return text


def _of_one_division(shards: dict[str, int]) -> dict[str, int]:
    if len({shard.partition("/")[2] for shard in shards}) != 1:
        raise ValueError("must be shards of one division")
    return shards


def _with_aligned(scores: dict[str, Any]) -> dict[str, Any]:
    if "aligned" not in scores:
        raise ValueError("must hold the score of aligned")
    return scores


def _of_one_length(tokens: dict[str, Any]) -> dict[str, Any]:
    if len({len(values) for values in tokens.values()}) != 1:
        raise ValueError("must have as many entries of each kind as tokens")
    return tokens


Moment = Annotated[str, AfterValidator(_moment)]
Folder = Annotated[str, AfterValidator(_folder)]
Shard = Annotated[str, AfterValidator(_shard)]
Flags = Annotated[str, Field(pattern=r"^[01]*$")]
_SCORED, _FLAT = "~scored", "~flat"  # tags of a question's two forms; not shown in messages
_open = with_config(ConfigDict(extra="allow", strict=True, allow_inf_nan=False))


@_open
class Score(TypedDict):
    """What one scorer found. Older records have no `given`, the number of answers to the question."""

    found: str | None
    correct: bool
    given: NotRequired[Count]


@_open
class Question(TypedDict):
    """One question of a record, with its scores by the name of the scorer."""

    number: Whole
    expected: str
    scores: Annotated[dict[str, Score], AfterValidator(_with_aligned)]


@_open
class FlatQuestion(TypedDict):
    """One question of an older record, whose two scorers had fields of their own."""

    number: Whole
    expected: str
    found: str | None
    correct: bool
    given: NotRequired[Count]
    released_found: NotRequired[str | None]
    released_correct: NotRequired[bool]


def _shape(question: object) -> str:
    return _FLAT if isinstance(question, Mapping) and "correct" in question and "scores" not in question else _SCORED


AnyQuestion = Annotated[Annotated[Question, Tag(_SCORED)] | Annotated[FlatQuestion, Tag(_FLAT)], Discriminator(_shape)]


@with_config(ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
class Replayed(TypedDict):
    """Per forced token: the token, nats, and texts of 0 and 1 for yes and no.

    Older records lack `texts`, of the tokens, and `top` and `full_top`, of the most likely ones.
    """

    tokens: Annotated[list[Count], Field(min_length=1)]
    texts: NotRequired[list[str]]
    top: NotRequired[list[str]]
    full_top: NotRequired[list[str]]
    kl: list[Number]
    log_likelihood: list[Number]
    full_log_likelihood: list[Number]
    agrees: Flags
    recalls: Flags
    full_recalls: Flags
    answers: Flags


@_open
class Answered(TypedDict):
    """A record of `status` ok. Seconds are wall time, slots are per layer.

    unscored: the scorers that failed at this text, as the setting names them, and why.
    """

    sample: str
    status: Literal["ok"]
    prompt: NotRequired[str]
    draw: NotRequired[Count]
    prompt_tokens: Positive
    prompt_cut_tokens: NotRequired[Count]
    generated_tokens: Positive
    finish: str
    generation: str
    starts_thinking: NotRequired[bool]
    questions: list[AnyQuestion]
    unscored: NotRequired[dict[str, str]]
    measures: NotRequired[dict[str, Number]]
    batch: str
    batch_rows: Positive
    batch_seconds: Seconds
    prefill_seconds: Seconds
    decode_seconds: Seconds
    tokens_per_second: NotRequired[Number | None]
    cache_bytes: Count
    full_cache_bytes: Count
    slots_kept: Annotated[list[Count], Field(min_length=1)]
    prefill_kept: NotRequired[list[Count]]
    prefill_full: NotRequired[list[Count]]
    slots_full: NotRequired[list[Count]]
    prefill_evicted: Whole
    decode_evicted: Whole
    engine: NotRequired[str]
    device: NotRequired[str | None]
    threads: NotRequired[Positive | None]
    cpu_wait: NotRequired[Annotated[float, Field(ge=0, le=1)] | None]
    prompt_hash: NotRequired[str]
    trace: NotRequired[str]
    cluster: NotRequired[str]
    forced_hash: NotRequired[str]
    replay: NotRequired[Annotated[Replayed, AfterValidator(_of_one_length)]]


@_open
class Unanswered(TypedDict):
    """Any other record: of a sample that failed, with the reason."""

    sample: str
    status: NotRequired[str]
    reason: NotRequired[str]
    prompt: NotRequired[str]


@_open
class MadeBy(TypedDict, total=False):
    """Code, libraries and hardware when a run was started or continued."""

    created: Moment
    commit: str | None
    versions: dict[str, str]
    hardware: dict[str, str | int | float | None]
    code: dict[str, str]


@_open
class Policy(TypedDict, total=False):
    budget: Number | None
    recent: Number | None


@_open
class Cache(TypedDict, total=False):
    max_bytes: Count | None
    max_slots: Number | None


@_open
class Model(TypedDict, total=False):
    thinking: Annotated[list[str], Field(min_length=2, max_length=2)] | None


@_open
class Settings(TypedDict, total=False):
    model: Model | None
    method: Policy | None
    decoding: Policy | None
    task: dict[str, Any] | None
    cache: Cache | None


@_open
class Manifest(MadeBy):
    """Of a run: what was asked, and with what code, libraries and hardware.

    joined: the shards that were merged, while others are missing. scoring: each scorer's name and description.
    scoring_code: each scorer's name, as records have it, and a hash of its code.
    """

    identity: str
    samples: Count
    experiment: NotRequired[str]
    run: NotRequired[Folder]
    seed: NotRequired[Whole | None]
    labels: NotRequired[dict[str, str]]
    settings: NotRequired[Settings]
    shard: NotRequired[Shard]
    joined: NotRequired[Annotated[dict[Shard, Count], AfterValidator(_of_one_division)]]
    continued: NotRequired[list[MadeBy]]
    scoring: NotRequired[dict[str, str]]
    scoring_code: NotRequired[dict[str, str]]


_ANSWERED, _UNANSWERED = TypeAdapter(Answered), TypeAdapter(Unanswered)
_MANIFEST, _SETTINGS = TypeAdapter(Manifest), TypeAdapter(Settings)


def fault_of_record(record: object) -> str:
    """What is wrong with a record's fields, in a few words; empty where nothing is."""
    answered = isinstance(record, Mapping) and record.get("status") == "ok"
    return _fault(_ANSWERED if answered else _UNANSWERED, record)


def scored(record: dict[str, Any]) -> dict[str, Any]:
    """A faultless record with its questions in the form of `Question`; those of older records are converted."""
    questions = record.get("questions", [])
    if record.get("status") != "ok" or all("scores" in question for question in questions):
        return record
    return record | {"questions": [_unflattened(question) for question in questions]}


def _unflattened(question: Mapping[str, Any]) -> dict[str, Any]:
    if "scores" in question:
        return dict(question)
    scores = {"aligned": {key: question[key] for key in ("found", "correct", "given") if key in question}}
    if "released_found" in question and "released_correct" in question:
        found, correct = question["released_found"], question["released_correct"]
        scores["released"] = {"found": found, "correct": correct, "given": int(found is not None)}
    others = {key: value for key, value in question.items() if key not in FlatQuestion.__annotations__}
    return {"number": question["number"], "expected": question["expected"], **others, "scores": scores}


def fault_of_manifest(manifest: object) -> str:
    """What is wrong with a manifest's fields, in a few words; empty where nothing is."""
    return _fault(_MANIFEST, manifest)


def fault_of_settings(settings: Mapping[str, Mapping[str, Any]]) -> str:
    """What a manifest cannot hold of a run's settings, with its key; empty where nothing is wrong.

    settings: each part's fields, by the names of the part and the field.
    """
    for part, values in settings.items():
        for name, value in values.items():
            try:
                stored = json.loads(json.dumps(value))
                found = strange(stored) or _fault(_SETTINGS, {part: {name: stored}}).partition(": ")[2]
            except (TypeError, ValueError, RecursionError) as error:
                found = " ".join(str(error).split())
            if found:
                return f"{part}.{name}={shown(value)}: {found}; the manifest cannot hold it"
    return ""


def _fault(fields: TypeAdapter[Any], data: object) -> str:
    if found := strange(data):
        return found
    try:
        fields.validate_python(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"] if part not in (_SCORED, _FLAT))
        if first["type"] == "missing":
            return f"lacks '{where}'"
        said = first["msg"].replace("Input should be", "must be").replace("Value error, ", "")
        return f"{where}: {said}" if where else f"{said}"
    return ""


def strange(data: object) -> str:
    """What no run writes and many programs cannot read: infinity, lone surrogates, huge numbers, deep nesting.

    data: as JSON gives it. Empty where nothing is found."""
    level: list[object] = [data]
    for _ in range(DEEPEST):
        inner: list[object] = []
        for value in level:
            if isinstance(value, dict):
                inner += value.keys()
                inner += value.values()
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, str):
                try:
                    value.encode()
                except UnicodeEncodeError:
                    return "holds half a character (a lone surrogate)"
            elif isinstance(value, float):
                if not abs(value) < float("inf"):
                    return f"holds {value}, which is no number"
            elif isinstance(value, int) and abs(value) > MOST:
                return "holds a whole number of more than 64 bits"
        if not inner:
            return ""
        level = inner
    return f"lists and objects stand more than {DEEPEST} deep inside each other"
