"""The history of a score comes from git."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from vitrine.app.history import score_history

FILE = "metrics/scores.json"


def write(root: Path, text: str) -> None:
    (root / "metrics").mkdir(exist_ok=True)
    (root / FILE).write_text(text)


def commit(root: Path, text: str) -> None:
    write(root, text)
    for arguments in (["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        subprocess.run(["git", *arguments], cwd=root, check=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    return tmp_path


def test_commits_come_oldest_first_and_a_changed_working_tree_last(root: Path) -> None:
    commit(root, json.dumps({"class": 0.5}))
    commit(root, "broken {")
    commit(root, json.dumps({"other": 1}))
    commit(root, json.dumps({"class": 0.625}))
    points = score_history(root, FILE, "class")
    assert [score for _, score in points] == [0.5, 0.625] and all(" of 20" in name for name, _ in points)
    write(root, json.dumps({"class": 0.75}))
    assert score_history(root, FILE, "class")[2] == ("the working tree", 0.75)


def test_a_project_may_be_in_a_subfolder_of_a_repository(root: Path) -> None:
    (root / "part").mkdir()
    commit(root / "part", json.dumps({"class": 0.5}))
    assert [score for _, score in score_history(root / "part", FILE, "class")] == [0.5]


def test_without_a_repository_the_history_is_the_working_tree(tmp_path: Path) -> None:
    assert score_history(tmp_path, FILE, "class") == []
    write(tmp_path, json.dumps({"class": 0.5}))
    assert score_history(tmp_path, FILE, "class") == [("the working tree", 0.5)]
