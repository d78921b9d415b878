"""An index of many millions of photographs: a folder of shards, each an `Index`, searched as one."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitrine.artifacts import ArtifactError, read_json
from vitrine.labels import LabelSpace
from vitrine.retrieval.index import (
    Candidate,
    Hit,
    Index,
    MatchRule,
    SearchResult,
    idf,
    join,
    search_message,
)
from vitrine.retrieval.queries import ParsedQuery, Term, Vocabulary
from vitrine.retrieval.shards import (
    MANIFEST,
    REPAIR,
    SHARD_PHOTOS,
    Named,
    holds_index,
    named_shards,
    pack,
    publish,
    store,
    without,
    writing,
)


class ShardedIndex:
    """One system's predictions for many millions of photographs, in ordered, memory-mapped shards on disk.

    Rows are numbered across all shards: the row in the shard plus the sizes of the previous shards. Searches return
    what an `Index` of the same photographs in the same order would. An object keeps reading the shards that it opened,
    even if a writer replaces them; `load` again to see the new ones.

    Attributes:
        shards: the indexes; rule: common to all of them
    """

    def __init__(self, folder: Path, names: Sequence[str], shards: Sequence[Index]) -> None:
        first = shards[0]
        self.folder, self.shards, self._names = folder, tuple(shards), tuple(names)
        self.name, self.label_space, self.vocabulary = first.name, first.label_space, first.vocabulary
        self.rule = first.rule
        self._starts = np.cumsum([0, *(len(shard) for shard in shards)])
        self._expected: dict[Term, float] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    # -- files -----------------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, folder: Path, parts: Iterable[Index]) -> ShardedIndex:
        """Write each part as a shard, with one part in memory at a time, replacing the index in the folder.

        Args:
            parts: of one system and label space, without duplicate paths; the first part's rule and synonyms apply to
                all.

        Raises:
            ArtifactError: there are no photographs, the parts do not match each other, the folder holds other files, or
                another process is writing there.
        """
        with writing(folder):
            holds_index(folder)
            publish(folder, store(folder, parts))
        return cls.load(folder)

    @classmethod
    def load(cls, folder: Path) -> ShardedIndex:
        """Open a sharded index; safe while a writer replaces shards.

        Raises:
            ArtifactError: the folder holds no sharded index, or a shard (named in the message) is missing or damaged.
        """
        document = read_json(folder / MANIFEST)
        while True:
            try:
                return cls._open(folder, document)
            except ArtifactError:
                previous, document = document, read_json(folder / MANIFEST)
                if document == previous:
                    raise

    @classmethod
    def _open(cls, folder: Path, document: Any) -> ShardedIndex:
        try:
            label_space, rule = LabelSpace.from_json(document["label_space"]), MatchRule(**document["match_rule"])
            system, vocabulary = document["system"], Vocabulary(label_space, document["synonyms"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{folder / MANIFEST}: is not a valid shard manifest ({error!r})") from None
        named, shards = named_shards(folder, document), []
        for name, num in named.items():
            try:
                shard = Index.load(folder / name)
            except (ArtifactError, OSError) as error:
                if getattr(error.__cause__ or error, "errno", None) == errno.EMFILE:
                    num_files = 10 * len(named)  # 4 arrays each, reopened before a change is done
                    raise ArtifactError(
                        f"{folder}: too many open files for {len(named)} shards. Raise the limit: ulimit -n {num_files}"
                    ) from None
                reason = str(error).partition(". ")[0]
                raise ArtifactError(f"{folder}: shard {name} is missing or damaged: {reason}. {REPAIR}") from None
            if (len(shard), shard.name, shard.label_space) != (num, system, label_space):
                raise ArtifactError(f"{folder}: shard {name} does not match {MANIFEST}. {REPAIR}")
            shard.rule, shard.vocabulary = rule, vocabulary
            shards.append(shard)
        return cls(folder, list(named), shards)

    def add(self, parts: Iterable[Index], shard_photos: int = SHARD_PHOTOS) -> ShardedIndex:
        """Add photographs to the last shard, then to new ones; return the new index.

        A path that the index already has is replaced: its shard is rewritten without it. Otherwise only the last shard
        is rewritten. A killed run leaves the old index, and stray shards that the next writer deletes.

        Args:
            parts: of the same system and label space, without duplicate paths; at most two shards of them are in
                memory.

        Raises:
            ArtifactError: the parts do not match the index, or another process is writing there.
        """
        with writing(self.folder):
            old, added = ShardedIndex.load(self.folder), set[str]()

            def noted() -> Iterator[Index]:
                for part in parts:
                    old.shards[0].check_same(part)
                    added.update(part.paths())
                    yield part

            named = list(zip(old._names, old.shards, strict=True))
            room = shard_photos - len(old.shards[-1])
            packed = pack(noted(), shard_photos, room if room > 0 else shard_photos)
            head = next(packed, None) if room > 0 else None
            more = list(store(self.folder, packed))
            if head is not None:
                last = join([named.pop()[1].drop(added), head])
                more = [*store(self.folder, [last]), *more]
            publish(self.folder, chain(without(self.folder, named, added), more), old.shards[0])
        return ShardedIndex.load(self.folder)

    def remove(self, image_paths: set[str]) -> ShardedIndex:
        """Remove photographs by rewriting the shards that hold them; return the new index.

        Raises:
            ArtifactError: nothing would be left, or another process is writing there.
        """
        with writing(self.folder):
            old = ShardedIndex.load(self.folder)
            named = zip(old._names, old.shards, strict=True)
            publish(self.folder, without(self.folder, named, image_paths), old.shards[0])
        return ShardedIndex.load(self.folder)

    def compact(self, shard_photos: int = SHARD_PHOTOS) -> ShardedIndex:
        """Merge neighbors that fit into one shard, and split shards that are too large; return the new index.

        The order of the photographs is kept, and unaffected shards are not rewritten.
        """
        with writing(self.folder):
            old = ShardedIndex.load(self.folder)
            groups: list[list[Named]] = []
            room = 0
            for entry in zip(old._names, old.shards, strict=True):
                if len(entry[1]) > room:
                    groups.append([])
                    room = shard_photos
                groups[-1].append(entry)
                room -= len(entry[1])

            def compacted() -> Iterator[Named]:
                for group in groups:
                    shards = [shard for _, shard in group]
                    if len(group) == 1 and len(shards[0]) <= shard_photos:
                        yield from group
                    else:
                        yield from store(self.folder, pack(shards, shard_photos))

            publish(self.folder, compacted(), old.shards[0])
        return ShardedIndex.load(self.folder)

    # -- photographs -----------------------------------------------------------------------------------------------

    @property
    def num_features(self) -> int:
        return self.shards[0].num_features

    def num_items(self) -> int:
        return len({item for shard in self.shards for item in shard.instance_ids.tolist()})

    def place(self, row: int) -> tuple[Index, int]:
        """Return the shard of a row, and its row there. Raises: IndexError: there is no such row."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self.shards[number], row - int(self._starts[number])

    def image_path(self, row: int) -> str:
        shard, shard_row = self.place(row)
        return shard.image_path(shard_row)

    def paths(self) -> Iterator[str]:
        return chain.from_iterable(shard.paths() for shard in self.shards)

    def row_of(self, image_path: str) -> int | None:
        rows = (shard.row_of(image_path) for shard in self.shards)
        starts = zip(self._starts.tolist(), rows, strict=False)
        return next((start + row for start, row in starts if row is not None), None)

    def probs_of(self, row: int) -> dict[str, NDArray[np.float32]]:
        shard, shard_row = self.place(row)
        return shard.probs_of(shard_row)

    def embedding(self, row: int) -> NDArray[np.float32]:
        shard, shard_row = self.place(row)
        return shard.embedding(shard_row)

    def most_probable(self, task: str) -> NDArray[np.int32]:
        return np.concatenate([shard.most_probable(task) for shard in self.shards])

    # -- search ----------------------------------------------------------------------------------------------------

    def search(
        self,
        text: str = "",
        *,
        like: NDArray[np.floating] | None = None,
        top_k: int = 10,
        by_item: bool = False,
        only: NDArray[np.bool_] | None = None,
    ) -> SearchResult:
        """Search all shards as `Index.search` does; ties keep the order of the shards."""
        query = self.vocabulary.parse(text)
        message = search_message(query, self.vocabulary, like is not None)
        if not query.terms and like is None:
            return SearchResult((), query, 0, message)
        found: list[tuple[int, Candidate]] = []
        items: set[str] = set()
        num_matches = 0
        for number, (shard, (start, end)) in enumerate(zip(self.shards, pairwise(self._starts), strict=True)):
            shard_mask = None if only is None else only[start:end]
            candidates, matched = shard.candidates(query, like, top_k, by_item, shard_mask)
            found += [(number, candidate) for candidate in candidates]
            num_matches += int(matched.sum())
            if by_item:
                items.update(shard.instance_ids[matched].tolist())
        found.sort(key=lambda each: -each[1].score)  # stable: shards, and rows in them, are in order
        if by_item:
            best: dict[str, tuple[int, Candidate]] = {}
            for number, candidate in found:
                best.setdefault(str(self.shards[number].instance_ids[candidate.row]), (number, candidate))
            found = list(best.values())
        hits = tuple(self._hit(query, *each) for each in found[:top_k])
        return SearchResult(hits, query, len(items) if by_item else num_matches, message)

    def _hit(self, query: ParsedQuery, number: int, candidate: Candidate) -> Hit:
        return replace(self.shards[number].hit(query, candidate), row=int(self._starts[number]) + candidate.row)

    def or_scores(self, query: ParsedQuery) -> NDArray[np.float32]:
        """Score an OR as `Index.or_scores` does, with idf over all shards. Shape: (photos,)."""
        for term in query.terms:
            if term not in self._expected:
                self._expected[term] = sum(float(shard.term_probs(term).sum()) for shard in self.shards)
        weights = [idf(len(self), self._expected[term]) for term in query.terms]
        return np.concatenate([shard.or_scores(query, weights) for shard in self.shards])
