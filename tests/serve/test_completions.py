"""Completions, chats and scores of prompts over HTTP are those of the engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import Address, load, running

from lotune.data.conversation import Conversation, conversation_example
from lotune.data.templates import TEMPLATES
from lotune.data.tokenized import encode_prompt
from lotune.generate.loglikelihood import Continuation, LogLikelihood
from lotune.generate.requests import Request
from lotune.generate.sampling import Sampling
from lotune.serve.limits import Limits
from lotune.serve.models import ServedModel

PROMPT = "计算 1 + 1 the answer"


@pytest.fixture(scope="module")
def model(small_base: Path) -> ServedModel:
    return load(small_base)


@pytest.fixture(scope="module")
def server(model: ServedModel) -> Iterator[Address]:
    with running([model], Limits(max_prompts=6)) as address:
        yield address


@pytest.fixture(scope="module")
def engine(small_base: Path) -> Any:
    return load(small_base).answering.engine


def answer(engine: Any, ids: Any, new: int = 12, **settings: Any) -> Any:
    return dict(engine.stream([Request(tuple(ids), new, **settings)]))[0]


def test_a_completion_is_that_of_the_engine(server: Address, engine: Any) -> None:
    ids = engine.tokenizer(PROMPT)["input_ids"]
    reply = server.post("/v1/completions", prompt=PROMPT, max_tokens=12, temperature=0).json
    expected = answer(engine, ids)
    [choice] = reply["choices"]
    assert choice["text"] == expected.text
    assert (choice["finish_reason"], choice["index"], choice["logprobs"]) == ("length", 0, None)
    assert reply["usage"] == {"prompt_tokens": len(ids), "completion_tokens": 12, "total_tokens": len(ids) + 12}
    assert (reply["object"], reply["model"]) == ("text_completion", "small")
    by_ids = server.post("/v1/completions", prompt=ids, max_tokens=12, temperature=0).json
    assert by_ids["choices"] == reply["choices"]


def test_a_stream_joins_to_the_whole_answer_and_ends_with_usage(server: Address, engine: Any) -> None:
    fields = {"prompt": PROMPT, "max_tokens": 12, "temperature": 0, "stream": True}
    reply = server.post("/v1/completions", **fields, stream_options={"include_usage": True})
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert reply.body.endswith(b"data: [DONE]\n\n")
    *chunks, usage = reply.events
    assert (
        "".join(chunk["choices"][0]["text"] for chunk in chunks)
        == answer(engine, engine.tokenizer(PROMPT)["input_ids"]).text
    )
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-2:] in ([None, "length"], ["length"])
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 12)
    assert len({chunk["id"] for chunk in reply.events}) == 1
    assert "usage" not in server.post("/v1/completions", **fields).events[-1]


def test_several_prompts_and_answers_are_numbered_in_order(server: Address, engine: Any) -> None:
    prompts = [PROMPT, "the answer is short"]
    sampling = Sampling(0.8, 20, 0.9, 1.1, seed=5)
    fields = {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.1, "seed": 5, "n": 2}
    reply = server.post("/v1/completions", prompt=prompts, max_tokens=8, **fields).json
    requests = [
        Request(tuple(engine.tokenizer(text)["input_ids"]), 8, sampling=sampling, samples=2) for text in prompts
    ]
    expected = dict(engine.stream(requests))
    assert [choice["text"] for choice in reply["choices"]] == [expected[number].text for number in range(4)]
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
    assert reply["usage"]["prompt_tokens"] == sum(len(request.prompt_ids) for request in requests)
    greedy = server.post("/v1/completions", prompt=PROMPT, n=3, temperature=0, max_tokens=4).json["choices"]
    assert len(greedy) == 3
    assert len({choice["text"] for choice in greedy}) == 1
    assert server.post("/v1/completions", prompt=prompts, n=4).status == 400  # 8 answers, at most 6


def test_without_a_seed_answers_differ(server: Address) -> None:
    texts = {
        server.post("/v1/completions", prompt=PROMPT, max_tokens=20, temperature=2).json["choices"][0]["text"]
        for _ in range(3)
    }
    assert len(texts) > 1


def test_an_answer_ends_before_a_stop_text(server: Address, engine: Any) -> None:
    whole = answer(engine, engine.tokenizer(PROMPT)["input_ids"], 30).text
    stop = whole[8:11]
    for fields in ({"stop": stop}, {"stop": ["never there", stop]}):
        [choice] = server.post("/v1/completions", prompt=PROMPT, max_tokens=30, temperature=0, **fields).json["choices"]
        assert (choice["text"], choice["finish_reason"]) == (whole[: whole.index(stop)], "stop")
    streamed = server.post(
        "/v1/completions", prompt=PROMPT, max_tokens=30, temperature=0, stop=stop, stream=True
    ).events
    assert "".join(chunk["choices"][0]["text"] for chunk in streamed) == whole[: whole.index(stop)]


def test_echo_scores_the_prompt_as_the_loglikelihood_does(server: Address, small_base: Path) -> None:
    model = load(small_base)
    ids = model.tokenizer(PROMPT)["input_ids"]
    reply = server.post("/v1/completions", prompt=ids, max_tokens=1, temperature=0, logprobs=3, echo=True).json
    [choice] = reply["choices"]
    [scores] = LogLikelihood(model.answering.model).score(
        [Continuation(tuple(ids[:1]), tuple(ids[1:]))], batch_tokens=999
    )
    found = choice["logprobs"]
    assert found["token_logprobs"][0] is None
    assert found["top_logprobs"][0] is None
    assert found["token_logprobs"][1:-1] == pytest.approx(scores, abs=1e-5)
    assert {len(values) for values in found.values()} == {len(ids) + 1}
    assert choice["text"] == "".join(found["tokens"])
    for offset, token in zip(found["text_offset"], found["tokens"], strict=True):
        assert choice["text"][offset:].startswith(token.rstrip("\ufffd"))
    best = [max(top.values()) for top in found["top_logprobs"][1:]]
    assert all(value <= top + 1e-6 for value, top in zip(found["token_logprobs"][1:], best, strict=True))
    assert found["token_logprobs"][-1] == pytest.approx(best[-1])  # the greedy token is the likeliest
    scored_only = server.post("/v1/completions", prompt=ids, max_tokens=0, logprobs=1, echo=True).json["choices"][0]
    assert scored_only["logprobs"]["token_logprobs"] == found["token_logprobs"][:-1]
    assert scored_only["text"] == model.decode(ids)


def test_prompts_scored_together_are_scored_as_alone(server: Address, model: ServedModel) -> None:
    prompts = [model.encode(text) for text in (PROMPT, "the", "the answer is short ### Response:")]
    together = server.post("/v1/completions", prompt=prompts, max_tokens=1, temperature=0, logprobs=1, echo=True).json
    for prompt, choice in zip(prompts, together["choices"], strict=True):
        alone = server.post("/v1/completions", prompt=prompt, max_tokens=1, temperature=0, logprobs=1, echo=True).json
        ours, others = choice["logprobs"]["token_logprobs"], alone["choices"][0]["logprobs"]["token_logprobs"]
        assert ours[1:] == pytest.approx(others[1:], abs=1e-5)


def test_a_chat_is_rendered_in_the_template_of_the_model(server: Address, engine: Any) -> None:
    conversation = Conversation(("1 + 1?", "and 2?"), ("2",), system="Be brief.")
    form = TEMPLATES["alpaca"]
    ids, _ = encode_prompt(engine.tokenizer, conversation_example("", conversation, form), 10**9)
    reply = server.post("/v1/chat/completions", messages=conversation.messages, max_tokens=10, temperature=0).json
    [choice] = reply["choices"]
    assert choice["message"]["content"] == answer(engine, ids, 10, stop=form.stop).text
    assert choice["message"]["role"] == "assistant"
    assert reply["usage"]["prompt_tokens"] == len(ids)
    fields = {"messages": conversation.messages, "max_completion_tokens": 10, "temperature": 0, "stream": True}
    first, *chunks = server.post("/v1/chat/completions", **fields).events
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == choice["message"]["content"]
    assert chunks[-1]["choices"][0]["finish_reason"] == choice["finish_reason"]


def test_parts_of_a_message_are_joined(server: Address) -> None:
    whole = [{"role": "user", "content": "1 + 1?"}]
    parts = [{"role": "user", "content": [{"type": "text", "text": "1 + "}, {"type": "text", "text": "1?"}]}]
    fields = {"max_tokens": 6, "temperature": 0}
    first, second = (
        server.post("/v1/chat/completions", messages=messages, **fields).json for messages in (whole, parts)
    )
    assert first["choices"] == second["choices"]


def test_the_logprobs_of_a_chat_have_their_bytes(server: Address, model: ServedModel) -> None:
    messages = [{"role": "user", "content": "1 + 1?"}]
    fields = {"messages": messages, "max_tokens": 6, "temperature": 0, "logprobs": True, "top_logprobs": 2}
    [choice] = server.post("/v1/chat/completions", **fields).json["choices"]
    content = choice["logprobs"]["content"]
    assert (
        b"".join(bytes(entry["bytes"]) for entry in content).decode("utf-8", "replace") == choice["message"]["content"]
    )
    for entry in content:
        assert [top["logprob"] for top in entry["top_logprobs"]] == sorted(
            (top["logprob"] for top in entry["top_logprobs"]), reverse=True
        )
        assert entry["logprob"] == pytest.approx(entry["top_logprobs"][0]["logprob"])
    streamed = [chunk["choices"][0] for chunk in server.post("/v1/chat/completions", **fields, stream=True).events]
    assert [entry for one in streamed if one["logprobs"] for entry in one["logprobs"]["content"]] == content


def test_responses_have_the_text_of_the_chat(server: Address) -> None:
    fields = {"temperature": 0, "max_output_tokens": 8, "input": "1 + 1?", "instructions": "Be brief."}
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1?"}]
    chat = server.post("/v1/chat/completions", messages=messages, max_tokens=8, temperature=0).json
    text = chat["choices"][0]["message"]["content"]
    reply = server.post("/v1/responses", **fields).json
    assert reply["output"][0]["content"][0]["text"] == text
    assert (reply["status"], reply["usage"]["output_tokens"]) == ("incomplete", 8)
    events = server.post("/v1/responses", **fields, stream=True).events
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta") == text
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["output"] == [{**reply["output"][0], "id": events[-1]["response"]["output"][0]["id"]}]


def test_generate_streams_plain_text_without_the_question(server: Address) -> None:
    messages = [{"role": "user", "content": "1 + 1?"}]
    chat = server.post("/v1/chat/completions", messages=messages, max_tokens=9, temperature=0).json
    reply = server.post("/generate", prompt="1 + 1?", max_new_tokens=9, temperature=0, top_k=20)
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert reply.body.decode() == chat["choices"][0]["message"]["content"]


def test_tokens_go_there_and_back(server: Address, model: ServedModel) -> None:
    reply = server.post("/tokenize", prompt=PROMPT, return_token_strs=True).json
    assert reply["tokens"] == model.encode(PROMPT)
    assert (reply["count"], reply["max_model_len"]) == (len(reply["tokens"]), 1024)
    assert "".join(reply["token_strs"]) == PROMPT
    assert server.post("/detokenize", tokens=reply["tokens"]).json == {"prompt": PROMPT}
    chat = server.post("/tokenize", messages=[{"role": "user", "content": "1 + 1?"}]).json
    assert model.decode(chat["tokens"]) == TEMPLATES["alpaca"].render("1 + 1?")
    info = server.get("/tokenizer_info").json
    assert (info["eos_token"], info["model_max_length"]) == (model.tokenizer.eos_token, 1024)


MESSAGES = [{"role": "user", "content": "1?"}]
REFUSED: list[tuple[str, dict[str, Any], int, str]] = [
    ("/v1/completions", {"prompt": ""}, 400, "the prompt is empty"),
    ("/v1/completions", {"prompt": [5000]}, 400, "a token id of 5000, the vocabulary ends at 399"),
    ("/v1/completions", {"prompt": [3] * 1024}, 400, "1024 tokens, and the model's context of 1024"),
    ("/v1/completions", {"prompt": "x" * 3_000_000}, 400, "3000000 characters, which are more than 1024 tokens"),
    ("/v1/completions", {"prompt": "x", "stop": "y" * 1001}, 400, "stop"),
    ("/v1/completions", {"prompt": "x", "model": "other"}, 404, "'other' is not served here; these are: small"),
    ("/v1/completions", {"prompt": "x", "temperature": -1}, 400, "temperature"),
    ("/v1/completions", {"prompt": "x", "frequency_penalty": 0.5}, 400, "frequency_penalty is not supported"),
    ("/v1/completions", {"prompt": "x", "logit_bias": {"3": 100}}, 400, "logit_bias is not supported"),
    ("/v1/completions", {"prompt": "x", "max_tokens": "many"}, 400, "max_tokens"),
    ("/v1/chat/completions", {"messages": []}, 400, "messages"),
    ("/v1/chat/completions", {"messages": [*MESSAGES, *MESSAGES]}, 400, "messages[1] is of the role 'user'"),
    ("/v1/chat/completions", {"messages": [*MESSAGES, {"role": "assistant", "content": "1"}]}, 400, "the last message"),
    ("/v1/chat/completions", {"messages": MESSAGES, "tools": [{"type": "function"}]}, 400, "tools is not supported"),
    ("/v1/chat/completions", {"messages": MESSAGES, "top_logprobs": 2}, 400, "needs logprobs=true"),
    ("/v1/chat/completions", {"messages": [{"role": "tool", "content": "x"}]}, 400, "messages.0.role"),
    ("/v1/responses", {"input": "x", "previous_response_id": "resp-1"}, 400, "previous_response_id is not supported"),
    ("/tokenize", {}, 400, "either prompt or messages"),
    ("/detokenize", {"tokens": [7000]}, 400, "a token id of 7000"),
    ("/nowhere", {}, 404, "/nowhere"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "fields", "status", "message"), REFUSED)
def test_what_cannot_be_answered_is_refused_in_openais_shape(
    server: Address, path: str, fields: dict[str, Any], status: int, message: str
) -> None:
    reply = server.post(path, **fields)
    assert reply.status == status
    assert set(reply.json["error"]) == {"message", "type", "param", "code"}
    assert message in reply.json["error"]["message"]


def test_fields_that_change_nothing_are_accepted(server: Address) -> None:
    fields = {
        "frequency_penalty": 0,
        "presence_penalty": 0,
        "user": "me",
        "logit_bias": {},
        "tools": [],
        "store": False,
    }
    assert server.post("/v1/chat/completions", messages=MESSAGES, max_tokens=2, **fields).status == 200


def test_an_end_can_be_put_off(server: Address, engine: Any) -> None:
    """`min_tokens` and `ignore_eos` are vLLM's; a prompt whose answer ends soon goes on."""
    ids = next(
        ids for start in range(3, 380)
        if len(answer(engine, ids := [start, start + 1, start + 2], 200).token_ids) < 200
    )  # fmt: skip
    fields = {"prompt": ids, "max_tokens": 200, "temperature": 0}
    soon = server.post("/v1/completions", **fields).json["usage"]["completion_tokens"]
    assert soon < 200
    later = server.post("/v1/completions", **fields, min_tokens=soon + 1).json
    assert soon + 1 <= later["usage"]["completion_tokens"] <= 200
    never = server.post("/v1/completions", **fields, ignore_eos=True).json
    assert never["usage"]["completion_tokens"] == 200


def test_an_answer_is_never_longer_than_the_context_leaves(server: Address) -> None:
    reply = server.post("/v1/completions", prompt=[3] * 1020, max_tokens=500, temperature=0).json
    assert reply["usage"]["completion_tokens"] <= 4
    assert reply["choices"][0]["finish_reason"] in ("length", "stop")
