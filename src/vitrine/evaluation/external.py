"""Evaluate a project's systems on external photographs, without training: scores, calibration, shift, leakage."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from vitrine.artifacts import ArtifactError, read_npy
from vitrine.data.catalog import DataParams
from vitrine.data.splits import SplitParams
from vitrine.errors import VitrineError
from vitrine.evaluation.alignment import Aliases, AlignedTable, TaskLabels, find_table, read_aligned
from vitrine.evaluation.leakage import Fingerprints, Twin, find_twins
from vitrine.evaluation.metrics import EvaluateParams, majority_label, per_label_table
from vitrine.evaluation.scoring import accuracy_with_interval, number_items, score
from vitrine.inference.calibration import (
    brier,
    coverage_curve,
    expected_calibration_error,
    is_confident,
    nll,
    reliability,
)
from vitrine.inference.predictor import Predictor
from vitrine.inference.runtimes import ServingParams
from vitrine.inference.systems import ENSEMBLE, NETWORKS, load_systems
from vitrine.labels import MISSING, LabelSpace, read_photo_table
from vitrine.params import read_section
from vitrine.photos import Decoding, PhotoError, decode_photo
from vitrine.predictions import Predictions

CHUNK = 256
"""Photographs that are decoded or predicted at a time."""

FAR_QUANTILE = 0.95
"""Quantile of val's distances to the nearest training photograph beyond which a photograph is far."""

MAX_NAMED = 10
"""Maximum number of names that a message lists."""

Numbers = Mapping[str, float | None]
"""Measured values by name; None where nothing could be measured."""


class ExternalError(VitrineError):
    """A folder cannot be evaluated."""


class LeakageError(ExternalError):
    """A folder has photographs that the models were trained or tuned on; `twins` lists all of them."""

    def __init__(self, folder: Path, twins: Sequence[Twin], is_project: bool) -> None:
        self.twins = list(twins)
        lines = [f"{twin.image_path} = {twin.project_path} ({twin.split}, {twin.kind})" for twin in twins]
        own = ". The folder is the dataset of this project (data.path)" if is_project else ""
        one = len(lines) == 1
        super().__init__(
            f"{folder}: {len(lines)} {'photograph is' if one else 'photographs are'} also in train or val of this "
            f"project, so {'its score does' if one else 'their scores do'} not measure performance on new "
            f"photographs{own}. Remove {'it' if one else 'them'}, or leave {'it' if one else 'them'} out with "
            "--allow-leakage:\n" + first_names(lines)
        )


def first_names(names: Sequence[str]) -> str:
    """Format at most MAX_NAMED names, one per line, and the number of the others."""
    more = [f"... and {len(names) - MAX_NAMED} more"] if len(names) > MAX_NAMED else []
    return "\n".join(f"  {name}" for name in [*names[:MAX_NAMED], *more])


# -- results ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TaskResult:
    """A system's results on one task. `_ci_low` and `_ci_high` are the ends of 95 % intervals over items.

    Attributes:
        scores: keys of `scoring.score`, and majority_accuracy (of always predicting train's most common label)
        own_test: keys of `scoring.score`, on the project's own test photographs
        calibration: temperature; nll, brier and ece `_before` and `_after` the temperature
        confident: threshold (None if the task is unreliable, so that no answer is confident), coverage (share of
            photographs with a confident answer), n and items (number of these photographs, and of their items),
            accuracy (on these photographs)
        confidence: mean_confidence, overconfidence (mean confidence minus accuracy), own_test_mean_confidence,
            own_test_overconfidence
        near_duplicates: keys of `scoring.score`, on near duplicates of photographs in train or val
        unknown_labels: n (photographs whose label the system does not know, so that any answer is wrong),
            mean_confidence, confident (share with a confident answer)
        per_label: label, precision, recall, f1, n
        reliability: columns of `calibration.reliability`
        coverage: columns of `calibration.coverage_curve`
    """

    scores: Numbers
    own_test: Numbers
    calibration: Numbers
    confident: Numbers
    confidence: Numbers
    near_duplicates: Numbers
    unknown_labels: Numbers
    per_label: pd.DataFrame
    reliability: pd.DataFrame
    coverage: pd.DataFrame


@dataclass(frozen=True)
class SystemResult:
    """A system's results.

    Attributes:
        backend: backend and precision that computed the predictions
        shift: far (share of photographs farther from their nearest training photograph than 95 % of val's, with
            interval), median_cosine and val_median_cosine (to the nearest training photograph)
        tasks: results by task, if the folder has a label for it that the system knows
        own_val_accuracy: accuracy of the first task on the project's own val photographs
        predictions: predictions for `ExternalEvaluation.photos`
    """

    backend: str
    shift: Numbers
    tasks: Mapping[str, TaskResult]
    own_val_accuracy: float
    predictions: Predictions


@dataclass(frozen=True)
class ExternalEvaluation:
    """Results of a project's systems on the photographs of a folder.

    Attributes:
        name: name of the folder
        folder: folder of the photographs
        num_listed: photographs in labels.csv
        photos: scored photographs: image_path, instance_id, one column per task with the model's labels. Unreadable
            photographs, and duplicates and near duplicates of train or val, are left out
        broken: photographs that cannot be read, each with the reason
        labels: how the labels match the models', by task
        absent_tasks: tasks of the models that the folder has no labels for
        unused_attributes: attributes of the folder that the models do not know
        twins: exact and near duplicates of the project's photographs
        shared_items: values of instance_id that also occur in train; for information only
        decoding: how photographs are decoded
        sure_accuracy: accuracy of confident answers that was shown on val (evaluate.sure_accuracy)
        systems: results by system, in the project's order
    """

    name: str
    folder: Path
    num_listed: int
    photos: pd.DataFrame
    broken: tuple[tuple[str, str], ...]
    labels: Mapping[str, TaskLabels]
    absent_tasks: tuple[str, ...]
    unused_attributes: tuple[str, ...]
    twins: tuple[Twin, ...]
    shared_items: tuple[str, ...]
    decoding: Decoding
    sure_accuracy: float
    label_space: LabelSpace
    systems: Mapping[str, SystemResult]

    @property
    def tasks(self) -> tuple[str, ...]:
        """The scored tasks, with the class first if it is one of them."""
        return tuple(next(iter(self.systems.values())).tasks)

    @property
    def best_on_val(self) -> str:
        """The system that is best on the project's own val photographs, chosen without the scores here."""
        return max(self.systems, key=lambda name: self.systems[name].own_val_accuracy)

    @property
    def num_items(self) -> int:
        return int(self.photos["instance_id"].nunique())

    def seen_twins(self, exact: bool) -> list[Twin]:
        """Return the exact or near duplicates of photographs in train or val."""
        return [twin for twin in self.twins if twin.is_seen and twin.is_exact == exact]

    def to_json(self) -> dict[str, Any]:
        """Return all numbers, as `vitrine evaluate --format json` prints them; docs/schema.json describes them."""
        return {
            "dataset": self.name,
            "photographs": {
                "listed": self.num_listed,
                "scored": len(self.photos),
                "broken": [{"image_path": path, "error": fault} for path, fault in self.broken],
            },
            "items": {"scored": self.num_items, "also_in_train": list(self.shared_items)},
            "labels": {
                task: {
                    "known": matched.known,
                    "missing": matched.missing,
                    "unknown": dict(matched.unknown),
                    "renamed": dict(matched.renamed),
                }
                for task, matched in self.labels.items()
            },
            "absent_tasks": list(self.absent_tasks),
            "unused_attributes": list(self.unused_attributes),
            "twins": [
                {
                    "image_path": twin.image_path,
                    "project_path": twin.project_path,
                    "split": twin.split,
                    "kind": twin.kind,
                    "distance_bits": twin.distance_bits,
                }
                for twin in self.twins
            ],
            "sure_accuracy": self.sure_accuracy,
            "best_on_val": self.best_on_val,
            "systems": {
                name: {
                    "backend": system.backend,
                    "shift": _plain(system.shift),
                    "tasks": {
                        task: {
                            "scores": _plain(result.scores),
                            "own_test": _plain(result.own_test),
                            "calibration": _plain(result.calibration),
                            "confident": _plain(result.confident),
                            "confidence": _plain(result.confidence),
                            "near_duplicates": _plain(result.near_duplicates),
                            "unknown_labels": _plain(result.unknown_labels),
                            "per_label": {row["label"]: _plain(row) for row in result.per_label.to_dict("records")},
                        }
                        for task, result in system.tasks.items()
                    },
                }
                for name, system in self.systems.items()
            },
        }


def _plain(numbers: Mapping[Any, Any]) -> dict[str, Any]:
    """Convert numbers for JSON, rounded to six places; non-finite values become None."""
    plain: dict[str, Any] = {}
    for key, value in numbers.items():
        if isinstance(value, str):
            continue
        if value is None or not np.isfinite(value):
            plain[key] = None
        else:
            plain[key] = int(value) if isinstance(value, (int, np.integer)) else round(float(value), 6)
    return plain


# -- the project --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Project:
    """A project's photographs, params and systems.

    Shape:
        photos: (photos, height, width, channels), decoded; splits: (photos,)
    """

    root: Path
    data: DataParams
    evaluate: EvaluateParams
    near_duplicate_bits: int
    table: pd.DataFrame
    photos: NDArray[np.uint8]
    splits: NDArray[Any]
    predictors: Mapping[str, Predictor]
    temperatures: Mapping[str, Mapping[str, float]]

    @classmethod
    def load(cls, root: Path, models: Sequence[str] | None) -> _Project:
        params = root / "params.yaml"
        systems = load_systems(root / "models/systems.json")
        names = list(dict.fromkeys(models or sorted(systems, key=_order)))
        backend = read_section("serving", ServingParams, params).backend
        table, photos = (
            read_photo_table(root / "data/splits/photos.csv"),
            read_npy(root / "data/splits/photos.npy"),
        )
        predictors = {name: Predictor.load(name, root / "models", root / "exports", backend) for name in names}
        first = predictors[names[0]]
        alike = all(each.label_space == first.label_space for each in predictors.values())
        if not alike or len(table) != len(photos) or photos.shape[1] != first.photo_size_px:
            raise ArtifactError(f"{root / 'models'}: does not match the photographs in data/splits. Run: dvc repro")
        return cls(
            root,
            read_section("data", DataParams, params),
            read_section("evaluate", EvaluateParams, params),
            read_section("split", SplitParams, params).near_duplicate_bits,
            table,
            photos,
            table["split"].to_numpy(),
            predictors,
            {name: systems[name].temperatures for name in names},
        )

    @property
    def predictor(self) -> Predictor:
        """Any predictor: all share the decoding and the label space."""
        return next(iter(self.predictors.values()))

    def train_embeddings(self, name: str) -> NDArray[np.float32]:
        """Return the embeddings that `evaluate` stored for the training photographs. Shape: (photos, features)."""
        path = self.root / "predictions" / f"{name}.npz"
        stored = Predictions.load(path)
        if stored.image_paths != tuple(self.table["image_path"]):
            raise ArtifactError(f"{path}: does not match the photographs in data/splits. Run: dvc repro evaluate")
        return stored.embeddings[self.splits == "train"]


def _order(system: str) -> tuple[int, str]:
    known = (*NETWORKS, ENSEMBLE)
    return known.index(system) if system in known else len(known), system


# -- evaluation ---------------------------------------------------------------------------------------------------


def evaluate_external(
    folder: Path,
    *,
    models: Sequence[str] | None = None,
    aliases: Aliases | None = None,
    allow_leakage: bool = False,
    project: Path = Path("."),
    progress: bool | None = None,
) -> ExternalEvaluation:
    """Evaluate systems on the photographs of a folder in the data contract (data/README.md), without training.

    Unreadable photographs are left out and listed; labels that the models do not know are counted. A photograph is
    scored on the tasks for which its label is known. Near duplicates of train or val are scored separately.

    Args:
        models: names of systems; all of the project's if None.
        aliases: by task, labels of the folder mapped to the model's, in addition to `data.aliases`.
        allow_leakage: leave out exact duplicates of train or val instead of raising LeakageError.
        project: project folder after `dvc repro`.
        progress: show bars on standard error; if None, only if it is a terminal.

    Raises:
        CatalogError: the folder has no labels.csv, or it violates the data contract.
        LeakageError: there are exact duplicates of train or val, and `allow_leakage` is not set.
        ExternalError: no photograph is readable or left, none has a known label, or an alias is invalid.
        ArtifactError: a system or a file of the project is missing or broken.
        ParamsError: params.yaml lacks a required section or key.
    """
    find_table(folder)  # fail before loading the project, which takes seconds
    loaded, hidden = _Project.load(project, models), None if progress is None else not progress
    space = loaded.predictor.label_space
    table = read_aligned(folder, space, _joined_aliases(loaded.data.aliases, aliases or {}, space))
    _check_labels(folder, table, space)
    with tempfile.TemporaryFile() as place:  # decoded photographs may not fit into memory
        photos, rows, broken = _decode(folder, table.photos["image_path"], loaded.predictor, place, hidden)
        if not len(rows):
            lines = first_names([f"{path}: {fault}" for path, fault in broken])
            raise ExternalError(f"{folder}: no photograph can be read:\n{lines}")
        readable, unknown = table.photos.iloc[rows].reset_index(drop=True), table.unknown.iloc[rows]
        twins = _find_twins(folder, readable, photos, loaded)
        is_exact = _marked(len(rows), [twin for twin in twins if twin.is_seen and twin.is_exact])
        is_near = _marked(len(rows), [twin for twin in twins if twin.is_seen and not twin.is_exact])
        if is_exact.any() and not allow_leakage:
            own = folder.resolve() == (project / loaded.data.path).resolve()
            raise LeakageError(folder, [twin for twin in twins if twin.is_seen and twin.is_exact], own)
        clean = ~(is_exact | is_near)
        if not any(readable.loc[clean, task].notna().any() for task in table.labels):
            raise ExternalError(
                f"{folder}: no photograph with a known label remains: {is_exact.sum()} exact and {is_near.sum()} near "
                f"duplicates of train or val of this project, {len(broken)} unreadable"
            )
        unknown_labels = {task: unknown[task].notna().to_numpy() & clean for task in table.labels}
        systems = {
            name: _judge(name, loaded, readable, photos, clean, is_near, unknown_labels, hidden)
            for name in loaded.predictors
        }
    train_items = set(loaded.table.loc[loaded.splits == "train", "instance_id"])
    return ExternalEvaluation(
        name=folder.resolve().name or "photographs",
        folder=folder,
        num_listed=len(table.photos),
        photos=readable[clean].reset_index(drop=True),
        broken=tuple(broken),
        labels=table.labels,
        absent_tasks=table.absent_tasks,
        unused_attributes=table.unused_attributes,
        twins=tuple(twins),
        shared_items=tuple(sorted(set(readable.loc[clean, "instance_id"]) & train_items)),
        decoding=loaded.predictor.runtime.decoding,
        sure_accuracy=loaded.evaluate.sure_accuracy,
        label_space=space,
        systems=systems,
    )


def _joined_aliases(ours: Aliases, theirs: Aliases, space: LabelSpace) -> dict[str, dict[str, str]]:
    for task, labels in theirs.items():
        if task not in space:
            raise ExternalError(f"alias for unknown task '{task}'; expected one of {', '.join(space)}")
        for label in labels.values():
            if label not in space.labels[task]:
                known = ", ".join(space.labels[task])
                raise ExternalError(f"alias for task '{task}': unknown label '{label}'; expected one of {known}")
    return {task: {**ours.get(task, {}), **theirs.get(task, {})} for task in space}


def _check_labels(folder: Path, table: AlignedTable, space: LabelSpace) -> None:
    if any(counts.known for counts in table.labels.values()):
        return
    lines = []
    for task, counts in table.labels.items():
        theirs = ", ".join(list(counts.unknown)[:MAX_NAMED]) or "none"
        lines.append(f"  {task}: found {theirs}; the models know {', '.join(space.labels[task][:MAX_NAMED])}")
    raise ExternalError(
        f"{folder}: none of its labels are known to the models. Rename them, or map them with --alias or "
        "data.aliases:\n" + "\n".join(lines)
    )


def _decode(
    folder: Path, image_paths: pd.Series, predictor: Predictor, place: Any, hidden: bool | None
) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[tuple[str, str]]]:
    """Decode readable photographs into a temporary file.

    Shape:
        returns: (photos, height, width, channels), their rows in the table, (photos,), and the paths and errors of the
            others
    """
    side, names = predictor.photo_size_px, [str(name) for name in image_paths]
    photos = np.memmap(place, np.uint8, "w+", shape=(len(names), side, side, 3))
    rows: list[int] = []
    broken: list[tuple[str, str]] = []

    def decode(name: str) -> NDArray[np.uint8] | str:
        try:
            return decode_photo(folder / name, side, predictor.max_megapixels)
        except PhotoError as error:
            return str(error).removeprefix(f"{folder / name}: ")

    with ThreadPoolExecutor() as pool, tqdm(total=len(names), desc="decode", unit="photo", disable=hidden) as bar:
        for start in range(0, len(names), CHUNK):
            chunk = names[start : start + CHUNK]
            for row, decoded in enumerate(pool.map(decode, chunk), start):
                if isinstance(decoded, str):
                    broken.append((names[row], decoded))
                else:
                    photos[len(rows)] = decoded
                    rows.append(row)
            bar.update(len(chunk))
    return photos[: len(rows)], np.array(rows, dtype=np.int64), broken


def _find_twins(folder: Path, readable: pd.DataFrame, photos: NDArray[np.uint8], project: _Project) -> list[Twin]:
    theirs, ours = list(readable["image_path"]), list(project.table["image_path"])
    dataset = project.root / project.data.path
    return find_twins(
        Fingerprints.of([folder / name for name in theirs], photos),
        theirs,
        Fingerprints.of([dataset / name for name in ours], project.photos),
        ours,
        list(project.splits),
        project.near_duplicate_bits,
    )


def _marked(num: int, twins: Sequence[Twin]) -> NDArray[np.bool_]:
    marks = np.zeros(num, dtype=np.bool_)
    marks[[twin.row for twin in twins]] = True
    return marks


def _judge(
    name: str,
    project: _Project,
    readable: pd.DataFrame,
    photos: NDArray[np.uint8],
    clean: NDArray[np.bool_],
    is_near: NDArray[np.bool_],
    unknown: Mapping[str, NDArray[np.bool_]],
    hidden: bool | None,
) -> SystemResult:
    predictor, bins = project.predictors[name], project.evaluate.calibration_bins
    held_out = np.flatnonzero(project.splits != "train")
    predicted = _predict(predictor, photos, np.arange(len(readable)), list(readable["image_path"]), hidden)
    own = _predict(predictor, project.photos, held_out, list(project.table["image_path"].iloc[held_out]), hidden)
    own_table, own_splits = project.table.iloc[held_out], project.splits[held_out]
    codes, own_codes = predictor.label_space.encode(readable), predictor.label_space.encode(own_table)
    all_codes = predictor.label_space.encode(project.table)
    items, own_items = number_items(readable["instance_id"]), number_items(own_table["instance_id"])
    test, val, train = own_splits == "test", own_splits == "val", project.splits == "train"
    tasks = {}
    for task, true in codes.items():
        labeled = clean & (true != MISSING)
        if not labeled.any():
            continue
        probs, threshold = predicted.probs[task], predictor.sure_thresholds[task]
        majority = majority_label(all_codes[task][train])
        per_label = per_label_table(
            LabelSpace({task: predictor.label_space.labels[task]}),
            {task: true[labeled]},
            {name: predicted.select(labeled)},
        )
        confidence = confidence_shift(true[labeled], probs[labeled], items[labeled])
        at_home = test & (own_codes[task] != MISSING)
        if at_home.any():
            own_confidence = confidence_shift(own_codes[task][at_home], own.probs[task][at_home], own_items[at_home])
            confidence |= {f"own_test_{key}": value for key, value in own_confidence.items()}
        tasks[task] = TaskResult(
            scores={
                **score(true[labeled], probs[labeled], items[labeled], bins),
                "majority_accuracy": float((true[labeled] == majority).mean()),
            },
            own_test=score(own_codes[task][test], own.probs[task][test], own_items[test], bins),
            calibration=calibration_numbers(true[labeled], probs[labeled], project.temperatures[name][task], bins),
            confident=confident_numbers(true[labeled], probs[labeled], items[labeled], threshold),
            confidence=confidence,
            near_duplicates=score(true[is_near], probs[is_near], items[is_near], bins),
            unknown_labels=_unknown_numbers(probs[unknown[task]], threshold),
            per_label=per_label.drop(columns=["model", "task"]),
            reliability=reliability(true[labeled], probs[labeled], bins),
            coverage=coverage_curve(true[labeled], probs[labeled]),
        )
    first = next(iter(own_codes))
    return SystemResult(
        backend=predictor.runtime.name,
        shift=embedding_shift(
            project.train_embeddings(name), own.embeddings[val], predicted.embeddings[clean], items[clean]
        ),
        tasks=tasks,
        own_val_accuracy=float((own.predicted(first) == own_codes[first])[val].mean()),
        predictions=predicted.select(clean),
    )


def _predict(
    predictor: Predictor, photos: NDArray[np.uint8], rows: NDArray[np.int64], names: Sequence[str], hidden: bool | None
) -> Predictions:
    """Predict photographs in chunks, as they may not all fit into memory."""
    parts = []
    with tqdm(total=len(rows), desc=predictor.name, unit="photo", disable=hidden) as bar:
        for start, end in _chunks(len(rows)):
            parts.append(predictor.predict(np.asarray(photos[rows[start:end]]), names[start:end]))
            bar.update(end - start)
    probs = {task: np.concatenate([part.probs[task] for part in parts]) for task in predictor.label_space}
    return Predictions(predictor.label_space, tuple(names), probs, np.concatenate([part.embeddings for part in parts]))


def _chunks(num: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + CHUNK, num)) for start in range(0, max(num, 1), CHUNK))


# -- numbers ------------------------------------------------------------------------------------------------------


def remove_temperature(probs: NDArray[np.floating], temperature: float) -> NDArray[np.float32]:
    """Undo `calibration.apply_temperature` by applying the inverse temperature.

    This measures calibration without the networks, as an exported system returns only calibrated probabilities.

    Shape:
        (photos, labels)
    """
    logs = np.log(np.maximum(probs.astype(np.float64), np.finfo(np.float32).tiny)) * temperature
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def calibration_numbers(
    codes: NDArray[np.int64], probs: NDArray[np.floating], temperature: float, num_bins: int
) -> dict[str, float | None]:
    """Compute proper scores and calibration error before and after a temperature.

    Keys:
        temperature; nll, brier and ece with `_before` and `_after`

    Shape:
        codes: (photos,), none missing; probs: (photos, labels), after the temperature
    """
    numbers: dict[str, float | None] = {"temperature": temperature}
    for when, each in (("before", remove_temperature(probs, temperature)), ("after", probs)):
        error = expected_calibration_error(reliability(codes, each, num_bins))
        numbers |= {f"nll_{when}": nll(codes, each), f"brier_{when}": brier(codes, each), f"ece_{when}": error}
    return numbers


def confident_numbers(
    codes: NDArray[np.int64], probs: NDArray[np.floating], items: NDArray[np.int64], threshold: float | None
) -> dict[str, float | None]:
    """Compute the coverage and accuracy of confident answers, with 95 % intervals over items.

    Keys:
        threshold, coverage and its interval (None without a threshold), n, items, accuracy and its interval (None
        without confident answers)

    Shape:
        codes, items: (photos,), none missing; probs: (photos, labels)
    """
    sure, right = is_confident(probs, threshold), probs.argmax(axis=1) == codes
    numbers: dict[str, float | None] = {"threshold": threshold}
    covered: dict[str, float | None] = dict(accuracy_with_interval(sure, items))
    if threshold is None:  # no answer is confident, however many photographs there are
        covered |= dict.fromkeys(("accuracy_ci_low", "accuracy_ci_high"))
    numbers |= {key.replace("accuracy", "coverage"): value for key, value in covered.items() if key != "n"}
    numbers |= {"n": int(sure.sum()), "items": len(np.unique(items[sure]))}
    if not sure.any():
        return numbers | dict.fromkeys(("accuracy", "accuracy_ci_low", "accuracy_ci_high"))
    return numbers | accuracy_with_interval(right[sure], items[sure])


def confidence_shift(
    codes: NDArray[np.int64], probs: NDArray[np.floating], items: NDArray[np.int64]
) -> dict[str, float | None]:
    """Compare mean confidence and accuracy.

    Keys:
        mean_confidence, overconfidence (mean confidence minus accuracy, in [-1, 1]) and its 95 % interval over items

    Shape:
        codes, items: (photos,), none missing; probs: (photos, labels)
    """
    confidence = probs.max(axis=1).astype(np.float64)
    excess = confidence - (probs.argmax(axis=1) == codes)
    # Differences lie in [-1, 1]: rescale them to [0, 1] for the interval of a fraction.
    mean = accuracy_with_interval((excess + 1) / 2, items)
    numbers: dict[str, float | None] = {"mean_confidence": float(confidence.mean())}
    return numbers | {
        key.replace("accuracy", "overconfidence"): 2 * value - 1 for key, value in mean.items() if key != "n"
    }


def _unknown_numbers(probs: NDArray[np.floating], threshold: float | None) -> dict[str, float | None]:
    if not len(probs):
        return {"n": 0, "mean_confidence": None, "confident": None}
    sure = float(is_confident(probs, threshold).mean())
    return {"n": len(probs), "mean_confidence": float(probs.max(axis=1).mean()), "confident": sure}


def embedding_shift(
    train: NDArray[np.floating], val: NDArray[np.floating], found: NDArray[np.floating], items: NDArray[np.int64]
) -> dict[str, float | None]:
    """Measure how far photographs are from the training photographs, relative to val.

    A photograph is far if its cosine with the nearest training photograph is below the 5th percentile of val's, so
    that 5 % of val's photographs are far. The interval treats the percentile as fixed.

    Keys:
        far (share) and its 95 % interval over items, far_below (the percentile), median_cosine, val_median_cosine

    Shape:
        train, val, found: (photos, features); items: (photos,) of found
    Source:
        distance to the nearest training features as a novelty score: Sun et al., Out-of-distribution detection with
        deep nearest neighbors, ICML 2022.
    """
    if train.shape[1] != found.shape[1]:
        raise ArtifactError("predictions: embedding size differs from the models'. Run: dvc repro evaluate")
    own, cosines = nearest_cosines(train, val), nearest_cosines(train, found)
    limit = float(np.quantile(own, 1 - FAR_QUANTILE))
    far = accuracy_with_interval(cosines < limit, items)
    numbers: dict[str, float | None] = {key.replace("accuracy", "far"): value for key, value in far.items()}
    return numbers | {
        "far_below": limit,
        "median_cosine": float(np.median(cosines)),
        "val_median_cosine": float(np.median(own)),
    }


def nearest_cosines(known: NDArray[np.floating], found: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the cosine of every embedding with the nearest known one. Shape: both (n, features) -> (found,)."""
    unit = _units(known)
    parts = [(_units(found[start:end]) @ unit.T).max(axis=1) for start, end in _chunks(len(found))]
    return np.concatenate(parts).astype(np.float64)


def _units(embeddings: NDArray[np.floating]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True).astype(np.float64)
    return np.asarray(embeddings / np.maximum(lengths, 1e-12))


def summary_rows(found: ExternalEvaluation) -> list[dict[str, Any]]:
    """Return the most important numbers, one row per system and task, for tables and CSV.

    Keys:
        system, task, n, items, accuracy and macro_f1 with intervals, own_test_accuracy, nll and ece before and after
        calibration, coverage, confident_accuracy, mean_confidence, overconfidence, far, backend
    """
    rows = []
    for name, system in found.systems.items():
        for task, result in system.tasks.items():
            scores = result.scores
            measured = {
                f"{key}{end}": scores[f"{key}{end}"]
                for key in ("accuracy", "macro_f1")
                for end in ("", "_ci_low", "_ci_high")
            }
            row = {"system": name, "task": task, "n": scores["n"], "items": scores["item_n"], **measured}
            row |= {"own_test_accuracy": result.own_test.get("accuracy")}
            row |= {f"{key}_{when}": result.calibration[f"{key}_{when}"] for key in ("nll", "ece") for when in WHEN}
            row |= {"coverage": result.confident["coverage"], "confident_accuracy": result.confident["accuracy"]}
            row |= {key: result.confidence[key] for key in ("mean_confidence", "overconfidence")}
            rows.append({**row, "far": system.shift["far"], "backend": system.backend})
    return [{**row, **_plain(row)} for row in rows]


WHEN = ("before", "after")
