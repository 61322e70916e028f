"""API keys from a file, each with a limit of its own.

A line of the file is `NAME KEY [REQUESTS_PER_MINUTE]`; empty lines and lines that begin with # are left out.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from dataclasses import dataclass, field
from pathlib import Path

from lotune.errors import SettingsError
from lotune.serve.errors import ApiError

MIN_KEY_LENGTH = 16


@dataclass
class ApiKey:
    """A key as the digest of its text; `per_minute` of None is no limit."""

    name: str
    digest: bytes
    per_minute: int | None
    _tokens: float = field(init=False)
    _updated: float = field(init=False)

    def __post_init__(self) -> None:
        self._tokens, self._updated = float(self.per_minute or 0), time.monotonic()

    def take(self, now: float) -> float:
        """Count a request at `now`, in seconds of the monotonic clock; return the seconds to wait, 0 if it may run.

        A key may send as many requests at once as it may send in a minute, and gets them back evenly.
        """
        if self.per_minute is None:
            return 0.0
        rate = self.per_minute / 60
        self._tokens = min(float(self.per_minute), self._tokens + (now - self._updated) * rate)
        self._updated = now
        if self._tokens < 1:
            return (1 - self._tokens) / rate
        self._tokens -= 1
        return 0.0


class ApiKeys:
    """The keys that a server accepts."""

    def __init__(self, keys: list[ApiKey]) -> None:
        self.keys = keys

    def check(self, header: str) -> ApiKey:
        """Return the key of an Authorization header, and count the request.

        Raises: ApiError if there is no such key, or if it has sent too many requests.
        """
        kind, _, text = header.partition(" ")
        given = _digest(text.strip())
        # All keys are compared, each in constant time, so that the time tells nothing about them.
        matches = [key for key in self.keys if hmac.compare_digest(key.digest, given)]
        if kind.lower() != "bearer" or not matches:
            raise ApiError(
                401, "this server needs an API key: Authorization: Bearer KEY", "authentication_error",
                code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip
        [key] = matches
        if seconds := key.take(time.monotonic()):
            wait = int(seconds) + 1
            raise ApiError(
                429, f"this key may send {key.per_minute} requests a minute; try again in {wait} s", "rate_limit_error",
                code="rate_limit_exceeded", headers={"Retry-After": str(wait)},
            )  # fmt: skip
        return key


def read_keys(file: Path) -> ApiKeys:
    """Return the keys of a file.

    Raises: SettingsError with the line of a key that is malformed, short or there twice, or without any key. The text
    of a key is in no message.
    """
    keys: list[ApiKey] = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        where, limit = f"{file}:{number}", words[2] if len(words) == 3 else "1"
        if not 2 <= len(words) <= 3 or not limit.isascii() or not limit.isdigit() or int(limit) < 1:
            raise SettingsError(where, "is not a key", "NAME KEY [REQUESTS_PER_MINUTE]")
        if len(words[1]) < MIN_KEY_LENGTH:
            raise SettingsError(where, f"the key has {len(words[1])} characters", f"{MIN_KEY_LENGTH} or more")
        digest = _digest(words[1])
        if any(key.name == words[0] or key.digest == digest for key in keys):
            raise SettingsError(where, "the name or the key is there twice", "one line a key")
        keys.append(ApiKey(words[0], digest, int(limit) if len(words) == 3 else None))
    if not keys:
        raise SettingsError(str(file), "has no key", "a line NAME KEY [REQUESTS_PER_MINUTE]")
    return ApiKeys(keys)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
