"""Recognise texts, or pairs of texts, with labels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from lotune.tasks import sentence_classification
from lotune.tasks.candidates import Candidate, Decision, is_bare, mapped
from lotune.tasks.columns import Column, is_number, usable
from lotune.tasks.sentence_classification import SentencesSettings
from lotune.tasks.task import Row
from lotune.tasks.user_rows import CHINESE, label_order, text_or_empty

PAIRS = (
    ("question1", "question2"), ("#1 String", "#2 String"), ("sentence1", "sentence2"), ("premise", "hypothesis"),
    ("text1", "text2"), ("text_a", "text_b"), ("sentence_a", "sentence_b"), ("first", "second"),
    ("句子1", "句子2"), ("文本1", "文本2"),
)  # fmt: skip
"""Common column names of the two texts of a pair; the first two are QQP's and MRPC's."""
SINGLES = (
    "sentence", "text", "review", "comment", "content", "tweet", "message", "body", "post", "句子", "文本", "评论",
    "内容", "正文",
)  # fmt: skip
"""Common column names of a text with a label."""
LABEL_COLUMNS = (
    "is_duplicate", "Quality", "label", "labels", "class", "category", "sentiment", "gold_label", "intent", "topic",
    "标签", "类别", "情感", "分类", "意图", "target", "y",
)  # fmt: skip
"""Common column names of a label."""
GENERIC_LABELS = (
    "label", "labels", "class", "gold_label", "target", "y", "tag", "output", "answer", "标签", "类别", "分类", "答案",
    "输出",
)  # fmt: skip
"""Names of label columns that say nothing about the labels."""
ANSWERED = ("prompt", "instruction", "question", "query", "messages", "conversations", "问题", "指令")
"""Names of columns that ask for their answer themselves, so that no instruction about labels is needed."""
MEANINGS: Mapping[tuple[str, ...], tuple[str, ...]] = {
    ("0", "1"): ("negative", "positive"),
    ("-1", "1"): ("negative", "positive"),
    ("-1", "0", "1"): ("negative", "neutral", "positive"),
    ("0", "1", "2"): ("negative", "neutral", "positive"),
}
"""Words of numeric labels in a column called sentiment."""
_SENTIMENT = ("sentiment", "polarity", "情感", "情绪", "情感倾向")
_IN_CHINESE = {
    "negative": "负面", "neutral": "中性", "positive": "正面", "no": "否", "yes": "是",
}  # fmt: skip
_BINARY = ("0", "1")
_NO_AND_YES = (_BINARY, ("False", "True"), ("false", "true"), ("FALSE", "TRUE"))
"""The values of a column that answers yes or no."""
# CoLA's third column: the acceptability mark of the source, such as "*", "?" or "??".
_COLA_MARKS = re.compile(r"[*? ]*")


def labelled(
    sample: Sequence[Row], columns: Sequence[Column], rows: Iterable[Row], wanted: Mapping[str, str]
) -> Candidate | None:
    """Return the candidate of texts, or pairs of texts, with labels; None for other rows.

    `wanted` are columns that the user names, by role.
    """
    chosen = _chosen_columns(sample, columns, wanted)
    if not chosen:
        return None
    label_column = chosen.get("label")
    # All rows are read for their labels: a rare one may be missing from the sample.
    counts = Counter(text_or_empty(row.get(label_column)).strip() for row in rows) if label_column else Counter()
    del counts[""]
    ordered = sorted(counts, key=label_order)
    # The task has an instruction of its own for the files that it knows.
    if chosen.get("first") in ("question1", "#1 String") or is_cola(sample):
        words: dict[str, str] = {} if set(ordered) <= {*_BINARY} else {label: label for label in ordered}
        instruction, meaning = None, Decision(f"labels: {', '.join(ordered)}", "task.labels, task.instruction")
    else:
        words, instruction, meaning = _worded(chosen, ordered, _is_chinese(sample, chosen))
    settings = SentencesSettings(columns=chosen, labels=words, instruction=instruction)
    texts = "pairs of texts" if "first" in chosen else "texts"
    decisions = (
        Decision(f"task: sentences, {texts} with one of {len(ordered)} labels", "--task"),
        Decision(f"columns: {mapped(chosen)}", "--column ROLE=NAME"),
        meaning,
        _measure(counts, words),
    )
    return Candidate(settings, decisions, _others(columns, chosen))


def _measure(counts: Counter[str], words: Mapping[str, str]) -> Decision:
    if not counts:
        return Decision("measure: accuracy, as each answer is a label", "--task")
    commonest, number = counts.most_common(1)[0]
    always = f"the commonest, {words.get(commonest, commonest)}, alone would have {100 * number / counts.total():.1f} %"
    return Decision(f"measure: accuracy, as each answer is a label; {always}", "--task")


def _worded(chosen: Mapping[str, str], labels: Sequence[str], chinese: bool) -> tuple[dict[str, str], str, Decision]:
    """Return the word of each label, the instruction, and the decision about their meaning."""
    name = _subject(chosen.get("label", ""), chinese)
    number = 2 if "first" in chosen else 1
    telling = name and tuple(labels) in _NO_AND_YES
    if not telling and not all(map(is_number, labels)):
        decision = Decision(f"labels: {', '.join(labels)}, the words of the file", "task.labels, task.instruction")
        # The words that the task takes from the rows itself need not stand in the recipe.
        return {label: label for label in labels}, _instruction(name, number, chinese), decision
    meant = MEANINGS.get(tuple(labels), ()) if chosen.get("label", "").strip().lower() in _SENTIMENT else ()
    instruction = _instruction(name, number, chinese, numeric=not meant)
    if not meant and telling:
        meant, instruction = ("no", "yes"), _question(name, number, chinese)
    if not meant:
        return _unknown_numbers(labels, name, instruction, chinese)
    words = {label: _IN_CHINESE[word] if chinese else word for label, word in zip(labels, meant, strict=True)}
    meaning = ", ".join(f"{label} means {word}" for label, word in words.items())
    decision = Decision(f"labels: {meaning}, as the column is called {chosen['label']!r}", "task.labels")
    return words, instruction, decision


def _unknown_numbers(
    labels: Sequence[str], name: str, instruction: str, chinese: bool
) -> tuple[dict[str, str], str, Decision]:
    """Return words, instruction and decision for numbers that are their own words."""
    words = {} if set(labels) <= {*_BINARY} else {label: label for label in labels}
    if name:
        return words, instruction, Decision(f"labels: {', '.join(labels)}, numbers of {name}", "task.instruction")
    example = ", ".join(f"{label}: WORD" for label in labels[:2])
    found = f"labels: {', '.join(labels)}; the file does not say what they mean, so please do"
    return words, instruction, Decision(found, f"task.labels, such as {{{example}}}")


def _subject(label_column: str, chinese: bool) -> str:
    """Return what the labels are about by the name of their column; empty if it does not say so.

    >>> _subject("is_spam", False), _subject("Label", False), _subject("情感", True), _subject("3", False)
    ('spam', '', '情感', '')
    """
    name = re.sub(r"^(is|has|是否)[_ ]?(?=\w)", "", label_column.strip(), flags=re.I) if label_column else ""
    name = re.sub(r"[_\s]+", " ", name).strip()
    if name.lower() in GENERIC_LABELS or name.isdecimal() or bool(CHINESE.search(name)) != chinese:
        return ""
    return name.lower()


def _instruction(name: str, texts: int, chinese: bool, *, numeric: bool = False) -> str:
    """Return the instruction for labels of a subject.

    >>> _instruction("", 1, False), _instruction("情感", 1, True)
    ('Which label fits this text? Answer {labels}.', '这段文字的情感是什么？请回答{labels}。')
    """
    if chinese:
        these, what = "这段文字" if texts == 1 else "这两段文字", "多少" if numeric else "什么"
        return f"{these}的{name}是{what}？请回答{{labels}}。" if name else f"{these}属于哪一类？请回答{{labels}}。"
    these = "fits this text" if texts == 1 else "fits these two texts"
    subject = f"value of {name}" if name and numeric else name or "label"
    return f"Which {subject} {these}? Answer {{labels}}."


def _question(name: str, texts: int, chinese: bool) -> str:
    """Return the instruction for a column of yes and no.

    >>> _question("spam", 1, False)
    'Does this text count as spam? Answer {labels}.'
    """
    if chinese:
        return f"{'这段文字' if texts == 1 else '这两段文字'}是否{name}？请回答{{labels}}。"
    these = "Does this text count" if texts == 1 else "Do these two texts count"
    return f"{these} as {name}? Answer {{labels}}."


def _is_chinese(rows: Sequence[Row], chosen: Mapping[str, str]) -> bool:
    """Return whether most of the texts have Chinese in them."""
    texts = [text_or_empty(row.get(name)) for row in rows[:50] for role, name in chosen.items() if role != "label"]
    return 2 * sum(bool(CHINESE.search(text)) for text in texts) > len(texts)


def is_cola(rows: Sequence[Row]) -> bool:
    """Return whether the rows are CoLA's: source, label (not in the dev file), author's mark, sentence; no header."""
    if not is_bare(rows[0]) or len(rows[0]) not in (3, 4):
        return False
    has_labels = len(rows[0]) == 4
    marks = all(_COLA_MARKS.fullmatch(row["3" if has_labels else "2"]) for row in rows)
    return marks and (not has_labels or all(row["2"].strip() in sentence_classification.DEFAULT_LABELS for row in rows))


def _chosen_columns(sample: Sequence[Row], columns: Sequence[Column], wanted: Mapping[str, str]) -> dict[str, str]:
    """Return the columns of texts and labels by role; empty if there are none, or too many to choose from."""
    if is_cola(sample) and not wanted:
        return {"sentence": "4", "label": "2"} if len(sample[0]) == 4 else {"sentence": "3"}
    by_lower = {column.name.strip().lower(): column for column in columns}
    if not wanted and (benchmark := _benchmark(by_lower)):
        return benchmark
    label = wanted.get("label") or _label_column(columns, by_lower)
    if label is None:
        return {}
    texts = {role: name for role, name in wanted.items() if role != "label"}
    free = [column for column in usable(columns) if column.name != label and column.name not in texts.values()]
    if not texts:
        texts = _texts(free, bool(wanted))
    elif len(texts) == 1 and (missing := {"first": "second", "second": "first"}.get(next(iter(texts)))) and free:
        texts[missing] = max(free, key=lambda column: column.length).name
    return {**texts, "label": label} if texts else {}


def _benchmark(by_lower: Mapping[str, Column]) -> dict[str, str]:
    """Return the columns of QQP or MRPC, which are trusted without a look at their labels: test files lack them."""
    for (first, second), label in zip(PAIRS[:2], LABEL_COLUMNS[:2], strict=True):
        if first.lower() in by_lower and second.lower() in by_lower:
            roles = {"first": first, "second": second, "label": label}
            return {role: by_lower[name.lower()].name for role, name in roles.items() if name.lower() in by_lower}
    return {}


def _label_column(columns: Sequence[Column], by_lower: Mapping[str, Column]) -> str | None:
    """Return the column of labels: by a common name, else the only one, else the one that is likeliest."""
    labels = [column for column in columns if column.kind == "label"]
    named = [by_lower[name.lower()] for name in LABEL_COLUMNS if name.lower() in by_lower]
    if known := next((column for column in named if column in labels), None):
        return known.name
    # A known name whose cells are no labels is an answer of another kind, and so is what a prompt asks for.
    if not labels or named or any(name in by_lower for name in ANSWERED):
        return None
    # Topics and sources repeat themselves like labels; a single column of 0 and 1 settles it.
    binary = [column for column in labels if column.values == _BINARY]
    if len(binary) == 1:
        return binary[0].name
    # Of several, the text that labels stand beside comes first in most files, and the label last.
    return None if len(labels) > 1 and is_bare(dict.fromkeys(by_lower)) else labels[-1].name


def _texts(free: Sequence[Column], forced: bool) -> dict[str, str]:
    """Return the columns of one text or of two by role."""
    by_lower = {column.name.strip().lower(): column.name for column in free}
    for pair in PAIRS:
        if all(name.lower() in by_lower for name in pair):
            return {role: by_lower[name.lower()] for role, name in zip(("first", "second"), pair, strict=True)}
    if single := next((by_lower[name] for name in SINGLES if name in by_lower), None):
        return {"sentence": single}
    # Mostly different cells of some length: neither a name that recurs nor a code.
    texts = [c for c in free if c.kind == "text" and c.length >= 4 and 2 * len(c.values) > len(c.cells)]
    if not texts and forced:
        texts = list(free[:1])
    if len(texts) == 2 and all(column.length >= 12 for column in texts):
        return {"first": texts[0].name, "second": texts[1].name}
    return {"sentence": max(texts, key=lambda column: column.length).name} if texts else {}


def _others(columns: Sequence[Column], chosen: Mapping[str, str]) -> tuple[Decision, ...]:
    """Return other readings: other columns of labels or of texts, and of two texts each alone."""
    free = [column for column in columns if column.name not in chosen.values()]
    labels = [column.name for column in free if column.kind == "label"]
    texts = [column.name for column in free if column.kind == "text"]
    if "first" in chosen and chosen["first"] not in [name for pair in PAIRS for name in pair]:
        texts += [chosen["first"], chosen["second"]]
    return (
        *(Decision(f"{name!r} is the label", f"--column label={name}") for name in labels),
        *(Decision(f"{name!r} alone is the text", f"--column sentence={name}") for name in texts),
    )
