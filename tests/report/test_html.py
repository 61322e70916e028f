"""The two forms of a report: whole, escaped, and in need of nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from lotune.evaluate.scorecard import Scorecard, make_scorecard
from lotune.report import sections
from lotune.report.html import render_page
from lotune.report.markdown import render_markdown
from lotune.report.report_data import ExamplePair, Report, Setting, TrainingSummary, collect_report
from lotune.text_display import is_hidden

VOID = {"meta", "link", "br", "img", "hr", "input"}
QUOTED = 'it\'s "one" <b>&'


class Reader(HTMLParser):
    """The tags, the attributes and the text of a page; whether each tag is closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.faults: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def report(finished_run: Path) -> Report:
    """A report in whose every written text there is markup."""
    settings = [Setting("name", f'"{QUOTED}"', "null", "A name | of <it>.")]
    return collect_report(finished_run, QUOTED, settings, f"lotune run '{QUOTED}'")


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    return render_page(report)


def test_the_page_is_one_well_made_whole(page: str) -> None:
    read = Reader(page)
    assert not read.faults
    assert not read.open
    assert page.lstrip().startswith("<!doctype html>")
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(pictures) > 10
    for picture in pictures:
        assert ElementTree.fromstring(picture).tag == "svg"
    named = [ElementTree.fromstring(item) for item in pictures if "aria-hidden" not in item]
    assert all(item.get("role") == "img" and item.get("aria-label") for item in named)


def test_the_page_loads_nothing_and_runs_no_script(page: str) -> None:
    read = Reader(page)
    assert not {"script", "link", "img", "iframe", "object", "embed", "form", "base", "image", "use"} & set(read.tags)
    addresses = [value for _, name, value in read.attributes if name in ("src", "href", "srcset", "action", "data")]
    assert addresses
    assert all(address.startswith("#") for address in addresses)
    assert not [name for _, name, _ in read.attributes if name.startswith("on")]
    style = page.partition("<style>")[2].partition("</style>")[0]
    assert "@import" not in style
    assert "url(" not in style
    assert "default-src 'none'" in page


def test_light_dark_phone_and_paper(page: str) -> None:
    for words_of_style in ("prefers-color-scheme: dark", "max-width: 720px", "@media print", "width=device-width"):
        assert words_of_style in page
    light, dark = (re.findall(r"--(\w+):", part) for part in re.findall(r":root \{(.*?)\}", page, re.DOTALL))
    assert light == dark
    assert set(re.findall(r"var\(--(\w+)\)", page)) <= set(light)


def test_in_print_nothing_is_folded_or_cut(page: str) -> None:
    style = page.partition("<style>")[2].partition("</style>")[0]
    printed = style.partition("@media print")[2]
    assert "details::details-content { content-visibility: visible; block-size: auto; }" in printed
    assert "pre, article .question { max-height: none; overflow: visible; }" in printed
    limited = re.findall(r"^(.+?) \{[^}]*max-height", style.partition("@media print")[0], re.MULTILINE)
    assert limited == ["article .question"], "what is cut on a screen is whole on paper"


@pytest.mark.parametrize("title", sections.SECTIONS.values())
def test_both_forms_have_every_section(report: Report, page: str, title: str) -> None:
    assert f"<h2>{title}</h2>" in page
    assert f"\n## {title}\n" in render_markdown(report)


def test_every_anchor_of_the_page_is_there(page: str) -> None:
    read = Reader(page)
    ids = {value for _, name, value in read.attributes if name == "id"}
    assert {value[1:] for _, name, value in read.attributes if name == "href"} == ids == set(sections.SECTIONS)


def test_written_texts_are_escaped_in_the_page(page: str) -> None:
    assert "<script" not in page
    assert "<b>" not in page
    assert "<i>0" not in page
    assert "\x00" not in page
    assert "\x1b" not in page
    text = "".join(Reader(page).text)
    for written in (
        'x < 1 & "y" <script>alert(1)</script> `a|b` ```\n[link](http://example.org/x.png)␀␛[31m',
        QUOTED,
        "mine.csv:7 <no> solution",
        "logits within 1.2e-05 <ok>",
        "<script>alert(2)</script>",
    ):
        assert written in text, written


HIDDEN = "\x1b\x85\x9b\xad\u200b\u200f\u202e\u2066\ufeff\u2028"
PROBE = f"\u05d0\u05d1{HIDDEN}\u05d2"
"""Letters that are written from right to left, with what steers, hides or reorders among them."""


class Directions(Reader):
    """Of each text of a page: whether an element around it gives it a direction of its own."""

    def __init__(self, page: str) -> None:
        self.own: list[bool] = []
        self.found: list[tuple[str, bool]] = []
        super().__init__(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        super().handle_starttag(tag, attrs)
        if tag not in VOID:
            self.own.append(tag in ("bdi", "title") or dict(attrs).get("dir") == "auto")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        super().handle_startendtag(tag, attrs)
        self.own.pop()

    def handle_endtag(self, tag: str) -> None:
        super().handle_endtag(tag)
        self.own.pop()

    def handle_data(self, data: str) -> None:
        super().handle_data(data)
        self.found.append((data, any(self.own)))


@pytest.fixture(scope="module")
def probed(report: Report) -> Report:
    """A report whose texts from outside are all the probe."""

    def of(one: ExamplePair) -> ExamplePair:
        judged = replace(one.tuned.score, extracted=PROBE, reference=PROBE)
        values = replace(one.tuned, text=PROBE, prompt=PROBE, example_id=PROBE, category=PROBE, score=judged)
        return ExamplePair(PROBE, values, values)

    rows = {name: tuple(map(of, getattr(report.examples, name))) for name in ("won", "lost", "unsolved")}
    counts = {
        **report.counts,
        "rows": {**report.counts["rows"], "malformed_rows": [PROBE], "kinds": {PROBE: 3}},
        "tokens": {**report.counts["tokens"], "first": PROBE},
    }
    target = report.card.target.model_copy(
        update={"by_category": {PROBE: next(iter(report.card.target.by_category.values()))}}
    )
    card = report.card.model_copy(
        update={"base": PROBE, "notes": (PROBE,), "reasons": (PROBE, PROBE), "target": target, "valid": False}
    )
    return replace(
        report, altered=(PROBE,), name=PROBE, card=card, counts=counts, recipe=PROBE,
        examples=replace(report.examples, **rows),
        settings=(Setting(PROBE, PROBE, PROBE, PROBE),), environment={**report.environment, "processor": PROBE},
    )  # fmt: skip


def test_nothing_in_either_form_is_hidden(probed: Report) -> None:
    for text in (render_page(probed), render_markdown(probed)):
        assert [hex(ord(character)) for character in set(text) if is_hidden(character)] == []
        assert "\u05d1␛‹U+0085›‹U+009B›‹U+00AD›‹U+200B›‹U+200F›‹U+202E›‹U+2066›‹U+FEFF›‹U+2028›\u05d2" in text


def test_each_text_from_outside_has_its_own_writing_direction(probed: Report) -> None:
    results = [(text, own) for text, own in Directions(render_page(probed)).found if "\u05d0" in text]
    assert len(results) > 30
    assert [text for text, own in results if not own] == []


def test_written_texts_are_escaped_in_the_markdown(report: Report) -> None:
    text = render_markdown(report)
    assert text.startswith('# it\'s "one" &lt;b&gt;&amp;\n')
    fence, outside = "", []
    for line in text.splitlines():
        if re.fullmatch(r"`{3,}", line) and (not fence or line == fence):
            fence = "" if fence else line
        elif not fence:
            outside.append(line)
    assert not fence
    tags = {tag for line in outside for tag in re.findall(r"</?(\w+)", line)}
    assert tags == {"details", "summary"}
    assert not [line for line in outside if re.search(r"(?<!\\)\]\(", line)]
    rows = [line for line in outside if line.startswith("| ")]
    assert "| a\\|b | 20 |" in text
    assert all(len(re.findall(r"(?<!\\)\|", row)) in (3, 4, 5, 7) for row in rows)
    assert "\x00" not in text


def test_both_say_the_same_figures(report: Report, page: str) -> None:
    displayed, text = "".join(Reader(page).text).replace("\N{NO-BREAK SPACE}", " "), render_markdown(report)
    for words_said in (
        *("11.7 → 60.0 %", "47.4 to 71.4 %", "96.0 %", "14,592 of 2,164,416", "0.7123", "32 rows gained, 3 lost"),
        *("step-000100 with 78.3 %", "32 rows won, 3 lost", "100 steps, 90,000 tokens", "81,234 in 1,047 rows"),
        *(
            "90 % needed",
            "training rows were removed",
            "left out of test: prompt too long",
            "torch",
            "learning_rate: 0.02",
        ),
    ):
        assert words_said in displayed, words_said
        assert words_said in text, words_said


def test_the_verdict_is_one_sentence(report: Report) -> None:
    assert sections.verdict_headline(report.card) == (
        "Valid: on arithmetic, accuracy rose from 11.7 % to 60.0 % with 0.674 % of the parameters trained, "
        "and every gated metric kept at least 96.0 %."
    )


def changed(card: Scorecard, **changes: Any) -> Scorecard:
    """The card made anew from its parts, some of them changed."""
    names = ("target", "retention", "parameters", "score", "chosen_checkpoint", "checkpoints", "checks", "base")
    return make_scorecard(**{**{name: getattr(card, name) for name in names}, **changes})


def without_a_gain(card: Scorecard) -> Scorecard:
    target = {"value": card.target.base_value, "p_value": 1.0, "better": False, "gained": 0, "lost": 0}
    lines = [replace(card.retention[0], retained=0.5, passed=False), *card.retention[1:]]
    return changed(card, target=card.target.model_copy(update=target), retention=lines)


def with_a_failed_check(card: Scorecard) -> Scorecard:
    return changed(card, checks=[card.checks[0].model_copy(update={"passed": False})])


def with_one_tested(card: Scorecard) -> Scorecard:
    untested = {"value": None, "score": None, "retained": None, "gate_passed": None}
    points = [
        checkpoint if checkpoint.name == card.chosen_checkpoint else checkpoint.model_copy(update=untested)
        for checkpoint in card.checkpoints
    ]
    return changed(card, checkpoints=points)


def with_nothing_to_keep(card: Scorecard) -> Scorecard:
    lines = [replace(line, base=0.0, retained=None, passed=False) for line in card.retention]
    points = [checkpoint.model_copy(update={"retained": None, "gate_passed": False}) for checkpoint in card.checkpoints]
    return changed(card, retention=lines, checkpoints=points)


def of_a_mean(card: Scorecard) -> Scorecard:
    interval = type(card.target.interval)
    figures = {"metric": "contest_f1", "task": "reading", "value": 66.0, "base_value": 33.0, "by_category": {}}
    ranges = {name: interval(20.0, 70.0) for name in ("interval", "base_interval", "difference_interval")}
    points = [
        checkpoint.model_copy(update={"value": 50.0, "validation_value": 40.0}) for checkpoint in card.checkpoints
    ]
    return changed(card, target=card.target.model_copy(update={**figures, **ranges}), checkpoints=points)


def unjudgeable_kind(card: Scorecard) -> Scorecard:
    kind = {"n": 0, "value": None, "base_value": None, "interval": None, "unjudgeable": 4}
    kinds = {**card.target.by_category, "odd": card.target.by_category["add"].model_copy(update=kind)}
    return changed(card, target=card.target.model_copy(update={"by_category": kinds, "unjudgeable": 4}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_a_gain, ["stayed at 11.7 %", "2 conditions are not met", "50.0% of the base kept", "failed"]),
        (with_a_failed_check, ["Not valid", "but the check merge failed."]),
        (with_one_tested, ["Only this one was tested", "validation"]),
        (with_nothing_to_keep, ["not measurable", "Not valid"]),
        (of_a_mean, ["33.00 → 66.00", "20.00 to 70.00", "Bootstrap intervals"]),
        (unjudgeable_kind, ["0 (+4 unjudgeable)", "60 (+4 unjudgeable)", "–"]),
    ],
)
def test_other_cards(report: Report, change: Callable[[Scorecard], Scorecard], message: list[str]) -> None:
    other = replace(report, card=change(report.card))
    displayed = "".join(Reader(render_page(other)).text).replace("\N{NO-BREAK SPACE}", " ")
    text = render_markdown(other)
    for words_said in message:
        assert words_said in displayed, words_said
        assert words_said in text, words_said


def test_plots_follow_the_tested_checkpoints(report: Report) -> None:
    page = render_page(replace(report, card=with_one_tested(report.card)))
    assert page.count('aria-label="Validation at the checkpoints') == 2
    assert page.count('aria-label="Target against retention') == 2
    assert 'aria-label="Validation at the checkpoints' not in render_page(report)
    nothing = replace(report, card=with_nothing_to_keep(report.card), training=TrainingSummary((), 0, 0, 0.0))
    assert 'class="plot"' not in render_page(nothing)
