"""Team 13's photographs are fetched at a commit or copied, verified, and written completely or not at all."""

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
    """Create a Git repository with two photographs, a table, and a file that is not requested."""
    folder = tmp_path / "source"
    (folder / "images" / "more").mkdir(parents=True)
    for name, content in (("images/a.jpg", "A"), ("images/more/b.jpg", "B"), ("labels.csv", "t"), ("other.txt", "o")):
        (folder / name).write_text(content)
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "photos"]):
        subprocess.run([*GIT, *command], cwd=folder, check=True)
    return folder


@pytest.fixture
def target(tmp_path: Path, source: Path) -> Path:
    """Create an empty dataset folder whose params name the repository."""
    commit = subprocess.run([*GIT, "rev-parse", "HEAD"], cwd=source, check=True, capture_output=True, text=True).stdout
    folder = tmp_path / "target"
    folder.mkdir()
    params = {"url": source.as_uri(), "commit": commit.strip(), "paths": ["images", "labels.csv"]}
    (folder / "params.yaml").write_text(yaml.safe_dump({"fetch": params}))
    return folder


def fetch(target: Path, local: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "VITRINE_TEAM13_DIR": str(local or "")}
    return subprocess.run([sys.executable, SCRIPT], cwd=target, env=environment, capture_output=True, text=True)


def files(folder: Path) -> dict[str, str]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name not in ("params.yaml", "dvc.lock"))
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def lock(target: Path, images: str, labels: str, **changes: Any) -> None:
    params = {**yaml.safe_load((target / "params.yaml").read_text(encoding="utf-8"))["fetch"], **changes}
    outs = [{"path": "images", "md5": images}, {"path": "labels.csv", "md5": labels}]
    stages = {"fetch": {"params": {"params.yaml": {"fetch": params}}, "outs": outs}}
    (target / "dvc.lock").write_text(yaml.safe_dump({"stages": stages}))


EXPECTED = {"images/a.jpg": "A", "images/more/b.jpg": "B", "labels.csv": "t"}
LABELS_MD5 = "e358efa489f58062f10dd7316b65649e"  # MD5 of the letter t


def test_requested_files_are_fetched_from_the_repository(target: Path) -> None:
    result = fetch(target)
    assert result.returncode == 0, result.stderr
    assert files(target) == EXPECTED


def test_a_local_folder_gives_the_same_files(target: Path, source: Path) -> None:
    assert fetch(target, source).returncode == 0
    assert files(target) == EXPECTED


def test_hashes_equal_those_of_dvc(target: Path, source: Path, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=source.parent, check=True)
    for command in (["init", "-q"], ["add", "-q", "source/images", "source/labels.csv"]):
        subprocess.run([sys.executable, "-m", "dvc", *command], cwd=source.parent, check=True, capture_output=True)
    md5s = {
        name: yaml.safe_load((source / f"{name}.dvc").read_text(encoding="utf-8"))["outs"][0]["md5"]
        for name in ("images", "labels.csv")
    }
    lock(target, md5s["images"], md5s["labels.csv"])
    result = fetch(target, source)
    assert result.returncode == 0, result.stderr
    assert "no hashes" not in result.stdout


def test_photographs_with_other_hashes_are_refused_and_nothing_changes(target: Path, source: Path) -> None:
    assert fetch(target, source).returncode == 0
    lock(target, "0" * 32 + ".dir", LABELS_MD5)
    (source / "images" / "a.jpg").write_text("changed")
    result = fetch(target, source)
    assert result.returncode == 1
    assert "nothing was changed" in result.stderr
    assert "images: expected 000" in result.stderr
    assert "labels.csv" not in result.stderr
    assert "Traceback" not in result.stderr
    assert files(target) == EXPECTED


def test_locked_hashes_of_other_params_are_not_compared(target: Path, source: Path) -> None:
    lock(target, "0" * 32 + ".dir", "0" * 32, commit="another")
    result = fetch(target, source)
    assert result.returncode == 0
    assert "no hashes" in result.stdout


def test_without_network_or_local_copy_there_is_one_clear_error(target: Path, tmp_path: Path) -> None:
    document = yaml.safe_load((target / "params.yaml").read_text(encoding="utf-8"))
    document["fetch"]["url"] = (tmp_path / "nowhere").as_uri()
    (target / "params.yaml").write_text(yaml.safe_dump(document))
    result = fetch(target)
    assert result.returncode == 1
    assert result.stderr.count("ERROR") == 1
    assert "set VITRINE_TEAM13_DIR to a folder that contains images and labels.csv" in result.stderr
    assert "Traceback" not in result.stderr
    assert files(target) == {}


def test_a_local_folder_without_the_photographs_is_an_error(target: Path, tmp_path: Path) -> None:
    result = fetch(target, tmp_path / "nowhere")
    assert result.returncode == 1
    assert "VITRINE_TEAM13_DIR must be set to a folder" in result.stderr
    assert files(target) == {}
