"""What must not leave the machine: paths, names of user and host, and secrets.

Paths become names. Secrets are refused, with file and line: whoever wrote one into a row or a recipe has to decide.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lotune.errors import DataError

SECRETS = {
    "a token of the Hugging Face hub": r"\bhf_[A-Za-z0-9]{30,}",
    "an API key": r"\bsk-[A-Za-z0-9_\-]{20,}",
    "a token of GitHub": r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{40,})",
    "a token of GitLab": r"\bglpat-[A-Za-z0-9_\-]{18,}",
    "a key of AWS": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a key of Google": r"\bAIza[0-9A-Za-z_\-]{35}\b",
    "a token of Slack": r"\bxox[abprs]-[0-9A-Za-z\-]{10,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a JSON web token": r"\beyJ[A-Za-z0-9_\-]{10,}\.eyJ[A-Za-z0-9_\-]{10,}\.[A-Za-z0-9_\-]{10,}",
    "a password in an address": r"\b[a-z][a-z0-9+.\-]*://[^\s/:@\"']+:[^\s/@\"']{3,}@",
}
"""Patterns of secrets by what they are."""
_SECRET = re.compile("|".join(f"(?P<kind{number}>{pattern})" for number, pattern in enumerate(SECRETS.values())))
MIN_NAME = 3
"""Length below which the name of a user or a host is too common to be looked for."""
COMMON_NAMES = frozenset({"root", "user", "admin", "ubuntu", "debian", "nobody", "runner", "localhost", "home", "data"})
"""Names of users and hosts that tell nothing and are ordinary words in rows."""


@dataclass(frozen=True)
class Private:
    """The texts of one machine: folders with the names that replace them, and names of user and host."""

    folders: Mapping[str, str]
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def pattern(self) -> re.Pattern[str] | None:
        """The pattern of all folders, the longest first; None if there are none."""
        # Not inside a longer name: /data must leave /database alone.
        longest_first = sorted(self.folders, key=lambda text: (-len(text), text))
        alternatives = "|".join(map(re.escape, longest_first))
        return re.compile(rf"(?<![A-Za-z0-9_.\-])(?:{alternatives})(?![A-Za-z0-9_\-])") if alternatives else None


def private_texts(folders: Mapping[Path, str], user: str, host: str) -> Private:
    """Return the private texts of folders, each with the name that replaces it, and of a user and a host.

    Paths appear with slashes and, in JSON of Windows, with doubled backslashes. `/` itself is no private text.
    """
    forms = {}
    for folder, name in folders.items():
        if len(folder.parts) > 1:
            forms[folder.as_posix()] = name
            forms[str(folder)] = name
            forms[str(folder).replace("\\", "\\\\")] = name
    given = {user: "USER", host: "HOST", host.partition(".")[0]: "HOST"}
    names = {name: label for name, label in given.items() if len(name) >= MIN_NAME and name not in COMMON_NAMES}
    return Private(forms, names)


class Redactor:
    """Replaces the private texts of one file line by line, and refuses its secrets."""

    def __init__(self, private: Private, where: str, *, about_the_machine: bool) -> None:
        """`about_the_machine` tells whether names count as such: in rows they may be ordinary words."""
        self._where, self._number = where, 0
        self._private, self._folders = private, private.pattern
        words = private.names if about_the_machine else {}
        alternatives = "|".join(re.escape(name) for name in sorted(words, key=len, reverse=True))
        self._names = re.compile(rf"(?<![A-Za-z0-9_])(?:{alternatives})(?![A-Za-z0-9_])") if alternatives else None
        # In any file a user's folder betrays its name, also that of another machine.
        self._homes = re.compile(r"(?<![A-Za-z0-9_.])(/home/|/Users/|[A-Z]:\\{1,2}Users\\{1,2})[^\s/\\\"'<>|:,;)\]}]+")

    def line(self, text: str) -> str:
        """Return the next line without private texts.

        Raises: DataError, with file and line, if it holds a secret.
        """
        self._number += 1
        if found := _SECRET.search(text):
            kind = [*SECRETS][next(number for number in range(len(SECRETS)) if found[f"kind{number}"])]
            remedy = "remove it there and run the same command again; and revoke it, if it was ever shared"
            raise DataError(f"{self._where}:{self._number}", f"holds {kind}", "no secrets in a bundle", remedy)
        if self._folders is not None:
            text = self._folders.sub(lambda match: self._private.folders[match.group()], text)
        text = self._homes.sub("HOME", text)
        if self._names is not None:
            text = self._names.sub(lambda match: self._private.names[match.group()], text)
        return text
