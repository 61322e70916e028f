"""Files arrive whole or not at all, and are never served."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from studios import TOKEN, StudioAddress, studio_at, wait_for

from lotune.studio import uploads


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudioAddress]:
    with studio_at(tmp_path_factory.mktemp("uploads")) as address:
        yield address


def folder_of(server: StudioAddress) -> Path:
    assert server.studio is not None
    return server.studio.workspace.folder


def put(server: StudioAddress, name: str, content: bytes, **query: str) -> tuple[int, dict[str, object]]:
    words = "".join(f"&{key}={value}" for key, value in query.items())
    reply = server.send("PUT", f"/api/files?name={name}{words}", content, {"Content-Type": "application/octet-stream"})
    return reply.status, reply.json


def nothing_left(server: StudioAddress) -> bool:
    return not list((folder_of(server) / ".lotune" / "uploads").glob("*"))


def test_a_file_is_there_when_it_is_whole(server: StudioAddress) -> None:
    content = b"a,b\n" * 700_000
    assert put(server, "rows.csv", content) == (201, {"name": "rows.csv", "bytes": len(content)})
    assert (folder_of(server) / "rows.csv").read_bytes() == content
    assert put(server, "rows.csv", b"x,y\n")[0] == 409
    assert put(server, "rows.csv", b"x,y\n", replace="true")[0] == 201
    assert (folder_of(server) / "rows.csv").read_bytes() == b"x,y\n"
    assert nothing_left(server)


@pytest.mark.parametrize(
    "name", ["page.html", "image.svg", "run.sh", "rows", "model.safetensors", "x.py", ".hidden.csv"]
)
def test_what_is_no_file_of_rows_is_refused(server: StudioAddress, name: str) -> None:
    status, body = put(server, name, b"<script>alert(1)</script>")
    assert status in (400, 415)
    assert body["error"]
    assert not (folder_of(server) / name).exists()


@pytest.mark.parametrize(
    "name", ["..%2Frows.csv", "%2Ftmp%2Fx.csv", "a%2F..%2F..%2Fx.csv", "a%5Cb.csv", "%00.csv", ".lotune%2Fx.csv"]
)
def test_a_name_that_leads_elsewhere_is_refused(server: StudioAddress, name: str) -> None:
    assert put(server, name, b"a\n")[0] in (400, 403)


def test_a_link_is_not_written_through(server: StudioAddress, tmp_path: Path) -> None:
    target = tmp_path / "target.csv"
    target.write_text("mine")
    (folder_of(server) / "linked.csv").symlink_to(target)
    assert put(server, "linked.csv", b"theirs", replace="true")[0] == 403
    assert target.read_text() == "mine"


def test_no_file_of_the_folder_is_served(server: StudioAddress) -> None:
    put(server, "text.txt", b"<script>alert(1)</script>", replace="true")
    for path in ("/text.txt", "/rows.csv", "/.lotune/token", "/%2e%2e/etc/passwd", "/report/../text.txt"):
        assert server.get(path).status == 404


def test_a_full_disk_is_named_and_nothing_remains(server: StudioAddress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "free_disk_bytes", lambda _: 20 * 2**20)
    status, body = put(server, "full.csv", b"x" * (5 * 2**20))
    assert (status, body["error"]["code"]) == (507, "disk_full")  # type: ignore[index]
    assert "20.0 MiB are free" in str(body)
    assert not (folder_of(server) / "full.csv").exists()


def test_a_disk_that_fills_up_meanwhile_is_named_and_nothing_remains(
    server: StudioAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(uploads, "_write", full)
    status, body = put(server, "late.csv", b"x")
    assert (status, body["error"]["code"]) == (507, "disk_full")  # type: ignore[index]
    assert nothing_left(server)


def test_an_upload_that_breaks_off_leaves_nothing(server: StudioAddress) -> None:
    with closing(socket.create_connection(("127.0.0.1", server.port))) as connection:
        head = f"PUT /api/files?name=broken.csv HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
        rest = f"Authorization: Bearer {TOKEN}\r\nContent-Length: 5000000\r\n\r\n"
        connection.sendall(f"{head}{rest}".encode() + b"x" * 2_000_000)
        wait_for(lambda: not nothing_left(server))
    wait_for(lambda: nothing_left(server))
    assert not (folder_of(server) / "broken.csv").exists()


def test_other_calls_take_no_large_body(server: StudioAddress) -> None:
    reply = server.send("POST", "/api/recipe", b'"' + b"x" * (5 * 2**20) + b'"')
    assert reply.status == 413
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
        chunks = (b"x" * 2**20 for _ in range(6))
        connection.request(
            "POST", "/api/recipe", chunks, {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        )
        assert connection.getresponse().status == 413
