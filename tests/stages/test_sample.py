"""Generated rows in the forms that a task has."""

from __future__ import annotations

import json
from pathlib import Path

from command_line import call


def test_articles_and_the_questions_about_them(tmp_path: Path) -> None:
    words = ("sample", "--task", "reading", "--rows", "30", "--seed", "4")
    for form in ("articles", "pairs"):
        call(*words, "--form", form, "--out", tmp_path / f"{form}.jsonl")
    articles, pairs = (
        [json.loads(line) for line in (tmp_path / f"{form}.jsonl").read_text(encoding="utf-8").splitlines()]
        for form in ("articles", "pairs")
    )
    assert len(articles) == 30
    assert len(pairs) >= 30
    bodies = [article["text"].partition("\n\n")[2] for article in articles]
    assert all(body.endswith("。") for body in bodies)
    assert all(any(pair["answer"] in body for body in bodies) for pair in pairs)
    assert call("corpus", tmp_path / "articles.jsonl", "pretrain.cleaning=wiki").stdout.startswith("articles: 30 read")
    assert "no form 'poem'" in call(*words, "--form", "poem", "--out", tmp_path / "x", status=2).stderr
    other = ("sample", "--task", "arithmetic", "--form", "articles", "--out", tmp_path / "x")
    assert "rows or conversation" in call(*other, status=2).stderr
