"""Search photographs by words, by another photograph, or by both: a soft index over calibrated probabilities."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vitrine.artifacts import ArtifactError, read_json, read_npy, write_json, write_npy
from vitrine.labels import LabelSpace
from vitrine.predictions import Predictions
from vitrine.retrieval.queries import MAX_QUERY_CHARACTERS, ParsedQuery, Term, Vocabulary

FLOOR = 1e-3
"""Added to every probability of an AND, so that one label that a model missed does not zero the score."""

ARRAYS = ("image_paths", "instance_ids", "probs", "embeddings")

STORED = re.compile(rf"({'|'.join(ARRAYS)})-[0-9a-f]{{12}}\.npy")
"""Names of an index's files other than index.json."""

BLOCK = 1024
"""Photographs per block; only the blocks with the highest maxima are searched for the best rows."""


@dataclass(frozen=True)
class Match:
    """Why a photograph was found: a term of the query, its best-matching label, and the term's probability."""

    term: str
    wanted: bool
    label: str
    probability: float


@dataclass(frozen=True)
class Hit:
    """A search hit.

    Attributes:
        row: row of the photograph in the index
        score: relevance, at most 1; see `Index.search`
        is_match: whether it is a match by the index's `MatchRule`
        similarity: cosine similarity to the query photograph; None without one
    """

    row: int
    image_path: str
    instance_id: str
    score: float
    is_match: bool
    similarity: float | None
    matches: tuple[Match, ...]


class Candidate(NamedTuple):
    """A row that may be among the hits; its score is not yet clipped to 1, so that it compares across indexes."""

    row: int
    score: float
    is_match: bool
    similarity: float | None


@dataclass(frozen=True)
class SearchResult:
    """Hits, best first.

    Attributes:
        query: the parsed text
        num_matches: matching photographs in the whole index (items, if searched by item)
        message: a note on the search, or None
    """

    hits: tuple[Hit, ...]
    query: ParsedQuery
    num_matches: int
    message: str | None

    def to_record(self, model: str) -> dict[str, Any]:
        """Return the JSON record of the command line and the page's API; docs/schema.json describes it."""
        hits = [asdict(hit) for hit in self.hits]
        for hit in hits:
            hit["score"] = round(hit["score"], 6)
            hit["similarity"] = None if hit["similarity"] is None else round(hit["similarity"], 6)
            hit["matches"] = [{**match, "probability": round(match["probability"], 6)} for match in hit["matches"]]
        return {
            "model": model,
            "num_matches": self.num_matches,
            "message": self.message,
            "unknown_words": list(self.query.unknown_words),
            "hits": hits,
        }


@dataclass(frozen=True)
class MatchRule:
    """Decides whether a photograph counts as a match; `vitrine.retrieval.matching` fits it on val.

    Attributes:
        least_score: threshold on the score of an AND
        slope, offset: map the cosine similarity of two embeddings to the log odds of the same class
    """

    least_score: float = 0.5
    slope: float = 10.0
    offset: float = -5.0

    def same_class(self, cosines: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the probability of the same class, given cosine similarities. Shape: (photos,) -> (photos,)."""
        return np.asarray(1 / (1 + np.exp(-(self.slope * cosines + self.offset))), dtype=np.float32)


class Index:
    """One system's predictions for many photographs, laid out for search.

    Attributes:
        rule: decides whether a photograph counts as a match

    Shape:
        image_paths, instance_ids: (photos,), text
        probs: (labels of all tasks, photos), float32: contiguous for each label
        embeddings: (photos, features), float32, L2-normalized
    """

    def __init__(
        self,
        name: str,
        label_space: LabelSpace,
        synonyms: Mapping[str, Sequence[str]],
        image_paths: NDArray[np.str_],
        instance_ids: NDArray[np.str_],
        probs: NDArray[np.float32],
        embeddings: NDArray[np.float32],
        *,
        rule: MatchRule = MatchRule(),
    ) -> None:
        self.name = name
        self.label_space = label_space
        self.vocabulary = Vocabulary(label_space, synonyms)
        self.image_paths = image_paths
        self.instance_ids = instance_ids
        self.probs = probs
        self.embeddings = embeddings
        self.rule = rule
        sizes = [label_space.num_labels(task) for task in label_space]
        self._start = dict(zip(label_space, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True))

    def __len__(self) -> int:
        return len(self.image_paths)

    @classmethod
    def build(
        cls,
        name: str,
        predictions: Predictions,
        instance_ids: Iterable[str],
        synonyms: Mapping[str, Sequence[str]],
        rule: MatchRule = MatchRule(),
    ) -> Index:
        """Build an index of the predictions of system `name`.

        Raises:
            ArtifactError: there are no photographs.
        """
        if not len(predictions):
            raise ArtifactError("nothing to index: there are no photographs")
        lengths = np.maximum(np.linalg.norm(predictions.embeddings, axis=1, keepdims=True), 1e-12)
        return cls(
            name,
            predictions.label_space,
            synonyms,
            np.array(predictions.image_paths, dtype=np.str_),
            np.array(list(instance_ids), dtype=np.str_),
            np.ascontiguousarray(np.concatenate([predictions.probs[task].T for task in predictions.label_space])),
            (predictions.embeddings / lengths).astype(np.float32),
            rule=rule,
        )

    def save(self, folder: Path) -> None:
        """Write each array to a file named by its content hash, then index.json, which lists the files.

        Replacing index.json is what makes a new index valid: a killed run leaves the old one intact. Afterwards,
        files listed only in the old index.json are deleted, and no others.

        Raises:
            ArtifactError: see `stored_files`.
        """
        old, files = stored_files(folder), {}
        for name in ARRAYS:
            array = np.ascontiguousarray(getattr(self, name))
            files[name] = f"{name}-{hashlib.sha256(array.data).hexdigest()[:12]}.npy"
            if not (folder / files[name]).exists():
                write_npy(folder / files[name], array)
        document = {"system": self.name, "label_space": self.label_space.to_json(), "photos": len(self)}
        settings = {"files": files, "match_rule": asdict(self.rule), "synonyms": self.vocabulary.synonyms}
        write_json(folder / "index.json", {**document, **settings})
        for stale in old - set(files.values()):
            (folder / stale).unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: Path) -> Index:
        """Load what `save` wrote; the arrays are memory-mapped.

        Raises:
            ArtifactError: the folder does not hold a complete index.
        """
        document = read_json(folder / "index.json")
        try:
            arrays = [read_npy(folder / document["files"][name]) for name in ARRAYS]
            label_space = LabelSpace.from_json(document["label_space"])
            rule = MatchRule(**document["match_rule"])
            index = cls(document["system"], label_space, document["synonyms"], *arrays, rule=rule)
            num_labels = sum(label_space.num_labels(task) for task in label_space)
            shapes = [array.shape[0] for array in arrays[:2]] + [arrays[2].shape[1], arrays[3].shape[0]]
            complete = set(shapes) == {document["photos"]} and arrays[2].shape[0] == num_labels
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, ArtifactError):
                raise
            raise ArtifactError(f"{folder}: incomplete index ({error!r}). Rebuild it with: dvc repro index") from None
        if not complete:
            raise ArtifactError(f"{folder}: its files do not match. Rebuild it with: dvc repro index")
        return index

    def concat(self, *others: Index) -> Index:
        """Return an index of all photographs; paths that this index already has are replaced.

        Raises:
            ArtifactError: another index has a different system or label space.
        """
        for other in others:
            self.check_same(other)
        return join([self.drop({path for other in others for path in other.image_paths.tolist()}), *others])

    def check_same(self, other: Index) -> None:
        """Raises: ArtifactError: another index has a different system or label space."""
        if (self.name, self.label_space) != (other.name, other.label_space):
            raise ArtifactError(
                f"an index of {other.name} cannot be merged with one of {self.name}: their systems or labels differ. "
                "Build a new index from the predictions of one system"
            )

    def drop(self, image_paths: set[str]) -> Index:
        """Return an index without the given photographs."""
        return self.take(np.array([path not in image_paths for path in self.image_paths.tolist()], dtype=bool))

    def take(self, rows: NDArray[np.bool_] | slice) -> Index:
        """Return an index of the given rows. Shape: rows: (photos,), if not a slice."""
        arrays = [getattr(self, name)[:, rows] if name == "probs" else getattr(self, name)[rows] for name in ARRAYS]
        return Index(self.name, self.label_space, self.vocabulary.synonyms, *arrays, rule=self.rule)

    # -- photographs -----------------------------------------------------------------------------------------------

    @property
    def num_features(self) -> int:
        return int(self.embeddings.shape[1])

    def image_path(self, row: int) -> str:
        return str(self.image_paths[row])

    def paths(self) -> Iterator[str]:
        """Return an iterator over all paths, in the index's order."""
        return iter(self.image_paths.tolist())

    def row_of(self, image_path: str) -> int | None:
        """Return the first row of a path; None if it is not indexed."""
        rows = np.flatnonzero(self.image_paths == image_path)
        return int(rows[0]) if len(rows) else None

    def num_items(self) -> int:
        return len(set(self.instance_ids.tolist()))

    def probs_of(self, row: int) -> dict[str, NDArray[np.float32]]:
        """Return a photograph's probabilities. Shape: per task (labels,)."""
        return {
            task: np.asarray(self.probs[self._start[task] : self._start[task] + self.label_space.num_labels(task), row])
            for task in self.label_space
        }

    def embedding(self, row: int) -> NDArray[np.float32]:
        """Return a photograph's embedding. Shape: (features,)."""
        return np.asarray(self.embeddings[row])

    def most_probable(self, task: str) -> NDArray[np.int32]:
        """Return the code of each photograph's most probable label. Shape: (photos,)."""
        num = self.label_space.num_labels(task)
        probs = self.probs[self._start[task] : self._start[task] + num]
        return np.asarray(np.argmax(probs, axis=0), dtype=np.int32)

    # -- scores ----------------------------------------------------------------------------------------------------

    def label_probs(self, task: str, code: int) -> NDArray[np.float32]:
        """Return the probabilities of a label. Shape: (photos,)."""
        row: NDArray[np.float32] = self.probs[self._start[task] + code]
        return row

    def term_probs(self, term: Term, rows: NDArray[np.int64] | slice = slice(None)) -> NDArray[np.float32]:
        """Return the probability that photographs match a term; labels exclude each other within a task, not across.

        Shape:
            rows: (n,), by default all photographs; returns: (n,), for an unwanted term the probability of its absence
        """
        by_task: dict[str, NDArray[np.floating]] = {}
        for task, code in term.labels:
            probs = self.label_probs(task, code)[rows]
            by_task[task] = by_task[task] + probs if task in by_task else probs
        tasks = list(by_task.values())
        combined: Any = tasks[0]
        if len(tasks) > 1:
            combined = 1 - np.prod([1 - np.minimum(probs, 1) for probs in tasks], axis=0, dtype=np.float32)
        return np.asarray(combined if term.wanted else np.maximum(1 - combined, 0), dtype=np.float32)

    def and_scores(self, query: ParsedQuery) -> NDArray[np.float32]:
        """Score an AND, 0 to 1: the product of the terms' probabilities, smoothed by `raised`. Shape: (photos,)."""
        scores = np.ones(len(self), dtype=np.float32)
        for term in query.terms:
            scores *= raised(self.term_probs(term))
        return scores

    def or_scores(self, query: ParsedQuery, weights: Sequence[np.float32] = ()) -> NDArray[np.float32]:
        """Score an OR: the sum of the terms' probabilities, weighted by their rarity. Shape: (photos,).

        Args:
            weights: idf of each term, as from `idf`; by default computed from this index.

        Source:
            expected term counts in place of counts, as for uncertain text (Chelba and Acero, ACL 2005), with
            scikit-learn's smooth idf: ln((1 + photos) / (1 + expected photos)) + 1.
        """
        scores = np.zeros(len(self), dtype=np.float32)
        for number, term in enumerate(query.terms):
            probs = self.term_probs(term)
            scores += (weights[number] if weights else idf(len(self), float(probs.sum()))) * probs
        return scores

    def similarity(self, embedding: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return an embedding's cosine similarity to every photograph. Shape: (features,) -> (photos,)."""
        length = max(float(np.linalg.norm(embedding)), 1e-12)
        return np.asarray(self.embeddings @ (embedding / length).astype(np.float32))

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
        """Rank photographs by words, by similarity to an embedding, or by both; ties keep the index's order.

        The score is the AND over the words, or the cosine similarity if there are none. With both, the probability of
        the same class is another factor of the AND. A match reaches the rule's least score, and has a probability of
        the same class of at least 0.5. Any text is valid: the result has hits, or a message that suggests words.

        Args:
            by_item: keep the best photograph of every item.

        Shape:
            like: (features,), from this system's Predictor; only: (photos,), mask of the photographs to search
        """
        query = self.vocabulary.parse(text)
        message = search_message(query, self.vocabulary, like is not None)
        if not query.terms and like is None:
            return SearchResult((), query, 0, message)
        candidates, matched = self.candidates(query, like, top_k, by_item, only)
        hits = tuple(self.hit(query, candidate) for candidate in candidates)
        num_matches = len(set(self.instance_ids[matched].tolist())) if by_item else int(matched.sum())
        return SearchResult(hits, query, num_matches, message)

    def candidates(
        self,
        query: ParsedQuery,
        like: NDArray[np.floating] | None,
        top_k: int,
        by_item: bool,
        only: NDArray[np.bool_] | None,
    ) -> tuple[list[Candidate], NDArray[np.bool_]]:
        """Return the best rows for a query that has terms or a photograph, and the mask of matching rows.

        Shape:
            see `search`; returns: at most top_k, and (photos,)
        """
        scores = self.and_scores(query)
        matched = scores >= self.rule.least_score
        cosines = None
        if like is not None:
            cosines = np.clip(self.similarity(like), -1, 1)
            same_class = self.rule.same_class(cosines)
            matched &= same_class >= 0.5
            scores = scores * raised(same_class) if query.terms else np.maximum(cosines, 0)
        if only is not None:
            scores[~only] = -1
            matched &= only
        candidates = [
            Candidate(row, float(scores[row]), bool(matched[row]), None if cosines is None else float(cosines[row]))
            for row in self._best(scores, top_k, by_item)
        ]
        return candidates, matched

    def hit(self, query: ParsedQuery, candidate: Candidate) -> Hit:
        """Return the hit of a candidate, with its path, its item, and the terms that it matches."""
        row, score, is_match, similarity = candidate
        path, item = str(self.image_paths[row]), str(self.instance_ids[row])
        matches = tuple(self._explain(term, row) for term in query.terms)
        return Hit(row, path, item, min(score, 1.0), is_match, similarity, matches)

    def _best(self, scores: NDArray[np.float32], top_k: int, by_item: bool) -> list[int]:
        num_rows = top_k
        while True:
            rows = [row for row in best_rows(scores, num_rows).tolist() if scores[row] >= 0]
            if not by_item:
                return rows
            best: dict[str, int] = {}
            for row in rows:
                best.setdefault(str(self.instance_ids[row]), row)
            first = list(best.values())
            if len(first) >= top_k or num_rows >= len(self):
                return first[:top_k]
            num_rows *= 4

    def _explain(self, term: Term, row: int) -> Match:
        rows = np.array([row])
        best = max(term.labels, key=lambda label: float(self.label_probs(*label)[row]))
        probability = float(self.term_probs(term, rows)[0])
        return Match(term.text, term.wanted, self.label_space.labels[best[0]][best[1]], probability)


def join(parts: Sequence[Index]) -> Index:
    """Concatenate indexes of one system and label space; the first one's rule applies."""
    first = parts[0]
    arrays = [
        np.concatenate([getattr(part, name) for part in parts], axis=1 if name == "probs" else 0) for name in ARRAYS
    ]
    return Index(first.name, first.label_space, first.vocabulary.synonyms, *arrays, rule=first.rule)


def idf(num_photos: int, expected: float) -> np.float32:
    """Return the smoothed idf of a term with an expected number of matching photographs."""
    return np.float32(np.log((1 + num_photos) / (1 + expected)) + 1)


def raised(probs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Raise probabilities slightly, so that a 0 does not zero a product; 1 stays 1."""
    return np.asarray((probs + np.float32(FLOOR)) / np.float32(1 + FLOOR))


def search_message(query: ParsedQuery, vocabulary: Vocabulary, has_photo: bool) -> str | None:
    """Return a note on how a query was understood, or None if nothing is noteworthy."""
    parts = [f"Showing results for '{term.read_as}'." for term in query.terms if term.read_as]
    if query.unknown_words:
        parts.append(f"Not understood: {', '.join(repr(shortened(word)) for word in query.unknown_words)}.")
    if query.unread:
        parts.append(
            f"Only the first {MAX_QUERY_CHARACTERS} characters were read; ignored: '{shortened(query.unread)}'."
        )
    if not query.terms and not has_photo:
        parts += [] if parts else ["Nothing to search for."]
        parts.append(f"Try words such as: {', '.join(vocabulary.suggestions())}.")
    return " ".join(parts) or None


def shortened(text: str, length: int = 40) -> str:
    return text if len(text) <= length else f"{text[:length].rstrip()}…"


def stored_files(folder: Path) -> set[str]:
    """Return the names of the files of the index in a folder, or none if the folder is new or empty.

    Hidden files, and arrays left by a killed `save`, are ignored.

    Raises:
        ArtifactError: the folder is a file, holds other files and no index.json, or its index.json is invalid.
    """
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(f"{folder}: is a file. Choose a folder for the index")
    path = folder / "index.json"
    if not path.exists():
        entries = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
        foreign = [name for name in entries if not name.startswith(".") and not STORED.fullmatch(name)]
        if foreign:
            raise ArtifactError(
                f"{folder}: contains other files and no index ({', '.join(foreign[:3])}). Choose a new or empty folder"
            )
        return set()
    try:
        names = set(json.loads(path.read_text(encoding="utf-8"))["files"].values())
        if not names or not all(STORED.fullmatch(name) for name in names):
            raise ValueError("it lists no arrays of an index")
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: is not a valid index file ({error!r}). Choose another folder") from None
    return names


def best_rows(scores: NDArray[np.float32], top_k: int) -> NDArray[np.int64]:
    """Return the rows with the highest scores, in descending order; ties in order of rows.

    Exact: the best k lie in the blocks whose maxima are among the k highest.

    Shape:
        scores: (photos,); returns: at most (top_k,)
    """
    num = len(scores)
    top_k = min(top_k, num)
    if top_k <= 0:
        return np.empty(0, dtype=np.int64)
    rows = np.arange(num)
    if num > 4 * BLOCK * top_k:
        whole = num // BLOCK * BLOCK
        maxima = scores[:whole].reshape(-1, BLOCK).max(axis=1)
        blocks = np.flatnonzero(maxima >= np.partition(maxima, -top_k)[-top_k])
        rows = np.concatenate([(blocks[:, None] * BLOCK + np.arange(BLOCK)).ravel(), np.arange(whole, num)])
    candidates = scores[rows]
    limit = np.partition(candidates, len(candidates) - top_k)[len(candidates) - top_k]
    above, equal = rows[candidates > limit], rows[candidates == limit]
    chosen = np.concatenate([above, equal[: top_k - len(above)]])
    return np.asarray(chosen[np.lexsort((chosen, -scores[chosen]))], dtype=np.int64)
