"""Find photographs by words, by another photograph, or by both: a soft index over calibrated probabilities."""

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
"""Added to every probability of an AND, so that one label that a model missed does not end everything."""

ARRAYS = ("image_paths", "instance_ids", "probs", "embeddings")

STORED = re.compile(rf"({'|'.join(ARRAYS)})-[0-9a-f]{{12}}\.npy")
"""Names of the files of an index besides index.json."""

BLOCK = 1024
"""Photographs in a block; only the blocks with the best maxima are searched for the best rows."""


@dataclass(frozen=True)
class Match:
    """Why a photograph was found: a term of the query, the label that answers it best, and how probable it is."""

    term: str
    wanted: bool
    label: str
    probability: float


@dataclass(frozen=True)
class Hit:
    """A found photograph.

    Attributes:
        row: its place in the index
        score: how well it answers, at most 1; see `Index.search`
        is_match: whether it answers well enough, by the index's `MatchRule`
        similarity: cosine with the photograph that was given; None without one
    """

    row: int
    image_path: str
    instance_id: str
    score: float
    is_match: bool
    similarity: float | None
    matches: tuple[Match, ...]


class Candidate(NamedTuple):
    """A row that may be among the hits; its score is not yet cut at 1, so candidates of several indexes compare."""

    row: int
    score: float
    is_match: bool
    similarity: float | None


@dataclass(frozen=True)
class SearchResult:
    """Hits, the best first.

    Attributes:
        query: how the text was understood
        num_matches: photographs of the whole index that answer well enough (items, if searched by item)
        message: a sentence where there is something to say
    """

    hits: tuple[Hit, ...]
    query: ParsedQuery
    num_matches: int
    message: str | None

    def to_record(self, model: str) -> dict[str, Any]:
        """Return what the command line and the page's interface print as JSON; docs/schema.json describes it."""
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
    """From when on a photograph counts as a match; `vitrine.retrieval.matching` fits it on val.

    Attributes:
        least_score: of an AND
        slope, offset: of the log odds that two photographs are of one class, by the cosine of their embeddings
    """

    least_score: float = 0.5
    slope: float = 10.0
    offset: float = -5.0

    def same_class(self, cosines: NDArray[np.floating]) -> NDArray[np.float32]:
        """Probability that a photograph is of the class of one with this cosine. Shape: (photos,) -> (photos,)."""
        return np.asarray(1 / (1 + np.exp(-(self.slope * cosines + self.offset))), dtype=np.float32)


class Index:
    """What one system predicts of many photographs, laid out for search.

    Attributes:
        rule: from when on a photograph counts as a match

    Shape:
        image_paths, instance_ids: (photos,), text
        probs: (labels of all tasks, photos), float32: a label's photographs lie side by side
        embeddings: (photos, features), float32, each of length 1
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
        """Index what system `name` predicts.

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
        """Write one plain array a file, named by its content, then index.json, which names them.

        Replacing index.json is what makes a new index valid: a killed run leaves the old one whole. Afterwards the
        files that only the old index.json names are deleted, and no others.

        Raises:
            ArtifactError: as `stored_files`.
        """
        old, files = stored_files(folder), {}
        for name in ARRAYS:
            array = np.ascontiguousarray(getattr(self, name))
            files[name] = f"{name}-{hashlib.sha256(array.data).hexdigest()[:12]}.npy"
            if not (folder / files[name]).exists():
                write_npy(folder / files[name], array)
        document = {"system": self.name, "label_space": self.label_space.to_json(), "photos": len(self)}
        more = {"files": files, "match_rule": asdict(self.rule), "synonyms": self.vocabulary.synonyms}
        write_json(folder / "index.json", {**document, **more})
        for stale in old - set(files.values()):
            (folder / stale).unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: Path) -> Index:
        """Load what `save` wrote; the arrays are memory-mapped.

        Raises:
            ArtifactError: the folder does not hold a whole index.
        """
        document = read_json(folder / "index.json")
        try:
            arrays = [read_npy(folder / document["files"][name]) for name in ARRAYS]
            label_space = LabelSpace.from_json(document["label_space"])
            rule = MatchRule(**document["match_rule"])
            index = cls(document["system"], label_space, document["synonyms"], *arrays, rule=rule)
            num_labels = sum(label_space.num_labels(task) for task in label_space)
            shapes = [array.shape[0] for array in arrays[:2]] + [arrays[2].shape[1], arrays[3].shape[0]]
            whole = set(shapes) == {document["photos"]} and arrays[2].shape[0] == num_labels
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, ArtifactError):
                raise
            raise ArtifactError(f"{folder}: not a whole index ({error!r}). Make it with: dvc repro index") from None
        if not whole:
            raise ArtifactError(f"{folder}: its files do not belong together. Make it with: dvc repro index")
        return index

    def concat(self, *others: Index) -> Index:
        """Return an index of all photographs; a path that this index has already is replaced.

        Raises:
            ArtifactError: another index is of another system or of other labels.
        """
        for other in others:
            self.check_same(other)
        return join([self.drop({path for other in others for path in other.image_paths.tolist()}), *others])

    def check_same(self, other: Index) -> None:
        """Raises: ArtifactError: another index is of another system or of other labels."""
        if (self.name, self.label_space) != (other.name, other.label_space):
            raise ArtifactError(
                f"an index of {other.name} cannot be joined to one of {self.name}, or their labels differ. "
                "Make a new index of one system's predictions"
            )

    def drop(self, image_paths: set[str]) -> Index:
        """Return an index without some photographs."""
        return self.take(np.array([path not in image_paths for path in self.image_paths.tolist()], dtype=bool))

    def take(self, rows: NDArray[np.bool_] | slice) -> Index:
        """Return an index of some rows. Shape: rows: (photos,), if it is not a slice."""
        arrays = [getattr(self, name)[:, rows] if name == "probs" else getattr(self, name)[rows] for name in ARRAYS]
        return Index(self.name, self.label_space, self.vocabulary.synonyms, *arrays, rule=self.rule)

    # -- photographs -----------------------------------------------------------------------------------------------

    @property
    def num_features(self) -> int:
        return int(self.embeddings.shape[1])

    def image_path(self, row: int) -> str:
        return str(self.image_paths[row])

    def paths(self) -> Iterator[str]:
        """Give all paths, in the index's order."""
        return iter(self.image_paths.tolist())

    def row_of(self, image_path: str) -> int | None:
        """Return the first row of a path; None if it is not indexed."""
        rows = np.flatnonzero(self.image_paths == image_path)
        return int(rows[0]) if len(rows) else None

    def num_items(self) -> int:
        return len(set(self.instance_ids.tolist()))

    def probs_of(self, row: int) -> dict[str, NDArray[np.float32]]:
        """Return a photograph's probabilities. Shape: of each task (labels,)."""
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
        """Probability of a label. Shape: (photos,)."""
        row: NDArray[np.float32] = self.probs[self._start[task] + code]
        return row

    def term_probs(self, term: Term, rows: NDArray[np.int64] | slice = slice(None)) -> NDArray[np.float32]:
        """Probability that photographs answer a term: labels of one task exclude each other, tasks do not.

        Shape:
            rows: (n,), all photographs without it; returns: (n,), of an unwanted term the probability that it is not
            there
        """
        by_task: dict[str, NDArray[np.floating]] = {}
        for task, code in term.labels:
            probs = self.label_probs(task, code)[rows]
            by_task[task] = by_task[task] + probs if task in by_task else probs
        tasks = list(by_task.values())
        found: Any = tasks[0]
        if len(tasks) > 1:
            found = 1 - np.prod([1 - np.minimum(probs, 1) for probs in tasks], axis=0, dtype=np.float32)
        return np.asarray(found if term.wanted else np.maximum(1 - found, 0), dtype=np.float32)

    def and_scores(self, query: ParsedQuery) -> NDArray[np.float32]:
        """Score an AND, 0 to 1: the product of the terms' probabilities, each a little raised. Shape: (photos,)."""
        scores = np.ones(len(self), dtype=np.float32)
        for term in query.terms:
            scores *= raised(self.term_probs(term))
        return scores

    def or_scores(self, query: ParsedQuery, weights: Sequence[np.float32] = ()) -> NDArray[np.float32]:
        """Score an OR: the terms' probabilities, each weighted by how rare it is, summed. Shape: (photos,).

        Args:
            weights: of the terms, by `idf`; without them, how rare they are in this index.

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
        """Cosine of an embedding with every photograph's. Shape: (features,) -> (photos,)."""
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
        """Rank photographs by words, by likeness to an embedding, or by both; equals in the index's order.

        The score is that of the words' AND; of likeness alone it is the cosine. With both, the probability of being of
        the same class is one more thing that must hold. A match reaches the rule's least score, and is more probably of
        the same class than not. Any text is answered: with hits, or with a message that says what to do.

        Args:
            by_item: keep the best photograph of every item.

        Shape:
            like: (features,), as this system's Predictor gives it; only: (photos,), keeps the search to some
        """
        query = self.vocabulary.parse(text)
        message = search_message(query, self.vocabulary, like is not None)
        if not query.terms and like is None:
            return SearchResult((), query, 0, message)
        found, matched = self.candidates(query, like, top_k, by_item, only)
        hits = tuple(self.hit(query, candidate) for candidate in found)
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
        """Return the best rows of a query that has terms or a photograph, and which rows match.

        Shape:
            as `search`; returns: at most top_k, and (photos,)
        """
        scores = self.and_scores(query)
        matched = scores >= self.rule.least_score
        cosines = None
        if like is not None:
            cosines = np.clip(self.similarity(like), -1, 1)
            same = self.rule.same_class(cosines)
            matched &= same >= 0.5
            scores = scores * raised(same) if query.terms else np.maximum(cosines, 0)
        if only is not None:
            scores[~only] = -1
            matched &= only
        found = [
            Candidate(row, float(scores[row]), bool(matched[row]), None if cosines is None else float(cosines[row]))
            for row in self._best(scores, top_k, by_item)
        ]
        return found, matched

    def hit(self, query: ParsedQuery, found: Candidate) -> Hit:
        """Return a candidate with what people read of it, and why it was found."""
        row, score, is_match, similarity = found
        path, item = str(self.image_paths[row]), str(self.instance_ids[row])
        why = tuple(self._explain(term, row) for term in query.terms)
        return Hit(row, path, item, min(score, 1.0), is_match, similarity, why)

    def _best(self, scores: NDArray[np.float32], top_k: int, by_item: bool) -> list[int]:
        wanted = top_k
        while True:
            rows = [row for row in best_rows(scores, wanted).tolist() if scores[row] >= 0]
            if not by_item:
                return rows
            best: dict[str, int] = {}
            for row in rows:
                best.setdefault(str(self.instance_ids[row]), row)
            first = list(best.values())
            if len(first) >= top_k or wanted >= len(self):
                return first[:top_k]
            wanted *= 4

    def _explain(self, term: Term, row: int) -> Match:
        here = np.array([row])
        best = max(term.labels, key=lambda label: float(self.label_probs(*label)[row]))
        probability = float(self.term_probs(term, here)[0])
        return Match(term.text, term.wanted, self.label_space.labels[best[0]][best[1]], probability)


def join(parts: Sequence[Index]) -> Index:
    """Return an index of the photographs of indexes of one system and label space, with the first one's rule."""
    first = parts[0]
    arrays = [
        np.concatenate([getattr(part, name) for part in parts], axis=1 if name == "probs" else 0) for name in ARRAYS
    ]
    return Index(first.name, first.label_space, first.vocabulary.synonyms, *arrays, rule=first.rule)


def idf(num_photos: int, expected: float) -> np.float32:
    """Return how rare a term is that as many photographs are expected to answer."""
    return np.float32(np.log((1 + num_photos) / (1 + expected)) + 1)


def raised(probs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Raise probabilities a little, so that one of 0 does not end a product; 1 stays 1."""
    return np.asarray((probs + np.float32(FLOOR)) / np.float32(1 + FLOOR))


def search_message(query: ParsedQuery, vocabulary: Vocabulary, has_photo: bool) -> str | None:
    """Return a sentence on how a query was understood, where there is something to say."""
    parts = [f"Showing results for '{term.read_as}'." for term in query.terms if term.read_as]
    if query.unknown_words:
        parts.append(f"Not understood: {', '.join(repr(shortened(word)) for word in query.unknown_words)}.")
    if query.unread:
        parts.append(f"Only the first {MAX_QUERY_CHARACTERS} characters were read, not '{shortened(query.unread)}'.")
    if not query.terms and not has_photo:
        parts += [] if parts else ["Nothing to search for."]
        parts.append(f"Try words such as: {', '.join(vocabulary.suggestions())}.")
    return " ".join(parts) or None


def shortened(text: str, length: int = 40) -> str:
    return text if len(text) <= length else f"{text[:length].rstrip()}…"


def stored_files(folder: Path) -> set[str]:
    """Return the names of the files of a folder's index: none if the folder is new or empty.

    Hidden files, and arrays that a killed `save` left, may be there: neither counts.

    Raises:
        ArtifactError: the folder is a file, holds other files and no index.json, or one that is not of an index.
    """
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(f"{folder}: is a file. Choose a folder for the index")
    path = folder / "index.json"
    if not path.exists():
        found = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
        foreign = [name for name in found if not name.startswith(".") and not STORED.fullmatch(name)]
        if foreign:
            raise ArtifactError(
                f"{folder}: holds no index but other files ({', '.join(foreign[:3])}). Choose a new or an empty folder"
            )
        return set()
    try:
        names = set(json.loads(path.read_text(encoding="utf-8"))["files"].values())
        if not names or not all(STORED.fullmatch(name) for name in names):
            raise ValueError("it names no arrays of an index")
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: is not of an index ({error!r}). Choose another folder") from None
    return names


def best_rows(scores: NDArray[np.float32], top_k: int) -> NDArray[np.int64]:
    """Return the rows of the highest scores, the highest first, equals in order.

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
    found = scores[rows]
    limit = np.partition(found, len(found) - top_k)[len(found) - top_k]
    above, equal = rows[found > limit], rows[found == limit]
    chosen = np.concatenate([above, equal[: top_k - len(above)]])
    return np.asarray(chosen[np.lexsort((chosen, -scores[chosen]))], dtype=np.int64)
