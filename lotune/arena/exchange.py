"""Votes as files: export, import without doubles, FastChat's vote files, and the removal of what should not be kept."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from lotune.arena.battle_fields import battle_fields
from lotune.arena.store import COLUMNS, PEOPLE, VERDICTS, Verdict, Vote, VoteStore
from lotune.arena.style import FEATURES
from lotune.errors import DataError

MAX_LINE_BYTES = 16 * 2**20
REDACTED = "[redacted]"
PRIVATE = re.compile(
    r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"  # addresses of mail
    r"|\b(?:sk|pk|ghp|gho|hf|xox[abp])[-_][A-Za-z0-9_-]{12,}"  # keys of services
    r"|(?<!\w)\+?\d[\d ()-]{8,}\d(?!\w)"  # telephone, identity and card numbers
)
"""What `redact` removes by default."""
_FASTCHAT: Mapping[str, Verdict] = {
    "model_a": "model_a", "model_b": "model_b", "tie": "tie", "tie (bothbad)": "both_bad", "both_bad": "both_bad",
}  # fmt: skip
_FASTCHAT_TYPES: Mapping[str, Verdict] = {
    "leftvote": "model_a", "rightvote": "model_b", "tievote": "tie", "bothbad_vote": "both_bad",
}  # fmt: skip


def export_lines(store: VoteStore) -> Iterator[bytes]:
    """Yield each vote as a line of JSON, in the order in which they were given."""
    for vote in store.votes():
        yield orjson.dumps(asdict(vote)) + b"\n"


@dataclass(frozen=True)
class Imported:
    """What became of the lines of a file: votes added, votes that were there already, lines without a vote."""

    added: int
    known: int
    other: int


def import_votes(store: VoteStore, file: Path) -> Imported:
    """Add the votes of a file: lines of `export`, FastChat's cleaned battles (a JSON list), or its server's logs.

    All votes of the file are added, or none. Raises: DataError with the line that is malformed.
    """
    votes: dict[str, Vote] = {}
    count = other = 0
    for number, record in _records(file):
        vote = _vote(record, f"{file}:{number}")
        if vote is None:
            other += 1
            continue
        count += 1
        votes[vote.battle] = vote
    added = store.add_all(votes.values())
    return Imported(added, count - added, other)


def redact(
    store: VoteStore, battles: Sequence[str] = (), *, texts: bool = False, pattern: re.Pattern[str] = PRIVATE
) -> int:
    """Remove private data from votes, all or those of some battles, and return how many changed.

    With `texts`, prompts and answers are removed, else what a pattern matches in them. Verdicts, models, language,
    category and style stay, so ratings do not change; visitors get other names, the same for one visitor.
    """
    salt = secrets.token_bytes(32)  # nobody can try prompts out

    def cleaned(text: str) -> str:
        return REDACTED if texts else pattern.sub(REDACTED, text)

    def changed() -> Iterator[Vote]:
        for vote in list(store.votes()):
            if battles and vote.battle not in battles:
                continue
            turns = tuple((cleaned(prompt), cleaned(a), cleaned(b)) for prompt, a, b in vote.turns)
            visitor = vote.visitor
            if texts:
                # Prompts also tell repeated votes, so each gets another name that stays the same for equal prompts.
                turns = tuple(
                    (f"{REDACTED} {_digest(salt, vote.turns[place][0])}", a, b) for place, (_, a, b) in enumerate(turns)
                )
                visitor = _digest(salt, visitor)
            new = replace(vote, turns=turns, visitor=visitor)
            if new != vote:
                yield new

    if battles and (unknown := set(battles) - {vote.battle for vote in store.votes()}):
        raise DataError(str(store.file), f"has no battle {', '.join(sorted(unknown))}")
    return store.replace(changed())


def _digest(salt: bytes, text: str) -> str:
    return hashlib.sha256(salt + text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _records(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield number and record of each line, or of each item of a JSON list."""
    try:
        with file.open("rb") as stream:
            first = stream.read(64).lstrip()[:1]
            stream.seek(0)
            if first == b"[":
                yield from enumerate(orjson.loads(stream.read()), 1)
                return
            for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE_BYTES + 1), b""), 1):
                if len(line) > MAX_LINE_BYTES:
                    raise DataError(f"{file}:{number}", f"has more than {MAX_LINE_BYTES} bytes")
                if line.strip():
                    try:
                        yield number, orjson.loads(line)
                    except orjson.JSONDecodeError as error:
                        raise DataError(f"{file}:{number}", f"is no JSON: {error}") from None
    except OSError as error:
        raise DataError(str(file), f"cannot be read: {error.strerror}") from None
    except orjson.JSONDecodeError as error:
        raise DataError(str(file), f"is no JSON: {error}", "lines of JSON, or a list") from None


def _vote(record: Any, where: str) -> Vote | None:
    """Return the vote of a record, None for a record of something else. Raises: DataError for a malformed vote."""
    if not isinstance(record, dict):
        raise DataError(where, "is no record of a vote", "an object")
    readers: Iterable[tuple[str, Callable[[dict[str, Any]], Vote | None]]] = (
        ("verdict", _own), ("winner", _cleaned_battle), ("type", _server_log),
    )  # fmt: skip
    for key, read in readers:
        if key in record:
            try:
                return read(record)
            except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
                raise DataError(where, f"is no vote: {type(error).__name__}: {error}"[:200]) from None
    raise DataError(where, "is no record of a vote", "a line of `lotune arena export`, or of FastChat's files")


def _own(record: dict[str, Any]) -> Vote:
    if unknown := set(record) - set(COLUMNS):
        raise ValueError(f"unknown fields {', '.join(sorted(unknown))[:100]}")
    turns = tuple((str(prompt), str(a), str(b)) for prompt, a, b in record["turns"])
    if record["verdict"] not in VERDICTS:
        raise ValueError(f"verdict {record['verdict']!r}"[:60])
    texts = {name: str(record.get(name, "")) for name in COLUMNS if name not in ("turns", "settings", "named", "time")}
    styles = {name: tuple(map(int, record.get(name, ()))) for name in ("style_a", "style_b")}
    if any(len(style) not in (0, len(FEATURES)) for style in styles.values()):
        raise ValueError("a style of another length")
    if not (texts["battle"] and texts["model_a"] and texts["model_b"]):
        raise ValueError("an empty name")
    fields: dict[str, Any] = {
        **texts, **styles, "turns": turns, "time": float(record["time"]), "named": bool(record.get("named")),
        "settings": dict(record.get("settings", {})),
    }  # fmt: skip
    return Vote(**fields)


def _cleaned_battle(record: dict[str, Any]) -> Vote:
    """Return the vote of a battle as FastChat's `clean_battle_data` writes it."""
    turns = _turns(record.get("conversation_a"), record.get("conversation_b"))
    id = str(record.get("question_id") or record.get("id") or "")
    judge = str(record.get("judge") or record.get("judge_hash") or "")
    return _made(record, id, judge, record["model_a"], record["model_b"], _FASTCHAT[record["winner"]], turns)


def _server_log(record: dict[str, Any]) -> Vote | None:
    """Return the vote of a line of FastChat's server log; None for lines of chats and other events."""
    if record["type"] not in _FASTCHAT_TYPES or len(record.get("models", ())) != 2 or not all(record["models"]):
        return None
    a, b = record["models"]
    states = record["states"]
    turns = _turns(*([{"role": "", "content": text} for _, text in state["messages"] if text] for state in states))
    id = "".join(str(state.get("conv_id", "")) for state in states)
    return _made(record, id, str(record.get("ip", "")), a, b, _FASTCHAT_TYPES[record["type"]], turns)


def _made(
    record: Mapping[str, Any],
    id: str,
    visitor: str,
    a: str,
    b: str,
    verdict: Verdict,
    turns: tuple[tuple[str, str, str], ...],
) -> Vote:
    time = float(record.get("tstamp") or 0)
    whole = orjson.dumps([time, str(a), str(b), verdict, turns], option=orjson.OPT_NON_STR_KEYS)
    fields = battle_fields(turns, [str(a), str(b)])
    fields["named"] = fields["named"] or record.get("anony") is False
    return Vote(
        f"fastchat-{id or hashlib.sha256(whole).hexdigest()[:32]}", time,
        _digest(b"fastchat", visitor or id), str(a), str(b), verdict, turns, judge=PEOPLE, **fields,
    )  # fmt: skip


def _turns(first: Any, second: Any) -> tuple[tuple[str, str, str], ...]:
    """Return the turns of two conversations, lists of messages with `content`, prompts and answers in turn."""
    a, b = ([_content(message) for message in messages or ()] for messages in (first, second))
    return tuple((a[n], a[n + 1], b[n + 1]) for n in range(0, min(len(a), len(b)) - 1, 2))


def _content(message: Any) -> str:
    content = message["content"]
    return content if isinstance(content, str) else str(content[0] if isinstance(content, list) else content)
