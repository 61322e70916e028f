"""Nothing of a studio answers without its token, to another site's page, or under another name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Address
from studios import TOKEN, StudioAddress, studio_at

from lotune.studio.guard import studio_token

NO_TOKEN = {"Authorization": "Bearer x"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudioAddress]:
    with studio_at(tmp_path_factory.mktemp("guarded")) as address:
        yield address


@pytest.mark.parametrize(
    "path", ["/", "/runs", "/runs.js", "/api/runs", "/openapi.json", "/report/x", "/talk/x/", "/no"]
)
def test_nothing_answers_without_the_token(server: StudioAddress, path: str) -> None:
    for headers in (
        NO_TOKEN,
        {"Authorization": ""},
        {"Authorization": f"Basic {TOKEN}"},
        {"Cookie": "lotune_studio_1=x"},
    ):
        reply = server.get(path, {"Authorization": "", **headers})
        assert reply.status == 401
        assert reply.json["error"]["code"] == "no_token"
    assert server.get(f"{path}?token=wrong", NO_TOKEN).status == 401


def test_a_person_is_told_in_both_languages_how_to_get_in(server: StudioAddress) -> None:
    reply = server.get("/runs", {**NO_TOKEN, "Accept": "text/html"})
    assert reply.headers["content-type"].startswith("text/html")
    assert b"lotune studio" in reply.body
    assert "令牌" in reply.body.decode()


def test_the_token_of_the_address_becomes_a_cookie(server: StudioAddress) -> None:
    reply = server.get(f"/compare?run=a%20b&run=c&token={TOKEN}", NO_TOKEN)
    assert (reply.status, reply.headers["location"]) == (303, "/compare?run=a+b&run=c")
    cookie = reply.headers["set-cookie"]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=Strict", f"lotune_studio_{server.port}={TOKEN}"))
    given = {"Authorization": "", "Cookie": f"other=1; {cookie.split(';')[0]}"}
    assert server.get("/api/runs", given).json == {"runs": []}
    assert Address.get(server, f"//evil.example?token={TOKEN}", NO_TOKEN).headers["location"] == "/evil.example"


def test_the_address_of_the_browser_works_once(tmp_path: Path) -> None:
    with studio_at(tmp_path, once="o" * 40) as server:
        assert server.get(f"/?token={'o' * 40}", NO_TOKEN).status == 303
        assert server.get(f"/?token={'o' * 40}", NO_TOKEN).status == 401
        assert server.get(f"/?token={TOKEN}", NO_TOKEN).status == 303
        assert server.get("/api/runs", {"Authorization": f"Bearer {'o' * 40}"}).status == 401


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.1", ""])
def test_another_name_of_this_machine_is_refused(server: StudioAddress, host: str) -> None:
    reply = server.get("/api/runs", {"Host": host})
    assert reply.status == 421
    assert server.get("/api/runs", {"Host": f"localhost:{server.port}"}).status == 200


def test_a_studio_for_others_is_asked_by_number_or_allowed_name(tmp_path: Path) -> None:
    with studio_at(tmp_path, loopback=False, hosts=("lab.example",)) as server:
        answers = {host: server.get("/api/runs", {"Host": host}).status
                   for host in ("192.168.1.7:8765", "[fe80::1]:80", "lab.example", "evil.example")}  # fmt: skip
    assert list(answers.values()) == [200, 200, 200, 421]


@pytest.mark.parametrize("headers", [
    {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"},
    {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
])  # fmt: skip
def test_the_page_of_another_site_changes_nothing(server: StudioAddress, headers: dict[str, str]) -> None:
    for method, path in (("POST", "/api/example"), ("DELETE", "/api/run?run=x"), ("PUT", "/api/files?name=x.csv")):
        reply = server.send(method, path, b"", headers)
        assert (reply.status, reply.json["error"]["code"]) == (403, "other_site")
    own = {"Origin": server.url, "Sec-Fetch-Site": "same-origin"}
    assert server.send("PUT", "/api/queue", {"at_once": 1}, own).status == 200


def test_every_answer_has_the_headers_that_browsers_heed(server: StudioAddress) -> None:
    for path in ("/runs", "/api/runs", "/no"):
        headers = server.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
    policy = server.get("/new").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy


def test_the_token_stays_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    token = studio_token(tmp_path / "own")
    file = tmp_path / "own" / "token"
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(token) >= 32
    assert studio_token(tmp_path / "own") == token
    file.write_text("short")
    assert len(studio_token(tmp_path / "own")) >= 32
