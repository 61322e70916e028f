"""The vLLM backend: its requests and the parsing of its outputs, with a stand-in for the library.

The stand-in answers with transformers' own `generate`, in the form that vLLM documents for its outputs.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from lotune.errors import DataError, ModelError
from lotune.generate.engine import Engine
from lotune.generate.requests import Request
from lotune.generate.vllm import VllmModel
from lotune.model.loading import LoadedModel, base_folder, load_model
from lotune.model.settings import BaseSettings
from lotune.recipe import Recipe, RunOptions
from lotune.stages.evaluate_model import EvaluationData, evaluate_model


@dataclass
class SamplingParams:
    max_tokens: int
    min_tokens: int
    stop: list[str] | None
    stop_token_ids: list[int]
    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    seed: int
    logprobs: int | None


class LLM:
    """Greedy answers of one prompt at a time."""

    made: list[dict[str, Any]] = []

    def __init__(self, **words: Any) -> None:
        LLM.made.append(words)
        self.base = load_model(BaseSettings(model=words["model"], dtype="float32"), "cpu")

    def generate(self, prompts: list[Any], params: list[SamplingParams], use_tqdm: bool) -> list[Any]:
        assert use_tqdm is False
        return [self._answer(*pair) for pair in zip(prompts, params, strict=True)]

    def _answer(self, prompt: dict[str, list[int]], asked: SamplingParams) -> Any:
        assert asked.temperature == 0
        model: Any = self.base.model
        tokenizer: Any = self.base.tokenizer
        ids = torch.tensor([prompt["prompt_token_ids"]])
        if ids.shape[1] + asked.max_tokens > model.config.max_position_embeddings:
            raise ValueError("The decoder prompt is longer than the maximum model length.")
        out = model.generate(
            ids, max_new_tokens=asked.max_tokens, min_new_tokens=asked.min_tokens, do_sample=False, use_cache=True,
            eos_token_id=asked.stop_token_ids, output_logits=True, return_dict_in_generate=True, pad_token_id=0,
            **({"stop_strings": asked.stop, "tokenizer": tokenizer} if asked.stop else {}),
        )  # fmt: skip
        new = out.sequences[0, ids.shape[1] :].tolist()
        values = [step[0].log_softmax(-1) for step in out.logits]
        logprobs = [
            {token: SimpleNamespace(logprob=float(value[token]))} for token, value in zip(new, values, strict=True)
        ]
        text = tokenizer.decode(new, skip_special_tokens=True)
        stopped = next((stop for stop in asked.stop or [] if stop in text), None)
        ended = new[-1] in asked.stop_token_ids
        reason = new[-1] if ended and new[-1] != tokenizer.eos_token_id else stopped
        output = SimpleNamespace(
            text=text.partition(stopped)[0] if stopped else text, token_ids=new, stop_reason=reason,
            finish_reason="stop" if ended or stopped else "length", logprobs=logprobs if asked.logprobs == 0 else None,
        )  # fmt: skip
        return SimpleNamespace(outputs=[output])


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, SamplingParams
    monkeypatch.setitem(sys.modules, "vllm", module)
    LLM.made.clear()


@pytest.fixture(scope="module")
def nano() -> LoadedModel:
    return load_model(BaseSettings(dtype="float32"), "cpu")


def requests(nano: LoadedModel) -> list[Request]:
    tokenizer: Any = nano.tokenizer
    texts = ["12.5+7.25=?\n", "小明的妹妹叫小红。", "Anna lives in Rome.", "3*4=?\n+"]
    plain = [Request(tuple(tokenizer.encode(text, add_special_tokens=False)), 24, logprobs=True) for text in texts]
    return [*plain, replace(plain[0], stop=("\n",)), replace(plain[1], min_new_tokens=5, stop_ids=(7, 11, 20))]


@pytest.mark.oracle
def test_answers_are_those_of_our_engine(library: None, nano: LoadedModel) -> None:
    submitted = requests(nano)
    model: Any = nano.model
    tokenizer: Any = nano.tokenizer
    actual = dict(Engine(model, tokenizer).stream(submitted, batch_tokens=4096))
    expected = dict(Engine(VllmModel(BaseSettings(), tokenizer), tokenizer).stream(submitted, batch_tokens=4096))
    assert expected.keys() == actual.keys()
    for number, answer in expected.items():
        assert (answer.text, answer.token_ids, answer.finish_reason) == (
            actual[number].text, actual[number].token_ids, actual[number].finish_reason
        )  # fmt: skip
        assert answer.logprobs == pytest.approx(actual[number].logprobs, abs=1e-4)
    assert {answer.finish_reason for answer in expected.values()} >= {"stop", "length"}


def test_weights_are_safetensors_and_no_code_is_run(library: None, nano: LoadedModel) -> None:
    tokenizer: Any = nano.tokenizer
    VllmModel(BaseSettings(), tokenizer)
    [words] = LLM.made
    assert words["load_format"] == "safetensors"
    assert words["trust_remote_code"] is False
    assert words["model"] == words["tokenizer"] == str(base_folder(BaseSettings()))


def test_unsupported_requests_are_refused(library: None, nano: LoadedModel) -> None:
    tokenizer: Any = nano.tokenizer
    engine, [first, *_] = Engine(VllmModel(BaseSettings(), tokenizer), tokenizer), requests(nano)
    for request in (replace(first, adapter="mine"), replace(first, timeout_seconds=1.0)):
        with pytest.raises(ModelError, match=r"evaluate\.engine=lotune"):
            list(engine.stream([first, request], batch_tokens=9))
    with pytest.raises(DataError, match="at most 1024"):
        list(engine.stream([replace(first, max_new_tokens=2000)], batch_tokens=9))


def test_without_the_library_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch, nano: LoadedModel) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    tokenizer: Any = nano.tokenizer
    with pytest.raises(ModelError, match=r"\[vllm\]"):
        VllmModel(BaseSettings(), tokenizer)


def test_a_model_is_evaluated_with_it(library: None, tmp_path: Path) -> None:
    folder, test = str(base_folder(BaseSettings())), EvaluationData(limit=6)
    results = []
    for engine in ("lotune", "vllm"):
        recipe = Recipe.model_validate(
            {"task": {"name": "reading"}, "evaluate": {"engine": engine}, "base": {"dtype": "float32"}, "device": "cpu"}
        )
        results.append(evaluate_model(recipe, folder, test, tmp_path / f"{engine}.jsonl", False, RunOptions(json=True)))
    assert results[0] == results[1]
    assert LLM.made
    assert (tmp_path / "lotune.jsonl").read_bytes().count(b"\n") == 6
