"""Keeping secrets out of what is written: configurations, manifests, records and messages."""

import os
import re
from collections.abc import Mapping
from typing import Any

_NAMES = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_?KEY", re.I)
_LOGIN = re.compile(r"(?<=://)[^/@\s\"']+@")  # user:password@ of an address
_SHORTEST = 8  # characters: a shorter value is no secret, and would be found everywhere


def redact(value: Any) -> Any:
    """Plain data with the values of environment variables that are named like secrets, and logins in URLs, as ***."""
    if isinstance(value, Mapping):
        return {key: redact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    if not isinstance(value, str):
        return value
    values = {secret for name, secret in os.environ.items() if _NAMES.search(name) and len(secret) >= _SHORTEST}
    for secret in sorted(values, key=len, reverse=True):
        value = value.replace(secret, "***")
    return _LOGIN.sub("***@", value)
