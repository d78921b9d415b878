"""What a backbone is worth on other photographs: grouped cross-validation of a probe or of a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vitrine.baselines import classical_features, svm_probs
from vitrine.catalog import DataParams, decode_photos, read_catalog
from vitrine.labels import MISSING, LabelSpace
from vitrine.params import Section
from vitrine.preprocess import Decoding
from vitrine.scoring import number_items, rate
from vitrine.splits import assign_folds
from vitrine.strategies import Strategy, create
from vitrine.training import TrainingData, TrainingParams, fit


class TransferParams(Section):
    """Folds of items, and how photographs are read, probed and classified without features."""

    num_folds: Annotated[int, Field(ge=2, le=50)]
    seed: Annotated[int, Field(ge=0)]
    photo_size_px: Annotated[int, Field(ge=16)]
    max_megapixels: Annotated[float, Field(gt=0)]
    inverse_penalty: Annotated[float, Field(gt=0)]
    svm_c: Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class Photographs:
    """Photographs to judge on: train and val of a data set, never its test.

    Shape:
        photos: (photos, height, width, channels); codes[task], items, folds: (photos,)
    """

    label_space: LabelSpace
    photos: NDArray[np.uint8]
    codes: Mapping[str, NDArray[np.int64]]
    items: NDArray[np.int64]
    folds: NDArray[np.int64]
    decoding: Decoding

    @classmethod
    def read(cls, data: DataParams, params: TransferParams) -> Photographs:
        """Read the data set's photographs and put every item into a fold.

        Raises:
            CatalogError: the data set is missing or broken.
        """
        folder = Path(data.path)
        table = read_catalog(folder, data)
        table = table[table["split"] != "test"].reset_index(drop=True)
        photos = decode_photos(folder, table, params.photo_size_px, params.max_megapixels)
        space = LabelSpace({task: tuple(sorted(table[task].dropna().unique())) for task in data.tasks})
        items = number_items(list(table["instance_id"]))
        folds = assign_folds(table, params.num_folds, params.seed)
        decoding = Decoding(params.photo_size_px, params.max_megapixels)
        return cls(space, photos, space.encode(table), items, folds, decoding)

    def held_out(self, predict: Callable[[NDArray[np.bool_], NDArray[np.bool_]], NDArray[np.int64]]) -> NDArray[Any]:
        """Join what `predict(train, test)` says of every fold from the others. Shape: all (photos, ...)."""
        parts = [(test, predict(~test, test)) for test in (self.folds == fold for fold in np.unique(self.folds))]
        joined = np.zeros((len(self.folds), *parts[0][1].shape[1:]), dtype=np.int64)
        for test, predicted in parts:
            joined[test] = predicted
        return joined

    def rows(self, predicted: NDArray[np.int64], **names: str) -> pd.DataFrame:
        """Score predicted codes, a column a task, over labelled photographs, with intervals from drawing items."""
        rows = []
        for column, (task, codes) in enumerate(self.codes.items()):
            known = codes != MISSING
            right = predicted[known, column] == codes[known]
            rows.append({**names, "task": task, **rate(right, self.items[known])})
        return pd.DataFrame(rows)


def linear_probe(photographs: Photographs, features: NDArray[np.float32], inverse_penalty: float) -> NDArray[np.int64]:
    """Predict each fold by a logistic regression on the other folds' frozen features.

    Shape:
        features: (photos, features); returns: (photos, tasks)
    """

    def predict(train: NDArray[np.bool_], test: NDArray[np.bool_]) -> NDArray[np.int64]:
        columns = []
        for codes in photographs.codes.values():
            labelled = train & (codes != MISSING)
            probe = make_pipeline(StandardScaler(), LogisticRegression(C=inverse_penalty, max_iter=2000))
            columns.append(probe.fit(features[labelled], codes[labelled]).predict(features[test]))
        return np.stack(columns, axis=1)

    return photographs.held_out(predict)


def support_vector_machine(photographs: Photographs, svm_c: float) -> NDArray[np.int64]:
    """Predict each fold by a support vector machine on classical features of the others. Shape: (photos, tasks)."""
    features = classical_features(photographs.photos)

    def predict(train: NDArray[np.bool_], test: NDArray[np.bool_]) -> NDArray[np.int64]:
        columns = [
            svm_probs(features[train], codes[train], features[test], photographs.label_space.num_labels(task), svm_c)
            for task, codes in photographs.codes.items()
        ]
        return np.stack([probs.argmax(axis=1) for probs in columns], axis=1)

    return photographs.held_out(predict)


def fine_tune(photographs: Photographs, strategy: Strategy, params: TrainingParams, title: str) -> NDArray[np.int64]:
    """Predict each fold by a model that was trained on the others, its last average of weights. Shape: (photos, tasks).

    A killed run leaves the fold it was at in .resume/; the next run goes on from there.
    """
    averaged = params.model_copy(update={"checkpoint": "ema"})

    def predict(train: NDArray[np.bool_], test: NDArray[np.bool_]) -> NDArray[np.int64]:
        rows = np.flatnonzero(train)
        data = TrainingData(photographs.label_space, photographs.photos, photographs.codes, rows, np.flatnonzero(test))
        fold = int(photographs.folds[test][0])
        resume = Path(".resume") / f"{title}_{fold}.safetensors"
        model = create(strategy, photographs.label_space, photographs.decoding, averaged)
        fitted = fit(
            model,
            data,
            strategy.phases,
            averaged,
            strategy.balanced,
            strategy.backbone.precision,
            resume,
            f"{title}, fold {fold}",
        )
        logits, _ = fitted.model.infer(photographs.photos[test])
        resume.unlink(missing_ok=True)
        return np.stack([logits[task].argmax(axis=1) for task in photographs.label_space], axis=1)

    return photographs.held_out(predict)
