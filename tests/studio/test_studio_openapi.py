"""The OpenAPI description of a studio holds for what it does, whatever is sent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from studios import TOKEN, studio_at, write_rows

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def test_every_call_is_described(tmp_path: Path) -> None:
    with studio_at(tmp_path) as server:
        description = server.get("/openapi.json").json
    assert len(description["paths"]) >= 20
    for path, methods in description["paths"].items():
        assert path.startswith("/api/")
        for operation in methods.values():
            assert operation["summary"]
            assert operation["tags"][0] in ("files", "bases", "recipes", "runs", "results")


@pytest.mark.slow
@pytest.mark.oracle
def test_schemathesis_finds_no_server_error(tmp_path: Path) -> None:
    pytest.importorskip("schemathesis")
    command = Path(sys.executable).with_name("st")
    folder = tmp_path / "folder"
    folder.mkdir()
    write_rows(folder)
    (folder / "r.yaml").write_text("seed: 1\n")
    with studio_at(folder) as server:
        # The example would start a training; the hub is not reached from here.
        done = subprocess.run(
            [command, "run", f"{server.url}/openapi.json", "--checks", CHECKS, "--max-examples", "8", "--seed", "1",
             "--phases", "coverage,fuzzing", "--request-timeout", "60", "-H", f"Authorization: Bearer {TOKEN}",
             "--exclude-path", "/api/example", "--exclude-path", "/api/bases/hub"],
            cwd=tmp_path, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-6000:]
        assert server.get("/api/runs").status == 200
