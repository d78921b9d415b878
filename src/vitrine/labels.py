"""The label space: the tasks, the labels of each task, and the labels of photographs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from vitrine.artifacts import ArtifactError, read_csv

CLASS_TASK = "class"
"""The one task that every dataset has; the others are the attributes named in params."""

MISSING = -1
"""Code of a photograph without a label for a task. Losses and metrics ignore it."""


@dataclass(frozen=True)
class LabelSpace:
    """Tasks and their labels, in the order of the models' outputs; derived from the training photographs."""

    labels: Mapping[str, tuple[str, ...]]

    @classmethod
    def derive(cls, table: pd.DataFrame, tasks: list[str]) -> LabelSpace:
        """Collect the sorted labels of every task from the train split."""
        train = table[table["split"] == "train"]
        return cls({task: tuple(sorted(train[task].dropna().unique())) for task in tasks})

    @classmethod
    def from_json(cls, document: list[dict[str, object]]) -> LabelSpace:
        """Rebuild from `to_json`'s list of `{"task": ..., "labels": [...]}`.

        Raises:
            ArtifactError: the document is malformed.
        """
        try:
            return cls({str(entry["task"]): tuple(entry["labels"]) for entry in document})  # type: ignore[arg-type]
        except (TypeError, KeyError) as error:
            raise ArtifactError(f"not a label space: {error!r}. Recreate it with: dvc repro split") from None

    def to_json(self) -> list[dict[str, object]]:
        return [{"task": task, "labels": list(labels)} for task, labels in self.labels.items()]

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.labels)

    def __iter__(self) -> Iterator[str]:
        return iter(self.labels)

    def num_labels(self, task: str) -> int:
        return len(self.labels[task])

    def encode(self, table: pd.DataFrame) -> dict[str, NDArray[np.int64]]:
        """Return the label codes of a table's rows for every task, MISSING where a label is absent.

        Shape:
            each value: (photos,)

        Raises:
            ArtifactError: a label is not in the space.
        """
        codes = {}
        for task, labels in self.labels.items():
            known = {label: code for code, label in enumerate(labels)}
            unknown = sorted(set(table[task].dropna()) - set(known))
            if unknown:
                raise ArtifactError(f"{task}: labels outside the label space: {', '.join(unknown)}")
            codes[task] = np.array([known.get(label, MISSING) for label in table[task]], dtype=np.int64)
        return codes


DISPLAY_NAMES = Path("data/display_names.yaml")
"""Names displayed instead of labels; relative to the project's folder, like all paths."""


def label_words(label: str) -> str:
    """Replace the underscores of a label with spaces."""
    return label.replace("_", " ").strip()


def display_name(label: str) -> str:
    """Return the display name of a label or a task: from data/display_names.yaml, else its words.

    Raises:
        ArtifactError: the file is not a list of `label: name`.
    """
    return _display_names(Path.cwd() / DISPLAY_NAMES).get(label) or label_words(label)


@cache
def _display_names(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        names = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ArtifactError(f"{DISPLAY_NAMES}: cannot be read ({error})") from None
    if not isinstance(names, dict) or not all(isinstance(text, str) for pair in names.items() for text in pair):
        raise ArtifactError(f"{DISPLAY_NAMES}: expected lines such as 'wrist_watch: Wrist watch'; quote numbers")
    return names


def read_photo_table(path: Path) -> pd.DataFrame:
    """Read photos.csv or training.csv of the split stage: all columns are text, so `007` and `1e3` stay as they are.

    Columns:
        photos.csv: image_path, split, instance_id, and one per task; training.csv: row (of photos.npy), split, and one
        per task, for the photographs of train and val only. A missing label is None.
    """
    table = read_csv(path, dtype=str).astype("object")
    return table.where(table.notna(), None)


NAMES = (
    "row",
    "model",
    "system",
    "method",
    "first",
    "second",
    "split",
    "task",
    "label",
    "image_path_a",
    "image_path_b",
)


def read_score_table(path: Path) -> pd.DataFrame:
    """Read a table of scores, such as plots/evaluate/scores.csv; names stay text, even a task or a label named `1`."""
    return read_csv(path, dtype=dict.fromkeys(NAMES, str))
