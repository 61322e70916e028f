"""Who may ask: names of the host, keys with limits, sizes of bodies, pages of other sites."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Address, load, running

from lotune.errors import SettingsError
from lotune.serve.app import ServerOptions
from lotune.serve.guard import LOOPBACK_HOSTS
from lotune.serve.keys import ApiKey, read_keys
from lotune.serve.limits import Limits
from lotune.serve.models import ServedModel
from lotune.serve.pages_app import PageOptions

FIRST, SECOND = "first-key-of-some-length", "second-key-of-some-length"
BODY = {"prompt": "1 + 1", "max_tokens": 2, "temperature": 0}


@pytest.fixture(scope="module")
def model(small_base: Path) -> ServedModel:
    return load(small_base)


@pytest.fixture(scope="module")
def server(model: ServedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    file = tmp_path_factory.mktemp("keys") / "keys.txt"
    file.write_text(f"# people\nana {FIRST}\n\nben {SECOND} 2\n")
    options = ServerOptions(LOOPBACK_HOSTS, read_keys(file), ["https://site.example"])
    with running([model], Limits(max_body_bytes=2000, max_prompt_tokens=50, max_new_tokens=3), options) as address:
        yield address


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    "header", [{}, bearer("wrong"), bearer(""), {"Authorization": FIRST}, {"Authorization": f"Basic {FIRST}"}]
)
def test_without_a_key_nothing_is_answered(server: Address, header: dict[str, str]) -> None:
    for path in ("/v1/completions", "/tokenize", "/nowhere"):
        reply = server.post(path, header, **BODY)
        assert (reply.status, reply.json["error"]["code"]) == (401, "invalid_api_key")
        assert reply.headers["www-authenticate"] == "Bearer"
    assert server.get("/v1/models", header).status == 401
    assert server.get("/metrics", header).status == 401
    assert server.get("/health", header).status == 200  # a supervisor has no key
    assert server.get("/ready", header).status == 200


def test_the_pages_ask_for_data_with_the_key_of_their_cookie(model: ServedModel, tmp_path: Path) -> None:
    """A frame cannot send a header; a cookie counts for reading the pages' data, and for nothing else."""
    file = tmp_path / "keys.txt"
    file.write_text(f"ana {FIRST}\n")
    options = ServerOptions(LOOPBACK_HOSTS, read_keys(file), pages=PageOptions())
    cookie = {"Cookie": f"other=1; lotune_key={FIRST}"}
    with running([model], options=options) as server:
        assert server.get("/ui/chat").status == 200  # the page itself asks for the key
        assert server.get("/ui/config").status == 401
        assert server.get("/ui/config", cookie).status == 200
        assert server.get("/ui/config", {"Cookie": "lotune_key=wrong"}).status == 401
        assert server.get("/v1/models", cookie).status == 401
        assert server.post("/ui/flags", cookie).status == 401
        assert server.post("/v1/completions", cookie, **BODY).status == 401


def test_each_key_has_its_own_limit(server: Address) -> None:
    assert [server.post("/v1/completions", bearer(SECOND), **BODY).status for _ in range(3)] == [200, 200, 429]
    refused = server.post("/v1/completions", bearer(SECOND), **BODY)
    assert 1 <= int(refused.headers["retry-after"]) <= 31
    assert [server.post("/v1/completions", bearer(FIRST), **BODY).status for _ in range(4)] == [200] * 4


def test_a_key_gets_its_requests_back_evenly() -> None:
    key = ApiKey("ana", b"", 60)
    now = key._updated
    assert [key.take(now) for _ in range(60)] == [0.0] * 60
    assert key.take(now) == pytest.approx(1.0)
    assert key.take(now + 0.5) == pytest.approx(0.5)
    assert key.take(now + 1.01) == 0.0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "has no key"), ("ana\n", "keys.txt:1: is not a key"), (f"ana {FIRST} many\n", "is not a key"),
        (f"ana {FIRST} 0\n", "is not a key"), ("ana short\n", "the key has 5 characters"),
        (f"ana {FIRST}\nana {SECOND}\n", "keys.txt:2: the name or the key is there twice"),
        (f"ana {FIRST}\nben {FIRST}\n", "there twice"),
    ],
)  # fmt: skip
def test_a_file_of_keys_that_cannot_be_used_is_named_without_its_keys(tmp_path: Path, text: str, found: str) -> None:
    file = tmp_path / "keys.txt"
    file.write_text(text)
    with pytest.raises(SettingsError, match=found) as caught:
        read_keys(file)
    assert FIRST not in str(caught.value)
    assert SECOND not in str(caught.value)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", ""])
def test_another_name_for_this_machine_is_refused(server: Address, host: str) -> None:
    reply = server.get("/v1/models", {**bearer(FIRST), "Host": host})
    assert (reply.status, reply.json["error"]["code"]) == (421, "unknown_host")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:9", "[::1]:80"])
def test_the_names_of_this_machine_are_its_own(server: Address, host: str) -> None:
    assert server.get("/v1/models", {**bearer(FIRST), "Host": host}).status == 200


def test_a_body_that_is_too_large_is_refused_before_it_is_read(server: Address) -> None:
    reply = server.post("/v1/completions", bearer(FIRST), prompt="x" * 3000)
    assert (reply.status, reply.json["error"]["code"]) == (413, "body_too_large")
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {FIRST}\r\n"
    head += "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:  # in chunks, without a length or an end
        connection.sendall(head.encode() + b"bb8\r\n" + b"x" * 3000 + b"\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_limits_on_prompt_and_answer(server: Address) -> None:
    reply = server.post("/v1/completions", bearer(FIRST), prompt=[3] * 51)
    assert reply.status == 400
    assert reply.json["error"]["message"] == "the prompt has 51 tokens, this server takes at most 50"
    assert (
        server.post("/v1/completions", bearer(FIRST), prompt=[3], max_tokens=50).json["usage"]["completion_tokens"] <= 3
    )


def test_only_pages_of_named_sites_may_ask(server: Address, model: ServedModel) -> None:
    asked = {"Origin": "https://site.example", "Access-Control-Request-Method": "POST"}
    allowed = server.send("OPTIONS", "/v1/completions", None, asked)
    assert allowed.headers["access-control-allow-origin"] == "https://site.example"
    other = server.send("OPTIONS", "/v1/completions", None, {**asked, "Origin": "https://other.example"})
    assert "access-control-allow-origin" not in other.headers
    with running([model]) as plain:
        reply = plain.post("/v1/completions", {"Origin": "https://site.example"}, **BODY)
        assert "access-control-allow-origin" not in reply.headers


def test_a_form_of_another_site_cannot_ask(server: Address) -> None:
    """A page can send text/plain to any address without asking first; JSON it cannot."""
    reply = server.send("POST", "/v1/completions", b'{"prompt": "x"}', {**bearer(FIRST), "Content-Type": "text/plain"})
    assert reply.status == 400
