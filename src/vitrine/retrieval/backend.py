"""A common search interface for a single index, a sharded index, or another engine."""

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
    """Interface of a searchable index.

    Attributes:
        name: name of the system whose predictions are searched
        rule: decides whether a photograph counts as a match
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
"""Index types that also provide photographs by row, as the page needs."""


def load_index(folder: Path) -> PhotoStore:
    """Open the index in a folder, whether single or sharded.

    Raises:
        ArtifactError: the folder does not hold a complete index.
    """
    if not is_sharded(folder):
        try:
            return Index.load(folder)
        except ArtifactError:
            if not is_sharded(folder):  # otherwise it was sharded in the meantime
                raise
    return ShardedIndex.load(folder)


def add_photos(folder: Path, parts: Iterable[Index]) -> None:
    """Add photographs to the index in a folder, single or sharded, or create one; existing paths are replaced.

    Raises:
        ArtifactError: the parts do not match the index, the folder holds other files, or another process is writing.
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
    """Remove photographs from the index in a folder, single or sharded.

    Raises:
        ArtifactError: the folder holds no complete index, nothing would be left, or another process is writing there.
    """
    if is_sharded(folder):
        ShardedIndex.load(folder).remove(image_paths)
        return
    with writing(folder):
        remaining = Index.load(folder).drop(image_paths)
        if not len(remaining):
            raise ArtifactError(f"{folder}: an index cannot be empty; delete the folder instead")
        remaining.save(folder)


def compact_index(folder: Path, shard_photos: int = SHARD_PHOTOS) -> ShardedIndex:
    """Split the index in a folder into shards of at most `shard_photos` photographs; return the new index.

    Raises:
        ArtifactError: the folder holds no complete index, or another process is writing there.
    """
    if is_sharded(folder):
        return ShardedIndex.load(folder).compact(shard_photos)

    def parts() -> Iterator[Index]:
        yield from pack([Index.load(folder)], shard_photos)  # opened while no other process writes

    return ShardedIndex.create(folder, parts())
