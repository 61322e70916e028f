"""Names of teams and of files in archives, which come from outside."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import urlsplit

from lotune.errors import SettingsError
from lotune.text_display import is_hidden

MAX_TEAM = 80
"""Characters in the name of a team."""
MAX_NAME = 240
"""Bytes in a name of a file; file systems allow 255."""
DEVICES = re.compile(r"(?:CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(?:COM|LPT)[0-9¹²³])(?:\..*)?", re.IGNORECASE)
"""Names that Windows gives to devices, with any suffix."""
RESERVED = frozenset('<>:"|?*')


def check_team(team: str) -> str:
    """Return the name of a team without blanks around it. Raises: SettingsError if it cannot name a file.

    >>> check_team(" 昇思 42 ")
    '昇思 42'
    """
    team = unicodedata.normalize("NFC", team.strip())
    hidden = any(is_hidden(character) or character in "\n\t" for character in team)
    if not team or hidden or len(team) > MAX_TEAM or not any(character.isalnum() for character in team):
        expected = f"a name of 1 to {MAX_TEAM} visible characters, with a letter or a digit"
        raise SettingsError("--team", f"{team!r} cannot name a bundle", expected)
    return team


def check_link(link: str | None) -> str | None:
    """Return a link to the code of a team. Raises: SettingsError unless it is an http or https address."""
    if link is not None and not is_web_address(link):
        raise SettingsError("--link", f"{link!r} is no address of a page", "http://… or https://…, without a password")
    return link


def is_web_address(link: str) -> bool:
    """Return whether a text is an http or https address without a user's name or a password in it.

    >>> [is_web_address(link) for link in ("https://example.org/a", "javascript:alert(1)", "http://a:b@example.org")]
    [True, False, False]
    """
    if any(is_hidden(character) or character.isspace() for character in link):
        return False
    try:
        parts = urlsplit(link)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc


def archive_name(team: str) -> str:
    """Return the file name of a team's bundle: letters, digits, dots and hyphens of its name.

    >>> archive_name("The A/B Team!"), archive_name("昇思"), archive_name("con")
    ('The-A-B-Team.zip', '昇思.zip', 'team-con.zip')
    """
    stem = re.sub(r"[^\w.]+", "-", team).strip("-.") or "team"
    stem = stem.encode()[: MAX_NAME - 20].decode(errors="ignore")
    return f"{'team-' if DEVICES.fullmatch(stem) else ''}{stem}.zip"


def path_fault(path: str) -> str:
    """Return why a path of an archive must not be unpacked; empty if nothing is wrong with it.

    The path has to be relative, in slashes, and the same on every file system.

    >>> path_fault("a/b.json"), path_fault("/etc/passwd"), path_fault("a/../b")
    ('', 'is an absolute path', "has a part '..'")
    """
    if "\\" in path:
        return "has a backslash"
    if path.startswith("/") or re.match(r"[A-Za-z]:", path):
        return "is an absolute path"
    if any(is_hidden(character) or character in "\n\t" for character in path):
        return "has a hidden character"
    return next((fault for part in path.split("/") if (fault := _part_fault(part))), "")


def _part_fault(part: str) -> str:
    if part in ("", ".", ".."):
        return f"has a part {part!r}"
    if DEVICES.fullmatch(part.rstrip(" .")):
        return f"has the name of a device, {part!r}"
    if part[-1] in " .":
        return f"has a part that ends in a blank or a dot, {part!r}"
    if RESERVED & set(part):
        return f"has a character that not all file systems allow, in {part!r}"
    return f"has a name of more than {MAX_NAME} bytes" if len(part.encode(errors="replace")) > MAX_NAME else ""


def same_name(path: str) -> str:
    """Return a key that is equal for paths that some file system takes for the same.

    >>> same_name("Straße/A") == same_name("STRASSE/a")
    True
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", path).casefold())
