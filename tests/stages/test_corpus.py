"""`lotune corpus` shows what a pre-training takes, and the pre-training takes it."""

from __future__ import annotations

import json
from pathlib import Path

import orjson
import pytest
from command_line import call

from lotune.data.corpus import CorpusCounts
from lotune.stages.corpus import corpus_lines


def write_articles(folder: Path, count: int = 40) -> None:
    folder.mkdir()
    articles = [{"text": f"题目{n}\n\n这是第{n}篇（）文章。它很短，但是有{n}句话。"} for n in range(count)]
    (folder / "a.jsonl").write_bytes(b"".join(orjson.dumps(article) + b"\n" for article in [*articles, articles[0]]))


def test_a_folder_is_shown_before_anything_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_articles(tmp_path / "wiki")
    words = ["pretrain.cleaning=wiki", "pretrain.validation_fraction=.25"]
    shown = call("corpus", "wiki", *words).stdout
    assert "41 read (1 .jsonl), 0 malformed, 0 empty, 1 duplicates removed" in shown
    assert "empty （）: 这是第0篇⟦（）⟧文章。它很短，但是有0句话" in shown
    assert "a.jsonl:41 is like" in shown
    counts = json.loads(call("corpus", "wiki", *words, "--json").stdout)
    assert counts["train_articles"] + counts["validation_articles"] == 40
    assert counts["cleaning"][1] == {
        "name": "title", "hits": 41, "articles": 41, "examples": counts["cleaning"][1]["examples"],
    }  # fmt: skip
    assert not (tmp_path / "runs").exists()


def test_a_pre_training_takes_what_was_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_articles(tmp_path / "wiki")
    (tmp_path / "small.yaml").write_text(
        "pretrain:\n  corpus: wiki\n  cleaning: wiki\n  validation_fraction: 0.25\n  steps: 1\n  step_tokens: 64\n"
        "  cleaning_rules: [{name: short, pattern: 它很短，}]\n"
        "  llama_config: {vocab_size: 330, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2,"
        " num_key_value_heads: 2, intermediate_size: 8, max_position_embeddings: 64}\n"
    )
    counts = json.loads(call("corpus", "wiki", "--recipe", "small.yaml", "--json").stdout)
    assert [rule["hits"] for rule in counts["cleaning"] if rule["name"] == "short"] == [41]
    call("pretrain", "small.yaml")
    stored = json.loads((tmp_path / "runs/small/data/corpus.json").read_text())
    assert stored.pop("tokenizer")["changed"] == 0
    assert stored == counts


def test_bad_input_ends_with_status_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\nbroken\n')
    assert "a.jsonl:2" in call("corpus", "a.jsonl", status=2).stderr
    assert "does not exist" in call("corpus", "missing", status=2).stderr
    rule = "pretrain.cleaning_rules=[{name: x, pattern: '('}]"
    assert "cannot be used" in call("corpus", "a.jsonl", rule, status=2).stderr
    assert "1 malformed" in call("corpus", "a.jsonl", "data.on_error=skip").stdout


def test_the_lines_name_what_was_cleaned() -> None:
    counts = CorpusCounts(read=2, lengths=[2, 2, 2, 3, 3])
    counts.add("光速")
    assert list(corpus_lines(counts))[1].startswith("text: 2 characters, 6 bytes (han 100%)")
