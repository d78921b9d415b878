"""What searches: one index, one of shards, or another engine, behind one interface."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vitrine.artifacts import ArtifactError
from vitrine.labels import LabelSpace
from vitrine.retrieval.index import Index, MatchRule, SearchResult, stored_files
from vitrine.retrieval.queries import Vocabulary
from vitrine.retrieval.sharded import ShardedIndex
from vitrine.retrieval.shards import SHARD_PHOTOS, is_sharded, pack, writing


class SearchBackend(Protocol):
    """What answers searches.

    Attributes:
        name: of the system whose predictions are searched
        rule: from when on a photograph counts as a match
    """

    name: str
    label_space: LabelSpace
    vocabulary: Vocabulary
    rule: MatchRule

    def __len__(self) -> int: ...

    def search(
        self,
        text: str = "",
        *,
        like: NDArray[np.floating] | None = None,
        top_k: int = 10,
        by_item: bool = False,
        only: NDArray[np.bool_] | None = None,
    ) -> SearchResult:
        """Search as `Index.search` does."""
        ...


PhotoStore = Index | ShardedIndex
"""What the page needs besides: photographs by their row."""


def load_index(folder: Path) -> PhotoStore:
    """Open the index that a folder holds, of one file an array or of shards.

    Raises:
        ArtifactError: the folder does not hold a whole index.
    """
    if not is_sharded(folder):
        try:
            return Index.load(folder)
        except ArtifactError:
            if not is_sharded(folder):  # else it was cut into shards meanwhile
                raise
    return ShardedIndex.load(folder)


def add_photos(folder: Path, parts: Iterable[Index]) -> None:
    """Add photographs to the index of a folder, of either kind, or make one; known paths are replaced.

    Raises:
        ArtifactError: the parts do not belong to it, it holds other files, or another process is writing there.
    """
    if is_sharded(folder):
        ShardedIndex.load(folder).add(parts)
        return
    with writing(folder):
        old = [Index.load(folder)] if stored_files(folder) else []
        new = list(parts)
        if new:
            first, *more = [*old, *new]
            first.concat(*more).save(folder)


def remove_photos(folder: Path, image_paths: set[str]) -> None:
    """Remove photographs from the index of a folder, of either kind.

    Raises:
        ArtifactError: the folder holds no whole index, nothing would be left, or another process is writing there.
    """
    if is_sharded(folder):
        ShardedIndex.load(folder).remove(image_paths)
        return
    with writing(folder):
        left = Index.load(folder).drop(image_paths)
        if not len(left):
            raise ArtifactError(f"{folder}: an index cannot be empty; delete the folder instead")
        left.save(folder)


def compact_index(folder: Path, shard_photos: int = SHARD_PHOTOS) -> ShardedIndex:
    """Cut the index that a folder holds into shards of at most so many photographs; return the new one.

    Raises:
        ArtifactError: the folder holds no whole index, or another process is writing there.
    """
    if is_sharded(folder):
        return ShardedIndex.load(folder).compact(shard_photos)

    def parts() -> Iterator[Index]:
        yield from pack([Index.load(folder)], shard_photos)  # opened when nobody else writes

    return ShardedIndex.create(folder, parts())
