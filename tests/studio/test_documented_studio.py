"""docs/how-to/studio.md: its command starts a studio, and its table of calls is that of the server."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

from servers import process
from studios import StudioAddress, studio_at
from test_docs import ROOT, commands

PAGE = ROOT / "docs" / "how-to" / "studio.md"


def test_the_commands_are_those_of_the_page(tmp_path: Path) -> None:
    install, start = commands(PAGE)[:2]
    assert install == "pip install '.[studio]'"
    verb, *rest = shlex.split(start)[1:]
    with process(*rest, "--no-browser", folder=tmp_path, verb=verb) as address:
        token = (tmp_path / ".lotune" / "token").read_text().strip()
        assert f"/?token={token}" in "".join(address.log)
        server = StudioAddress(address.port, token=token)
        assert server.call("GET", "runs") == {"runs": []}
        [asked] = re.findall(r"^    (curl .*)$", PAGE.read_text(), re.M)
        if shutil.which("curl"):
            words = asked.replace(":8765", f":{address.port}")
            done = subprocess.run(["sh", "-c", words], cwd=tmp_path, capture_output=True, text=True, check=True)
            assert done.stdout == '{"runs":[]}'


def test_the_table_has_every_call(tmp_path: Path) -> None:
    with studio_at(tmp_path) as server:
        paths = server.get("/openapi.json").json["paths"]
    calls = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    documented = set(re.findall(r"(GET|PUT|POST|PATCH|DELETE) (/api/[a-z/]+)", PAGE.read_text()))
    assert {" ".join(call) for call in documented} == calls
