"""The OpenAPI description holds for what the server does, whatever is sent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from servers import load, running

from lotune.serve.limits import Limits

PATHS = {
    "/v1/completions", "/v1/chat/completions", "/v1/responses", "/generate", "/v1/models", "/v1/models/{name}",
    "/tokenize", "/detokenize", "/tokenizer_info", "/health", "/ready", "/metrics",
}  # fmt: skip
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def test_every_path_is_described_and_every_field_has_a_sentence(small_base: Path) -> None:
    with running([load(small_base)]) as server:
        description = server.get("/openapi.json").json
    assert set(description["paths"]) == PATHS
    fields = description["components"]["schemas"]["ChatRequest"]["properties"]
    assert fields["temperature"]["description"] == "0 takes the best token."
    for methods in description["paths"].values():
        for operation in methods.values():
            assert operation["summary"]
            assert "ErrorBody" in str(operation["responses"]["400"])


@pytest.mark.slow
@pytest.mark.oracle
def test_schemathesis_finds_no_server_error(small_base: Path, tmp_path: Path) -> None:
    pytest.importorskip("schemathesis")
    command = Path(sys.executable).with_name("st")
    with running([load(small_base)], Limits(max_new_tokens=4)) as server:
        done = subprocess.run(
            [command, "run", f"{server.url}/openapi.json", "--checks", CHECKS, "--max-examples", "20", "--seed", "1",
             "--phases", "coverage,fuzzing", "--request-timeout", "60"],
            cwd=tmp_path, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-4000:]
        assert server.get("/health").status == 200
