"""What the page shows: indexed photographs, searches with facets, labels to look at, corrections. Needs no torch."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from vitrine.artifacts import ArtifactError, read_json, write_csv
from vitrine.data.catalog import CORRECTION_COLUMNS, CORRECTIONS, DataParams, dataset_name, read_corrections
from vitrine.inference.systems import System, load_systems
from vitrine.inference.wording import certainty_of
from vitrine.labels import LabelSpace, read_photo_table
from vitrine.photos import decode_photo
from vitrine.retrieval.index import Index, SearchResult

THUMBNAIL_PX = 320


@dataclass(frozen=True)
class Page:
    """Some of a search's hits, how many there are in total, and how many answer each label of each task.

    Attributes:
        num_found: photographs that can be shown: the filters' choice
    """

    result: SearchResult
    num_found: int
    facets: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Doubt:
    """A labeled photograph that a system is not sure of, or sees otherwise.

    Attributes:
        task, given, seen: which label is in doubt, what labels.csv says (None if nothing), what the system says
        probability: of the given label, or of the seen one where none is given
    """

    row: int
    task: str
    given: str | None
    seen: str
    probability: float


class Gallery:
    """The indexes of a finished pipeline, the photographs behind them and their labels.

    Every photograph is known by its row in an index: no path comes from outside.

    Attributes:
        max_megapixels: larger photographs are refused before they are decoded
    """

    def __init__(
        self,
        root: Path,
        indexes: Mapping[str, Index],
        systems: Mapping[str, System],
        table: pd.DataFrame,
        data: DataParams,
        max_megapixels: float,
    ) -> None:
        self.root = root
        self.indexes = dict(indexes)
        self.data = data
        self.max_megapixels = max_megapixels
        self._thresholds = {name: systems[index.name].sure_thresholds for name, index in indexes.items()}
        self.table = table.set_index("image_path")
        self._predicted = {
            name: {task: self._codes(index, task) for task in index.label_space} for name, index in indexes.items()
        }

    @classmethod
    def load(cls, root: Path, data: DataParams) -> Gallery:
        """Load index/, models/systems.json and data/splits/ below `root`.

        Raises:
            ArtifactError: the pipeline has not been run, or a file is broken.
        """
        folders = sorted(path.parent for path in (root / "index").glob("*/index.json"))
        if not folders:
            raise ArtifactError(f"{root / 'index'}: holds no index. Make it with: dvc repro")
        indexes = {folder.name: Index.load(folder) for folder in folders}
        systems = load_systems(root / "models/systems.json")
        for folder, index in zip(folders, indexes.values(), strict=True):
            if index.name not in systems:
                raise ArtifactError(f"{folder}: models/systems.json has no system '{index.name}'. Run: dvc repro")
        decoding = read_json(root / "data/splits/decoding.json")
        table = read_photo_table(root / "data/splits/photos.csv")
        return cls(root, indexes, systems, table, data, decoding["max_megapixels"])

    @staticmethod
    def _codes(index: Index, task: str) -> NDArray[np.int64]:
        num = index.label_space.num_labels(task)
        return np.argmax([index.label_probs(task, code) for code in range(num)], axis=0)

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
        index = self.indexes[system]
        if not 0 <= row < len(index):
            raise KeyError(row)
        path = self.file(system, row)
        pixels = decode_photo(path, THUMBNAIL_PX, self.max_megapixels)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "WEBP", quality=82)
        return file.getvalue()

    def file(self, system: str, row: int) -> Path:
        """Return where a photograph lies: below the dataset's folder, or where `vitrine index add` found it."""
        name = str(self.indexes[system].image_paths[row])
        return self.root / (Path(self.data.path) / name if name in self.table.index else Path(name))

    def labels_of(self, system: str, row: int) -> dict[str, str | None]:
        """Return the labels that labels.csv gives a photograph; none for one that was added."""
        name = str(self.indexes[system].image_paths[row])
        if name not in self.table.index:
            return {}
        given = self.table.loc[name]
        return {task: None if pd.isna(given[task]) else str(given[task]) for task in self.label_space}

    def split_of(self, system: str, row: int) -> str | None:
        name = str(self.indexes[system].image_paths[row])
        return str(self.table.loc[name, "split"]) if name in self.table.index else None

    def probs_of(self, system: str, row: int) -> dict[str, list[tuple[str, float]]]:
        """Return for every task the labels and their probabilities, the most probable first."""
        index = self.indexes[system]
        found = {}
        for task, labels in index.label_space.labels.items():
            probs = [float(index.label_probs(task, code)[row]) for code in range(len(labels))]
            found[task] = sorted(zip(labels, probs, strict=True), key=lambda pair: -pair[1])
        return found

    def answer_of(self, system: str, row: int) -> dict[str, dict[str, Any]]:
        """Return the tasks that a system answers for a photograph, as `Predictor.to_records` does."""
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

        With neither words nor a photograph, all photographs are shown in the index's order.

        Args:
            chosen: per task labels, any of which will do; no labels, no matter.
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
        result = index.search(words, like=like, top_k=num, only=only)
        nothing_asked = like is None and not words.strip()
        if nothing_asked:
            result = index.search("", like=np.zeros(index.embeddings.shape[1]), top_k=num, only=only)
        asked = bool(result.hits)
        return Page(result, int(only.sum()) if asked else 0, self._facets(system, kept))

    def _facets(self, system: str, kept: Mapping[str, NDArray[np.bool_]]) -> dict[str, dict[str, int]]:
        """Count each label among the photographs that the other tasks' choices keep."""
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

    # -- review ----------------------------------------------------------------------------------------------------

    def doubts(self, system: str, task: str, num: int) -> list[Doubt]:
        """Rank labeled val and test photographs by how improbable their label is; none were trained on."""
        index, labels = self.indexes[system], self.label_space.labels[task]
        found = []
        for row, name in enumerate(index.image_paths.tolist()):
            if name not in self.table.index or self.table.loc[name, "split"] == "train":
                continue
            probs = np.array([index.label_probs(task, code)[row] for code in range(len(labels))])
            given, best = self.table.loc[name, task], int(probs.argmax())
            known = given if isinstance(given, str) and given in labels else None
            probability = float(probs[labels.index(known)] if known else probs[best])
            found.append(Doubt(row, task, known, labels[best], probability))
        return sorted(found, key=lambda doubt: (doubt.probability, doubt.row))[:num]

    def correct(self, system: str, row: int, task: str, label: str) -> str:
        """Append one correction to data/corrections.csv, which the split stage applies; return the photograph's path.

        Raises:
            ArtifactError: the photograph is not in labels.csv, the task or label is unknown, or the file is broken.
        """
        name = str(self.indexes[system].image_paths[row])
        if name not in self.table.index:
            raise ArtifactError(f"{name}: is not in labels.csv, so it has no label to correct")
        if task not in self.label_space.labels or label not in self.label_space.labels[task]:
            raise ArtifactError(f"'{label}' is no label of {task}")
        path = self.root / CORRECTIONS
        old = read_corrections(path)
        new = pd.DataFrame(
            [[dataset_name(self.root, self.data.path), name, task, label]], columns=list(CORRECTION_COLUMNS)
        )
        write_csv(path, pd.concat([old, new], ignore_index=True))
        self.table.loc[name, task] = label
        return name
