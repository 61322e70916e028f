"""A report in Chinese has the figures of the English one, and no sentence is left in English."""

from __future__ import annotations

import json
import re
import string
from pathlib import Path

import pytest
from command_line import call
from conftest import WRITTEN
from hypothesis import given
from hypothesis import strategies as st

from lotune.cli.execution import run_options
from lotune.evaluate.scorecard import Scorecard, read_scorecard
from lotune.report import provenance, sections, strengths
from lotune.report.languages import _NUMBERS, language_of_locale, patterns, translated
from lotune.report.terminal import _checkpoints, _closing_lines, _figures, _kinds, _retention, verdict_sentence

WORDS = (
    "F1 EM KL Wilson Bootstrap logits bfloat16 float32 cpu nat nats lotune reading arithmetic accuracy add divide rank"
    " significant small base step phase1 alpaca exact label all of python GiB tune evaluate retention qa x p lora linux"
    " cores bits per byte"
)
NAMES = re.compile(
    rf"[a-z0-9]+(?:[_./=:+-][A-Za-z0-9_./=*+-]+)+|\\b(?:{'|'.join(WORDS.split())})\\b".replace("\\\\b", r"\b")
)
"""What stays in a Chinese report: names of tasks, metrics, settings, files and units."""


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_each_pattern_has_its_fields_in_both_languages() -> None:
    for english, chinese in patterns().items():
        assert fields(english) == fields(chinese), english
        assert english.count("{") == chinese.count("{"), english


@given(st.sampled_from(sorted(patterns())), st.data())
def test_a_text_keeps_its_values(english: str, data: st.DataObject) -> None:
    """Values that are no texts of lotune are found again in the translation, whatever the pattern."""
    values = {
        name: str(data.draw(st.integers(0, 10**6))) if name in _NUMBERS else f"⟨{name}{data.draw(st.integers(0, 999))}⟩"
        for name in fields(english)
    }
    text = english.format(**values)
    shown = translated(text, "zh")
    assert all(value in shown for value in values.values()), (text, shown)


@pytest.mark.parametrize(("environment", "language"), [
    ({}, "en"), ({"LANG": "C.UTF-8"}, "en"), ({"LANG": "zh_CN.UTF-8"}, "zh"),
    ({"LC_ALL": "zh_TW", "LANG": "en_GB"}, "zh"),
    ({"LC_ALL": "en_GB.UTF-8", "LANG": "zh_CN.UTF-8"}, "en"), ({"LC_MESSAGES": "zh_CN", "LANG": "de_DE"}, "zh"),
])  # fmt: skip
def test_the_language_is_that_of_the_locale(environment: dict[str, str], language: str) -> None:
    assert language_of_locale(environment) == language


def test_an_option_comes_before_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert run_options(False, False, False).language == "zh"
    assert run_options(False, False, False, "en").language == "en"


def texts_of(card: Scorecard) -> list[str]:
    """All texts of lotune in terminal and report."""
    tables = [sections.retention_table(card.retention), sections.checkpoints_table(card), sections.checks_table(card),
              sections.claims_table(card)]  # fmt: skip
    cells = [cell for table in tables for row in (table.head, *table.rows) for cell in row]
    cells += [
        cell for rows in (_figures(card), _retention(card), _checkpoints(card)) for row in rows or [] for cell in row
    ]
    cells += [cell for row in _kinds(card.target) or [] for cell in row[1:]]
    notes = [
        sections.kinds_note(card.target),
        sections.checkpoints_note(card),
        sections.RETENTION_NOTE,
        provenance.REPEAT_NOTE,
    ]
    notes += [strengths.strength_note(card.strength)] if card.strength else []
    figures = [text for figure in sections.key_figures(card) for text in figure]
    heads = [verdict_sentence(card), sections.verdict_headline(card), *card.reasons, *card.notes]
    return [*heads, *_closing_lines(card), *cells, *notes, *figures, *sections.SECTIONS.values()]


def digits(text: str) -> list[str]:
    return sorted(re.findall(r"\d+(?:\.\d+)?", text.replace(",", "")))


def test_no_sentence_stays_english_and_no_figure_changes(finished_run: Path) -> None:
    card = read_scorecard(finished_run / "scorecard.json")
    for text in dict.fromkeys(texts_of(card)):
        shown = translated(text, "zh")
        assert digits(shown) == digits(text)
        rest = NAMES.sub("", shown.replace(WRITTEN, ""))
        assert not re.search(r"[A-Za-z]{2,} [a-z]{2,} [a-z]{2,}", rest), (text, shown)


def test_report_and_page_are_chinese(finished_run: Path, tmp_path: Path) -> None:
    import shutil

    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    call("report", run)
    english = (run / "report.html").read_text()
    call("report", run, "--lang", "zh")
    page, text = (run / "report.html").read_text(), (run / "report.md").read_text()
    assert '<html lang="zh">' in page
    assert '<html lang="en">' in english
    for word in ("能力保留", "检查点", "变对", "训练过程", "复现"):
        assert word in page
        assert word in text
    assert "Retention</h2>" not in page
    assert "Won: right only after tuning" not in page + text
    # What a model wrote is as it was.
    written = re.compile(r"<pre[^>]*>.*?</pre>", re.S)
    assert written.findall(page) == written.findall(english)


def test_the_scorecard_of_the_terminal_is_chinese(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    from lotune.report.terminal import show_scorecard

    card = read_scorecard(finished_run / "scorecard.json")
    show_scorecard(card, Console(width=80), "zh")
    shown = capsys.readouterr().out
    assert "成绩单" in shown
    assert f"{100 * card.target.value:.1f} %" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert json.loads((finished_run / "scorecard.json").read_text())["valid"] == card.valid
