"""`lotune tokenizer` trains a tokeniser on a corpus, and compares what tokenisers make of it."""

from __future__ import annotations

import json
from pathlib import Path

import orjson
import pytest
from command_line import call

from lotune.data.tokenizer_training import SMALLEST_VOCABULARY

ARTICLES = ["光速是299792458米每秒。", "Light is fast, 光速也快。", "第三篇文章没有数字！"]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"".join(orjson.dumps({"text": f"题{n}\n\n{text}"}) + b"\n" for n, text in enumerate(ARTICLES)))
    return file


def test_a_trained_tokeniser_is_compared_with_another(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokenizer"
    words = ("tokenizer", "train", corpus, "--vocab-size", "400", "--cleaning", "wiki", "--out", out)
    found = json.loads(call(*words, "--json").stdout)["tokenizers"][str(out)]
    text = "".join(ARTICLES)
    assert (found["characters"], found["bytes"], found["changed"]) == (len(text), len(text.encode()), 0)
    assert found["per_character"]["digits"] == 1  # each digit is a token of its own
    shown = call("tokenizer", "compare", corpus, out, "nano", "--step-tokens", "10").stdout.splitlines()
    assert [line.partition(":")[0] for line in shown] == [str(out), "nano"]
    assert "2,048 tokens in the vocabulary" in shown[1]
    assert "steps of 10 tokens an epoch" in shown[1]
    assert "already exists" in call(*words, status=2).stderr
    call(*words, "--force")


def test_bad_input_ends_with_status_2(corpus: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "tokenizer")
    assert (
        f"{SMALLEST_VOCABULARY} or more"
        in call("tokenizer", "train", corpus, *out, "--vocab-size", "20", status=2).stderr
    )
    assert "does not exist" in call("tokenizer", "train", tmp_path / "missing", *out, status=2).stderr
    assert str(tmp_path) in call("tokenizer", "compare", corpus, tmp_path, status=2).stderr
    (tmp_path / "empty.txt").write_text(" ")
    assert "empty" in call("tokenizer", "compare", tmp_path / "empty.txt", "nano", status=2).stderr
