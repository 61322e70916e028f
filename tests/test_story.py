"""From articles to a rating: pairs by a model on a server, a small GPT, tuned, served, in a battle with its base."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from chat_server import FakeServer, article
from command_line import call
from servers import Address, process

ARTICLES = 120
PRETRAINING = [
    "device=cpu", "pretrain.steps=2", "pretrain.step_tokens=128", "pretrain.block_size=64",
    "pretrain.corpus=articles.jsonl",
    "pretrain.validation_fraction=0.2", "pretrain.compile=off", "pretrain.autocast_dtype=float32", "name=small",
    "pretrain.llama_config.vocab_size=600", "pretrain.llama_config.hidden_size=32",
    "pretrain.llama_config.num_hidden_layers=1", "pretrain.llama_config.intermediate_size=64",
    "pretrain.llama_config.num_attention_heads=2", "pretrain.llama_config.num_key_value_heads=2",
]  # fmt: skip
RECIPE = {
    "name": "answers", "device": "cpu", "base": {"model": "runs/small", "dtype": "float32"},
    "task": {
        "name": "instructions", "columns": {"instruction": "question", "output": "answer"}, "template": "qa",
        "scorer": "rouge-l", "max_new_tokens": 8,
    },
    "data": {"train": "synthesis/pairs.jsonl", "validation_rows": 4, "test_rows": 8},
    "adapter": {"method": "full"}, "tune": {"steps": 3, "learning_rate": 1e-3},
    "checkpoints": {"count": 1, "merge_check_rows": 3},
    "retention": {"task": "text", "data": "articles.jsonl", "rows": 3, "validation_rows": 2, "replay": {"rows": 0}},
}  # fmt: skip


def vote(server: Address, prompt: str, verdict: str) -> dict[str, str]:
    """Battle once, as a new visitor, and return the names."""
    started = server.post("/ui/arena/battles")
    cookie = {"Cookie": started.headers["set-cookie"].split(";")[0]}
    battle = f"/ui/arena/battles/{started.json['battle']}"
    assert server.post(f"{battle}/turns", cookie, prompt=prompt).events[-1] == {"failed": False}
    reply: dict[str, str] = server.post(f"{battle}/vote", cookie, verdict=verdict).json
    return reply


@pytest.mark.slow
def test_from_articles_to_a_rating(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"text": article(number)}, ensure_ascii=False) for number in range(ARTICLES)]
    Path("articles.jsonl").write_text("\n".join(lines))
    with FakeServer().running() as writer:
        synthesis = {"articles": "articles.jsonl", "server": {"url": writer.url}}
        Path("synthesis.yaml").write_text(yaml.safe_dump(synthesis))
        call("synthesize", "synthesis.yaml", status=0)
    assert len(Path("synthesis/pairs.jsonl").read_text().splitlines()) == 3 * ARTICLES
    call("pretrain", "minigpt-zh-small", *PRETRAINING, status=0)
    Path("answers.yaml").write_text(yaml.safe_dump(RECIPE))
    call("run", "answers.yaml", status=0)
    options = ("runs/answers", "--ui", "--arena", "votes.sqlite", "evaluate.dtype=float32")
    with process(*options, folder=tmp_path) as server:
        names = {model["id"] for model in server.get("/v1/models").json["data"]}
        assert len(names) == 2  # the base and the tuned model
        for number in range(24):
            found = vote(server, f"物品{number}的颜色？", ("model_a", "model_b", "tie")[number % 3])
            assert {found["model_a"], found["model_b"]} == names
        board = server.get("/ui/arena/leaderboard.json").json
    assert {place["model"] for place in board["places"]} == names
    assert all(place["interval"][0] < place["rating"] < place["interval"][1] for place in board["places"])
    result = call("arena", "leaderboard", "--votes", "votes.sqlite", "--json", status=0)
    assert json.loads(result.stdout)["votes"] == 24
