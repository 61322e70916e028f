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
        results = list(score_texts(tiny_llama, byte_tokenizer, articles, context=256, batch_tokens=batch_tokens))
        for text, values in zip(TEXTS, results, strict=True):
            ids = torch.tensor([[0, *byte_tokenizer(text, add_special_tokens=False)["input_ids"]]])
            with torch.inference_mode():
                loss = float(tiny_llama(input_ids=ids, labels=ids).loss)
            assert values.nats == pytest.approx(loss * (ids.shape[1] - 1), rel=1e-5)
            assert (values.tokens, values.bytes) == (ids.shape[1] - 1, len(text.encode()))


def test_a_long_text_is_read_in_windows(tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    text = TEXTS[0] * 3
    [values] = score_texts(tiny_llama, byte_tokenizer, [Example("1", "", text)], context=32, batch_tokens=64)
    ids = [0, *byte_tokenizer(text, add_special_tokens=False)["input_ids"]]
    nats = 0.0
    for index in range(1, len(ids)):
        start = 0 if index < 32 else (index - 32) // 16 * 16 + 16
        with torch.inference_mode():
            logits = tiny_llama(input_ids=torch.tensor([ids[start:index]])).logits[0, -1]
        nats -= float(logits.log_softmax(-1)[ids[index]])
    assert values.nats == pytest.approx(nats, rel=1e-5)


@given(st.integers(1, 200), st.integers(4, 50))
def test_windows_predict_each_token_once(length: int, context: int) -> None:
    ids = list(range(length))
    rows = sliding_windows(ids, -1, context)
    assert [token for row in rows for token in row.ids] == ids
    assert all(len(row.prompt_ids) + len(row.ids) <= context for row in rows)
    assert all(len(row.prompt_ids) == context // 2 for row in rows[1:])


def test_texts_are_weighted_by_their_length() -> None:
    result = summarise([TextLoss("1", 10.0, 10, 40), TextLoss("2", 90.0, 30, 60)])
    assert result["perplexity"] == pytest.approx(math.exp(2.5))
    assert result["bits_per_byte"] == pytest.approx(1 / math.log(2))
    low, high = result["perplexity_interval"]
    assert low < result["perplexity"] < high
    with pytest.raises(DataError, match="have no token"):
        summarise([])


def test_one_text_gives_figures_without_intervals(capsys: pytest.CaptureFixture[str]) -> None:
    result = summarise([TextLoss("1", 10.0, 10, 40)])
    assert (result["perplexity_interval"], result["bits_per_byte_interval"]) == (None, None)
    _show({**result, "model": "tiny", "device": "cpu", "dtype": "float32"})
    assert capsys.readouterr().out.count("95 % interval not estimable") == 2


@pytest.mark.slow
def test_figures_are_written_one_by_one_and_reused(
    small_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out = tmp_path / "articles.jsonl", tmp_path / "figures.jsonl"
    file.write_text("".join(json.dumps({"text": f"{text} {n}"}) + "\n" for n in range(2) for text in TEXTS))
    words = ["evaluate", "--model", str(small_base), "--task", "text", "--data", str(file), "--out", str(out), "--json"]
    complete = CliRunner().invoke(app, words)
    assert complete.exit_code == 0, complete.stderr
    lines = out.read_text().splitlines(keepends=True)
    assert len(lines) == 6
    out.write_text("".join(lines[:4]) + lines[4][:20])  # stopped in the middle of the fifth
    seen: list[str] = []
    real = evaluate_perplexity.score_texts

    def read(model: object, tokenizer: object, articles: list[Example], **named: int) -> object:
        seen.extend(article.id for article in articles)
        return real(model, tokenizer, articles, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(evaluate_perplexity, "score_texts", read)
    again = CliRunner().invoke(app, words)
    resumed, expected = json.loads(again.stdout), json.loads(complete.stdout)
    assert resumed.keys() == expected.keys()
    for figure in ("perplexity", "bits_per_byte"):  # read in other batches, sums round otherwise
        assert resumed[figure] == pytest.approx(expected[figure], rel=1e-6)
    assert [id.rpartition(":")[2] for id in seen] == ["5", "6"]
    results = out.read_text().splitlines(keepends=True)
    assert [json.loads(line)["id"] for line in results] == [json.loads(line)["id"] for line in lines]
    assert results[:4] == lines[:4]
    lines = results
    assert json.loads(CliRunner().invoke(app, [*words, "--limit", "2"]).stdout)["texts"] == 2
    assert out.read_text() == "".join(lines), "a smaller evaluation takes nothing away"
    refused = CliRunner().invoke(
        app, [*words, "base.dtype=bfloat16" if "float32" in complete.stdout else "base.dtype=float32"]
    )
    assert (refused.exit_code, "of another model or other settings" in refused.stderr) == (2, True)
    assert out.read_text() == "".join(lines)


@pytest.mark.slow
def test_the_command(small_base: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "articles.jsonl", tmp_path / "figures.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS * 2), encoding="utf-8")
    words = ["evaluate", "--model", str(small_base), "--task", "text", "--data", str(file)]
    completed = CliRunner().invoke(app, [*words, "--limit", "3", "--out", str(out), "--json"])
    assert completed.exit_code == 0, completed.stderr
    figures = json.loads(completed.stdout)
    assert figures["texts"] == 3
    assert figures["bytes"] == sum(len(text.encode()) for text in TEXTS)
    assert len(out.read_text().splitlines()) == 3
    assert (figures["perplexity_unit"], figures["device"]) == ("per token", "cpu")
    assert figures["dtype"] in ("float32", "bfloat16")
    displayed = CliRunner().invoke(app, words)
    assert "bits per byte" in displayed.stdout
    assert f"on cpu in {figures['dtype']}" in displayed.stdout
    refused = CliRunner().invoke(app, words[:-2])
    assert refused.exit_code == 2
    assert "--data" in refused.stderr
