"""Arguments are files, folders, patterns or standard input; paths are relative to the working folder."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from vitrine.commands.files import file_fault, find_photos
from vitrine.commands.session import open_session


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: photographs, some of them hidden or in subfolders."""
    for name in ("b.jpg", "a.jpg", ".hidden.jpg", "deep/c.jpg", "deep/deeper/d.jpg", ".trash/e.jpg", "[1].jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def find(*arguments: str, recursive: bool = False) -> tuple[list[str], list[tuple[str, str]]]:
    with open_session(None):
        return find_photos([Path(argument) for argument in arguments], recursive)


def test_a_folder_is_read_one_level_deep_by_default_without_hidden_files() -> None:
    assert find(".") == (["[1].jpg", "a.jpg", "b.jpg"], [])
    assert find(".", recursive=True)[0] == ["[1].jpg", "a.jpg", "b.jpg", "deep/c.jpg", "deep/deeper/d.jpg"]
    assert find("deep") == (["deep/c.jpg"], [])


def test_patterns_match_files_and_folders_unless_a_file_has_that_name() -> None:
    assert find("*.jpg")[0] == ["[1].jpg", "a.jpg", "b.jpg"]
    assert find("d*")[0] == ["deep/c.jpg"]
    assert find("**/*.jpg")[0][-2:] == ["deep/c.jpg", "deep/deeper/d.jpg"]
    assert find("[1].jpg") == (["[1].jpg"], [])
    assert find("*.png") == ([], [("*.png", "matches no files")])


def test_every_file_is_listed_once_in_argument_order() -> None:
    assert find("b.jpg", "./b.jpg", ".")[0] == ["b.jpg", "[1].jpg", "a.jpg"]


def test_standard_input_has_one_path_per_line(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = io.TextIOWrapper(io.BytesIO(b"a.jpg\r\n\ndeep\nnot there.jpg\n\xff.jpg\n"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", lines)
    files, faults = find("-")
    assert files == ["a.jpg", "deep/c.jpg"]
    assert faults == [("not there.jpg", "not found"), ("\udcff.jpg", "its name is not valid UTF-8; rename it")]


def test_non_files_are_errors_and_a_folder_named_like_a_photograph_is_a_folder(folder: Path) -> None:
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    files, faults = find(".")
    assert files == ["[1].jpg", "a.jpg", "b.jpg"]
    assert [name for name, _ in faults] == ["gone.jpg", "loop.jpg", "pipe.jpg"]
    assert faults[0][1] == "is a broken symbolic link" and faults[2][1] == "is not a regular file"
    assert find("folder.jpg") == ([], [])
    assert find("a.jpg/b.jpg")[1] == [("a.jpg/b.jpg", "Not a directory")]
    assert find("x" * 300)[1][0][1] == "File name too long"
    with open_session(None):
        assert file_fault("folder.jpg") == "is a folder" and file_fault("a.jpg") is None


def test_a_path_without_read_permission_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setattr(os, "access", lambda path, _: path.name != "a.jpg")
    assert find("deep", "a.jpg", "b.jpg") == (["b.jpg"], [(name, "Permission denied") for name in ("deep", "a.jpg")])


def test_a_link_to_a_parent_folder_is_not_followed(folder: Path) -> None:
    (folder / "deep/up").symlink_to("..")
    assert find("deep", recursive=True)[0] == ["deep/c.jpg", "deep/deeper/d.jpg"]


def test_paths_are_relative_to_the_working_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "params.yaml").write_text("serving:\n  backend: auto\n")
    monkeypatch.chdir(folder / "deep")
    assert find("c.jpg", "../a.jpg", "d*")[0] == ["c.jpg", "../a.jpg", "deeper/d.jpg"]
