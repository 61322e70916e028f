"""The studio's pages in a real browser: from a dropped file to a model to talk to."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from browsers import DESKTOP, PHONE, browser_test, opened
from conftest import WRITTEN
from studios import TOKEN, StudioAddress, studio_at, wait_for, write_recipe, write_rows

from lotune.files import read_json
from lotune.studio.pages_app import OWN_FILES, PAGES, page_files
from lotune.studio.settings_list import settings_list

MAX_BYTES = 150 * 1024
MAX_CLICKS = 12
COUNT_CLICKS = "let n = Number(sessionStorage.clicks ?? 0); addEventListener('click', (e) => { if (e.isTrusted) " \
    "sessionStorage.clicks = ++n; }, true);"  # fmt: skip


@pytest.fixture(scope="module")
def runs(folder: Path, finished_run: Path) -> list[str]:
    """Two finished runs with different seeds."""
    names = ["first", "second"]
    for seed, name in enumerate(names):
        copied = folder / "runs" / name
        shutil.copytree(finished_run, copied)
        recipe = yaml.safe_load((copied / "recipe.yaml").read_text())
        (copied / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "name": name, "seed": seed}))
        given = next((copied / "predictions" / "arithmetic").glob("base.jsonl")).read_text().splitlines(keepends=True)
        (copied / "validation").mkdir()
        with (copied / "metrics.jsonl").open("a") as metrics:
            for step in (10, 20):
                found = {
                    "name": f"step-{step:06d}",
                    "step": step,
                    "value": step / 40,
                    "loss": 1 / step,
                    "retained": 0.95,
                }
                metrics.write(json.dumps({"validation": found}) + "\n")
                (copied / "validation" / f"step-{step:06d}.jsonl").write_text("".join(given[:5]))
        (copied / "validation" / "base.jsonl").write_text("".join(given[:5]))
    return names


@contextmanager
def studio_page(
    browser: Any, server: StudioAddress, path: str, size: tuple[int, int] = DESKTOP, **options: Any
) -> Iterator[Any]:
    with opened(browser, server, f"{path}{'&' if '?' in path else '?'}token={TOKEN}", size, **options) as page:
        yield page


def test_the_pages_are_small_and_load_nothing_from_another_place() -> None:
    folder = Path(__file__).parents[2] / "lotune" / "studio" / "pages"
    assert {file.name for file in folder.iterdir()} == {*OWN_FILES, *(f"{name}.html" for name in PAGES)}
    assert sum(map(len, page_files().values())) < MAX_BYTES
    for name, content in page_files().items():
        found = re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", content.decode())
        assert set(found) <= {"http://www.w3.org"}, name
        assert b"innerHTML" not in content
        assert b"eval(" not in content


def test_every_text_of_the_pages_is_there_in_both_languages() -> None:
    """A name in `data-t`, `data-label` or `t("...")` has an English text, and each English text a Chinese one."""
    files = {name: content.decode() for name, content in page_files().items()}
    tables = {}
    for language in ("en", "zh"):
        parts = [re.search(rf"\b{language}: \{{(.*?)\n  \}},", files["texts.js"], re.S),
                 re.search(rf"texts\.{language}, \{{(.*?)\n\}}\);", files["studio-texts.js"], re.S)]  # fmt: skip
        tables[language] = {
            name for part in parts if part for name in re.findall(r"(?:^|[,{] )\s*(\w+): \"", part[1], re.M)
        }
    assert tables["en"] == tables["zh"]
    pages = [
        files[name] for name in (*PAGES, *OWN_FILES) if name not in ("studio-texts.js", "settings-zh.js", "studio.css")
    ]
    used = {name for page in pages for name in re.findall(r"(?:data-t=|data-label=|\bt\()\"(\w+)\"", page)}
    assert len(used) > 100
    assert used <= tables["en"]


def story(browser: Any, server: StudioAddress, file: Path, settings: dict[str, str]) -> None:
    """From a dropped file to a bundle, with a few clicks; the keyboard is for settings and the question."""
    assert server.studio is not None
    recipe = server.studio.workspace.folder / f"{file.stem}.yaml"
    with studio_page(browser, server, "/") as page:
        page.add_init_script(COUNT_CLICKS)
        page.get_by_role("link", name="New run").first.click()
        page.set_input_files("#file", file)
        page.locator("#tokens .tokens").first.wait_for()
        assert page.locator("#f-column-label").input_value() == "mood"
        assert page.locator("#tokens p").first.locator("mark").all_inner_texts() == ["ne", "g", "<|endoftext|>"]
        page.locator("#more summary").click()
        page.fill("#search", "retention")
        for id, value in settings.items():
            page.fill(f"[id='{id}']", value)
            page.locator(f"[id='{id}']").press("Tab")
            wait_for(lambda value=value: f": {value}\n" in recipe.read_text())
        page.get_by_role("button", name="Run", exact=True).click()
        page.wait_for_url(f"**/run?run={file.stem}")
        page.locator("#headline").get_by_text("alid").wait_for(timeout=300_000)
        page.locator("#talk-fields textarea").fill("table 7 was warm")
        page.get_by_role("button", name="Send").click()
        page.locator("#talk-answers .meta").nth(1).get_by_text(" s").wait_for()
        assert page.locator("#talk-answers h4").last.inner_text() == f"Tuned: {file.stem}"
        page.get_by_role("button", name="Make the bundle").click()
        link = page.get_by_role("link", name="Download the bundle")
        link.wait_for()
        with page.expect_download() as download:
            link.click()
        assert download.value.suggested_filename == f"{file.stem}-{file.stem}.zip"
        assert int(page.evaluate("sessionStorage.clicks")) <= MAX_CLICKS


def test_every_setting_is_explained_in_chinese() -> None:
    text = page_files()["settings-zh.js"].decode()
    explained = set(re.findall(r"(?:^|[ ,{])\"?([a-z][\w.]+)\"?: \"[^\"]*[\u4e00-\u9fff]", text, re.M))
    keys = [one["key"] for one in settings_list()]
    assert [key for key in keys if not {key, key.replace("pretrain.", "tune.")} & explained] == []


@browser_test
def test_from_a_dropped_file_to_a_model_to_talk_to(browser: Any, server: StudioAddress, tmp_path: Path) -> None:
    """As a new user, but with a base of the folder, whose training takes a moment."""
    file = tmp_path / write_rows(tmp_path, "dropped.csv")
    story(
        browser,
        server,
        file,
        {"base": "base", "s-tune.epochs": "4", "s-retention.replay.rows": "0", "s-retention.rows": "16"},
    )


@pytest.mark.soak
@browser_test
def test_a_new_user_gets_the_scorecard_of_the_terminal(
    browser: Any, server: StudioAddress, folder: Path, tmp_path: Path
) -> None:
    """All defaults, with nano; the terminal's run with the written recipe has the same figures."""
    file = tmp_path / write_rows(tmp_path, "mood.csv", 400)
    story(browser, server, file, {})
    words = [sys.executable, "-m", "lotune", "run", "mood.yaml", "runs=terminal"]
    subprocess.run(words, cwd=folder, check=True, capture_output=True)
    here, there = (read_json(folder / runs / "mood" / "scorecard.json") for runs in ("runs", "terminal"))
    for name in ("target", "retention", "parameters", "score", "checkpoints", "valid", "chosen_checkpoint", "reasons"):
        assert here[name] == there[name]


@browser_test
def test_a_change_is_written_at_once_and_a_fault_stands_beside_its_field(
    browser: Any, server: StudioAddress, folder: Path
) -> None:
    write_rows(folder, "forms.csv")
    task = "task: {name: sentences, labels: {neg: neg, pos: pos}, columns: {sentence: review, label: mood}}"
    own = f"# my own words\nbase: {{model: base}}\n{task}\ndata: {{train: forms.csv}}\n"
    (folder / "forms.yaml").write_text(own)
    with studio_page(browser, server, "/new?recipe=forms.yaml", refused=422) as page:
        page.locator("#tokens .tokens").first.wait_for()
        page.fill("[id='s-tune.epochs']", "3")
        page.locator("[id='s-tune.epochs']").press("Tab")
        wait_for(lambda: "epochs: 3" in (folder / "forms.yaml").read_text())
        assert (folder / "forms.yaml").read_text().startswith("# my own words\n")
        page.fill("[id='s-adapter.rank']", "many")
        page.locator("[id='s-adapter.rank']").press("Tab")
        page.locator("[id='s-adapter.rank-fault']").get_by_text("adapter.rank is 'many'").wait_for()
        assert "rank" not in (folder / "forms.yaml").read_text()
        page.get_by_label("Word for label neg").fill("cold")
        page.get_by_label("Word for label neg").press("Tab")
        answers = "[...document.querySelectorAll('#tokens mark')].map((mark) => mark.textContent).join('')"
        wait_for(lambda: page.evaluate(answers).startswith("cold"))
        page.reload()
        page.locator("#tokens .tokens").first.wait_for()
        assert page.locator("[id='s-tune.epochs']").input_value() == "3"
        assert page.get_by_label("Word for label neg").input_value() == "cold"
        page.locator("#more summary").click()
        page.get_by_label("Search").fill("weight decay")
        page.get_by_label("tune.weight_decay").wait_for()


@browser_test
def test_a_run_is_stopped_and_continued_and_a_reload_shows_the_same(
    browser: Any, server: StudioAddress, folder: Path
) -> None:
    recipe = write_recipe(folder, Path("base"), "watched", 400)
    server.call("POST", "runs", status=201, body={"recipe": recipe})
    with studio_page(browser, server, "/run?run=watched") as page:
        page.locator("#pace").get_by_text("tokens/s").wait_for()
        page.reload()
        page.locator("#pace").get_by_text("tokens/s").wait_for()
        assert page.locator("#curves svg").count() >= 1
        page.get_by_role("button", name="Stop").click()
        page.locator("#state").get_by_text("stopped").wait_for()
        assert page.locator("#command code").inner_text() == "lotune run runs/watched/recipe.yaml"
        page.get_by_role("button", name="Continue").click()
        page.get_by_role("button", name="Stop").click()
        page.locator("#state").get_by_text("stopped").wait_for()
        page.on("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Delete").click()
        page.wait_for_url("**/runs")
    assert not (folder / "runs" / "watched").exists()


@browser_test
def test_runs_are_compared(browser: Any, server: StudioAddress, runs: list[str]) -> None:
    with studio_page(browser, server, "/runs") as page:
        for name in runs:
            page.get_by_label(f"Choose {name}").click()
        page.get_by_role("button", name="Compare the chosen").click()
        page.get_by_text("Verdict:").wait_for()
        assert page.locator("#settings").get_by_text("seed").count() == 1
        assert page.locator("#curves svg").count() >= 2
        assert page.locator("#figures th a").all_inner_texts() == runs


@browser_test
def test_answers_are_filtered(browser: Any, server: StudioAddress, runs: list[str]) -> None:
    with studio_page(browser, server, f"/run?run={runs[0]}") as page:
        page.locator("#found").get_by_text("60 rows").wait_for()
        page.locator("#text").fill("no such text")
        page.locator("#found").get_by_text("No row").wait_for()
        page.locator("#text").fill("")
        page.locator("#verdict").select_option("wrong")
        page.locator("#answers-list article").first.wait_for()


@browser_test
def test_what_a_model_wrote_is_text(browser: Any, server: StudioAddress, folder: Path, runs: list[str]) -> None:
    copied = folder / "runs" / "hostile"
    shutil.copytree(folder / "runs" / runs[0], copied)
    for name in (copied / "predictions" / "arithmetic", copied / "validation"):
        for file in name.glob("*.jsonl"):
            rows = [
                {**json.loads(line), "answer": WRITTEN, "prompt": WRITTEN, "kind": WRITTEN}
                for line in file.read_text().splitlines()
            ]
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with studio_page(browser, server, "/run?run=hostile") as page:
        page.locator("#answers-list article").first.wait_for()
        assert page.locator("#answers-list script").count() == 0
        assert "<script>alert(1)</script>" in page.locator("#answers-list").inner_text()
        assert "⟨U+001B⟩" in page.locator("#answers-list").inner_text()
        assert "<script>" in page.locator("#answers-rows").inner_text()


@browser_test
def test_an_empty_folder_says_what_to_do(browser: Any, tmp_path: Path) -> None:
    with studio_at(tmp_path) as server, studio_page(browser, server, "/runs") as page:
        page.get_by_role("heading", name="No runs yet").wait_for()
        page.get_by_role("button", name="中文").click()
        page.get_by_role("heading", name="还没有训练").wait_for()
        page.reload()
        page.get_by_role("heading", name="还没有训练").wait_for()
        assert page.evaluate("document.documentElement.lang") == "zh"


@browser_test
@pytest.mark.parametrize(("size", "theme"), [(DESKTOP, "light"), (PHONE, "dark")], ids=["desktop-light", "phone-dark"])
def test_pages_are_accessible_and_fit(
    browser: Any, server: StudioAddress, folder: Path, runs: list[str], size: tuple[int, int], theme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    write_rows(folder, "fit.csv")
    server.call("POST", "recipe", status=201, body={"rows": "fit.csv", "base": "base"})
    for path in (
        "/runs",
        "/new",
        "/new?recipe=fit.yaml",
        "/run?run=first",
        "/compare",
        "/compare?run=first&run=second",
    ):
        with studio_page(browser, server, path, size, color_scheme=theme) as page:
            if "recipe" in path:
                page.locator("#tokens .tokens").first.wait_for()
            if "second" in path:
                page.get_by_text("Verdict:").wait_for()
            found = axe.run(page).response["violations"]
            serious = [
                (one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")
            ]
            assert serious == [], path
            assert page.evaluate("document.documentElement.scrollWidth") <= size[0], path
    (folder / "fit.yaml").unlink()


@browser_test
def test_the_keyboard_is_enough(browser: Any, server: StudioAddress, runs: list[str]) -> None:
    with studio_page(browser, server, "/runs") as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        reached = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.add(
                page.evaluate(
                    "document.activeElement.textContent || document.activeElement.getAttribute('aria-label') || ''"
                )
            )
        assert {"New run", "first", "Choose first", "Choose second"} <= reached
        page.get_by_label("Choose first").focus()
        page.keyboard.press("Space")
        page.get_by_label("Choose second").focus()
        page.keyboard.press("Space")
        assert page.get_by_role("button", name="Compare the chosen").is_enabled()
