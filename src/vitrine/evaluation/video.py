"""What fusing the frames of a clip gains over a single frame: accuracy, likelihood, calibration, item by item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from vitrine.data.video import BLURRED, DUPLICATE
from vitrine.evaluation.resampling import item_interval, jackknife_interval
from vitrine.inference.calibration import (
    FLOOR,
    apply_temperature,
    expected_calibration_error,
    fit_temperature,
    reliability,
)
from vitrine.labels import CLASS_TASK, MISSING
from vitrine.params import Section
from vitrine.predictions import fuse_views
from vitrine.scores import Counts

METHODS = {
    "single": "a random frame",
    "single_kept": "a random frame that is not dropped",
    "middle": "the middle frame",
    "vote": "majority vote",
    "fused_views": "fused, temperature of views",
    "fused_all": "fused, nothing dropped",
    "fused": "fused",
}
"""Methods of predicting a clip: names in tables, and display names; `fused` is compared with the others."""


class VideoParams(Section):
    """Settings of the evaluation of clips."""

    num_frames: Annotated[list[Annotated[int, Field(ge=1, le=64)]], Field(min_length=1)]
    calibration_bins: Annotated[int, Field(ge=1)]
    shown_clips: Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Answers:
    """Answers of one method for clips in one task.

    Each clip has one or more answers with equal weights: one, or those of all frames that a random one is drawn from.

    Shape:
        clips: (answers,), numbered from 0; codes: (answers,), true labels; predicted: (answers,);
        probs: (answers, labels), None for a vote
    """

    clips: NDArray[np.int64]
    codes: NDArray[np.int64]
    predicted: NDArray[np.int64]
    probs: NDArray[np.floating] | None

    def by_clip(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the mean over the answers of each labeled clip. Shape: (answers,) -> (labeled clips,)."""
        labeled = self.codes != MISSING
        numbered = np.unique(self.clips[labeled], return_inverse=True)[1]
        return np.asarray(np.bincount(numbered, values[labeled]) / np.bincount(numbered), dtype=np.float64)

    @property
    def right(self) -> NDArray[np.float64]:
        return self.by_clip((self.predicted == self.codes).astype(np.float64))

    @property
    def losses(self) -> NDArray[np.float64] | None:
        """Negative log-likelihood of each labeled clip, in nats."""
        if self.probs is None:
            return None
        true = self.probs[np.arange(len(self.codes)), np.maximum(self.codes, 0)].astype(np.float64)
        return self.by_clip(-np.log(np.maximum(true, FLOOR)))

    def ece(self, num_bins: int) -> float | None:
        if self.probs is None:
            return None
        return expected_calibration_error(reliability(self.codes, self.probs, num_bins))


def fused_clips(probs: NDArray[np.floating], clips: NDArray[np.int64], temperature: float = 1.0) -> NDArray[np.float32]:
    """Return the fused probabilities of clips. Shape: (frames, labels), (frames,) -> (clips, labels)."""
    return apply_temperature(fuse_views(probs.astype(np.float32), clips), temperature)


def vote(probs: NDArray[np.floating], clips: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the most frequent label of each clip's frames; ties go to the larger mean probability.

    Shape:
        probs: (frames, labels); clips: (frames,); returns: (clips,)
    """
    num = int(clips.max(initial=-1)) + 1
    votes, sums = np.zeros((num, probs.shape[1])), np.zeros((num, probs.shape[1]))
    np.add.at(votes, (clips, probs.argmax(axis=1)), 1)
    np.add.at(sums, clips, probs)
    return np.asarray((votes + sums / (sums.sum(axis=1, keepdims=True) + 1)).argmax(axis=1))


def fit_temperatures(
    frames: pd.DataFrame,
    probs: Mapping[str, NDArray[np.floating]],
    codes: Mapping[str, NDArray[np.int64]],
    val: NDArray[np.bool_],
    num_frames: int,
) -> dict[str, float]:
    """Fit the temperature of fused clips on val, by task.

    Args:
        frames: one row per predicted frame: clip (numbered from 0), num_frames, dropped.

    Shape:
        probs[task]: (frames, labels), of one system; codes[task], val: (clips,)
    """
    rows = ((frames["num_frames"] == num_frames) & frames["dropped"].isna()).to_numpy()
    clips = frames.loc[rows, "clip"].to_numpy()
    return {
        task: round(fit_temperature(codes[task][val], fused_clips(values[rows], clips)[val]), 6)
        for task, values in probs.items()
    }


def answers(
    frames: pd.DataFrame,
    probs: NDArray[np.floating],
    codes: NDArray[np.int64],
    judged: NDArray[np.bool_],
    num_frames: int,
    temperature: float,
) -> dict[str, Answers]:
    """Answer one task by all METHODS with `num_frames` frames per clip.

    Shape:
        probs: (frames, labels); codes, judged: (clips,), judged is True for clips that count
    """
    of_num = (frames["num_frames"] == num_frames).to_numpy()
    kept = of_num & frames["dropped"].isna().to_numpy()
    clip_of = frames["clip"].to_numpy()
    chosen = np.flatnonzero(judged)

    def random_frame(rows: NDArray[np.bool_]) -> Answers:
        rows = rows & judged[clip_of]
        return Answers(clip_of[rows], codes[clip_of[rows]], probs[rows].argmax(axis=1), probs[rows])

    def per_clip(values: NDArray[np.floating]) -> Answers:
        return Answers(chosen, codes[chosen], values[chosen].argmax(axis=1), values[chosen])

    middle = np.array([_middle(frames, clip, of_num) for clip in range(len(codes))])
    voted = vote(probs[kept], clip_of[kept])[chosen]
    return {
        "single": random_frame(of_num),
        "single_kept": random_frame(kept),
        "middle": per_clip(probs[middle]),
        "vote": Answers(chosen, codes[chosen], voted, None),
        "fused_views": per_clip(fused_clips(probs[kept], clip_of[kept])),
        "fused_all": per_clip(fused_clips(probs[of_num], clip_of[of_num], temperature)),
        "fused": per_clip(fused_clips(probs[kept], clip_of[kept], temperature)),
    }


def _middle(frames: pd.DataFrame, clip: int, of_num: NDArray[np.bool_]) -> int:
    rows = np.flatnonzero(of_num & (frames["clip"] == clip).to_numpy())
    return int(rows[len(rows) // 2])


def compare_methods(found: Mapping[str, Answers], num_bins: int) -> list[dict[str, float | str | int | None]]:
    """Score every method and the gain of `fused` over it, with 95 % intervals over clips, each of which is an item.

    Keys:
        method, n, accuracy, nll, ece; accuracy_gain, nll_gain, ece_gain of `fused` over the method, positive if
        `fused` is better; and `_ci_low`, `_ci_high`. A vote has neither nll nor ece.
    """
    rows: list[dict[str, float | str | int | None]] = []
    best = found["fused"]
    for method, each in found.items():
        right = each.right
        row: dict[str, float | str | int | None] = {"method": method, "n": len(right)}
        row |= _measured("accuracy", float(right.mean()), _interval(right, (0.0, 1.0)))
        row |= _measured("accuracy_gain", *_gain(best.right - right))
        if each.losses is not None and best.losses is not None:
            row |= _measured("nll", float(each.losses.mean()), _jackknife(each.losses))
            less = each.losses - best.losses
            row |= _measured("nll_gain", float(less.mean()), _jackknife(less))
            row |= {"ece": each.ece(num_bins)}
            row |= _ece_gain(each, best, num_bins)
        rows.append(row)
    return rows


def _measured(name: str, value: float, interval: tuple[float, float]) -> dict[str, float]:
    return {name: value, f"{name}_ci_low": interval[0], f"{name}_ci_high": interval[1]}


def _mean(sums: Counts) -> NDArray[np.float64]:
    return np.asarray(sums[..., 0] / sums[..., 1], dtype=np.float64)


def _interval(values: NDArray[np.float64], bounds: tuple[float, float]) -> tuple[float, float]:
    return item_interval(_mean, np.stack([values, np.ones(len(values))], axis=1), bounds)


def _gain(values: NDArray[np.float64]) -> tuple[float, tuple[float, float]]:
    return float(values.mean()), _interval(values, (-1.0, 1.0))


def _jackknife(values: NDArray[np.float64]) -> tuple[float, float]:
    without = (values.sum() - values) / max(len(values) - 1, 1)
    return jackknife_interval(float(values.mean()), without)


def _ece_gain(each: Answers, best: Answers, num_bins: int) -> dict[str, float]:
    def gain(left_out: int) -> float:
        values = []
        for side in (each, best):
            assert side.probs is not None
            rows = side.clips != left_out
            values.append(expected_calibration_error(reliability(side.codes[rows], side.probs[rows], num_bins)))
        return values[0] - values[1]

    clips = np.unique(best.clips[best.codes != MISSING])
    whole = gain(-1)
    return _measured("ece_gain", whole, jackknife_interval(whole, np.array([gain(int(clip)) for clip in clips])))


def dropping_table(frames: pd.DataFrame, filmed: pd.DataFrame, num_frames: int) -> pd.DataFrame:
    """Count how many of the frames read were dropped, by kind of frame and by split.

    Args:
        frames: file, split, num_frames, seconds, dropped.
        filmed: one row per frame of every clip: file, seconds, held, shaken.

    Columns:
        split, frames (shaken, held or other), n, blurred, duplicate: shares of n
    """
    read = frames[frames["num_frames"] == num_frames]
    read, filmed = (table.assign(seconds=table["seconds"].round(2)) for table in (read, filmed))
    joined = read.merge(filmed, on=["file", "seconds"], how="inner", validate="one_to_one")
    assert len(joined) == len(read)
    joined["frames"] = np.where(joined["shaken"], "shaken", np.where(joined["held"], "held", "other"))
    for reason in (BLURRED, DUPLICATE):
        joined[reason] = (joined["dropped"] == reason).astype(float)
    grouped = joined.groupby(["split", "frames"], sort=True)
    table = grouped[[BLURRED, DUPLICATE]].mean()
    table.insert(0, "n", grouped.size())
    return table.reset_index()


def headline(scores: pd.DataFrame, system: str) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Return the metrics of a system that `dvc metrics show` compares, of the class unless they name another task.

    Args:
        scores: the rows of `compare_methods`, with system and task.
    """
    records = scores[scores["system"] == system].to_dict("records")
    rows: dict[tuple[str, str], Any] = {(str(row["task"]), str(row["method"])): row for row in records}
    picked: dict[str, tuple[str, str, str]] = {
        "accuracy": (CLASS_TASK, "fused", "accuracy"),
        "nll": (CLASS_TASK, "fused", "nll"),
        **{
            f"{method}_accuracy": (CLASS_TASK, method, "accuracy")
            for method in ("single", "single_kept", "middle", "vote")
        },
        "gain_over_kept": (CLASS_TASK, "single_kept", "accuracy_gain"),
        "gain_over_middle": (CLASS_TASK, "middle", "accuracy_gain"),
        "gain_of_dropping": (CLASS_TASK, "fused_all", "accuracy_gain"),
        "nll_gain": (CLASS_TASK, "single", "nll_gain"),
        "nll_gain_of_temperature": (CLASS_TASK, "fused_views", "nll_gain"),
        **{f"{task}_gain": (task, "single", "accuracy_gain") for task in dict.fromkeys(scores["task"])},
    }
    chosen = {name: (rows[(task, method)], key) for name, (task, method, key) in picked.items()}
    metrics = {name: float(row[key]) for name, (row, key) in chosen.items()}
    metrics["num_clips"] = int(rows[(CLASS_TASK, "fused")]["n"])
    return metrics, {name: (row[f"{key}_ci_low"], row[f"{key}_ci_high"]) for name, (row, key) in chosen.items()}


def curve_rows(found: Mapping[int, Mapping[str, Answers]], shown: Sequence[str]) -> list[dict[str, float | str | int]]:
    """Return accuracies by the number of frames. Keys: num_frames, method, accuracy, and its interval."""
    rows: list[dict[str, float | str | int]] = []
    for num, methods in found.items():
        for method in shown:
            right = methods[method].right
            measured = _measured("accuracy", float(right.mean()), _interval(right, (0.0, 1.0)))
            rows.append({"num_frames": num, "method": method, **measured})
    return rows
