"""Photographs for pre-training are fetched from pinned commits or a folder of tars, and verified."""

from __future__ import annotations

import hashlib
import io
import runpy
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from vitrine.params import read_section
from vitrine.pretraining.shards import read_shard
from vitrine.pretraining.sources import FetchParams

ROOT = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(ROOT / "pretrain/fetch_photos.py"))
GIT = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
GRAYS = {"things/a.jpg": 40, "things/b/c.jpg": 80, "things/b/skip/d.jpg": 120, "things/e.jpg": 80, "other/f.jpg": 160}


def jpeg(gray: int, width: int = 40, height: int = 24) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (gray, gray, gray)).save(file, "JPEG", quality=95)
    return file.getvalue()


def listed(*grays: int) -> str:
    lines = [hashlib.sha256(jpeg(gray)).hexdigest() + "\n" for gray in grays]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@pytest.fixture
def sections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Create two repositories, a folder of tars with the same photographs, and params that name them all."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VITRINE_PHOTOS_DIR", raising=False)
    sources = {}
    for name, grays, kept in (("one", GRAYS, (40, 80)), ("two", {"things/g.jpg": 80, "things/h.jpg": 200}, (200,))):
        repository = tmp_path / "host" / "owner" / name
        for path, gray in grays.items():
            (repository / path).parent.mkdir(parents=True, exist_ok=True)
            (repository / path).write_bytes(jpeg(gray))
        for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "photos"]):
            subprocess.run([*GIT, *command], cwd=repository, check=True)
        head = subprocess.run([*GIT, "rev-parse", "HEAD"], cwd=repository, check=True, capture_output=True, text=True)
        (tmp_path / "tars").mkdir(exist_ok=True)
        with tarfile.open(tmp_path / f"tars/{name}.tar", "w") as archive:
            for number, gray in reversed(list(enumerate(kept))):
                member = tarfile.TarInfo(f"{number:05d}.jpg")
                member.size = len(jpeg(gray, 16, 16))
                archive.addfile(member, io.BytesIO(jpeg(gray, 16, 16)))
        sources[name] = {
            "repository": f"owner/{name}", "commit": head.stdout.strip(), "folders": ["things"], "leave_out": ["skip"],
            "license": "CC0", "photos": len(kept), "files_sha256": listed(*kept),
            "tar_sha256": hashlib.sha256((tmp_path / f"tars/{name}.tar").read_bytes()).hexdigest(),
        }  # fmt: skip
    host = (tmp_path / "host").as_uri()
    return {"fetch": {"host": host, "image_size_px": 16, "jpeg_quality": 95, "sources": sources}}


@pytest.fixture
def fetch(sections: dict[str, Any]) -> Callable[[], dict[str, list[int]]]:
    def run() -> dict[str, list[int]]:
        """Run the script; return the grays of every shard."""
        Path("pretrain").mkdir(exist_ok=True)
        Path("pretrain/params.yaml").write_text(yaml.safe_dump(sections), encoding="utf-8")
        SCRIPT["main"]()
        shards = sorted(Path("pretrain/shards/photos").iterdir())
        pictures = {path.stem: read_shard(path)[0] for path in shards}
        assert all(each.shape[1:] == (16, 16, 3) for each in pictures.values())
        return {name: [round(float(picture.mean())) for picture in each] for name, each in pictures.items()}

    return run


def test_each_photograph_is_fetched_once_from_the_repositories(fetch: Callable[[], dict[str, list[int]]]) -> None:
    """Skip the copies of 80 in both repositories, an excluded folder, and a folder that is not requested."""
    assert fetch() == {"one": [40, 80], "two": [200]}
    assert sorted(path.name for path in Path().iterdir()) == ["host", "pretrain", "tars"]


def test_a_local_folder_gives_the_same_photographs(
    fetch: Callable[[], dict[str, list[int]]], sections: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sections["fetch"]["host"] = "file:///nowhere"
    monkeypatch.setenv("VITRINE_PHOTOS_DIR", "tars")
    assert fetch() == {"one": [40, 80], "two": [200]}


def test_a_changed_or_missing_tar_is_refused_and_nothing_changes(
    fetch: Callable[[], dict[str, list[int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITRINE_PHOTOS_DIR", "tars")
    fetch()
    path = Path("tars/two.tar")
    path.write_bytes(path.read_bytes() + b"\0")
    shard = Path("pretrain/shards/photos/one.npz").stat().st_mtime_ns
    with pytest.raises(SCRIPT["FetchError"], match=r"two\.tar: SHA-256 .* expected; found"):
        fetch()
    path.unlink()
    with pytest.raises(SCRIPT["FetchError"], match=r"two\.tar: not found. VITRINE_PHOTOS_DIR must be set to a folder"):
        fetch()
    assert Path("pretrain/shards/photos/one.npz").stat().st_mtime_ns == shard


@pytest.mark.parametrize("change", ["another photograph", "one less"])
def test_other_photographs_of_a_repository_are_refused(
    fetch: Callable[[], dict[str, list[int]]], sections: dict[str, Any], change: str
) -> None:
    sections["fetch"]["sources"]["one"] |= {
        "another photograph": {"files_sha256": listed(40, 81)},
        "one less": {"leave_out": ["skip", "b", "e.jpg"]},
    }[change]
    found = {"another photograph": 2, "one less": 1}[change]
    with pytest.raises(SCRIPT["FetchError"], match=rf"owner/one at .*: 2 photographs with .*; found {found} with"):
        fetch()
    assert not Path("pretrain/shards").exists()


def test_without_network_there_is_one_clear_error(
    fetch: Callable[[], dict[str, list[int]]], sections: dict[str, Any]
) -> None:
    sections["fetch"]["host"] = "file:///nowhere"
    with pytest.raises(SCRIPT["FetchError"], match=r"cannot fetch .*owner/one at .* set VITRINE_PHOTOS_DIR"):
        fetch()


def test_a_photograph_is_rotated_scaled_and_cropped_to_its_center() -> None:
    pixels = np.zeros((60, 120, 3), dtype=np.uint8)
    pixels[:, 30:90] = 200  # central square
    pixels[:30, 30:60] = (250, 0, 0)  # top left quarter of the square
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, exif=exif)
    with Image.open(io.BytesIO(SCRIPT["scaled"](file.getvalue(), 20, 95))) as scaled:
        assert scaled.size == (20, 20)
        found = np.asarray(scaled).astype(int)
    assert np.abs(found[5, 15] - (250, 0, 0)).max() < 12  # now top right
    assert all(np.abs(found[row, column] - 200).max() < 12 for row, column in ((5, 5), (15, 5), (15, 15)))


def test_the_committed_sources_are_valid() -> None:
    params = read_section("fetch", FetchParams, ROOT / "pretrain/params.yaml")
    assert sum(source.photos for source in params.sources.values()) == 22_693
    assert all(source.license for source in params.sources.values())
