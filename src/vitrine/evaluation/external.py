"""Judge the systems of a project on other people's photographs, without training: scores, honesty, shift, leakage."""

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
"""Photographs that are decoded, or predicted, before the next ones are."""

FAR_QUANTILE = 0.95
"""Of the distances of val's photographs to their nearest training photograph; what is farther is called far."""

MAX_NAMED = 10
"""Names that a message lists before it says how many more there are."""

Numbers = Mapping[str, float | None]
"""Measured values by name; None where nothing could be measured."""


class ExternalError(VitrineError):
    """Nothing in a folder can be judged."""


class LeakageError(ExternalError):
    """Photographs of a folder are among those that the models learned from. `twins` has all of them."""

    def __init__(self, folder: Path, twins: Sequence[Twin], is_project: bool) -> None:
        self.twins = list(twins)
        lines = [f"{twin.image_path} = {twin.project_path} ({twin.split}, {twin.kind})" for twin in twins]
        own = ". The folder is the dataset of this project (data.path)" if is_project else ""
        one = len(lines) == 1
        super().__init__(
            f"{folder}: {len(lines)} {'photograph is' if one else 'photographs are'} also in train or val of this "
            f"project, so {'its score says' if one else 'their scores say'} nothing about new photographs{own}. "
            f"Remove {'it' if one else 'them'}, or leave {'it' if one else 'them'} out with --allow-leakage:\n"
            + first_names(lines)
        )


def first_names(names: Sequence[str]) -> str:
    """Write at most MAX_NAMED names, a line each, and how many more there are."""
    more = [f"... and {len(names) - MAX_NAMED} more"] if len(names) > MAX_NAMED else []
    return "\n".join(f"  {name}" for name in [*names[:MAX_NAMED], *more])


# -- results ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TaskResult:
    """How a system does on one task. `_ci_low` and `_ci_high` end 95 % intervals whose unit is the item.

    Attributes:
        scores: keys of `scoring.score`, and majority_accuracy: of always saying the most common label of train
        own_test: keys of `scoring.score`, on the project's own test photographs
        calibration: temperature; nll, brier and ece `_before` and `_after` the temperature
        confident: threshold (None if the task is unreliable, so that no answer is confident), coverage (share of the
            photographs that are answered confidently), n and items (such photographs, and their items), accuracy (of
            those photographs)
        confidence: mean_confidence, overconfidence (mean confidence minus accuracy), own_test_mean_confidence,
            own_test_overconfidence
        near_duplicates: keys of `scoring.score`, on the photographs that nearly repeat one of train or val
        unknown_labels: n photographs whose label the system does not know, so that any answer is wrong;
            mean_confidence, and confident: the share that is answered confidently
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
    """How a system does.

    Attributes:
        backend: what computed
        shift: far (share of the photographs that are farther from every training photograph than 95 % of val's are,
            with interval), median_cosine and val_median_cosine (to the nearest training photograph)
        tasks: by name; those for which the folder has a label that the system knows
        own_val_accuracy: of the first task, on the project's own val photographs
        predictions: of the photographs in `ExternalEvaluation.photos`
    """

    backend: str
    shift: Numbers
    tasks: Mapping[str, TaskResult]
    own_val_accuracy: float
    predictions: Predictions


@dataclass(frozen=True)
class ExternalEvaluation:
    """How the systems of a project do on the photographs of a folder.

    Attributes:
        name: of the folder
        folder: the photographs
        num_listed: photographs in labels.csv
        photos: those that are scored: image_path, instance_id, a column a task with the model's labels. Unreadable
            photographs, and those that repeat one of train or val, are left out
        broken: photographs that cannot be read, each with the reason
        labels: what became of the labels, by task
        absent_tasks: tasks of the models that the folder has no labels for
        unused_attributes: attributes of the folder that the models do not know
        twins: photographs that repeat one of the project's, exactly or nearly
        shared_items: values of instance_id that train has, too; nothing is concluded from them
        decoding: how photographs are decoded
        sure_accuracy: fraction of confident answers that val showed to be right (evaluate.sure_accuracy)
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
        """The tasks that are scored; the class first if it is one of them."""
        return tuple(next(iter(self.systems.values())).tasks)

    @property
    def best_on_val(self) -> str:
        """The system that is best on the project's own val photographs: it is not chosen by the scores here."""
        return max(self.systems, key=lambda name: self.systems[name].own_val_accuracy)

    @property
    def num_items(self) -> int:
        return int(self.photos["instance_id"].nunique())

    def seen_twins(self, exact: bool) -> list[Twin]:
        """Return the photographs that repeat one of train or val: exactly, or nearly."""
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
                    "known": found.known,
                    "missing": found.missing,
                    "unknown": dict(found.unknown),
                    "renamed": dict(found.renamed),
                }
                for task, found in self.labels.items()
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
                            "scores": _plain(found.scores),
                            "own_test": _plain(found.own_test),
                            "calibration": _plain(found.calibration),
                            "confident": _plain(found.confident),
                            "confidence": _plain(found.confidence),
                            "near_duplicates": _plain(found.near_duplicates),
                            "unknown_labels": _plain(found.unknown_labels),
                            "per_label": {row["label"]: _plain(row) for row in found.per_label.to_dict("records")},
                        }
                        for task, found in system.tasks.items()
                    },
                }
                for name, system in self.systems.items()
            },
        }


def _plain(numbers: Mapping[Any, Any]) -> dict[str, Any]:
    """Return numbers as JSON has them, rounded to six places; what is not finite or absent is None."""
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
    """What a project knows: its photographs, params and systems.

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
            raise ArtifactError(f"{root / 'models'}: not of the photographs in data/splits. Run: dvc repro")
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
        """Any of them: all decode photographs alike and have one label space."""
        return next(iter(self.predictors.values()))

    def train_embeddings(self, name: str) -> NDArray[np.float32]:
        """Return what evaluate stored of the training photographs. Shape: (photos, features)."""
        path = self.root / "predictions" / f"{name}.npz"
        stored = Predictions.load(path)
        if stored.image_paths != tuple(self.table["image_path"]):
            raise ArtifactError(f"{path}: not of the photographs in data/splits. Run: dvc repro evaluate")
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
    """Judge systems on the photographs of a folder in the data contract (data/README.md). Nothing is trained.

    Photographs that cannot be read are left out and named, labels that the models do not know are counted. A
    photograph counts for the tasks of which its label is known. Those that nearly repeat one of train or val have
    scores of their own.

    Args:
        models: names of systems; all that the project has without it.
        aliases: by task, labels of the folder and the model's that they stand for; beside those of `data.aliases`.
        allow_leakage: leave photographs out that equal one of train or val, rather than refuse them.
        project: folder of a project after `dvc repro`.
        progress: show bars on standard error; without it where that is a terminal.

    Raises:
        CatalogError: the folder has no labels.csv, or it breaks the data contract.
        LeakageError: photographs equal one of train or val, and `allow_leakage` is not given.
        ExternalError: no photograph can be read or is left, none has a known label, or an alias is of no task.
        ArtifactError: a system or a file of the project is missing or broken.
        ParamsError: params.yaml lacks what is read.
    """
    find_table(folder)  # before anything is loaded, which takes seconds
    known, hidden = _Project.load(project, models), None if progress is None else not progress
    space = known.predictor.label_space
    table = read_aligned(folder, space, _joined_aliases(known.data.aliases, aliases or {}, space))
    _check_labels(folder, table, space)
    with tempfile.TemporaryFile() as place:  # decoded photographs of any number, without their memory
        photos, rows, broken = _decode(folder, table.photos["image_path"], known.predictor, place, hidden)
        if not len(rows):
            lines = first_names([f"{path}: {fault}" for path, fault in broken])
            raise ExternalError(f"{folder}: no photograph can be read:\n{lines}")
        readable, unknown = table.photos.iloc[rows].reset_index(drop=True), table.unknown.iloc[rows]
        twins = _find_twins(folder, readable, photos, known)
        is_exact = _marked(len(rows), [twin for twin in twins if twin.is_seen and twin.is_exact])
        is_near = _marked(len(rows), [twin for twin in twins if twin.is_seen and not twin.is_exact])
        if is_exact.any() and not allow_leakage:
            own = folder.resolve() == (project / known.data.path).resolve()
            raise LeakageError(folder, [twin for twin in twins if twin.is_seen and twin.is_exact], own)
        clean = ~(is_exact | is_near)
        if not any(readable.loc[clean, task].notna().any() for task in table.labels):
            raise ExternalError(
                f"{folder}: no photograph with a known label is left: {is_exact.sum()} equal one of train or val of "
                f"this project, {is_near.sum()} nearly do, {len(broken)} cannot be read"
            )
        unknown_labels = {task: unknown[task].notna().to_numpy() & clean for task in table.labels}
        systems = {
            name: _judge(name, known, readable, photos, clean, is_near, unknown_labels, hidden)
            for name in known.predictors
        }
    train_items = set(known.table.loc[known.splits == "train", "instance_id"])
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
        decoding=known.predictor.runtime.decoding,
        sure_accuracy=known.evaluate.sure_accuracy,
        label_space=space,
        systems=systems,
    )


def _joined_aliases(ours: Aliases, theirs: Aliases, space: LabelSpace) -> dict[str, dict[str, str]]:
    for task, labels in theirs.items():
        if task not in space:
            raise ExternalError(f"alias of '{task}': no task of the models; expected one of {', '.join(space)}")
        for label in labels.values():
            if label not in space.labels[task]:
                known = ", ".join(space.labels[task])
                raise ExternalError(f"alias of '{task}': the models know no '{label}'; expected one of {known}")
    return {task: {**ours.get(task, {}), **theirs.get(task, {})} for task in space}


def _check_labels(folder: Path, table: AlignedTable, space: LabelSpace) -> None:
    if any(found.known for found in table.labels.values()):
        return
    lines = []
    for task, found in table.labels.items():
        theirs = ", ".join(list(found.unknown)[:MAX_NAMED]) or "none"
        lines.append(f"  {task}: found {theirs}; the models know {', '.join(space.labels[task][:MAX_NAMED])}")
    raise ExternalError(
        f"{folder}: the models know none of its labels. Rename them, or name those that mean the same "
        "(--alias, data.aliases):\n" + "\n".join(lines)
    )


def _decode(
    folder: Path, image_paths: pd.Series, predictor: Predictor, place: Any, hidden: bool | None
) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[tuple[str, str]]]:
    """Decode what can be read, into a temporary file.

    Shape:
        returns: (photos, height, width, channels), the rows of the table that they are of, (photos,); and what is
            wrong with the others
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
            for row, found in enumerate(pool.map(decode, chunk), start):
                if isinstance(found, str):
                    broken.append((names[row], found))
                else:
                    photos[len(rows)] = found
                    rows.append(row)
            bar.update(len(chunk))
    return photos[: len(rows)], np.array(rows, dtype=np.int64), broken


def _find_twins(folder: Path, readable: pd.DataFrame, photos: NDArray[np.uint8], known: _Project) -> list[Twin]:
    theirs, ours = list(readable["image_path"]), list(known.table["image_path"])
    dataset = known.root / known.data.path
    return find_twins(
        Fingerprints.of([folder / name for name in theirs], photos),
        theirs,
        Fingerprints.of([dataset / name for name in ours], known.photos),
        ours,
        list(known.splits),
        known.near_duplicate_bits,
    )


def _marked(num: int, twins: Sequence[Twin]) -> NDArray[np.bool_]:
    marks = np.zeros(num, dtype=np.bool_)
    marks[[twin.row for twin in twins]] = True
    return marks


def _judge(
    name: str,
    known: _Project,
    readable: pd.DataFrame,
    photos: NDArray[np.uint8],
    clean: NDArray[np.bool_],
    is_near: NDArray[np.bool_],
    unknown: Mapping[str, NDArray[np.bool_]],
    hidden: bool | None,
) -> SystemResult:
    predictor, bins = known.predictors[name], known.evaluate.calibration_bins
    held_out = np.flatnonzero(known.splits != "train")
    found = _predict(predictor, photos, np.arange(len(readable)), list(readable["image_path"]), hidden)
    own = _predict(predictor, known.photos, held_out, list(known.table["image_path"].iloc[held_out]), hidden)
    own_table, own_splits = known.table.iloc[held_out], known.splits[held_out]
    codes, own_codes = predictor.label_space.encode(readable), predictor.label_space.encode(own_table)
    all_codes = predictor.label_space.encode(known.table)
    items, own_items = number_items(readable["instance_id"]), number_items(own_table["instance_id"])
    test, val, train = own_splits == "test", own_splits == "val", known.splits == "train"
    tasks = {}
    for task, true in codes.items():
        labeled = clean & (true != MISSING)
        if not labeled.any():
            continue
        probs, threshold = found.probs[task], predictor.sure_thresholds[task]
        majority = majority_label(all_codes[task][train])
        per_label = per_label_table(
            LabelSpace({task: predictor.label_space.labels[task]}), {task: true[labeled]}, {name: found.select(labeled)}
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
            calibration=calibration_numbers(true[labeled], probs[labeled], known.temperatures[name][task], bins),
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
        shift=embedding_shift(known.train_embeddings(name), own.embeddings[val], found.embeddings[clean], items[clean]),
        tasks=tasks,
        own_val_accuracy=float((own.predicted(first) == own_codes[first])[val].mean()),
        predictions=found.select(clean),
    )


def _predict(
    predictor: Predictor, photos: NDArray[np.uint8], rows: NDArray[np.int64], names: Sequence[str], hidden: bool | None
) -> Predictions:
    """Predict some photographs, a chunk at a time, as not all may fit into memory."""
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
    """Return what probabilities were before `calibration.apply_temperature`: it is undone by its inverse.

    So calibration can be judged without the networks, where an exported system gives calibrated probabilities alone.

    Shape:
        (photos, labels)
    """
    logs = np.log(np.maximum(probs.astype(np.float64), np.finfo(np.float32).tiny)) * temperature
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def calibration_numbers(
    codes: NDArray[np.int64], probs: NDArray[np.floating], temperature: float, num_bins: int
) -> dict[str, float | None]:
    """Say what a temperature did: proper scores and calibration error before and after it.

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
    """Say how many answers are confident, and how many of these are right, with 95 % intervals over items.

    Keys:
        threshold, coverage and its interval (None without a threshold), n, items, accuracy and its interval (None
        without such answers)

    Shape:
        codes, items: (photos,), none missing; probs: (photos, labels)
    """
    sure, right = is_confident(probs, threshold), probs.argmax(axis=1) == codes
    numbers: dict[str, float | None] = {"threshold": threshold}
    covered: dict[str, float | None] = dict(accuracy_with_interval(sure, items))
    if threshold is None:  # it answers nothing, however many photographs there are
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
    # The interval of a fraction, as differences lie between -1 and 1 as fractions lie between 0 and 1.
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
    """Say how far photographs are from the training photographs, against the distances of val.

    A photograph is far if its cosine with the nearest training photograph is below the 5th percentile of val's, so
    that 5 % of val's photographs are. The interval takes the percentile as given.

    Keys:
        far (share) and its 95 % interval over items, far_below (the percentile), median_cosine, val_median_cosine

    Shape:
        train, val, found: (photos, features); items: (photos,) of found
    Source:
        distance to the nearest training features as a score of novelty: Sun et al., Out-of-distribution detection with
        deep nearest neighbors, ICML 2022.
    """
    if train.shape[1] != found.shape[1]:
        raise ArtifactError("predictions: embeddings of another length than the models'. Run: dvc repro evaluate")
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
    """Return the cosine of every embedding with the nearest known one. Shape: (n, features) twice -> (found,)."""
    unit = _units(known)
    parts = [(_units(found[start:end]) @ unit.T).max(axis=1) for start, end in _chunks(len(found))]
    return np.concatenate(parts).astype(np.float64)


def _units(embeddings: NDArray[np.floating]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True).astype(np.float64)
    return np.asarray(embeddings / np.maximum(lengths, 1e-12))


def summary_rows(found: ExternalEvaluation) -> list[dict[str, Any]]:
    """Return the most important numbers, a row a system and task, for tables and CSV.

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
