"""Models, adapters and runs that share weights; models of other servers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from servers import load, running
from tiny_models import with_random_adapter

from lotune.errors import ModelError, SettingsError
from lotune.generate.requests import Request
from lotune.model.adapters import add_adapter
from lotune.model.checkpoints import load_adapter, save_adapter
from lotune.model.loading import load_model
from lotune.model.methods.registry import adapter_settings
from lotune.model.settings import BaseSettings
from lotune.recipe import Recipe
from lotune.serve.limits import Limits
from lotune.serve.remote import remote_model
from lotune.settings import read_settings
from lotune.stages import served_models
from lotune.stages.served_models import load_served_models
from lotune.tasks.registry import CONVERSATION_TASK

PROMPT = "计算 1 + 1 the answer"


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return read_settings(Recipe, None, [f"task.name={CONVERSATION_TASK}", "evaluate.dtype=float32"])


@pytest.fixture(scope="module")
def adapters(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of adapters of the base: two of LoRA, one of prompt tuning."""
    folder, folders = tmp_path_factory.mktemp("adapters"), {}
    for name, method, std in (("one", "lora", 0.3), ("two", "lora", 0.6), ("soft", "prompt-tuning", 0.3)):
        base = load_model(BaseSettings(model=str(small_base), dtype="float32"), "cpu")
        settings = adapter_settings(METHOD_NAMES.get(method, method))
        adapted = with_random_adapter(add_adapter(base.model, settings, 1, base.tokenizer), std)
        save_adapter(adapted, folder / name, base=base)
        folders[name] = str(folder / name)
    return folders


METHOD_NAMES = {"prompt-tuning": "prompt_tuning"}


def alone(base: Path, adapter: str | None, new: int = 8) -> str:
    """The greedy answer of one model with one adapter and nothing else."""
    from lotune.generate.engine import Engine

    loaded = load_model(BaseSettings(model=str(base), dtype="float32"), "cpu")
    model: Any = load_adapter(loaded, Path(adapter)) if adapter else loaded.model
    request = Request(tuple(loaded.tokenizer(PROMPT)["input_ids"]), new)
    [(_, completion)] = Engine(model, loaded.tokenizer).stream([request])
    return completion.text


def test_adapters_share_the_weights_of_their_base(recipe: Recipe, small_base: Path, adapters: dict[str, str]) -> None:
    served = load_served_models(recipe, {"base": str(small_base)}, adapters)
    by_name = {model.name: model for model in served}
    assert by_name["one"].answering is by_name["two"].answering is by_name["base"].answering
    assert by_name["soft"].answering is not by_name["base"].answering  # its tokens are no part of a request
    with running(served) as server:
        listed = {model["id"]: model for model in server.get("/v1/models").json["data"]}
        assert {name: model["parent"] for name, model in listed.items()}["one"] == "base"
        expected = {
            "base": alone(small_base, None),
            **{name: alone(small_base, folder) for name, folder in adapters.items()},
        }
        assert len(set(expected.values())) == 4
        for name, text in expected.items():
            fields = {"model": name, "prompt": PROMPT, "max_tokens": 8, "temperature": 0}
            assert server.post("/v1/completions", **fields).json["choices"][0]["text"] == text
            scored = server.post("/v1/completions", **fields, echo=True, logprobs=1).json["choices"][0]
            assert scored["text"] == PROMPT + text
        scores = {
            name: server.post("/v1/completions", model=name, prompt=PROMPT, max_tokens=0, echo=True, logprobs=0).json
            for name in ("base", "one", "two")
        }
        assert len({str(score["choices"][0]["logprobs"]["token_logprobs"]) for score in scores.values()}) == 3


def test_a_conversation_is_not_continued_from_the_cache_of_another_adapter(
    recipe: Recipe, small_base: Path, adapters: dict[str, str]
) -> None:
    served = load_served_models(recipe, {"base": str(small_base)}, {"one": adapters["one"]})
    prompt = [5, 6, 7, 8] * 12
    with running(served) as server:
        fields = {"prompt": prompt, "max_tokens": 6, "temperature": 0}
        names = ("base", "one", "base", "one")
        replies = [server.post("/v1/completions", model=name, **fields).json for name in names]
        texts = [reply["choices"][0]["text"] for reply in replies]
        assert server.metric("prefix_cache_hits_total") >= 2 * (len(prompt) - 1)
    assert texts[:2] == texts[2:]
    assert texts[0] != texts[1]


def test_an_adapter_alone_brings_its_base(recipe: Recipe, small_base: Path, adapters: dict[str, str]) -> None:
    [model] = load_served_models(recipe, {}, {"one": adapters["one"]})
    with running([model]) as server:
        fields = {"prompt": PROMPT, "max_tokens": 8, "temperature": 0}
        reply = server.post("/v1/completions", **fields).json
        assert reply["choices"][0]["text"] == alone(small_base, adapters["one"])
        assert [one["id"] for one in server.get("/v1/models").json["data"]] == ["one"]
        assert server.post("/v1/completions", model="nano", **fields).status == 404


def test_models_that_do_not_fit_are_refused_before_they_are_loaded(
    recipe: Recipe, small_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_models, "load_unquantized", lambda *_: pytest.fail("was loaded"))
    models = {"one": str(small_base), "two": "nano"}
    with pytest.raises(SettingsError, match=r"the weights take .* \(.*nano .*\)\nexpected: 1\.0 MiB at most"):
        load_served_models(recipe, models, {}, 2**20)


def test_a_complete_model_is_no_adapter(recipe: Recipe, small_base: Path) -> None:
    with pytest.raises(ModelError, match="is a complete model, not an adapter"):
        load_served_models(recipe, {}, {"one": str(small_base)})


@pytest.mark.parametrize("plain", [False, True])
def test_a_model_of_another_server_answers_under_a_name_of_this_one(small_base: Path, plain: bool) -> None:
    messages = [{"role": "user", "content": "1 + 1?"}]
    fields = {"messages": messages, "max_tokens": 8, "temperature": 0, "top_k": 5}
    with running([load(small_base, "there")]) as other:
        direct = other.post("/v1/chat/completions", **fields).json["choices"][0]["message"]["content"]
        remote = remote_model("peer", other.url + ("/generate" if plain else "/v1"))
        with running([load(small_base, "here")], remotes=[remote]) as server:
            assert [one["id"] for one in server.get("/v1/models").json["data"]] == ["here", "peer"]
            whole = server.post("/v1/chat/completions", model="peer", **fields).json
            assert whole["choices"][0]["message"]["content"] == direct
            events = server.post("/v1/chat/completions", model="peer", stream=True, **fields).events
            assert "".join(event["choices"][0]["delta"].get("content") or "" for event in events) == direct
            assert server.post("/v1/completions", model="peer", prompt="x").status == 404
    assert other.port


def test_a_server_that_does_not_answer_is_an_error_in_openais_shape(small_base: Path) -> None:
    with running([load(small_base)], remotes=[remote_model("peer", "http://127.0.0.1:9")]) as server:
        fields = {"model": "peer", "messages": [{"role": "user", "content": "1?"}]}
        reply = server.post("/v1/chat/completions", **fields)
        assert (reply.status, reply.json["error"]["code"]) == (502, "remote_failed")
        assert server.post("/v1/chat/completions", stream=True, **fields).events[-1]["error"]["code"] == "remote_failed"


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://host/x", "host:80", "http://"])
def test_an_address_that_is_no_server_is_refused(address: str) -> None:
    with pytest.raises(SettingsError, match="is no address"):
        remote_model("peer", address)


SCHEMA = {
    "type": "object", "additionalProperties": False, "required": ["name", "count", "kind"],
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "count": {"type": "integer", "minimum": 0, "maximum": 999},
        "kind": {"enum": ["甲", "b\"c"]},
        "list": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    },
}  # fmt: skip


def test_answers_under_a_schema_are_valid(small_base: Path) -> None:
    """Of a model with random weights, at any temperature, in streams, too."""
    validate = pytest.importorskip("jsonschema_rs").validate
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    messages = [{"role": "user", "content": "1 + 1?"}]
    with running([load(small_base)]) as server:
        fields = {"messages": messages, "max_tokens": 300, "n": 8, "response_format": form}
        for temperature in (0, 1, 3):
            reply = server.post("/v1/chat/completions", **fields, temperature=temperature, seed=1).json
            for choice in reply["choices"]:
                assert choice["finish_reason"] == "stop"
                validate(SCHEMA, json.loads(choice["message"]["content"]))
        completed = server.post("/v1/completions", prompt="x", max_tokens=300, response_format=form).json
        validate(SCHEMA, json.loads(completed["choices"][0]["text"]))
        events = server.post("/v1/completions", prompt="x", max_tokens=300, response_format=form, stream=True).events
        validate(SCHEMA, json.loads("".join(event["choices"][0]["text"] for event in events)))


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"type": "json_schema"}, "has no `schema`"),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}}, "cannot be followed"),
        ({"type": "json_schema", "json_schema": {"schema": {"$ref": "http://127.0.0.1/x"}}}, "cannot be followed"),
        ({"type": "json_schema", "json_schema": {"schema": {"description": "x" * 70_000}}}, "at most 65536"),
        ({"type": "yaml"}, "response_format.type"),
    ],
)
def test_a_schema_that_cannot_be_followed_is_refused(small_base: Path, form: Any, message: str) -> None:
    with running([load(small_base)]) as server:
        reply = server.post("/v1/completions", prompt="x", response_format=form)
    assert reply.status == 400
    assert message in reply.json["error"]["message"]


@pytest.mark.soak
def test_a_thousand_answers_of_nano_under_a_schema_are_valid() -> None:
    validate = pytest.importorskip("jsonschema_rs").validate
    from lotune.model.loading import base_folder

    folder = base_folder(BaseSettings(model="nano"))
    assert folder is not None
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    valid = 0
    with running([load(folder)], Limits(max_prompts=200)) as server:
        for number in range(10):
            fields = {"prompt": f"{number} things", "n": 100, "temperature": 1 + number / 5, "max_tokens": 400}
            reply = server.post("/v1/completions", response_format=form, seed=number, **fields).json
            for choice in reply["choices"]:
                validate(SCHEMA, json.loads(choice["text"]))
                valid += 1
    assert valid == 1000
