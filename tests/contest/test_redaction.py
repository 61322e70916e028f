"""What must not leave the machine."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lotune.contest.archive_reader import open_archive
from lotune.contest.archive_writer import Source, measure, write_archive
from lotune.contest.names import archive_name, check_team, path_fault
from lotune.contest.redaction import Private, Redactor, private_texts
from lotune.errors import DataError, RunError

PRIVATE = private_texts(
    {Path("/home/anna/runs/demo"): "demo", Path("/home/anna/runs"): "runs", Path("/srv/data"): "DATA"},
    user="anna", host="box7.example.org",
)  # fmt: skip


def redacted(text: str, *, rows: bool = False, private: Private = PRIVATE) -> str:
    return Redactor(private, "file.txt", about_the_machine=not rows).line(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/anna/runs/demo/recipe.yaml", "demo/recipe.yaml"),
        ("/home/anna/runs/other", "runs/other"),
        ("/home/anna/notes.txt", "HOME/notes.txt"),
        ('{"path":"/home/bob/x"}', '{"path":"HOME/x"}'),
        ("C:\\\\Users\\\\bob\\\\x", "HOME\\\\x"),
        ("/srv/data/a /srv/database/a", "DATA/a /srv/database/a"),
        ("by anna on box7", "by USER on HOST"),
        ("annabel and box77", "annabel and box77"),
        ("nothing private: 1/2, a/home/anna", "nothing private: 1/2, a/home/USER"),
    ],
)
def test_paths_and_names_are_replaced(text: str, expected: str) -> None:
    assert redacted(text) == expected


def test_names_are_ordinary_words_in_rows() -> None:
    assert redacted("anna lives at /home/anna/x", rows=True) == "anna lives at HOME/x"


def test_common_and_short_names_are_left_alone() -> None:
    private = private_texts({Path("/"): "ROOT"}, user="root", host="ab")
    assert redacted("the root of 4 is ab/2", private=private) == "the root of 4 is ab/2"


@pytest.mark.parametrize(
    "secret",
    [
        "hf_" + "a" * 34, "sk-" + "b" * 24, "ghp_" + "c" * 36, "github_pat_" + "d" * 60, "AKIA" + "E" * 16,
        "AIza" + "f" * 35, "xoxb-" + "1" * 12, "-----BEGIN RSA PRIVATE KEY-----", "glpat-" + "g" * 20,
        "https://user:secret1@example.org/x", f"eyJ{'h' * 12}.eyJ{'i' * 12}.{'j' * 12}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("rows", [True, False])
def test_secrets_are_refused_with_file_and_line(secret: str, rows: bool) -> None:
    redactor = Redactor(PRIVATE, "file.txt", about_the_machine=not rows)
    redactor.line("nothing\n")
    with pytest.raises(DataError, match=r"^file\.txt:2: holds") as error:
        redactor.line(f'{{"key": "{secret}"}}')
    assert secret not in str(error.value)
    assert len(str(error.value).splitlines()) <= 3


@given(st.text())
def test_what_is_redacted_stays_redacted(text: str) -> None:
    try:
        once = redacted(text)
    except DataError:
        return
    assert redacted(once) == once
    assert "/home/anna" not in once.replace("a/home/anna", "")


def source(path: str, content: bytes) -> Source:
    return Source(path, lambda: iter([content[:3], content[3:]]))


def test_an_archive_beyond_the_limit_of_zip_has_zip64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)
    sources = [source("a.safetensors", b"x" * 5000), source("b.txt", b"y" * 5000), source("c.txt", b"z" * 10)]
    write_archive(tmp_path / "a.zip", [(one, measure(one)) for one in sources], lambda done: None)
    raw = (tmp_path / "a.zip").read_bytes()
    assert raw.count(b"\x01\x00\x10\x00") >= 1, "an extra field of zip64"
    with zipfile.ZipFile(tmp_path / "a.zip") as file:
        assert [file.read(name) for name in file.namelist()] == [b"x" * 5000, b"y" * 5000, b"z" * 10]
        assert file.testzip() is None
    with open_archive(tmp_path / "a.zip") as archive:
        assert archive.read("b.txt") == b"y" * 5000


def test_a_member_that_changes_leaves_no_archive(tmp_path: Path) -> None:
    before = source("a.txt", b"before")
    with pytest.raises(RunError, match="changed while"):
        write_archive(tmp_path / "a.zip", [(source("a.txt", b"after!"), measure(before))], lambda done: None)
    assert list(tmp_path.iterdir()) == []


def test_an_archive_replaces_an_older_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.zip"
    for content in (b"first", b"second"):
        write_archive(path, [(source("a.txt", content), measure(source("a.txt", content)))], lambda done: None)
    with open_archive(path) as archive:
        assert archive.read("a.txt") == b"second"
    assert [file.name for file in path.parent.iterdir()] == ["a.zip"]


@given(st.text(max_size=80))
def test_the_file_of_a_team_can_be_written_anywhere(team: str) -> None:
    name = archive_name(team)
    assert path_fault(name) == "", name
    assert name.endswith(".zip")
    assert len(name.encode()) <= 255


def test_the_name_of_a_team_is_normalised() -> None:
    assert check_team("Cafe\u0301") == "Caf\u00e9"
