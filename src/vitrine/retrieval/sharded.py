"""An index of many millions of photographs: a folder of shards, each an `Index`, searched as one."""

from __future__ import annotations

import hashlib
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from vitrine.artifacts import ArtifactError, read_json, write_json
from vitrine.labels import LabelSpace
from vitrine.retrieval.index import (
    Candidate,
    Hit,
    Index,
    MatchRule,
    SearchResult,
    idf,
    search_message,
    stored_files,
)
from vitrine.retrieval.queries import ParsedQuery, Term, Vocabulary

MANIFEST = "shards.json"
LOCK = ".lock"
SHARD = re.compile(r"shard-[0-9a-f]{12}|\.shard-[0-9a-f]{16}")
"""Names of the sub-folders: of a shard, by its content, and of one that is being written."""

SHARD_PHOTOS = 1_000_000
"""Photographs of a full shard: a write rewrites one, and takes its memory."""


class ShardedIndex:
    """What one system predicts of many millions of photographs: shards on disk, memory-mapped, in order.

    A row counts through all shards: the photographs of the shards before, plus the row in its shard. Searches answer as
    an `Index` of the same photographs in the same order. An object reads what it opened, also when a writer replaces
    shards meanwhile; `load` again to see the new ones.

    Attributes:
        shards: the indexes; rule: of all of them
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
        """Write each part as a shard, one part in memory at a time, in place of the index that the folder holds.

        Args:
            parts: of one system and label space, no path twice; the first one's rule and synonyms hold for all.

        Raises:
            ArtifactError: there are no photographs, the parts do not belong together, the folder holds other files, or
                another process is writing there.
        """
        with writing(folder):
            stored_folders(folder)
            return cls._publish(folder, _stored(folder, parts))

    @classmethod
    def load(cls, folder: Path) -> ShardedIndex:
        """Open what was written; a writer that replaces shards meanwhile does no harm.

        Raises:
            ArtifactError: the folder holds no sharded index, or a shard, which is named, is missing or damaged.
        """
        document = read_json(folder / MANIFEST)
        while True:
            try:
                return cls._open(folder, document)
            except ArtifactError:
                known, document = document, read_json(folder / MANIFEST)
                if document == known:
                    raise

    @classmethod
    def _open(cls, folder: Path, document: Mapping[str, object]) -> ShardedIndex:
        try:
            label_space, rule = LabelSpace.from_json(document["label_space"]), MatchRule(**document["match_rule"])  # type: ignore[arg-type]
            entries = [(str(entry["folder"]), int(entry["photos"])) for entry in document["shards"]]  # type: ignore[attr-defined]
            if not entries or not all(SHARD.fullmatch(name) for name, _ in entries):
                raise ValueError("it names no shards")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{folder / MANIFEST}: is not of an index of shards ({error!r})") from None
        shards = []
        for name, num in entries:
            try:
                shard = Index.load(folder / name)
            except (ArtifactError, OSError) as error:
                reason = str(error).partition(". ")[0]
                raise ArtifactError(f"{folder}: shard {name} is missing or damaged: {reason}. {REPAIR}") from None
            if (len(shard), shard.name, shard.label_space) != (num, document["system"], label_space):
                raise ArtifactError(f"{folder}: shard {name} is not the one that {MANIFEST} names. {REPAIR}")
            shard.rule = rule
            shards.append(shard)
        shards[0].vocabulary = Vocabulary(label_space, document["synonyms"])  # type: ignore[arg-type]
        return cls(folder, [name for name, _ in entries], shards)

    @classmethod
    def _publish(cls, folder: Path, stored: Iterable[tuple[str, Index]]) -> ShardedIndex:
        """Name shards that lie in the folder in a new manifest, then delete what only the old one named."""
        entries: list[tuple[str, Index]] = []
        for name, shard in stored:
            if entries:
                entries[0][1].check_same(shard)
            entries.append((name, shard))
        if not entries:
            raise ArtifactError(f"{folder}: an index cannot be empty; delete the folder instead")
        first, names = entries[0][1], [name for name, _ in entries]
        document = {
            "system": first.name,
            "label_space": first.label_space.to_json(),
            "synonyms": first.vocabulary.synonyms,
            "match_rule": asdict(first.rule),
            "photos": sum(len(shard) for _, shard in entries),
            "shards": [{"folder": name, "photos": len(shard)} for name, shard in entries],
        }
        single = stored_files(folder) if (folder / "index.json").exists() else set()
        write_json(folder / MANIFEST, document)
        for stale in single and {"index.json", *single}:
            (folder / stale).unlink(missing_ok=True)
        for place in folder.iterdir():
            if SHARD.fullmatch(place.name) and place.name not in names:
                shutil.rmtree(place, ignore_errors=True)
        return cls.load(folder)

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
        """Search as `Index.search` does, all shards; equals in the order of the shards."""
        query = self.vocabulary.parse(text)
        message = search_message(query, self.vocabulary, like is not None)
        if not query.terms and like is None:
            return SearchResult((), query, 0, message)
        found: list[tuple[int, Candidate]] = []
        items: set[str] = set()
        num_matches = 0
        for number, (shard, (start, end)) in enumerate(zip(self.shards, pairwise(self._starts), strict=True)):
            here = None if only is None else only[start:end]
            candidates, matched = shard.candidates(query, like, top_k, by_item, here)
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
        """Score an OR as `Index.or_scores` does, with how rare terms are in all shards. Shape: (photos,)."""
        for term in query.terms:
            if term not in self._expected:
                self._expected[term] = sum(float(shard.term_probs(term).sum()) for shard in self.shards)
        weights = [idf(len(self), self._expected[term]) for term in query.terms]
        return np.concatenate([shard.or_scores(query, weights) for shard in self.shards])


REPAIR = "Restore the folder from a copy, or index its photographs again"


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Keep other writers out of an index's folder; readers need not wait.

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
        (folder / LOCK).unlink(missing_ok=True)  # filelock sees when another opened the unlinked file
        with suppress(OSError):
            folder.rmdir()  # a new folder in which there is nothing to keep
        lock.release()


def is_sharded(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def stored_folders(folder: Path) -> None:
    """Check that a folder is new, empty, or of an index. Raises: ArtifactError: it is not."""
    if not is_sharded(folder):
        stored_files(folder)


def _stored(folder: Path, parts: Iterable[Index]) -> Iterator[tuple[str, Index]]:
    """Write shards, each whole under the name of its content, and give them memory-mapped."""
    for part in parts:
        if not len(part):
            continue
        temporary = folder / f".shard-{secrets.token_hex(8)}"
        part.save(temporary)
        name = f"shard-{hashlib.sha256((temporary / 'index.json').read_bytes()).hexdigest()[:12]}"
        if (folder / name).exists():  # a killed run wrote it, or the index holds it
            shutil.rmtree(temporary)
        else:
            temporary.rename(folder / name)
        yield name, Index.load(folder / name)
