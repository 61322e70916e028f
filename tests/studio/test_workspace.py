"""Names lead nowhere but into the folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lotune.studio.errors import CallError
from lotune.studio.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.csv").write_text("a,b\n")
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "rows.csv").write_text("a,b\n")
    (folder / "sub" / "r.yaml").write_text("seed: 1\n")
    (folder / "link.csv").symlink_to(tmp_path / "outside" / "secret.csv")
    (folder / "leading").symlink_to(tmp_path / "outside")
    (folder / "inner.csv").symlink_to(folder / "rows.csv")
    return Workspace.at(folder)


@pytest.mark.parametrize("name", [
    "..", "../outside/secret.csv", "sub/../../outside/secret.csv", "/etc/passwd", "", ".", ".lotune/token",
    "sub/.hidden",
    "a//b", "a\\b", "C:x", "a\x00b", "a\nb", " rows.csv", "rows.csv ", "x" * 300, "link.csv", "leading/secret.csv",
    "leading/new.csv", "\u202efig.csv", "-x.csv", "--out",
])  # fmt: skip
def test_a_name_that_leads_elsewhere_is_refused(workspace: Workspace, name: str) -> None:
    with pytest.raises(CallError) as caught:
        workspace.path(name)
    assert caught.value.status in (400, 403)


def test_names_of_the_folder_are_found(workspace: Workspace) -> None:
    assert workspace.file("rows.csv").read_text() == "a,b\n"
    assert workspace.file("inner.csv").read_text() == "a,b\n"
    assert workspace.recipe("sub/r.yaml").name == "r.yaml"
    assert workspace.path("new/评论.csv").name == "评论.csv"
    assert [name for name, _ in workspace.files()] == ["inner.csv", "rows.csv", "sub/r.yaml"]
    for name, status in (("missing.csv", 404), ("sub", 404)):
        with pytest.raises(CallError) as caught:
            workspace.file(name)
        assert caught.value.status == status
    with pytest.raises(CallError, match="no recipe"):
        workspace.recipe("rows.csv")


@given(st.text(max_size=40))
def test_no_name_leads_outside(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    workspace = Workspace.at(tmp_path_factory.getbasetemp())
    try:
        path = workspace.path(name)
    except CallError:
        return
    assert path.resolve().is_relative_to(workspace.folder)
    assert path.resolve() != workspace.folder


def test_a_free_name_is_that_of_no_file_and_no_run(workspace: Workspace) -> None:
    assert workspace.free_name("new", ".yaml") == "new.yaml"
    (workspace.folder / "new.yaml").touch()
    (workspace.runs / "new-2").mkdir(parents=True)
    assert workspace.free_name("new", ".yaml") == "new-3.yaml"


@pytest.mark.parametrize("name", ["a/b", "..", "", ".x"])
def test_the_name_of_a_run_has_no_folder(workspace: Workspace, name: str) -> None:
    with pytest.raises(CallError):
        workspace.run(name)
