"""Perplexity and bits a byte: transformers' own loss on short texts, windows on long ones."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from lotune.cli.app import app
from lotune.data.examples import Example
from lotune.errors import DataError
from lotune.evaluate.perplexity import TextLoss, score_texts, sliding_windows, summarise
from lotune.stages import evaluate_perplexity
from lotune.stages.evaluate_perplexity import _show

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

TEXTS = ["The river reaches the sea at Reval.", "河流在奇蓉市入海。", "a"]


@pytest.mark.oracle
def test_the_loss_is_that_of_transformers(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    articles = [Example(str(number), "", text) for number, text in enumerate(TEXTS)]
    for batch_tokens in (1, 10_000):
        found = list(score_texts(tiny_llama, byte_tokenizer, articles, context=256, batch_tokens=batch_tokens))
        for text, its in zip(TEXTS, found, strict=True):
            ids = torch.tensor([[0, *byte_tokenizer(text, add_special_tokens=False)["input_ids"]]])
            with torch.inference_mode():
                loss = float(tiny_llama(input_ids=ids, labels=ids).loss)
            assert its.nats == pytest.approx(loss * (ids.shape[1] - 1), rel=1e-5)
            assert (its.tokens, its.bytes) == (ids.shape[1] - 1, len(text.encode()))


def test_a_long_text_is_read_in_windows(tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    text = TEXTS[0] * 3
    [its] = score_texts(tiny_llama, byte_tokenizer, [Example("1", "", text)], context=32, batch_tokens=64)
    ids = [0, *byte_tokenizer(text, add_special_tokens=False)["input_ids"]]
    nats = 0.0
    for place in range(1, len(ids)):
        start = 0 if place < 32 else (place - 32) // 16 * 16 + 16
        with torch.inference_mode():
            logits = tiny_llama(input_ids=torch.tensor([ids[start:place]])).logits[0, -1]
        nats -= float(logits.log_softmax(-1)[ids[place]])
    assert its.nats == pytest.approx(nats, rel=1e-5)


@given(st.integers(1, 200), st.integers(4, 50))
def test_windows_predict_each_token_once(length: int, context: int) -> None:
    ids = list(range(length))
    rows = sliding_windows(ids, -1, context)
    assert [token for row in rows for token in row.ids] == ids
    assert all(len(row.prompt_ids) + len(row.ids) <= context for row in rows)
    assert all(len(row.prompt_ids) == context // 2 for row in rows[1:])


def test_texts_are_weighted_by_their_length() -> None:
    found = summarise([TextLoss("1", 10.0, 10, 40), TextLoss("2", 90.0, 30, 60)])
    assert found["perplexity"] == pytest.approx(math.exp(2.5))
    assert found["bits_per_byte"] == pytest.approx(1 / math.log(2))
    low, high = found["perplexity_interval"]
    assert low < found["perplexity"] < high
    with pytest.raises(DataError, match="have no token"):
        summarise([])


def test_one_text_gives_figures_without_intervals(capsys: pytest.CaptureFixture[str]) -> None:
    found = summarise([TextLoss("1", 10.0, 10, 40)])
    assert (found["perplexity_interval"], found["bits_per_byte_interval"]) == (None, None)
    _show({**found, "model": "tiny", "device": "cpu", "dtype": "float32"})
    assert capsys.readouterr().out.count("95 % interval not estimable") == 2


@pytest.mark.slow
def test_figures_are_written_one_by_one_and_reused(
    small_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out = tmp_path / "articles.jsonl", tmp_path / "figures.jsonl"
    file.write_text("".join(json.dumps({"text": f"{text} {n}"}) + "\n" for n in range(2) for text in TEXTS))
    words = ["evaluate", "--model", str(small_base), "--task", "text", "--data", str(file), "--out", str(out), "--json"]
    whole = CliRunner().invoke(app, words)
    assert whole.exit_code == 0, whole.stderr
    lines = out.read_text().splitlines(keepends=True)
    assert len(lines) == 6
    out.write_text("".join(lines[:4]) + lines[4][:20])  # stopped in the middle of the fifth
    seen: list[str] = []
    real = evaluate_perplexity.score_texts

    def read(model: object, tokenizer: object, articles: list[Example], **named: int) -> object:
        seen.extend(one.id for one in articles)
        return real(model, tokenizer, articles, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(evaluate_perplexity, "score_texts", read)
    again = CliRunner().invoke(app, words)
    resumed, expected = json.loads(again.stdout), json.loads(whole.stdout)
    assert resumed.keys() == expected.keys()
    for figure in ("perplexity", "bits_per_byte"):  # read in other batches, sums round otherwise
        assert resumed[figure] == pytest.approx(expected[figure], rel=1e-6)
    assert [id.rpartition(":")[2] for id in seen] == ["5", "6"]
    found = out.read_text().splitlines(keepends=True)
    assert [json.loads(line)["id"] for line in found] == [json.loads(line)["id"] for line in lines]
    assert found[:4] == lines[:4]
    lines = found
    assert json.loads(CliRunner().invoke(app, [*words, "--limit", "2"]).stdout)["texts"] == 2
    assert out.read_text() == "".join(lines), "a smaller evaluation takes nothing away"
    refused = CliRunner().invoke(
        app, [*words, "base.dtype=bfloat16" if "float32" in whole.stdout else "base.dtype=float32"]
    )
    assert (refused.exit_code, "of another model or other settings" in refused.stderr) == (2, True)
    assert out.read_text() == "".join(lines)


@pytest.mark.slow
def test_the_command(small_base: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "articles.jsonl", tmp_path / "figures.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS * 2), encoding="utf-8")
    words = ["evaluate", "--model", str(small_base), "--task", "text", "--data", str(file)]
    done = CliRunner().invoke(app, [*words, "--limit", "3", "--out", str(out), "--json"])
    assert done.exit_code == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["texts"] == 3
    assert figures["bytes"] == sum(len(text.encode()) for text in TEXTS)
    assert len(out.read_text().splitlines()) == 3
    assert (figures["perplexity_unit"], figures["device"]) == ("per token", "cpu")
    assert figures["dtype"] in ("float32", "bfloat16")
    shown = CliRunner().invoke(app, words)
    assert "bits per byte" in shown.stdout
    assert f"on cpu in {figures['dtype']}" in shown.stdout
    refused = CliRunner().invoke(app, words[:-2])
    assert refused.exit_code == 2
    assert "--data" in refused.stderr
