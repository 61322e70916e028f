"""Read and write SQuAD's layout; score answers by SQuAD 1.1's official metric.

A row is one paragraph: {"title", "context", "qas": [{"id", "question", "answers": [{"text", "answer_start"}]}]}. Other
fields, such as those of CMRC 2018, are dropped. A question without a reference has no `answers`, or an empty list. No
metric uses `answer_start`, so it is not checked.
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
    """Return the official F1 and EM of one answer, each 0 to 100, each the maximum over all gold answers.

    Source: SQuAD 1.1's evaluation script (Rajpurkar et al., 2016).

    >>> squad_scores("The Denver Broncos!", ["Denver Broncos", "Broncos"])
    (100.0, 100.0)
    >>> squad_scores("Broncos of Denver", ["Denver Broncos"])
    (80.0, 0.0)
    """
    answer = normalise_squad_answer(prediction)
    references = [normalise_squad_answer(gold) for gold in golds]
    f1 = max((_f1(answer.split(), reference.split()) for reference in references), default=0.0)
    return f1, 100.0 * (answer in references)


def normalise_squad_answer(text: str) -> str:
    """Return the text in lower case, without ASCII punctuation and the words a, an, the, with single blanks.

    >>> normalise_squad_answer("An  apple, the U.S.")
    'apple us'
    """
    # The order is the script's: punctuation goes before the articles, so "a." is an article.
    bare = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def read_items(path: Path, max_row_bytes: int = MAX_ROW_BYTES) -> list[tuple[str, Row]]:
    """Return the paragraphs of a file in SQuAD's layout, each under the id of its first question.

    A question without answers has no reference.

    Raises: DataError, with the first ten faults, if the file cannot be read or is in another layout, if a question is
    unanswerable (SQuAD 2.0), or if an id is repeated.
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
        summary = "; ".join(faults[:10]) + (f"; and {len(faults) - 10} more" if len(faults) > 10 else "")
        raise DataError(str(path), summary, "paragraphs with a context and questions with an id, and answers or none")
    if not items:
        raise DataError(str(path), "holds no paragraphs", "one at least")
    return items


def write_items(path: Path, rows: Iterable[Row]) -> None:
    """Write paragraphs in SQuAD's layout, as `read_items` reads them. Neighbours with one title are one article."""
    articles: list[dict[str, Any]] = []
    for row in rows:
        if not articles or articles[-1]["title"] != row["title"]:
            articles.append({"title": row["title"], "paragraphs": []})
        articles[-1]["paragraphs"].append({"context": row["context"], "qas": row["qas"]})
    write_json(path, {"version": "1.1", "data": articles})


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def _f1(answer: Sequence[str], reference: Sequence[str]) -> float:
    # 2PR / (P + R) with precision common / |answer| and recall common / |reference|, in per cent
    common = sum((Counter(answer) & Counter(reference)).values())
    return 200.0 * common / (len(answer) + len(reference)) if common else 0.0


def _paragraphs(articles: Sequence[Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield JSON path, title and content of each paragraph; a malformed article counts as one malformed paragraph."""
    for number, article in enumerate(articles):
        paragraphs = article.get("paragraphs") if isinstance(article, dict) else None
        if not isinstance(paragraphs, list):
            yield f"data[{number}]", "", None
            continue
        for inner, paragraph in enumerate(paragraphs):
            yield f"data[{number}].paragraphs[{inner}]", str(article.get("title", "")), paragraph


def _fault(paragraph: Any, max_bytes: int) -> str:
    """Return the fault of a paragraph, or an empty string."""
    if not isinstance(paragraph, dict):
        return "is not a paragraph"
    if len(json.dumps(paragraph, ensure_ascii=False).encode(errors="replace")) > max_bytes:
        return f"has {too_long(max_bytes)} (data.max_row_bytes)"
    if not _is_text(paragraph.get("context")):
        return "has no context"
    questions = paragraph.get("qas")
    if not isinstance(questions, list) or not questions:
        return "has no questions"
    faults = (f"qas[{number}] {fault}" for number, qa in enumerate(questions) if (fault := _question_fault(qa)))
    return next(faults, "")


def _question_fault(qa: Any) -> str:
    if not isinstance(qa, dict) or not isinstance(
        qa.get("question"), str
    ):  # may be empty: CMRC 2018 has two such questions
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
    """Return the fault of a paragraph with a repeated id, or an empty string; add its ids to `seen`."""
    # Predictions are matched by id: with a repeated one, an answer would be scored against another question.
    for qa in paragraph["qas"]:
        if qa["id"] in seen:
            return f"repeats the id {qa['id']!r}"
        seen.add(qa["id"])
    return ""


def _row(title: str, paragraph: Mapping[str, Any]) -> Row:
    return {"title": title, "context": paragraph["context"], "qas": [_question(qa) for qa in paragraph["qas"]]}


def _question(qa: Mapping[str, Any]) -> dict[str, Any]:
    fields = ("text", "answer_start")
    answers = [{field: answer[field] for field in fields if field in answer} for answer in qa.get("answers") or ()]
    return {"id": qa["id"], "question": qa["question"], "answers": answers}
