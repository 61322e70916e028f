"""The pages in a real browser: what they do, on a desktop and on a phone, in light and dark, in both languages."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from browsers import DESKTOP, PHONE, browser_test, opened
from conftest import WRITTEN
from servers import Address, load, running

from lotune.arena.battles import Arena, Opponent
from lotune.arena.store import VoteStore
from lotune.data.templates import TEMPLATES
from lotune.serve.app import ServerOptions
from lotune.serve.models import ServedModel
from lotune.serve.pages_app import FILES, PageOptions
from lotune.stages.served_runs import ServedRuns

SCORECARD = {
    "target": {"task": "arithmetic", "metric": "accuracy", "value": 0.71, "base_value": 0.12},
    "retention": [{"retained": 0.98, "is_gated": True}, {"retained": 0.5, "is_gated": False}],
    "parameters": {"ratio": 0.0123}, "score": {"value": 0.42}, "valid": True,
}  # fmt: skip


def make_runs(folder: Path) -> Path:
    """Runs: a finished one with a report, one with steps alone, and folders that are no runs."""
    for name in ("demo", "begun", WRITTEN.replace("/", "_").replace("\x00", "")[:60]):
        (folder / name).mkdir(parents=True)
        (folder / name / "recipe.yaml").write_text("seed: 1\n")
    (folder / "other").mkdir()
    demo = folder / "demo"
    (demo / "scorecard.json").write_text(json.dumps(SCORECARD))
    (demo / "report.html").write_text("<!doctype html><title>r</title><h1>The report</h1>")
    (demo / "stages.json").write_text("{}")
    steps = [{"number": n, "loss": 5 / n, "tokens": 10, "seconds": 1.0, "learning_rate": 0.1} for n in range(1, 1001)]
    found = [{"validation": {"step": n, "loss": 4 / n}} for n in (100, 500, 1000)]
    (demo / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (*steps, *found)))
    (demo / "plan.json").write_text(json.dumps({"steps": 1000, "title": "tuning"}))
    sample = {"step": 1000, "prompt": "Once", "continuation": WRITTEN}
    (demo / "samples.jsonl").write_text(json.dumps(sample) + "\n")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def server(small_base: Path, folder: Path) -> Iterator[Address]:
    first = load(small_base, "small")
    second = ServedModel("plain <b>model</b>", first.answering, TEMPLATES["plain"])
    opponents = [Opponent("small", "digest"), Opponent("plain <b>model</b>")]
    arena = Arena(opponents, VoteStore(folder / "votes.sqlite"), {"temperature": 0, "max_tokens": 8}, seed=1)
    runs = ServedRuns(make_runs(folder / "runs"))
    pages = PageOptions(["1 + 1?", WRITTEN], folder / "flags.jsonl", runs, arena)
    with running([first, second], options=ServerOptions(("127.0.0.1",), pages=pages)) as address:
        yield address


def test_the_table_of_files_is_complete() -> None:
    """scripts/page_sizes.py prints and bounds their size."""
    folder = Path(__file__).parents[2] / "lotune" / "serve" / "pages"
    assert {file.name for file in folder.iterdir()} == set(FILES.values())


def test_nothing_is_loaded_from_another_place() -> None:
    folder = Path(__file__).parents[2] / "lotune" / "serve" / "pages"
    for file in folder.iterdir():
        found = re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", file.read_text(encoding="utf-8"))
        assert set(found) <= {"http://www.w3.org"}, file.name  # the name of SVG


def test_pages_have_a_policy_and_no_path_reaches_a_file(server: Address) -> None:
    for name in FILES:
        reply = server.get(f"/ui/{name}")
        assert reply.status == 200
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        assert reply.headers["x-content-type-options"] == "nosniff"
    outside = ("..%2f..%2fetc%2fpasswd", "pages_app.py", "../keys.py", "runs.json?run=..", "runs.json?run=/etc")
    reports = ("report?run=../runs/demo", "report?run=other", "report?run=")
    for path in (f"/ui/{name}" for name in (*outside, *reports)):
        reply = server.get(path)
        assert reply.status == 404, path
        assert set(reply.json) == {"error"}
    report = server.get("/ui/report?run=demo")
    assert "sandbox" in report.headers["content-security-policy"]
    assert b"The report" in report.body


def test_the_index_has_the_figures_of_the_scorecards(server: Address) -> None:
    rows = {row["name"]: row for row in server.get("/ui/runs.json").json["runs"]}
    assert len(rows) == 3
    assert "other" not in rows
    demo = rows["demo"]
    assert (demo["base"], demo["tuned"], demo["kept"], demo["ratio"], demo["score"], demo["valid"]) == (
        0.12, 0.71, 0.98, 0.0123, 0.42, True,
    )  # fmt: skip
    assert rows["begun"]["state"] == "started"
    assert rows["begun"]["tuned"] is None
    one = server.get("/ui/runs.json?run=demo").json
    assert (one["step"], one["steps"], len(one["loss"])) == (1000, 1000, 334)
    assert one["loss"][-1][0] == 1000
    assert one["validation"][-1] == [1000, 0.004]


def test_without_pages_there_are_none(small_base: Path) -> None:
    with running([load(small_base)]) as server:
        assert server.get("/ui/chat").status == 404


def reply_of(server: Address, text: str, **fields: Any) -> str:
    messages = [{"role": "user", "content": text}]
    reply = server.post("/v1/chat/completions", messages=messages, temperature=0, **fields).json
    return str(reply["choices"][0]["message"]["content"])


def shown(text: str) -> str:
    """The text as the pages show it: hidden characters by their numbers."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: f"⟨U+{ord(found[0]):04X}⟩", text)


@browser_test
def test_a_conversation(browser: Any, server: Address, folder: Path) -> None:
    with opened(browser, server, "/") as page:
        assert page.url.endswith("/ui/chat")
        page.fill("input[name=temperature]", "0")
        page.fill("input[name=top_k]", "")
        page.fill("input[name=max_tokens]", "12")
        page.get_by_role("button", name="1 + 1?").click()
        page.get_by_role("button", name="Send").click()
        answer = page.locator("article.assistant p.text").first
        page.get_by_role("button", name="Retry").wait_for()
        expected = shown(reply_of(server, "1 + 1?", max_tokens=12))
        assert answer.inner_text() == expected.rstrip() or answer.text_content() == expected
        assert re.search(
            r"\d+\.\d s · 12 tokens · \d+ tokens/s · cut at the limit",
            page.locator("article.assistant .meta").inner_text(),
        )
        page.get_by_role("button", name="Flag").click()
        page.get_by_role("button", name="Flagged").wait_for()
        flagged = json.loads((folder / "flags.jsonl").read_text().splitlines()[-1])
        assert [message["role"] for message in flagged["messages"]] == ["user", "assistant"]
        page.get_by_role("button", name="Retry").click()
        page.get_by_role("button", name="Retry").wait_for()
        assert page.locator("article").count() == 2
        page.fill("#question", "and 2?")
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Retry").nth(1).wait_for()
        assert page.locator("article").count() == 4
        page.get_by_role("button", name="Edit").last.click()
        assert page.input_value("#question") == "and 2?"
        assert page.locator("article").count() == 2
        page.reload()
        page.wait_for_load_state("networkidle")
        assert page.locator("article").count() == 2  # kept in the browser
        with page.expect_download() as download:
            page.get_by_role("button", name="Download").click()
        assert len(json.loads(Path(download.value.path()).read_text())["messages"]) == 2
        page.get_by_role("button", name="New conversation").click()
        assert page.locator("article").count() == 0
        assert page.locator("#conversations option").count() == 2
        page.select_option("#conversations", index=1)
        assert page.locator("article").count() == 2
        page.get_by_role("button", name="Clear").click()
        assert page.locator("article").count() == 0


@browser_test
def test_stop_ends_an_answer_and_frees_its_place(
    browser: Any, server: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model waits after a step, until the button was used."""
    assert server.gateway is not None
    worker, engine = server.gateway.worker, server.gateway.models.default.answering.engine
    step, steps, go = engine.step, count(), threading.Event()

    def held_step() -> None:
        assert next(steps) < 1 or go.wait(60)
        step()

    cancelled, cancel = threading.Event(), worker.cancel

    def seen_cancel(jobs: Any) -> None:
        cancel(jobs)
        cancelled.set()

    monkeypatch.setattr(engine, "step", held_step)
    monkeypatch.setattr(worker, "cancel", seen_cancel)
    with opened(browser, server, "/ui/chat") as page:
        page.fill("input[name=max_tokens]", "60")
        page.fill("#question", "1 + 1?")
        page.get_by_role("button", name="Send").click()
        page.get_by_role("button", name="Stop").click()
        page.get_by_role("button", name="Retry").wait_for()
        assert "stopped" in page.locator("article.assistant .meta").inner_text()
        assert cancelled.wait(60)
        go.set()
        for _ in range(3000):
            if not worker.num_running + worker.num_waiting:
                break
            page.wait_for_timeout(20)
        assert not worker.num_running + worker.num_waiting
        page.get_by_role("button", name="Retry").click()  # the next answer comes
        page.get_by_role("button", name="Retry").wait_for()
        page.locator("article.assistant .meta").get_by_text("tokens/s").wait_for()


@browser_test
@pytest.mark.parametrize(
    "text", [WRITTEN, "<img src=x onerror=document.title='ran'>", "a\u202eb\u200bc", "javascript:alert(1)"]
)
def test_what_people_and_models_write_is_shown_as_text(browser: Any, server: Address, text: str) -> None:
    with opened(browser, server, "/ui/chat") as page:
        page.fill("input[name=max_tokens]", "3")
        page.fill("#question", text.replace("\n", " "))
        page.get_by_role("button", name="Send").click()
        page.get_by_role("button", name="Retry").wait_for()
        assert page.locator("#log script, #log img, #log a, #log b").count() == 0
        assert page.title() == "lotune – Chat"
        content = page.locator("article.user p.text").text_content()
        assert not set(content) & set("\u202e\u200b\x00\x1b")


@browser_test
def test_models_side_by_side(browser: Any, server: Address) -> None:
    with opened(browser, server, "/ui/compare") as page:
        page.locator("summary").click()
        page.fill("input[name=temperature]", "0")
        page.fill("input[name=top_k]", "0")
        page.fill("input[name=max_tokens]", "9")
        page.get_by_role("button", name="Add a model").click()
        assert page.locator("#columns section").count() == 3
        page.fill("#question", "1 + 1?")
        page.get_by_role("button", name="Send").click()
        page.locator("#columns .meta").nth(2).get_by_text(" s · ").wait_for()
        page.get_by_role("button", name="Stop").wait_for(state="hidden")
        texts = page.locator("#columns p.text")
        names = ["small", "plain <b>model</b>", "small"]
        for number, name in enumerate(names):
            assert texts.nth(number).text_content() == shown(reply_of(server, "1 + 1?", max_tokens=9, model=name))
        assert page.locator("#columns option b").count() == 0
        page.get_by_role("button", name="Remove a model").click()
        assert page.locator("#columns section").count() == 2
        assert page.get_by_role("button", name="Remove a model").is_disabled()


@browser_test
def test_runs_are_sorted_filtered_and_opened(browser: Any, server: Address) -> None:
    with opened(browser, server, "/ui/runs") as page:
        names = page.locator("#rows tr td:first-child")
        assert names.count() == 3
        page.get_by_role("button", name=re.compile("^Score")).click()
        assert names.first.inner_text() == "demo"
        assert page.locator("th[aria-sort=descending]").inner_text().startswith("Score")
        page.fill("#filter", "arith")
        assert names.count() == 1
        names.first.locator("a").click()
        page.wait_for_selector("#curves svg")
        assert page.locator("#curves svg").count() == 2
        assert page.locator("#progress").inner_text() == "not finished · 1000 of 1000 steps"
        assert page.locator("#samples .text script, #samples .text a").count() == 0
        assert page.locator("iframe").get_attribute("src") == "report?run=demo"


@browser_test
def test_the_api_is_documented(browser: Any, server: Address) -> None:
    with opened(browser, server, "/ui/api") as page:
        page.get_by_text("POST /v1/chat/completions").wait_for()
        assert page.get_by_text("0 takes the best token.").count() >= 2


@browser_test
@pytest.mark.slow
@pytest.mark.parametrize(("size", "dark"), [(DESKTOP, False), (PHONE, True)])
def test_no_page_has_a_serious_fault_for_people_with_disabilities(
    browser: Any, server: Address, size: tuple[int, int], dark: bool
) -> None:
    """axe-core finds none, and no page is wider than the screen."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    scheme = "dark" if dark else "light"
    for path in ("/ui/chat", "/ui/compare", "/ui/runs", "/ui/runs?run=demo", "/ui/api", "/ui/arena"):
        with opened(browser, server, path, size, color_scheme=scheme, bypass_csp=True) as page:
            if path == "/ui/chat":
                page.locator("details").evaluate("panel => panel.open = true")
                page.fill("input[name=max_tokens]", "5")
                page.fill("#question", "1 + 1?")
                page.get_by_role("button", name="Send").click()
                page.get_by_role("button", name="Retry").wait_for()
            assert page.evaluate("document.documentElement.dataset.theme") == scheme
            assert page.evaluate("document.documentElement.scrollWidth") <= size[0], path
            found = axe.run(page, options={"iframes": False}).response["violations"]
            faults = [
                (one["id"], one["nodes"][0]["html"][:150]) for one in found if one["impact"] in ("serious", "critical")
            ]
            assert faults == [], path


@browser_test
def test_the_pages_speak_chinese_and_are_used_by_keyboard(browser: Any, server: Address) -> None:
    with opened(browser, server, "/ui/chat", PHONE) as page:
        page.get_by_role("button", name="中文").click()
        assert page.locator("html").get_attribute("lang") == "zh"
        assert page.get_by_role("button", name="发送").is_visible()
        page.reload()
        page.wait_for_load_state("networkidle")
        assert page.title() == "lotune – 对话"
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        reached = set()
        for _ in range(40):
            page.keyboard.press("Tab")
            reached.add(
                page.evaluate(
                    "document.activeElement.id || document.activeElement.name || document.activeElement.tagName"
                )
            )
        assert {"question", "send", "clear", "conversations", "fresh"} <= reached


def test_every_text_is_in_both_languages() -> None:
    text = (Path(__file__).parents[2] / "lotune" / "serve" / "pages" / "texts.js").read_text(encoding="utf-8")
    english, chinese = text.split("  zh: {")
    names = [re.findall(r"(\w+): \"", part) for part in (english, chinese)]
    assert names[0] == names[1]
    assert len(set(names[0])) == len(names[0])
