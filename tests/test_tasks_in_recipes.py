"""Tasks on one's own rows through the command line: from a file to a scorecard, and from a file to its recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import RECIPE, call

TASKS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "choice": (
        {"augmented_copies": 1},
        [{"question": f"{n} + 1?", "options": ["0", str(n + 1)], "answer": 1, "domain": "sums"} for n in range(50)],
    ),
    "sentences": (
        {"labels": {"0": "no", "1": "yes"}},
        [{"sentence": f"Number {n} is even.", "label": str((n + 1) % 2)} for n in range(50)],
    ),
    "custom": (
        {"prompt": "{n} and 1?", "answer_column": "sum", "scorer": "rouge-l"},
        [{"n": n, "sum": f"It is {n + 1} ."} for n in range(50)],
    ),
    "copying": ({}, [{"text": f"{n} + 1"} for n in range(50)]),
    "equations": ({}, [{"equation": f"{n}+1=?"} for n in range(50)]),
    "text_continuation": ({}, [{"text": f"Number {n} is here. Number {n + 1} follows it."} for n in range(50)]),
    "text": ({}, [{"text": f"Number {n} follows number {n - 1}."} for n in range(50)]),
}
METRICS = {"custom": "rouge_l", "text_continuation": "rouge_l", "text": "bits_per_byte"}
"""Metrics other than accuracy."""


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_a_run(name: str, small_base: Path, tmp_path: Path) -> None:
    settings, rows = TASKS[name]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = yaml.safe_load(RECIPE.format(base=small_base))
    recipe["task"] = {"name": name, "max_new_tokens": 4, **settings}
    recipe["data"] = {"train": str(file), "validation_rows": 4, "test_rows": 6}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(recipe))
    call("run", tmp_path / "own.yaml", f"runs={tmp_path}")
    card, metric = json.loads((tmp_path / "own" / "scorecard.json").read_text()), METRICS.get(name, "accuracy")
    assert (card["target"]["task"], card["target"]["metric"], card["target"]["n"]) == (name, metric, 6)
    majority = card["target"]["majority"]
    assert (majority is None) is (name not in ("choice", "sentences"))
    said = majority and any(f"always {majority['answer']!r}" in reason for reason in card["reasons"])
    assert majority is None or said is not majority["better"]
    assert (0 < len(card["next_steps"]) <= 3) is not card["valid"]
    for page in ("report.html", "report.md"):
        assert all("=" in setting for step in card["next_steps"] for setting in step["settings"])
        text = (tmp_path / "own" / page).read_text()
        assert ("To try next" in text) is bool(card["next_steps"])
        assert ("Distribution of" in text) is (metric == "rouge_l") is ("Lowest scores" in text)
    trained = json.loads((tmp_path / "own" / "data" / "train.tokens.json").read_text())["rows"]
    assert 40 < trained <= 80 if name == "choice" else trained == 40  # copies that are shuffled into one go
    words = [f"task.{key}={json.dumps(value)}" for key, value in recipe["task"].items() if key != "name"]
    figures = call("evaluate", "--model", small_base, "--task", name, "--data", file, "--limit", "5", "--json", *words)
    shown = json.loads(figures.stdout)
    assert metric in (shown if name == "text" else shown["metrics"])  # of texts, perplexity and bits per byte
