"""Make shards of photographs, from public repositories at pinned commits or from a local folder of tars.

Reads   pretrain/params.yaml, and the repositories named there or the folder that VITRINE_PHOTOS_DIR names
Writes  pretrain/shards/photos/SOURCE.npz, one shard per source

Every source is verified before anything is written: a tar by its SHA-256, a repository's photographs by the SHA-256 of
their hashes.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps
from tqdm import tqdm

from vitrine.data.repositories import FetchError, checkout_files
from vitrine.errors import exit_on_error
from vitrine.params import read_section
from vitrine.pretraining.shards import write_shard
from vitrine.pretraining.sources import FetchParams, Source

FOLDER_VARIABLE = "VITRINE_PHOTOS_DIR"
TARGET = Path("pretrain/shards/photos")


def read_tar(path: Path, source: Source) -> list[bytes]:
    """Return the files of a tar, by name.

    Raises:
        FetchError: it is missing or its SHA-256 differs.
    """
    if not path.is_file():
        raise FetchError(
            f"{path}: not found. {FOLDER_VARIABLE} must be set to a folder that contains a tar for every source"
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != source.tar_sha256:
        raise FetchError(
            f"{path}: SHA-256 {source.tar_sha256} expected; found {digest}. Unset {FOLDER_VARIABLE} to fetch the "
            "photographs from their repositories"
        )
    with tarfile.open(path) as archive:
        members = sorted((member for member in archive if member.isfile()), key=lambda member: member.name)
        return [archive.extractfile(member).read() for member in members]  # type: ignore[union-attr]


def read_files(folder: Path, source: Source, url: str, seen: set[str]) -> list[bytes]:
    """Return the photographs of a checked-out source in path order, skipping those in `seen`; add the rest to it.

    Raises:
        FetchError: they differ from the pinned ones.
    """
    paths = {path.relative_to(folder) for each in source.folders for path in (folder / each).rglob("*.jpg")}
    wanted = sorted(path.as_posix() for path in paths if not set(path.parts) & set(source.leave_out))
    files = {}
    for path in wanted:
        content = (folder / path).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if digest not in seen:
            seen.add(digest)
            files[digest] = content
    combined = hashlib.sha256("".join(f"{digest}\n" for digest in files).encode()).hexdigest()
    if (len(files), combined) != (source.photos, source.files_sha256):
        raise FetchError(
            f"{url} at {source.commit[:12]}: {source.photos} photographs with SHA-256 {source.files_sha256} expected; "
            f"found {len(files)} with {combined}. Correct the source in pretrain/params.yaml, or set {FOLDER_VARIABLE}"
        )
    return list(files.values())


def scaled(content: bytes, side_px: int, quality: int) -> bytes:
    """Turn a photograph upright, scale its central square to `side_px`, and save it as JPEG."""
    with Image.open(io.BytesIO(content)) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    square = ImageOps.fit(image, (side_px, side_px), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    square.save(file, "JPEG", quality=quality)
    return file.getvalue()


def bring(params: FetchParams, local: str | None) -> dict[str, Sequence[bytes]]:
    """Return every source's scaled photographs."""
    if local:
        return {name: read_tar(Path(local) / f"{name}.tar", source) for name, source in params.sources.items()}
    seen: set[str] = set()
    shards: dict[str, Sequence[bytes]] = {}
    for name, source in params.sources.items():
        url = f"{params.host}/{source.repository}"
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=".") as folder:
            otherwise = f"set {FOLDER_VARIABLE} to a folder that contains a tar for every source and run again"
            checkout_files(url, source.commit, source.folders, Path(folder), otherwise)
            files = read_files(Path(folder), source, url, seen)
        shards[name] = [
            scaled(content, params.image_size_px, params.jpeg_quality)
            for content in tqdm(files, name, unit="photo", disable=None)
        ]
    return shards


def main() -> None:
    exit_on_error()
    params = read_section("fetch", FetchParams, Path("pretrain/params.yaml"))
    shards = bring(params, os.environ.get(FOLDER_VARIABLE))
    shutil.rmtree(TARGET, ignore_errors=True)
    for name, files in shards.items():
        write_shard(TARGET / f"{name}.npz", files)


if __name__ == "__main__":
    main()
