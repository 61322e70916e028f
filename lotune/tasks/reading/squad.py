"""SQuAD's layout, read and written, and SQuAD 1.1's official metric.

A row is one paragraph: {"title", "context", "qas": [{"id", "question", "answers": [{"text", "answer_start"}]}]}; other
fields, such as those of CMRC 2018, are left out. A question without a key lacks `answers`, or has none in them. No
metric here uses where an answer starts, so that is not checked.
"""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lotune.data.bounded import MAX_ROW_BYTES, too_long
from lotune.data.file_readers import read_json_document
from lotune.errors import DataError
from lotune.files import write_json
from lotune.tasks.task import Row


def squad_scores(prediction: str, golds: Sequence[str]) -> tuple[float, float]:
    """Official F1 and EM of one answer, each 0 to 100: the best over all gold answers, each figure for itself.

    Source: SQuAD 1.1's evaluation script (Rajpurkar et al., 2016).

    >>> squad_scores("The Denver Broncos!", ["Denver Broncos", "Broncos"])
    (100.0, 100.0)
    >>> squad_scores("Broncos of Denver", ["Denver Broncos"])
    (80.0, 0.0)
    """
    found = normalise_squad_answer(prediction)
    wanted = [normalise_squad_answer(gold) for gold in golds]
    f1 = max((_f1(found.split(), gold.split()) for gold in wanted), default=0.0)
    return f1, 100.0 * (found in wanted)


def normalise_squad_answer(text: str) -> str:
    """The text in lower case, without ASCII punctuation, without the words a, an and the, blanks collapsed.

    >>> normalise_squad_answer("An  apple, the U.S.")
    'apple us'
    """
    bare = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def read_items(path: Path, max_row_bytes: int = MAX_ROW_BYTES) -> list[tuple[str, Row]]:
    """The paragraphs of a file in SQuAD's layout, each under the id of its first question.

    A question without answers has no key. Raises: DataError where the file cannot be read, is in another layout (the
    first ten places are named), a question cannot be answered (SQuAD 2.0), or an id stands twice.
    """
    document = read_json_document(path)
    articles = document.get("data") if isinstance(document, dict) else None
    if not isinstance(articles, list):
        raise DataError(str(path), "is not in SQuAD's layout", 'an object with "data", a list of articles')
    items: list[tuple[str, Row]] = []
    faults: list[str] = []
    seen: set[str] = set()
    for where, title, paragraph in _paragraphs(articles):
        fault = _fault(paragraph, max_row_bytes) or _repeated(paragraph, seen)
        if fault:
            faults.append(f"{where} {fault}")
        else:
            items.append((paragraph["qas"][0]["id"], _row(title, paragraph)))
    if faults:
        shown = "; ".join(faults[:10]) + (f"; and {len(faults) - 10} more" if len(faults) > 10 else "")
        raise DataError(str(path), shown, "paragraphs with a context and questions with an id, and answers or none")
    if not items:
        raise DataError(str(path), "holds no paragraphs", "one at least")
    return items


def write_items(path: Path, rows: Iterable[Row]) -> None:
    """Write paragraphs in SQuAD's layout; neighbours of one title make one article. `read_items` gives them back."""
    articles: list[dict[str, Any]] = []
    for row in rows:
        if not articles or articles[-1]["title"] != row["title"]:
            articles.append({"title": row["title"], "paragraphs": []})
        articles[-1]["paragraphs"].append({"context": row["context"], "qas": row["qas"]})
    write_json(path, {"version": "1.1", "data": articles})


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def _f1(found: Sequence[str], wanted: Sequence[str]) -> float:
    common = sum((Counter(found) & Counter(wanted)).values())
    return 200.0 * common / (len(found) + len(wanted)) if common else 0.0


def _paragraphs(articles: Sequence[Any]) -> Iterator[tuple[str, str, Any]]:
    """Place, title and content of each paragraph; a malformed article comes as one malformed paragraph."""
    for number, article in enumerate(articles):
        paragraphs = article.get("paragraphs") if isinstance(article, dict) else None
        if not isinstance(paragraphs, list):
            yield f"data[{number}]", "", None
            continue
        for inner, paragraph in enumerate(paragraphs):
            yield f"data[{number}].paragraphs[{inner}]", str(article.get("title", "")), paragraph


def _fault(paragraph: Any, most: int) -> str:
    """What is wrong with a paragraph, empty where nothing is."""
    if not isinstance(paragraph, dict):
        return "is no paragraph"
    if len(json.dumps(paragraph, ensure_ascii=False).encode(errors="replace")) > most:
        return f"has {too_long(most)} (data.max_row_bytes)"
    if not _is_text(paragraph.get("context")):
        return "has no context"
    questions = paragraph.get("qas")
    if not isinstance(questions, list) or not questions:
        return "has no questions"
    faults = (f"qas[{number}] {fault}" for number, qa in enumerate(questions) if (fault := _question_fault(qa)))
    return next(faults, "")


def _question_fault(qa: Any) -> str:
    if not isinstance(qa, dict) or not isinstance(qa.get("question"), str):  # CMRC 2018 has two empty ones
        return "has no question"
    if not _is_text(qa.get("id")):
        return "has no id (a text)"
    if qa.get("is_impossible"):
        return "has no answer (SQuAD 2.0's unanswerable questions are not read)"
    answers = qa.get("answers") or []
    if not isinstance(answers, list) or not all(
        isinstance(answer, dict) and _is_text(answer.get("text")) for answer in answers
    ):
        return "has an answer without text"
    return ""


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _repeated(paragraph: Mapping[str, Any], seen: set[str]) -> str:
    """The clause for an id that stands twice; ids are added to `seen`."""
    for qa in paragraph["qas"]:
        if qa["id"] in seen:
            return f"repeats the id {qa['id']!r}"
        seen.add(qa["id"])
    return ""


def _row(title: str, paragraph: Mapping[str, Any]) -> Row:
    return {"title": title, "context": paragraph["context"], "qas": [_question(qa) for qa in paragraph["qas"]]}


def _question(qa: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("text", "answer_start")
    answers = [{key: answer[key] for key in keys if key in answer} for answer in qa.get("answers") or ()]
    return {"id": qa["id"], "question": qa["question"], "answers": answers}
