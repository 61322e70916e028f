"""The page in a real browser: nothing is wider than a phone."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lotune.evaluate.retention import RetentionMetric
from lotune.evaluate.statistics import Interval
from lotune.report.html import render_page
from lotune.report.report_data import Report, Setting, collect_report

SCRIPT = Path(__file__).parents[2] / "scripts" / "chromium.py"
WIDER = """
JSON.stringify([...document.querySelectorAll("body *")]
  .filter(one => one.getBoundingClientRect().right > innerWidth + 0.5 || one.getBoundingClientRect().left < -0.5)
  .map(one => one.outerHTML.slice(0, 120)).slice(0, 5))
"""


@pytest.fixture(scope="module")
def chromium() -> ModuleType:
    spec = importlib.util.spec_from_file_location("chromium", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report as it is made, and one whose figures, names and settings are as long as they come."""
    folder = tmp_path_factory.mktemp("pages")
    report = collect_report(finished_run, "mine", [], "lotune run mine.yaml")
    result = {"plain": folder / "plain.html", "long": folder / "long.html"}
    result["plain"].write_text(render_page(report), encoding="utf-8")
    result["long"].write_text(render_page(_long(report)), encoding="utf-8")
    return result


def _long(report: Report) -> Report:
    from dataclasses import replace

    spans = Interval(99.55, 100.0), Interval(98.75, 100.0), Interval(0.98888, 1.01111)
    line = RetentionMetric("reading", "contest_f1_of_a_long_name", 100.0, 99.99, 0.9999, 0.9, True, True, *spans)
    other = RetentionMetric("reading", "squad_em", 3.0, 2.0, None, 0.9, False, True, spans[0], None, None)
    target = report.card.target
    kinds = {f"a_kind_{'of_a_long_name_' * 6}{name}": kind for name, kind in target.by_category.items()}
    card = report.card.model_copy(
        update={
            "retention": (line, replace(line, is_gated=False), other),
            "target": target.model_copy(update={"by_category": kinds}),
            "base": "/a/folder/" + "of-a-long-name/" * 12,
        }
    )
    setting = Setting("data.train", f'"{"/a/long/path" * 20}"', "null", "File of training rows.")
    return replace(report, card=card, settings=(setting,), name="a-run-of-a-long-name" * 8)


@pytest.mark.slow
def test_no_page_is_wider_than_a_phone(chromium: ModuleType, pages: dict[str, Path]) -> None:
    browser = chromium.find_browser()
    if browser is None:
        pytest.skip("neither Chromium nor Chrome is installed")
    with chromium.browsing(browser) as page:
        for name, file in pages.items():
            for width in (390, 320, 1280):
                result: Any
                page.open(file, width, 800)
                result = page.evaluate("[innerWidth, document.documentElement.scrollWidth]")
                assert result[0] == width, "the viewport is as wide as was asked for"
                assert result[1] <= width, (name, width, page.evaluate(WIDER))
