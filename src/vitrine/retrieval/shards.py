"""Files of a sharded index: subfolders named by content hash, a lock, and splitting into parts."""

from __future__ import annotations

import hashlib
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vitrine.artifacts import ArtifactError, read_json, write_json
from vitrine.retrieval.index import Index, join, stored_files

MANIFEST = "shards.json"
LOCK = ".lock"
SHARD = re.compile(r"shard-[0-9a-f]{12}|\.shard-[0-9a-f]{16}")
"""Names of subfolders: of a shard, by its content hash, and of one that is being written."""

SHARD_PHOTOS = 1_000_000
"""Photographs per full shard: a write rewrites one shard, and needs memory for it."""

Named = tuple[str, Index]
"""The name of a shard's subfolder, and the shard."""

REPAIR = "Restore the folder from a copy, or index its photographs again"


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Lock an index's folder against other writers; readers need not wait.

    Raises:
        ArtifactError: another process is writing there.
    """
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(f"{folder}: is a file. Choose a folder for the index")
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ArtifactError(f"{folder}: another process is changing this index. Try again when it is done") from None
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)  # filelock detects that another process opened the unlinked file
        with suppress(OSError):
            folder.rmdir()  # succeeds only if the folder is empty, that is, new
        lock.release()


def is_sharded(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def holds_index(folder: Path) -> bool:
    """Return whether a folder holds an index, complete or not; a new or empty folder does not.

    Raises:
        ArtifactError: it holds other files.
    """
    if is_sharded(folder):
        return bool(named_shards(folder, read_json(folder / MANIFEST)))
    return bool(stored_files(folder))


def named_shards(folder: Path, document: Any) -> dict[str, int]:
    """Return the shard subfolders listed in a manifest, and the number of photographs in each.

    Raises:
        ArtifactError: the document is not a manifest of shards.
    """
    try:
        named = {str(entry["folder"]): int(entry["photos"]) for entry in document["shards"]}
        if not named or not all(SHARD.fullmatch(name) for name in named):
            raise ValueError("it lists no shards")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{folder / MANIFEST}: is not a valid shard manifest ({error!r})") from None
    return named


def store(folder: Path, parts: Iterable[Index]) -> Iterator[Named]:
    """Write each shard atomically under its content hash, and yield it memory-mapped."""
    for part in parts:
        if not len(part):
            continue
        temporary = folder / f".shard-{secrets.token_hex(8)}"
        try:
            part.save(temporary)
        except BaseException:  # such as a full disk: free the space again
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        name = f"shard-{hashlib.sha256((temporary / 'index.json').read_bytes()).hexdigest()[:12]}"
        if (folder / name).exists():  # written by a killed run, or already in the index
            shutil.rmtree(temporary)
        else:
            temporary.rename(folder / name)
        yield name, Index.load(folder / name)


def publish(folder: Path, stored: Iterable[Named], header: Index | None = None) -> None:
    """Write a new manifest that lists the stored shards, then delete all other shards in the folder.

    Args:
        header: index whose rule and synonyms apply to all; by default the first shard.

    Raises:
        ArtifactError: there are no shards, they do not match each other, or there is a duplicate.
    """
    shards: dict[str, Index] = {}
    for name, shard in stored:
        header = header or shard
        header.check_same(shard)
        if name in shards:
            raise ArtifactError(f"{folder}: duplicate shard {name}: the same photographs were added twice")
        shards[name] = shard
    if header is None or not shards:
        raise ArtifactError(f"{folder}: an index cannot be empty; delete the folder instead")
    document = {
        "system": header.name,
        "label_space": header.label_space.to_json(),
        "synonyms": header.vocabulary.synonyms,
        "match_rule": asdict(header.rule),
        "photos": sum(len(shard) for shard in shards.values()),
        "shards": [{"folder": name, "photos": len(shard)} for name, shard in shards.items()],
    }
    single = stored_files(folder) if (folder / "index.json").exists() else set()
    write_json(folder / MANIFEST, document)
    for stale in single and {"index.json", *single}:
        (folder / stale).unlink(missing_ok=True)
    for place in folder.iterdir():
        if SHARD.fullmatch(place.name) and place.name not in shards:
            shutil.rmtree(place, ignore_errors=True)


def without(folder: Path, stored: Iterable[Named], image_paths: set[str]) -> Iterator[Named]:
    """Rewrite the shards that hold the given photographs without them, and yield all remaining shards."""
    for name, shard in stored:
        if image_paths.isdisjoint(shard.paths()):
            yield name, shard
        else:
            yield from store(folder, [shard.drop(image_paths)])


def pack(parts: Iterable[Index], num: int, first: int | None = None) -> Iterator[Index]:
    """Join and split indexes into indexes of `num` photographs, in order; the last may be smaller.

    Args:
        first: number of photographs in the first index, if not `num`.
    """
    waiting: list[Index] = []
    room = first or num
    for part in parts:
        start = 0
        while len(part) - start >= room:
            yield join([*waiting, part.take(slice(start, start + room))])
            start, waiting, room = start + room, [], num
        if start < len(part):
            waiting.append(part.take(slice(start, None)))
            room -= len(waiting[-1])
    if waiting:
        yield join(waiting)
