"""Photographs to label on the page: the table of `vitrine label next`, filled in for `vitrine label add`."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastapi
import pandas as pd
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from vitrine.app.gallery import whole_photo
from vitrine.app.state import MAX_PHOTOS, AppState
from vitrine.artifacts import ArtifactError, write_csv
from vitrine.data.catalog import CatalogError
from vitrine.data.labeling import CLASS_COLUMN, ITEM, SUGGESTION, check_labels, photo_fault, read_queue
from vitrine.labels import CLASS_TASK, display_name
from vitrine.photos import PhotoError

HOUR = {"Cache-Control": "max-age=3600"}
ONLY_HERE = "Photographs can be labeled only where the page is bound to this machine."


@dataclass(frozen=True)
class QueuedItem:
    """An item to label.

    Attributes:
        key: stands for the item in addresses
        name: its instance_id, or its only file
        lines: of the table, one a photograph
    """

    key: str
    name: str
    lines: tuple[int, ...]


class LabelQueue:
    """Reads and writes a queue. It is read each time: people and `vitrine label next` change it, too.

    Attributes:
        shown: how people name the file
        tasks: that the models know and the dataset has
    """

    def __init__(self, state: AppState, path: Path, shown: str) -> None:
        self.state, self.path, self.shown = state, path, shown
        self.tasks = [task for task in state.gallery.label_space if task in state.gallery.data.tasks]
        self._writing = threading.Lock()

    def read(self) -> tuple[pd.DataFrame, dict[str, QueuedItem]]:
        """Return the table, and its items by their keys, in its order.

        Raises:
            ArtifactError: labels cannot be given here.
            CatalogError: there is no queue, or it is broken.
        """
        if not self.state.may_correct:
            raise ArtifactError(ONLY_HERE)
        table = read_queue(self.path, self.state.gallery.data.attributes)
        lines: dict[str, list[int]] = {}
        for line, fields in table.iterrows():
            lines.setdefault(fields[ITEM] or fields["file"], []).append(int(str(line)))
        items = [QueuedItem(_key(name), name, tuple(numbers)) for name, numbers in lines.items()]
        return table, {item.key: item for item in items}

    def to_record(self) -> dict[str, Any]:
        """Return what the page shows: the items, their photographs and labels, or why there is none."""
        space = self.state.gallery.label_space
        tasks = [
            {
                "task": task,
                "name": display_name(task),
                "labels": [{"label": label, "name": display_name(label)} for label in space.labels[task]],
            }
            for task in self.tasks
        ]
        record: dict[str, Any] = {"file": self.shown, "tasks": tasks, "items": [], "problem": "", "warning": ""}
        if self.state.may_correct and not self.path.exists():
            return record
        try:
            table, items = self.read()
        except (ArtifactError, CatalogError) as error:
            return {**record, "problem": _sentence(error)}
        record["items"] = [self._item_record(table.loc[list(item.lines)], item) for item in items.values()]
        data = self.state.gallery.data
        if (self.state.root / data.path / "dvc.yaml").exists():
            record["warning"] = (
                f"{data.path} is made by a pipeline, so vitrine label add will refuse to change it. Choose a dataset "
                "of yours in params.yaml (data.path)."
            )
        return record

    def _item_record(self, rows: pd.DataFrame, item: QueuedItem) -> dict[str, Any]:
        labeled = rows[rows[CLASS_COLUMN] != ""]
        first = labeled.iloc[0] if len(labeled) else None
        labels = {} if first is None else {task: first[_column(task)] for task in self.tasks}
        return {
            "key": item.key,
            "name": item.name,
            "photos": [{"key": _key(file), "name": Path(file).name} for file in rows["file"]],
            "suggestion": rows[SUGGESTION].iloc[0] if SUGGESTION in rows.columns else "",
            "labels": {task: label for task, label in labels.items() if label},
        }

    def photo(self, key: str) -> bytes:
        """Return a photograph of the queue, as `Gallery.whole` does.

        Raises:
            PhotoError: it cannot be read.
            ArtifactError, CatalogError: as `read`; there is no such photograph.
        """
        for name in self.read()[0]["file"]:
            if _key(name) == key:
                return whole_photo(self.state.root / name, self.state.gallery.max_megapixels)
        raise ArtifactError("There is no such photograph.")

    def predict(self, key: str) -> Mapping[str, Any]:
        """Return what the first system says of an item's photographs together, as `Predictor.to_records` does.

        Raises:
            PhotoError: none of them can be read.
            ArtifactError, CatalogError: as `read`; there is no such item, or the models cannot be loaded.
        """
        table, items = self.read()
        checked = self._checked(table, _find(items, key))
        files = [str(self.state.root / name) for _, name, fault in checked if fault is None]
        if not files:
            raise PhotoError("; ".join(f"{name}: {fault}" for _, name, fault in checked))
        return self.state.predict(files[:MAX_PHOTOS], [self.state.systems[0]])[0].answer

    def label(self, key: str, labels: Mapping[str, str]) -> str:
        """Write the labels of an item into the rows of its photographs; none take its labels back.

        Rows of photographs that cannot be read stay without labels, so that they are not added.

        Returns:
            what was done, in one sentence
        Raises:
            ArtifactError, CatalogError: as `read`, or `vitrine label add` would refuse this. Nothing is written then.
        """
        space, labels = self.state.gallery.label_space, {task: label for task, label in labels.items() if label}
        with self._writing:
            table, items = self.read()
            item = _find(items, key)
            for task, label in labels.items():
                if task not in self.tasks or label not in space.labels[task]:
                    raise ArtifactError(f"'{label}' is no label of {task}. New labels are written into {self.shown}")
            if labels and CLASS_TASK not in labels:
                raise ArtifactError(f"{item.name}: an item needs a class")
            checked = self._checked(table, item)
            lines = [line for line, _, fault in checked if fault is None or not labels]
            left_out = [f"{name}: {fault}" for _, name, fault in checked if fault is not None and labels]
            if not lines:
                raise ArtifactError("; ".join(left_out))
            for task in self.tasks:
                table.loc[lines, _column(task)] = labels.get(task, "")
            self._check(table.loc[lines])
            write_csv(self.path, table)
        named = ", ".join(display_name(label) for label in labels.values())
        told = f"{item.name}: {named or 'its labels were taken back'}, in {self.shown}."
        return " ".join([told, *(f"Left out: {fault}." for fault in left_out)])

    def _checked(self, table: pd.DataFrame, item: QueuedItem) -> list[tuple[int, str, str | None]]:
        """Return line and file of each photograph of an item, and why it cannot be read, if so."""
        names, gallery = table.loc[list(item.lines), "file"].tolist(), self.state.gallery
        faults = [photo_fault(self.state.root / name, gallery.max_megapixels) for name in names]
        return list(zip(item.lines, names, faults, strict=True))

    def _check(self, rows: pd.DataFrame) -> None:
        gallery, root = self.state.gallery, self.state.root
        folder = root / gallery.data.path
        if (folder / "dvc.yaml").exists():  # the page has said so; other datasets may follow
            return
        faults = check_labels(rows, folder, gallery.data, gallery.max_megapixels, root)[1]
        if faults:
            raise ArtifactError("; ".join(faults))


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _column(task: str) -> str:
    return CLASS_COLUMN if task == CLASS_TASK else task


def _find(items: Mapping[str, QueuedItem], key: str) -> QueuedItem:
    if key not in items:
        raise ArtifactError("The queue no longer has this item. Reload the page.")
    return items[key]


def _sentence(error: Exception) -> str:
    """Say what is wrong with a queue, without what the message of a dataset says besides."""
    return "; ".join(error.faults) if isinstance(error, CatalogError) else str(error)


class Labels(BaseModel):
    """Labels of an item, by task; an empty one is none. Attributes: key: as `LabelQueue.to_record` gives it."""

    key: str = Field(max_length=16)
    labels: dict[str, str] = Field(max_length=100)


def add_queue_routes(app: fastapi.FastAPI, queue: LabelQueue) -> None:
    """Add what queue.js asks for to the application."""

    @app.get("/queue")
    def items() -> dict[str, Any]:
        return queue.to_record()

    @app.get("/queue/photo/{key}")
    def photo(key: str) -> fastapi.Response:
        try:
            return fastapi.Response(queue.photo(key), media_type="image/webp", headers=HOUR)
        except (ArtifactError, CatalogError, PhotoError) as error:
            raise HTTPException(404, _sentence(error)) from None

    @app.get("/queue/prediction/{key}")
    def prediction(key: str) -> Mapping[str, Any]:
        try:
            return queue.predict(key)
        except (ArtifactError, CatalogError, PhotoError) as error:
            raise HTTPException(409, _sentence(error)) from None

    @app.post("/api/queue")
    def label(given: Labels) -> dict[str, str]:
        try:
            return {"done": queue.label(given.key, given.labels)}
        except (ArtifactError, CatalogError) as error:
            raise HTTPException(409, _sentence(error)) from None
