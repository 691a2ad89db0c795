"""Masks secrets in everything that is written: configurations, manifests, messages and command lines.

A secret is recognised in four ways: by the name of its setting or environment variable, by its shape (the tokens of
well-known services), by its place in an address, and by its value, if the environment or a login file holds it.
A model's generations are data and are never changed.
"""

import configparser
import json
import netrc
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

MASK = "***"

# --- names ---

_VARIABLE = re.compile(  # of an environment variable
    r"TOKEN(?!IZ)|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY"
    r"|(?:^|_)(?:PASS|PWD|PAT|KEY|AUTH|JWT|BEARER|COOKIE)(?:_?\d+)?$"
)
_SECRET_WORD = "password|passwd|passphrase|pass|pwd|secrets?|pat|credentials?|jwt|api[_-]?key"
_SERVICE = (
    "access|account|anthropic|api|auth|aws|azure|bearer|bot|client|encryption|github|gitlab|google|hf|hub|id|login"
    "|openai|personal|private|refresh|secret|session|signing|slack|ssh|user|wandb"
)
_NAME = rf"(?:(?:[\w-]+[_-])?(?:{_SECRET_WORD}|(?:{_SERVICE})[_-]?(?:token|key))|token)"  # not eos_token, answer_key
_SETTING = re.compile(rf"(?:{_NAME}|key)", re.I)
_VALUE = r"""(?:"[^"]*"|'[^']*'|[^\s&"'}]+?(?=:?(?:$|[\s&"'}])))"""
_IN_TEXT = re.compile(rf"(?<!\w)({_NAME}|(?<=[?&.])(?:key|sig|signature))=" + _VALUE, re.I)  # a.token=..., ?key=...
_IN_MAPPING = re.compile(  # {token: ...}, {"token": "..."}
    rf"""([{{,]\s*["']?(?:{_NAME})["']?\s*:\s*)(?:"[^"]*"|'[^']*'|[^\s,}}]+)""", re.I
)

# --- shapes ---

_SHAPES = (
    r"hf_[A-Za-z0-9]{20,}",
    r"api_org_[A-Za-z0-9]{20,}",
    r"sk-(?:[a-z0-9]+-)*[A-Za-z0-9_]{20,}[\w-]*",  # OpenAI, Anthropic and others
    r"[srp]k_(?:live|test)_[A-Za-z0-9]{16,}",
    r"gh[opsur]_[A-Za-z0-9]{20,}",
    r"github_pat_\w{20,}",
    r"gl(?:pat|dt|rt|cbt|ptt|ft|soat|imt|agent)-[\w-]{16,}",
    r"(?:AKIA|ASIA)[A-Z0-9]{16}",
    r"xox[a-z]-[\w-]{10,}",
    r"xapp-[\w-]{10,}",
    r"AIza[\w-]{30,}",
    r"ya29\.[\w-]{20,}",
    r"eyJ[\w-]{8,}\.eyJ[\w-]{8,}(?:\.[\w-]*)?",  # a JSON web token
    r"wandb_v\d_[\w-]{16,}",
    r"local-[0-9a-f]{40}",
    r"npm_[A-Za-z0-9]{30,}",
    r"pypi-[\w-]{40,}",
    r"dckr_pat_[\w-]{20,}",
    r"do[opr]_v1_[0-9a-f]{40,}",
    r"SG\.[\w-]{16,}\.[\w-]{16,}",
    r"hv[sbr]\.[\w-]{20,}",
    r"r8_[A-Za-z0-9]{30,}",
    r"gsk_[A-Za-z0-9]{30,}",
    r"nvapi-[\w-]{30,}",
    r"(?:pplx|xai)-[A-Za-z0-9]{30,}",
    r"\d{8,10}:AA[\w-]{30,}",  # a Telegram bot's
)
_SHAPE = re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(_SHAPES)})")
_BEARER = re.compile(r"\b(Bearer)(\s+|%20)(?:[\w.~+/=-]{20,}|(?=\D*\d)[\w.~+/=-]{8,})", re.I)
_HEADER = re.compile(r"""\b(Authorization["']?\s*[:=]\s*["']?(?:[A-Za-z]+\s+)?)[^\s"']+""", re.I)
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_LOGIN = re.compile(r"(?<=://)[^/@\s\"']+@")  # user:password@ of an address
_WEBHOOK = re.compile(r"(https://(?:hooks\.slack\.com/services|discord(?:app)?\.com/api/webhooks)/)[\w/-]+")

# --- values ---

_SHORTEST = 8  # characters: a shorter value occurs by chance in other text
_WEAK = 12  # characters: a shorter word, or word and number, is masked only as a whole word
_COMMON = {
    *("anonymous", "changeme", "changeit", "disabled", "enabled", "inherit", "keychain", "keyring", "optional"),
    *("password", "password1", "password123", "required", "undefined", "username"),
}


def redact(value: Any) -> Any:
    """Plain data, or text, with every secret replaced by `***`. Everything else is unchanged."""
    return _redact(value, _known_values())


def command_line(words: Sequence[str]) -> str:
    """Words quoted for a shell, with secrets masked; a comment says so if there were any."""
    shown = [str(redact(word)) for word in words]
    return shlex.join(shown) + (f"  # {MASK}: a secret, to be put in again" if shown != list(words) else "")


def _redact(value: Any, known: "re.Pattern[str] | None") -> Any:
    if isinstance(value, Mapping):
        return {_redact(key, known): _of_setting(key, item, known) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redact(item, known) for item in value]
    return _masked(value, known) if isinstance(value, str) else value


def _of_setting(key: Any, value: Any, known: "re.Pattern[str] | None") -> Any:
    """The value of a setting; all of it is masked if the setting's name is that of a secret."""
    name = _words(str(key).rpartition(".")[2])
    holds = isinstance(value, str | int) and not isinstance(value, bool) and value != ""
    if holds and _SETTING.fullmatch(name) and not (name == "key" and isinstance(value, int)):
        return MASK
    return _redact(value, known)


def _masked(text: str, known: "re.Pattern[str] | None") -> str:
    if known:
        text = known.sub(MASK, text)
    text = _PRIVATE_KEY.sub(MASK, text)
    text = _LOGIN.sub(f"{MASK}@", text)
    text = _WEBHOOK.sub(rf"\1{MASK}", text)
    text = _BEARER.sub(rf"\1\2{MASK}", text)
    text = _HEADER.sub(rf"\1{MASK}", text)
    text = _SHAPE.sub(MASK, text)
    text = _IN_MAPPING.sub(rf"\1{MASK}", text)
    return _IN_TEXT.sub(rf"\1={MASK}", text)


def _words(name: str) -> str:
    """`apiKey`, `api-key` and `API_KEY` as `api_key`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("-", "_").lower()


def _known_values() -> "re.Pattern[str] | None":
    """A pattern of the secrets that stand in the environment or in the files of a login."""
    named = [value for name, value in os.environ.items() if _VARIABLE.search(_words(name).upper())]
    found = {value for value in (*named, *_stored(*_login_files())) if _is_secret(value)}
    return _pattern(frozenset(found))


@lru_cache(maxsize=4)
def _pattern(values: frozenset[str]) -> "re.Pattern[str] | None":
    """A pattern of all these values: as they are, on one line, and escaped for JSON or a URL; longest first."""
    parts = []
    for value in values:
        forms = {value, " ".join(value.split()), json.dumps(value)[1:-1], quote(value, safe="")}
        whole = rf"(?<![\w.-]){re.escape(value)}(?![\w.-])" if _is_weak(value) else ""
        parts += [(len(form), whole or re.escape(form)) for form in forms]
    return re.compile("|".join(pattern for _, pattern in sorted(parts, reverse=True))) if parts else None


def _is_secret(value: str) -> bool:
    """Whether a value is worth masking: not a common word, a short number, or the path of an existing file."""
    if len(value) < _SHORTEST or value.lower() in _COMMON or (value.isdigit() and len(value) < _WEAK):
        return False
    try:
        return not (value[0] in "/~." and Path(value).expanduser().exists())
    except (OSError, RuntimeError, ValueError):
        return True


def _is_weak(value: str) -> bool:
    return len(value) < _WEAK and re.fullmatch(r"[A-Za-z]+\d*", value) is not None


def _login_files() -> tuple[str, str]:
    """The paths of the netrc file and of the hub's token; the files may not exist."""
    home = os.path.expanduser("~")
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache")
    hub = os.environ.get("HF_HOME") or os.path.join(cache, "huggingface")
    login, token = os.path.join(home, ".netrc"), os.path.join(hub, "token")
    return os.environ.get("NETRC") or login, os.environ.get("HF_TOKEN_PATH") or token


@lru_cache(maxsize=4)
def _stored(login: str, token: str) -> tuple[str, ...]:
    """The secrets in these files, read once. A file that is missing or malformed has none."""
    found: list[str] = []
    with suppress(OSError, netrc.NetrcParseError, ValueError):
        found += [secret for _, _, secret in netrc.netrc(login).hosts.values() if secret]
    with suppress(OSError, ValueError, configparser.Error):
        found.append(Path(token).read_text(encoding="utf-8").strip())
        stored = configparser.ConfigParser(interpolation=None)
        stored.read(Path(token).with_name("stored_tokens"), encoding="utf-8")
        found += [value for section in stored.sections() for _, value in stored.items(section)]
    return tuple(found)
