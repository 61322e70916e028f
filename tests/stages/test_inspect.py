"""`lotune inspect` shows rows, blocks and steps as tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import RECIPE, call

from lotune.data.token_files import TokenFile


@pytest.fixture
def tuned(tmp_path: Path, small_base: Path) -> Path:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE.format(base=small_base))
    call("prepare", recipe, f"runs={tmp_path}")
    return tmp_path / "r"


def test_the_rows_of_a_run(tuned: Path) -> None:
    rows = TokenFile(tuned / "data" / "train")
    shown = json.loads(call("inspect", tuned, "--row", "2", "--json").stdout)["rows"]
    [row] = shown
    assert row["token_ids"] == list(rows[1].token_ids)
    assert row["number"] == 2
    first = row["scored"].index(True)
    assert first == rows[1].completion_start
    assert all(row["scored"][first:])
    plain = call("inspect", tuned, "--row", row["id"], "--ids").stdout
    assert f"row 2 ({row['id']}): {len(row['token_ids'])} tokens" in plain
    assert f"⟦{row['texts'][first]}({row['token_ids'][first]})" in plain


def test_the_rows_of_a_step_are_those_that_are_trained_on(tuned: Path) -> None:
    steps = [json.loads(call("inspect", tuned, "--step", step, "--json").stdout)["rows"] for step in (1, 2, 3)]
    numbers = [row["number"] for rows in steps for row in rows]
    assert len(numbers) == len(set(numbers)) == 24  # three steps of eight rows of one epoch


def test_the_end_of_an_unscored_block_is_not_in_the_loss(tmp_path: Path) -> None:
    call("sample", "--task", "reading", "--rows", "40", "--form", "articles", "--out", tmp_path / "a.jsonl")
    (tmp_path / "small.yaml").write_text(
        f"pretrain:\n  corpus: {tmp_path / 'a.jsonl'}\n  steps: 1\n  step_tokens: 64\n  validation_fraction: 0.2\n"
        "  llama_config: {vocab_size: 330, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2,"
        " num_key_value_heads: 2, intermediate_size: 8, max_position_embeddings: 512}\n"
    )
    call("pretrain", tmp_path / "small.yaml", f"runs={tmp_path}")
    for score_eot in (False, True):
        more = ["pretrain.score_eot=on"] if score_eot else []
        call("pretrain", tmp_path / "small.yaml", f"runs={tmp_path}", *more)
        [row] = json.loads(call("inspect", tmp_path / "small", "--part", "validation", "--json").stdout)["rows"]
        assert row["texts"][-1] == "<|endoftext|>"
        assert row["scored"] == [False, *[True] * (len(row["scored"]) - 2), score_eot]
    shown = call("inspect", tmp_path / "small", "--step", "1").stdout
    assert shown.startswith("row ")
    assert "a.jsonl:" in shown


def test_a_row_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"instruction": "Say [red]", "output": "x\\u001b[31m"}\n{"instruction": "2", "output": "3"}\n')
    words = ("inspect", file, "--task", "instructions")
    shown = call(*words).stdout
    assert "[red]" in shown.replace("│", "")
    assert "\x1b" not in shown
    assert "⟦" in shown
    [row] = json.loads(call(*words, "--row", "2", "--json").stdout)["rows"]
    assert row["texts"][-2:] == ["3", "<|endoftext|>"]


def test_what_does_not_exist_is_refused(tuned: Path, tmp_path: Path) -> None:
    assert "1 to 40" in call("inspect", tuned, "--row", "41", status=2).stderr
    assert "has no row x" in call("inspect", tuned, "--row", "x", status=2).stderr
    assert "one of train" in call("inspect", tuned, "--part", "rest", status=2).stderr
    assert "one of them" in call("inspect", tuned, "--row", "1", "--step", "1", status=2).stderr
    assert "1 to 5" in call("inspect", tuned, "--step", "6", status=2).stderr
    call("inspect", tmp_path / "missing", status=2)
