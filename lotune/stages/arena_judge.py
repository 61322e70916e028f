"""`lotune arena judge`: models of a server answer the questions of a file, and a model or a scorer compares them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import orjson

from lotune.arena.judging import Judge, Question, agreement, battles, model_judge, scorer_judge
from lotune.arena.store import VoteStore
from lotune.console import print_status
from lotune.errors import DataError, SettingsError
from lotune.generate.requests import Request
from lotune.generate.sampling import Sampling
from lotune.serve.client import PARALLEL, ServerClient
from lotune.tasks.scorers import SCORES, score_text

QUESTION_KEYS = ("prompt", "question", "instruction", "问题")
ANSWER_KEYS = ("answer", "reference", "output", "答案")
MAX_NEW_TOKENS, JUDGE_TOKENS = 225, 400
GREEDY = Sampling(temperature=0)


@dataclass(frozen=True)
class JudgeOptions:
    """The server of the models; the judge, a model there or on `judge_server`, or a scorer of the tasks."""

    server: str
    models: Sequence[str]
    judge: str = ""
    judge_server: str = ""
    scorer: str = ""
    limit: int | None = None


def judge_battles(votes: Path, file: Path, options: JudgeOptions) -> dict[str, object]:
    """Judge all pairs of models on each question, add the verdicts to the votes, and return the counts.

    Raises: SettingsError for fewer than two models, or not exactly one judge; DataError for a file without questions;
    the errors of `ServerClient`.
    """
    if len(set(options.models)) < 2:
        raise SettingsError("--model", f"{len(set(options.models))} models are named", "two or more")
    if bool(options.judge) == bool(options.scorer):
        raise SettingsError("arena judge", "needs one judge", "--judge MODEL or --scorer NAME")
    if options.scorer in SCORES:
        raise SettingsError("--scorer", f"{options.scorer} gives scores", "one that tells right from wrong, as exact")
    if options.scorer:
        score_text(options.scorer, "", "")  # refused before the models answer
    questions = read_questions(file, with_references=bool(options.scorer))[: options.limit]
    store = VoteStore(votes)
    clients = {name: ServerClient(options.server, name) for name in options.models}
    answers = {name: _answers(client, questions) for name, client in clients.items()}
    name = options.judge or options.scorer
    known = {vote.battle for vote in store.summaries() if vote.judge == name}
    judge, added, without = _judge(options), 0, 0
    for vote in battles(questions, answers, judge, name, known):
        if vote is None:
            without += 1
        else:
            added += store.add(vote)  # as it comes, so that nothing is judged twice after a stop
    found = agreement(store, name)
    print_status(f"{added} battles judged, {without} without a verdict, {len(known)} known before")
    print_status(f"{name} {found.describe()}" if found.battles else found.describe())
    return {
        "judge": name, "added": added, "without_verdict": without, "known": len(known),
        "agreement": {"same": found.same, "battles": found.battles},
    }  # fmt: skip


def _judge(options: JudgeOptions) -> Judge:
    if options.scorer:
        return scorer_judge(lambda text, reference: bool(score_text(options.scorer, text, reference).correct))
    client = ServerClient(options.judge_server or options.server, options.judge)
    return model_judge(lambda prompt: _ask(client, prompt, JUDGE_TOKENS))


def _answers(client: ServerClient, questions: Sequence[Question]) -> list[str]:
    with ThreadPoolExecutor(PARALLEL) as pool:
        return list(pool.map(lambda question: _ask(client, question.prompt, MAX_NEW_TOKENS), questions))


def _ask(client: ServerClient, prompt: str, tokens: int) -> str:
    return client.chat([{"role": "user", "content": prompt}], Request((0,), tokens, sampling=GREEDY)).text


def read_questions(file: Path, *, with_references: bool) -> list[Question]:
    """Return the questions of a file: lines of JSON with a question, and a reference if asked for, or plain lines.

    Raises: DataError with the line that has none.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(str(file), f"cannot be read: {error}", "a text file in UTF-8") from None
    questions = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            questions.append(_question(line, f"{file}:{number}", with_references))
    if not questions:
        raise DataError(str(file), "has no questions", "a question a line")
    return questions


def _question(line: str, where: str, with_reference: bool) -> Question:
    try:
        record = orjson.loads(line) if line.lstrip().startswith("{") else {QUESTION_KEYS[0]: line.strip()}
    except orjson.JSONDecodeError as error:
        raise DataError(where, f"is no JSON: {error}") from None
    prompt, reference = (
        next((record[key] for key in keys if isinstance(record.get(key), str) and record[key].strip()), "")
        for keys in (QUESTION_KEYS, ANSWER_KEYS)
    )
    if not prompt:
        raise DataError(where, "has no question", " or ".join(QUESTION_KEYS))
    if with_reference and not reference:
        raise DataError(where, "has no reference answer, which the scorer needs", " or ".join(ANSWER_KEYS))
    return Question(prompt, reference)
