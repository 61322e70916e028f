"""Rows of one article are not divided between training and test."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest
from command_line import call

from lotune.data.curation import remove_contaminated, split
from lotune.data.examples import Example


def rows(articles: int, each: int = 3) -> list[Example]:
    return [
        Example(f"{article}.{number}", f"question {article} {number}?", "x", source=f"article {article}")
        for article in range(articles)
        for number in range(each)
    ]


@pytest.mark.parametrize("count", [6, 7, 30])
def test_a_split_takes_whole_articles(count: int) -> None:
    train, test = split(rows(40), count, seed=3)
    assert len(test) == count
    sides = defaultdict(set)
    for side, examples in (("train", train), ("test", test)):
        for example in examples:
            sides[example.source].add(side)
    divided = [source for source, both in sides.items() if len(both) == 2]
    assert len(divided) == (count % 3 > 0)  # what is left of the last one
    remaining, report = remove_contaminated(train, {"test": test})
    assert not {example.source for example in remaining} & {example.source for example in test}
    assert report.sets["test"].same_source == report.removed == (3 - count % 3) % 3


def test_rows_without_a_source_are_split_as_before() -> None:
    plain = [Example(str(number), f"{number}?", "x") for number in range(50)]
    alone = [Example(str(number), f"{number}?", "x", source=f"article {number}") for number in range(50)]
    expected = [example.id for example in split(plain, 10, seed=1)[1]]
    assert [example.id for example in split(alone, 10, seed=1)[1]] == expected


def test_pairs_of_one_article_are_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And of many, the test has articles of its own."""
    monkeypatch.chdir(tmp_path)
    for name, articles in (("one", 1), ("many", 30)):
        lines = [
            json.dumps({"question": f"Q {article} {n}?", "answer": "a", "article": f"f:{article}"})
            for article in range(articles)
            for n in range(60 // articles)
        ]
        Path(f"{name}.jsonl").write_text("\n".join(lines))
        settings = [
            "task.name=instructions", "task.columns={instruction: question, output: answer}", "data.test_rows=10",
            "data.validation_rows=5", "retention.rows=2", "retention.replay.rows=0", "retention.validation_rows=0",
        ]  # fmt: skip
        Path("recipe.yaml").write_text(f"data: {{train: {name}.jsonl}}\nname: {name}\n")
        call("prepare", "recipe.yaml", *settings, status=0)
        counts = json.loads(Path(f"runs/{name}/data/counts.json").read_text())["rows"]
        assert counts["test"] == 10
        assert counts["kept"] >= 40
