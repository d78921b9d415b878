"""Find photographs by words: documents from predicted labels, a TF-IDF index, ranking, and how good the ranking is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer

from vitrine.artifacts import ArtifactError, read_json, read_npz, write_json, write_npz
from vitrine.labels import CLASS_TASK, LabelSpace
from vitrine.params import Section
from vitrine.predictions import Predictions

TOKEN_PATTERN = r"[^\W_]+"
"""Letters and digits of any script; an underscore parts words, so `travel_handbag` answers `handbag`."""

MAX_TERMS = 3
SEARCH_COLUMNS = ["model", "query", "rank", "image_path", "score", "document", "relevant", "row"]
SCORE_DIGITS = 9
"""Scores are compared at this many places: equal documents tie, whatever the last bits of a sum."""


class IndexParams(Section):
    """What to measure."""

    top_k: Annotated[int, Field(ge=1, le=20)]
    min_relevant: Annotated[int, Field(ge=1)]
    max_relevant_fraction: Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True)
class Hit:
    """A found photograph."""

    image_path: str
    score: float
    document: str


@dataclass(frozen=True)
class SearchResult:
    """Hits, the best first, and the words of the query that no document has."""

    hits: tuple[Hit, ...]
    unknown_words: tuple[str, ...]


@dataclass(frozen=True)
class Query:
    """Words made from true labels, and the photographs that carry all of them.

    Shape:
        relevant: (photos,), boolean
    """

    text: str
    num_terms: int
    relevant: NDArray[np.bool_]


def documents(predictions: Predictions) -> list[str]:
    """Write each photograph's predicted labels as a document: attributes first, then the class."""
    tasks = _spoken_order(predictions.label_space)
    chosen = {task: predictions.predicted(task) for task in tasks}
    labels = predictions.label_space.labels
    return [_phrase([labels[task][chosen[task][row]] for task in tasks]) for row in range(len(predictions))]


def _spoken_order(label_space: LabelSpace) -> list[str]:
    return [*(task for task in label_space if task != CLASS_TASK), CLASS_TASK]


def _phrase(labels: Sequence[str]) -> str:
    return " ".join(label.replace("_", " ") for label in labels)


class TextIndex:
    """TF-IDF over documents, ranked by cosine."""

    def __init__(
        self, image_paths: Sequence[str], texts: Sequence[str], vectorizer: TfidfVectorizer, matrix: csr_matrix
    ) -> None:
        self.image_paths = tuple(image_paths)
        self.documents = tuple(texts)
        self.vectorizer = vectorizer
        self.matrix = matrix
        self._rank_of_path = np.argsort(np.argsort(np.array(self.image_paths, dtype=np.str_)))

    @classmethod
    def build(cls, predictions: Predictions) -> TextIndex:
        """Index what a model predicts.

        Raises:
            ArtifactError: there are no photographs, or their labels hold no words.
        """
        texts = documents(predictions)
        vectorizer = TfidfVectorizer(token_pattern=TOKEN_PATTERN)
        try:
            matrix = csr_matrix(vectorizer.fit_transform(texts))
        except ValueError as error:
            raise ArtifactError(f"nothing to index: {error}") from None
        return cls(predictions.image_paths, texts, vectorizer, matrix)

    def scores(self, query: str) -> NDArray[np.float64]:
        """Return the cosine of a query with every document; 0 where no word is shared. Shape: (photos,)."""
        vector = self.vectorizer.transform([query])
        return np.round(np.asarray((self.matrix @ vector.T).todense()).ravel(), SCORE_DIGITS)

    def search(self, query: str, top_k: int, only: NDArray[np.bool_] | None = None) -> SearchResult:
        """Rank photographs by score, those of equal score by path; what shares no word with the query is left out.

        Shape:
            only: (photos,), keeps the search to some photographs
        """
        scores = self.scores(query)
        found = scores > 0 if only is None else (scores > 0) & only
        order = [row for row in np.lexsort((self._rank_of_path, -scores)) if found[row]][:top_k]
        hits = tuple(Hit(self.image_paths[row], float(scores[row]), self.documents[row]) for row in order)
        words = dict.fromkeys(self.vectorizer.build_analyzer()(query))
        return SearchResult(hits, tuple(word for word in words if word not in self.vectorizer.vocabulary_))

    def save(self, folder: Path) -> None:
        """Write index.npz (the matrix and the words' weights) and index.json (words, photographs, documents)."""
        arrays = {name: getattr(self.matrix, name) for name in ("data", "indices", "indptr")}
        write_npz(folder / "index.npz", {**arrays, "idf": self.vectorizer.idf_})
        vocabulary = {word: int(column) for word, column in self.vectorizer.vocabulary_.items()}
        photos = [{"image_path": p, "document": d} for p, d in zip(self.image_paths, self.documents, strict=True)]
        write_json(folder / "index.json", {"vocabulary": vocabulary, "photos": photos})

    @classmethod
    def load(cls, folder: Path) -> TextIndex:
        """Raises: ArtifactError when the folder does not hold a whole index."""
        document, arrays = read_json(folder / "index.json"), read_npz(folder / "index.npz")
        try:
            vocabulary, photos = document["vocabulary"], document["photos"]
            vectorizer = TfidfVectorizer(token_pattern=TOKEN_PATTERN, vocabulary=vocabulary)
            vectorizer.idf_ = arrays["idf"]
            shape = (len(photos), len(vocabulary))
            matrix = csr_matrix((arrays["data"], arrays["indices"], arrays["indptr"]), shape=shape)
            paths, texts = [photo["image_path"] for photo in photos], [photo["document"] for photo in photos]
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{folder}: not a whole index ({error!r}). Make it with: dvc repro index") from None
        return cls(paths, texts, vectorizer, matrix)


def true_queries(table: pd.DataFrame, label_space: LabelSpace, params: IndexParams) -> list[Query]:
    """Make a query from every combination of one to three true labels of different tasks.

    Combinations with too few relevant photographs say little, and those with very many are hit by chance: both are
    left out, as params say.

    Args:
        table: the gallery, with a column for every task.
    """
    queries = []
    tasks = _spoken_order(label_space)
    for num_terms in range(1, min(MAX_TERMS, len(tasks)) + 1):
        for chosen in combinations(tasks, num_terms):
            labelled = table.dropna(subset=list(chosen))
            for labels in sorted(set(labelled[list(chosen)].itertuples(index=False, name=None))):
                relevant = np.logical_and.reduce(
                    [(table[task] == label).to_numpy() for task, label in zip(chosen, labels, strict=True)]
                )
                if params.min_relevant <= relevant.sum() <= params.max_relevant_fraction * len(table):
                    queries.append(Query(_phrase(labels), num_terms, relevant))
    return queries


def precision_at_k(scores: NDArray[np.float64], relevant: NDArray[np.bool_], k: int) -> float:
    """Return the expected share of relevant photographs among the first k, equal scores in random order.

    Documents of four words tie often; a fixed order among ties would decide the result by chance.

    Shape:
        scores, relevant: (photos,)
    Source:
        McSherry and Najork, Computing information retrieval performance measures efficiently in the presence of
        tied scores, ECIR 2008.
    """
    k = min(k, len(scores))
    if k == 0:
        return 0.0
    limit = np.sort(scores)[-k]
    above, tied = scores > limit, scores == limit
    places = k - int(above.sum())
    return float((relevant[above].sum() + places * relevant[tied].mean()) / k)


def measure(
    name: str, index: TextIndex, queries: Sequence[Query], gallery: NDArray[np.bool_], top_k: int
) -> pd.DataFrame:
    """Return the mean precision@k by number of terms, and that of a random order.

    Columns:
        model, num_terms (0: all queries), num_queries, k, precision_at_k, random_precision_at_k

    Shape:
        gallery: (photos,), the photographs that may be found; queries' relevant: (gallery photographs,)
    """
    rows = [
        {
            "num_terms": query.num_terms,
            "precision_at_k": precision_at_k(index.scores(query.text)[gallery], query.relevant, top_k),
            "random_precision_at_k": float(query.relevant.mean()),
        }
        for query in queries
    ]
    if not rows:
        raise ArtifactError(
            "no query is left to measure: lower index.min_relevant or raise index.max_relevant_fraction"
        )
    each = pd.DataFrame(rows)
    table = pd.concat([each.assign(num_terms=0), each]).groupby("num_terms").mean().reset_index()
    counts = [len(each), *each.groupby("num_terms").size()]
    table.insert(0, "model", name)
    table.insert(2, "num_queries", counts)
    table.insert(3, "k", top_k)
    return table


def headline(measured: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Pick, for every model, the few numbers over all queries that `dvc metrics diff` compares; the keys name k."""
    every = measured[measured["num_terms"] == 0]
    return {
        row["model"]: {
            "num_queries": row["num_queries"],
            f"precision_at_{row['k']}": row["precision_at_k"],
            f"random_precision_at_{row['k']}": row["random_precision_at_k"],
        }
        for row in every.to_dict("records")
    }


def example_queries(queries: Sequence[Query]) -> list[Query]:
    """Pick, for every number of terms, the query with the most relevant photographs; of equals, the first."""
    sizes = sorted({query.num_terms for query in queries})
    return [max((q for q in queries if q.num_terms == size), key=lambda q: int(q.relevant.sum())) for size in sizes]


def search_table(
    name: str, index: TextIndex, queries: Sequence[Query], gallery: NDArray[np.bool_], top_k: int
) -> pd.DataFrame:
    """Run queries over the gallery. Columns: SEARCH_COLUMNS; `row` is the photograph's row in the index."""
    rows: list[dict[str, Any]] = []
    position = {path: row for row, path in enumerate(index.image_paths)}
    place_in_gallery = np.cumsum(gallery) - 1
    for query in queries:
        for rank, hit in enumerate(index.search(query.text, top_k, gallery).hits, start=1):
            row = position[hit.image_path]
            relevant = int(query.relevant[place_in_gallery[row]])
            rows.append(
                {"model": name, "query": query.text, "rank": rank, **hit.__dict__, "relevant": relevant, "row": row}
            )
    return pd.DataFrame(rows, columns=SEARCH_COLUMNS)
