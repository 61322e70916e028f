"""Clients that people use, against a server in a process of its own: openai, lm_eval, lotune itself, curl."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import Address, load, process

MESSAGES = [{"role": "user", "content": "1 + 1?"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clients")


@pytest.fixture(scope="module")
def server(small_base: Path, folder: Path) -> Iterator[Address]:
    with process(
        "--model", f"small={small_base}", "--timeout", 120, "evaluate.dtype=float32", folder=folder
    ) as address:
        yield address


def run(*words: object, folder: Path, text: str | None = None, status: int = 0) -> str:
    """Run a command to its end, and return what it printed."""
    done = subprocess.run(
        [str(word) for word in words], cwd=folder, input=text, capture_output=True, text=True, timeout=300,
        env={**os.environ, "OPENAI_API_KEY": "none", "no_proxy": "127.0.0.1"},
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def test_the_openai_package(server: Address) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["small"]
    whole = client.chat.completions.create(model="small", messages=MESSAGES, temperature=0, max_tokens=9)
    assert whole.usage.completion_tokens == 9
    options = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(
            model="small", messages=MESSAGES, temperature=0, max_tokens=9, stream=True, stream_options=options
        )
    )
    assert chunks[-1].usage.completion_tokens == 9
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert text == whole.choices[0].message.content
    completion = client.completions.create(model="small", prompt="1 + 1", temperature=0, max_tokens=5, logprobs=2)
    assert len(completion.choices[0].logprobs.token_logprobs) == 5
    response = client.responses.create(model="small", input="1 + 1?", temperature=0, max_output_tokens=9)
    assert response.output_text == text
    with client.responses.stream(model="small", input="1 + 1?", temperature=0, max_output_tokens=9) as stream:
        assert "".join(event.delta for event in stream if event.type == "response.output_text.delta") == text
    with pytest.raises(openai.NotFoundError, match="is not served here"):
        client.chat.completions.create(model="gpt", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError, match="logit_bias is not supported"):
        client.chat.completions.create(model="small", messages=MESSAGES, logit_bias={"5": 1})


ROWS = [
    {"question": f"{a} + {b}?", "choices": ["the answer is short", "Response", "1", "等于多少"], "gold": (a + b) % 4}
    for a in range(3) for b in range(4)
]  # fmt: skip
CHOICE = """
task: local_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Q: {{{{question}}}}\\nA:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
metric_list: [{{metric: acc}}]
"""
GENERATED = """
task: local_generated
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
doc_to_text: "Q: {{{{question}}}}\\nA:"
doc_to_target: "{{{{choices[gold]}}}}"
generation_kwargs: {{until: ["5"], max_gen_toks: 12, temperature: 0}}
metric_list: [{{metric: exact_match}}]
"""


def samples(folder: Path, task: str) -> dict[int, Any]:
    [file] = (folder / "results").rglob(f"samples_{task}_*.jsonl")
    return {row["doc_id"]: row for row in map(json.loads, file.read_text().splitlines())}


@pytest.mark.oracle
@pytest.mark.slow
def test_lm_eval_over_http_alone_agrees_with_the_engine_item_by_item(
    server: Address, folder: Path, small_base: Path
) -> None:
    """lm_eval has no tokeniser file: it asks the server for the tokens, and sends them back."""
    pytest.importorskip("lm_eval")
    from lotune.generate.loglikelihood import Continuation
    from lotune.generate.requests import Request

    (folder / "tasks").mkdir()
    rows = folder / "rows.json"
    rows.write_text(json.dumps(ROWS))
    (folder / "tasks" / "choice.yaml").write_text(CHOICE.format(rows=rows))
    (folder / "tasks" / "generated.yaml").write_text(GENERATED.format(rows=rows))
    run(
        sys.executable, "-m", "lm_eval", "--model", "local-completions", "--include_path", "tasks",
        "--tasks", "local_choice,local_generated", "--log_samples", "--output_path", "results", "--model_args",
        f"model=small,base_url={server.url}/v1/completions,num_concurrent=4,max_length=1024", folder=folder,
    )  # fmt: skip
    model = load(small_base)
    for number, row in samples(folder, "local_choice").items():
        prompt = f"Q: {ROWS[number]['question']}\nA:"
        for found, option in zip(row["filtered_resps"], ROWS[number]["choices"], strict=True):
            whole, ids = model.encode(f"{prompt} {option}"), model.encode(prompt)
            [scores] = model.answering.loglikelihood.score(
                [Continuation(tuple(ids), tuple(whole[len(ids) :]))], batch_tokens=4096
            )
            assert float(found[0]) == pytest.approx(sum(scores), abs=1e-4)
    for number, row in samples(folder, "local_generated").items():
        request = Request(tuple(model.encode(f"Q: {ROWS[number]['question']}\nA:")), 12, stop=("5",))
        [(_, completion)] = model.answering.engine.stream([request])
        assert row["resps"][0][0] == completion.text


@pytest.mark.oracle
@pytest.mark.slow
def test_lm_eval_chats(server: Address, folder: Path, small_base: Path) -> None:
    pytest.importorskip("lm_eval")
    (folder / "chat").mkdir()
    rows = folder / "chat.json"
    rows.write_text(json.dumps(ROWS[:3]))
    (folder / "chat" / "generated.yaml").write_text(GENERATED.format(rows=rows).replace("generated", "chatted"))
    run(
        sys.executable, "-m", "lm_eval", "--model", "local-chat-completions", "--include_path", "chat",
        "--tasks", "local_chatted", "--log_samples", "--output_path", "results", "--apply_chat_template",
        "--model_args", f"model=small,base_url={server.url}/v1/chat/completions", folder=folder,
    )  # fmt: skip
    for number, row in samples(folder, "local_chatted").items():
        messages = [{"role": "user", "content": f"Q: {ROWS[number]['question']}\nA:"}]
        fields = {"messages": messages, "temperature": 0, "max_tokens": 12, "stop": "5"}
        reply = server.post("/v1/chat/completions", **fields).json
        assert row["resps"][0][0] == reply["choices"][0]["message"]["content"]


def lotune(*words: object, folder: Path, text: str | None = None, status: int = 0) -> str:
    return run(sys.executable, "-m", "lotune", *words, folder=folder, text=text, status=status)


@pytest.mark.slow
def test_lotune_evaluates_a_server_as_it_evaluates_the_model(server: Address, folder: Path, small_base: Path) -> None:
    choices = [
        {"question": row["question"], "choices": row["choices"], "answer": "ABCD"[row["gold"]]} for row in ROWS
    ]  # fmt: skip
    (folder / "choices.json").write_text(json.dumps(choices))
    likelihood = ("--data", "choices.json", "task.scorer=likelihood:text")
    for task, more in (("choice", likelihood), ("arithmetic", ("--limit", 12, "task.max_new_tokens=12"))):
        answers, metrics = [], []
        for side, model in (("local", ("--model", small_base)), ("server", ("--server", server.url))):
            out = f"{task}-{side}.jsonl"
            words = ("evaluate", *model, "--task", task, "--json", "--out", out, *more, "evaluate.dtype=float32")
            metrics.append(json.loads(lotune(*words, folder=folder))["metrics"])
            rows = map(json.loads, (folder / out).read_text().splitlines())
            answers.append({row["id"]: (row["answer"], row["correct"]) for row in rows})
        assert metrics[0] == metrics[1]
        assert answers[0] == answers[1]
        assert len(answers[0]) == 12


def test_lotune_chats_with_a_server(server: Address, folder: Path) -> None:
    reply = server.post("/v1/chat/completions", messages=MESSAGES, temperature=0, max_tokens=9).json
    words = ("chat", "--server", server.url, "--max-new-tokens", 9)
    printed = lotune(*words, folder=folder, text="1 + 1?\n")
    assert printed.rstrip("\n") == reply["choices"][0]["message"]["content"].rstrip("\n")


def test_a_server_that_is_not_there_is_named(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lotune", "chat", "--server", "http://127.0.0.1:9"], cwd=folder, capture_output=True,
        text=True, input="", env={**os.environ, "no_proxy": "127.0.0.1"},
    )  # fmt: skip
    assert done.returncode == 2
    assert "http://127.0.0.1:9: cannot be reached" in done.stderr


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_streams(server: Address, folder: Path) -> None:
    body = json.dumps({"prompt": "1 + 1?", "max_new_tokens": 9, "temperature": 0})
    printed = run(
        "curl", "-sN", f"{server.url}/generate", "-H", "Content-Type: application/json", "-d", body, folder=folder
    )
    chat = server.post("/v1/chat/completions", messages=MESSAGES, temperature=0, max_tokens=9).json
    assert printed == chat["choices"][0]["message"]["content"]


def test_sigterm_finishes_what_runs_and_refuses_what_comes(small_base: Path, folder: Path) -> None:
    """The answer that runs as the signal comes is whole; a request after it, on an open connection, is refused."""
    with process("--model", f"small={small_base}", "evaluate.dtype=float32", folder=folder) as address:
        assert address.process is not None
        idle, body = address.connection(), {"prompt": "1 + 1", "temperature": 0}
        idle.request("GET", "/health")
        assert idle.getresponse().read()
        running = address.connection()
        content = json.dumps({**body, "max_tokens": 700, "stream": True, "logprobs": 1}).encode()
        running.request("POST", "/v1/completions", content, {"Content-Type": "application/json"})
        response = running.getresponse()
        first = response.readline()
        address.process.send_signal(signal.SIGTERM)
        refused: list[Any] = []

        def ask() -> None:
            try:
                headers = {"Content-Type": "application/json"}
                idle.request("POST", "/v1/completions", json.dumps({**body, "max_tokens": 2}).encode(), headers)
                refused.append(idle.getresponse().status)
            except OSError as error:  # an idle connection may be closed instead
                refused.append(type(error).__name__)

        asking = threading.Thread(target=ask)
        asking.start()
        whole = first + response.read()
        asking.join()
        assert whole.endswith(b"data: [DONE]\n\n")
        assert b'"finish_reason":"length"' in whole or b'"finish_reason":"stop"' in whole
        assert refused
        assert refused[0] != 200
        assert address.process.wait(60) in (0, -signal.SIGTERM)
        idle.close()
        running.close()
