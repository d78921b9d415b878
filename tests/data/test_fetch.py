"""The photographs of Team 13 are fetched at a commit or copied, verified, and never half there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

SCRIPT = Path(__file__).parents[2] / "data" / "team13" / "fetch.py"
GIT = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A git repository with two photographs, a table, and a file that nobody asked for."""
    folder = tmp_path / "source"
    (folder / "images" / "more").mkdir(parents=True)
    for name, content in (("images/a.jpg", "A"), ("images/more/b.jpg", "B"), ("labels.csv", "t"), ("other.txt", "o")):
        (folder / name).write_text(content)
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "photos"]):
        subprocess.run([*GIT, *command], cwd=folder, check=True)
    return folder


@pytest.fixture
def place(tmp_path: Path, source: Path) -> Path:
    """An empty dataset folder whose params name the repository."""
    commit = subprocess.run([*GIT, "rev-parse", "HEAD"], cwd=source, check=True, capture_output=True, text=True).stdout
    folder = tmp_path / "place"
    folder.mkdir()
    params = {"url": source.as_uri(), "commit": commit.strip(), "paths": ["images", "labels.csv"]}
    (folder / "params.yaml").write_text(yaml.safe_dump({"fetch": params}))
    return folder


def fetch(place: Path, local: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "VITRINE_TEAM13_DIR": str(local or "")}
    return subprocess.run([sys.executable, SCRIPT], cwd=place, env=environment, capture_output=True, text=True)


def files(folder: Path) -> dict[str, str]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name not in ("params.yaml", "dvc.lock"))
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def lock(place: Path, images: str, labels: str, **changes: Any) -> None:
    params = {**yaml.safe_load((place / "params.yaml").read_text(encoding="utf-8"))["fetch"], **changes}
    outs = [{"path": "images", "md5": images}, {"path": "labels.csv", "md5": labels}]
    stages = {"fetch": {"params": {"params.yaml": {"fetch": params}}, "outs": outs}}
    (place / "dvc.lock").write_text(yaml.safe_dump({"stages": stages}))


WANTED = {"images/a.jpg": "A", "images/more/b.jpg": "B", "labels.csv": "t"}
LABELS_MD5 = "e358efa489f58062f10dd7316b65649e"  # of the letter t


def test_the_repository_gives_what_was_asked_for(place: Path) -> None:
    result = fetch(place)
    assert result.returncode == 0, result.stderr
    assert files(place) == WANTED


def test_a_local_folder_gives_the_same(place: Path, source: Path) -> None:
    assert fetch(place, source).returncode == 0
    assert files(place) == WANTED


def test_hashes_are_those_of_dvc(place: Path, source: Path, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=source.parent, check=True)
    for command in (["init", "-q"], ["add", "-q", "source/images", "source/labels.csv"]):
        subprocess.run([sys.executable, "-m", "dvc", *command], cwd=source.parent, check=True, capture_output=True)
    found = {
        name: yaml.safe_load((source / f"{name}.dvc").read_text(encoding="utf-8"))["outs"][0]["md5"]
        for name in ("images", "labels.csv")
    }
    lock(place, found["images"], found["labels.csv"])
    result = fetch(place, source)
    assert result.returncode == 0, result.stderr
    assert "no hashes" not in result.stdout


def test_other_photographs_are_refused_and_nothing_changes(place: Path, source: Path) -> None:
    assert fetch(place, source).returncode == 0
    lock(place, "0" * 32 + ".dir", LABELS_MD5)
    (source / "images" / "a.jpg").write_text("changed")
    result = fetch(place, source)
    assert result.returncode == 1
    assert "nothing was changed" in result.stderr
    assert "images: expected 000" in result.stderr
    assert "labels.csv" not in result.stderr
    assert "Traceback" not in result.stderr
    assert files(place) == WANTED


def test_other_params_ask_for_other_photographs(place: Path, source: Path) -> None:
    lock(place, "0" * 32 + ".dir", "0" * 32, commit="another")
    result = fetch(place, source)
    assert result.returncode == 0
    assert "no hashes" in result.stdout


def test_without_network_and_copy_there_is_one_clear_error(place: Path, tmp_path: Path) -> None:
    document = yaml.safe_load((place / "params.yaml").read_text(encoding="utf-8"))
    document["fetch"]["url"] = (tmp_path / "nowhere").as_uri()
    (place / "params.yaml").write_text(yaml.safe_dump(document))
    result = fetch(place)
    assert result.returncode == 1
    assert result.stderr.count("ERROR") == 1
    assert "set VITRINE_TEAM13_DIR to a folder that holds images and labels.csv" in result.stderr
    assert "Traceback" not in result.stderr
    assert files(place) == {}


def test_a_local_folder_without_the_photographs_is_an_error(place: Path, tmp_path: Path) -> None:
    result = fetch(place, tmp_path / "nowhere")
    assert result.returncode == 1
    assert "VITRINE_TEAM13_DIR must name a folder" in result.stderr
    assert files(place) == {}
