"""What the page shows: indexed photographs, searches with facets, labels to review, corrections. Needs no torch."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageOps

from vitrine.artifacts import ArtifactError, read_json, write_csv
from vitrine.data.catalog import CORRECTION_COLUMNS, CORRECTIONS, DataParams, dataset_name, read_corrections
from vitrine.inference.systems import System, load_systems
from vitrine.inference.wording import certainty_of
from vitrine.labels import CLASS_TASK, LabelSpace, display_name, label_words, read_photo_table
from vitrine.photos import decode_photo
from vitrine.retrieval.backend import PhotoStore, SearchBackend, load_index
from vitrine.retrieval.index import Hit, SearchResult
from vitrine.retrieval.shards import MANIFEST

THUMBNAIL_PX = 320
WHOLE_PX = 2048
NUM_SIMILAR = 6

SAME_PHOTO = 0.99
"""Minimum cosine between two embeddings of one photograph; other views of an item are below it."""


@dataclass(frozen=True)
class Page:
    """One page of a search's hits.

    Attributes:
        has_query: whether the search had words or a photograph, not filters alone
        num_found: photographs that can be shown, matches or not
        facets: number of photographs per task and label, among those that pass the other tasks' filters
    """

    result: SearchResult
    has_query: bool
    num_found: int
    facets: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Disagreement:
    """A photograph whose label in labels.csv is not a system's most probable one.

    Attributes:
        given: the label in labels.csv
        probability: of the given label
        ranked: all labels of the task and their probabilities, most probable first
        split: val or test
    """

    row: int
    given: str
    probability: float
    ranked: tuple[tuple[str, float], ...]
    split: str


class Engine(SearchBackend, Protocol):
    """A backend that replaces an index, on a server for example, and filters by labels itself."""

    def search(
        self,
        text: str = "",
        *,
        like: NDArray[np.floating] | None = None,
        top_k: int = 10,
        by_item: bool = False,
        only: NDArray[np.bool_] | Mapping[str, Sequence[str]] | None = None,
    ) -> SearchResult:
        """Search like `Index.search`, within some rows or the photographs predicted to have the chosen labels."""
        ...


class Gallery:
    """The indexes of a finished pipeline, the photographs behind them and their labels.

    Every photograph is identified by its row in an index: no path comes from a client.

    Attributes:
        max_megapixels: larger photographs are rejected before they are decoded
        engines: backends that replace a system's index; see `search_with`
    """

    def __init__(
        self,
        root: Path,
        indexes: Mapping[str, PhotoStore],
        systems: Mapping[str, System],
        table: pd.DataFrame,
        data: DataParams,
        max_megapixels: float,
    ) -> None:
        self.root = root
        self.indexes = dict(indexes)
        self.data = data
        self.max_megapixels = max_megapixels
        self.engines: dict[str, Engine] = {}
        self._thresholds = {name: systems[index.name].sure_thresholds for name, index in indexes.items()}
        self.table = table.set_index("image_path")
        self._corrected: list[tuple[dict[str, str], Any]] = []
        self._predicted = {
            name: {task: index.most_probable(task) for task in index.label_space} for name, index in indexes.items()
        }

    @classmethod
    def load(cls, root: Path, data: DataParams) -> Gallery:
        """Load index/, models/systems.json and data/splits/ below `root`.

        Raises:
            ArtifactError: the pipeline has not been run, or a file is broken.
        """
        parents = [path.parent for name in ("index.json", MANIFEST) for path in (root / "index").glob(f"*/{name}")]
        folders = sorted(set(parents))
        if not folders:
            raise ArtifactError(f"{root / 'index'}: contains no index. Create it with: dvc repro")
        indexes = {folder.name: load_index(folder) for folder in folders}
        systems = load_systems(root / "models/systems.json")
        for folder, index in zip(folders, indexes.values(), strict=True):
            if index.name not in systems:
                raise ArtifactError(f"{folder}: models/systems.json has no system '{index.name}'. Run: dvc repro")
        decoding = read_json(root / "data/splits/decoding.json")
        table = read_photo_table(root / "data/splits/photos.csv")
        return cls(root, indexes, systems, table, data, decoding["max_megapixels"])

    def search_with(self, engines: Mapping[str, Engine]) -> None:
        """Search with engines. Their hits are shown only if their paths are in the system's local index.

        Raises:
            ArtifactError: a system has no local index, or its labels differ.
        """
        for name, engine in engines.items():
            if name not in self.indexes:
                raise ArtifactError(f"index/{name}: no such index, although the collection is of {name}")
            if engine.label_space != self.indexes[name].label_space:
                raise ArtifactError(f"index/{name} and the collection of {name} have different labels. Push the index")
        self.engines = dict(engines)

    def _shown(self, system: str, result: SearchResult) -> SearchResult:
        """Return an engine's result with the rows of this gallery."""
        index, hits = self.indexes[system], []
        for hit in result.hits:
            same = hit.row < len(index) and index.image_path(hit.row) == hit.image_path
            row = hit.row if same else index.row_of(hit.image_path)
            if row is not None:
                hits.append(replace(hit, row=row))
        return replace(result, hits=tuple(hits))

    @property
    def label_space(self) -> LabelSpace:
        return next(iter(self.indexes.values())).label_space

    # -- photographs -----------------------------------------------------------------------------------------------

    def thumbnail(self, system: str, row: int) -> bytes:
        """Return a photograph as WebP, encoded from its pixels alone.

        Raises:
            KeyError: there is no such system or row.
            PhotoError: the file is gone or broken.
        """
        path = self._known_file(system, row)
        pixels = decode_photo(path, THUMBNAIL_PX, self.max_megapixels)
        return as_webp(Image.fromarray(pixels), 82)

    def whole(self, system: str, row: int) -> bytes:
        """Return an uncropped photograph, its longer side at most WHOLE_PX, as WebP without the file's metadata.

        Raises:
            KeyError: there is no such system or row.
            PhotoError: the file is gone or broken.
        """
        return whole_photo(self._known_file(system, row), self.max_megapixels)

    def _known_file(self, system: str, row: int) -> Path:
        if not 0 <= row < len(self.indexes[system]):
            raise KeyError(row)
        return self.file(system, row)

    def file(self, system: str, row: int) -> Path:
        """Return a photograph's path: in the dataset's folder, or where `vitrine index add` found it."""
        name = self.indexes[system].image_path(row)
        return self.root / (Path(self.data.path) / name if name in self.table.index else Path(name))

    def labels_of(self, system: str, row: int) -> dict[str, str | None]:
        """Return a photograph's labels in labels.csv; empty for an added photograph."""
        name = self.indexes[system].image_path(row)
        if name not in self.table.index:
            return {}
        given = self.table.loc[name]
        return {task: None if pd.isna(given[task]) else str(given[task]) for task in self.label_space}

    def split_of(self, system: str, row: int) -> str | None:
        name = self.indexes[system].image_path(row)
        return str(self.table.loc[name, "split"]) if name in self.table.index else None

    def probs_of(self, system: str, row: int) -> dict[str, list[tuple[str, float]]]:
        """Return the labels of every task with their probabilities, most probable first."""
        labels = self.indexes[system].label_space.labels
        return {
            task: sorted(zip(labels[task], probs.tolist(), strict=True), key=lambda pair: -pair[1])
            for task, probs in self.indexes[system].probs_of(row).items()
        }

    def answer_of(self, system: str, row: int) -> dict[str, dict[str, Any]]:
        """Return a system's prediction of every task for a photograph, as in `Predictor.to_records`."""
        answer = {}
        for task, labels in self.probs_of(system, row).items():
            named = [{"label": label, "probability": probability} for label, probability in labels]
            certainty = certainty_of(labels[0][1], self._thresholds[system][task])
            answer[task] = {"certainty": certainty, "labels": named}
        return answer

    # -- search ----------------------------------------------------------------------------------------------------

    def search(
        self,
        system: str,
        words: str,
        chosen: Mapping[str, Sequence[str]],
        like: NDArray[np.floating] | None,
        num: int,
    ) -> Page:
        """Search, keep photographs whose predicted labels are among the chosen ones, and count labels.

        With neither words nor a photograph, all photographs are shown in index order.

        Args:
            chosen: accepted labels per task; an empty list accepts all.
            like: an embedding of this system.
        """
        index, predicted = self.indexes[system], self._predicted[system]
        kept = {
            task: np.isin(predicted[task], [labels.index(label) for label in chosen.get(task, []) if label in labels])
            for task, labels in index.label_space.labels.items()
            if any(label in labels for label in chosen.get(task, []))
        }
        only = np.ones(len(index), dtype=bool)
        for rows in kept.values():
            only &= rows
        has_query = like is not None or bool(words.strip())
        if has_query and system in self.engines:
            wanted = {task: chosen[task] for task in kept}
            result = self._shown(system, self.engines[system].search(words, like=like, top_k=num, only=wanted))
        else:
            result = index.search(words, like=like if has_query else np.zeros(index.num_features), top_k=num, only=only)
        num_found = int(only.sum()) if result.hits else 0
        return Page(result, has_query, num_found, self._facets(system, kept))

    def _facets(self, system: str, kept: Mapping[str, NDArray[np.bool_]]) -> dict[str, dict[str, int]]:
        """Count each label among the photographs that pass the other tasks' filters."""
        facets = {}
        for task, labels in self.indexes[system].label_space.labels.items():
            codes = self._predicted[system][task]
            rows = np.ones(len(codes), dtype=bool)
            for other, mask in kept.items():
                if other != task:
                    rows &= mask
            counts = np.bincount(codes[rows], minlength=len(labels))
            facets[task] = {label: int(count) for label, count in zip(labels, counts, strict=True)}
        return facets

    def backend(self, system: str) -> SearchBackend:
        """Return a system's search backend; rows are those of its engine if it has one."""
        return self.engines.get(system, self.indexes[system])

    def similar(self, system: str, embedding: NDArray[np.floating], num: int) -> tuple[Hit, ...]:
        """Return the photographs most similar to an embedding, one per item, without the photograph itself."""
        result = self.backend(system).search(like=embedding, top_k=num + 1, by_item=True)
        hits = self._shown(system, result).hits if system in self.engines else result.hits
        itself = bool(hits) and (hits[0].similarity or 0) >= SAME_PHOTO
        return hits[1:] if itself else hits[:num]

    def suggestions(self, num: int = 4) -> list[str]:
        """Return queries that have results: the most frequent pairs of an attribute's label and a class.

        Every label is in at most one pair.
        """
        tasks = (*self.label_space.tasks[1:2], CLASS_TASK)
        pairs = self.table[list(tasks)].dropna().value_counts(sort=False).sort_index()
        used: set[str] = set()
        queries: list[str] = []
        for pair in pairs.sort_values(ascending=False, kind="stable").index:
            if len(queries) < num and not used & set(pair):
                used |= set(pair)
                words = zip(tasks, pair, strict=True)
                queries.append(" ".join(self._shortest_words(task, label) for task, label in words))
        return queries

    def _shortest_words(self, task: str, label: str) -> str:
        """Return a label's display name if, as a query, it means that label alone; otherwise the label's own words."""
        vocabulary, name = next(iter(self.indexes.values())).vocabulary, display_name(label).lower()
        meant = [term.labels for term in vocabulary.parse(name).terms]
        alone = ((task, self.label_space.labels[task].index(label)),)
        return name if meant == [alone] else label_words(label)

    # -- review ----------------------------------------------------------------------------------------------------

    def disagreements(self, system: str, task: str) -> list[Disagreement]:
        """List val and test photographs whose label a system does not predict, least probable label first.

        No model was trained on these photographs.
        """
        index, labels = self.indexes[system], self.label_space.labels[task]
        held_out = self.table[self.table["split"] != "train"]
        of_photo = {name: (given, split) for name, given, split in held_out[[task, "split"]].itertuples()}
        disagreements = []
        for row, name in enumerate(index.paths()):
            given, split = of_photo.get(name, (None, ""))
            if given not in labels:
                continue
            probs = index.probs_of(row)[task]
            order = np.argsort(-probs, kind="stable")
            if labels[order[0]] != given:
                ranked = tuple((labels[code], float(probs[code])) for code in order)
                disagreements.append(Disagreement(row, given, float(probs[labels.index(given)]), ranked, split))
        return sorted(disagreements, key=lambda each: (each.probability, each.row))

    def correct(self, system: str, row: int, task: str, label: str) -> str:
        """Append one correction to data/corrections.csv, which the split stage applies; return the photograph's path.

        Raises:
            ArtifactError: the photograph is not in labels.csv, the task or label is unknown, or the file is broken.
        """
        name = self.indexes[system].image_path(row)
        if name not in self.table.index:
            raise ArtifactError(f"{name}: is not in labels.csv, so it has no label to correct")
        if task not in self.label_space.labels or label not in self.label_space.labels[task]:
            raise ArtifactError(f"'{label}' is not a label of {task}")
        path = self.root / CORRECTIONS
        line = dict(zip(CORRECTION_COLUMNS, (self._dataset, name, task, label), strict=True))
        write_csv(path, pd.concat([read_corrections(path), pd.DataFrame([line])], ignore_index=True))
        self._corrected.append((line, self.table.loc[name, task]))
        self.table.loc[name, task] = label
        return name

    def undo(self) -> str:
        """Undo the last correction made here; return the photograph's path.

        Raises:
            ArtifactError: there is none, or it is no longer the last line of data/corrections.csv.
        """
        if not self._corrected:
            raise ArtifactError("There is nothing to undo.")
        line, old = self._corrected[-1]
        path = self.root / CORRECTIONS
        lines = read_corrections(path)
        if not len(lines) or lines.iloc[-1].to_dict() != line:
            raise ArtifactError(f"{CORRECTIONS}: its last line has changed, so nothing was undone")
        write_csv(path, lines.iloc[:-1])
        self._corrected.pop()
        self.table.loc[line["image_path"], line["task"]] = old
        return line["image_path"]

    @property
    def _dataset(self) -> str:
        return dataset_name(self.root, self.data.path)


def whole_photo(path: Path, max_megapixels: float) -> bytes:
    """Return a photograph as `Gallery.whole` does. Raises: PhotoError."""
    square = decode_photo(path, THUMBNAIL_PX, max_megapixels)  # checks the file, and reads any mode
    with Image.open(path) as image:
        plain = image.mode in ("RGB", "L")
        drawn = ImageOps.exif_transpose(image).convert("RGB") if plain else Image.fromarray(square)
    drawn.thumbnail((WHOLE_PX, WHOLE_PX))
    return as_webp(drawn, 90)


def as_webp(image: Image.Image, quality: int) -> bytes:
    """Encode an image without metadata. Args: quality: 0 to 100."""
    file = io.BytesIO()
    image.save(file, "WEBP", quality=quality)
    return file.getvalue()
