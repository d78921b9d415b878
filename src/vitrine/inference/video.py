"""Predict one answer for a clip: fuse its frames' probabilities with their own temperature, and find what decided."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitrine.artifacts import ArtifactError, read_json
from vitrine.data.video import BLURRED, DUPLICATE, NUM_FRAMES, Clip, read_clip
from vitrine.inference.calibration import FLOOR, apply_temperature
from vitrine.inference.predictor import Predictor, fuse
from vitrine.labels import CLASS_TASK
from vitrine.predictions import Predictions

CALIBRATION = "clips.json"
"""File beside the models: {system: {"checkpoint", "temperatures": {task: of fused clips}}}, written by `make video`."""

MAX_DECIDING = 3


def clip_temperatures(predictor: Predictor) -> Mapping[str, float] | None:
    """Return the temperatures of fused clips, by task; None if they were not fitted on these models.

    Raises:
        ArtifactError: the file is broken.
    """
    path = predictor.models / CALIBRATION
    if not path.is_file():
        return None
    try:
        entry = read_json(path).get(predictor.name, {})
        temperatures = {task: float(value) for task, value in entry.get("temperatures", {}).items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{path}: not a valid temperature file ({error!r}). Delete it, or run: make video"
        ) from None
    is_current = entry.get("checkpoint") == predictor.checkpoint and set(temperatures) >= set(predictor.label_space)
    return temperatures if is_current else None


def predict_clip(
    predictor: Predictor, path: Path, name: str | None = None, num_frames: int = NUM_FRAMES, top_k: int = 3
) -> dict[str, Any]:
    """Predict a clip and return its record.

    Args:
        name: name of the clip in the record; the path if None.

    Returns:
        a record as in `Predictor.predict_records`, plus "clip": {"seconds", "temperature": of "clips" or "views",
            "frames": as `_frames` lists them}

    Raises:
        VideoError: as `read_clip`.
        ArtifactError: as `clip_temperatures`.
    """
    clip = read_clip(path, predictor.photo_size_px, predictor.max_megapixels, num_frames)
    return answer_clip(predictor, clip, str(path) if name is None else name, top_k)[0]


def answer_clip(predictor: Predictor, clip: Clip, name: str, top_k: int = 3) -> tuple[dict[str, Any], Predictions]:
    """Predict a decoded clip as `predict_clip` does; return the record and the fused prediction."""
    predictions = predictor.predict(clip.photos[clip.kept], [f"{second:.2f} s" for second in clip.seconds[clip.kept]])
    fused, temperatures = fuse(predictions, name), clip_temperatures(predictor)
    if temperatures is not None:
        probs = {task: apply_temperature(values, temperatures[task]) for task, values in fused.probs.items()}
        fused = Predictions(fused.label_space, fused.image_paths, probs, fused.embeddings)
    record = predictor.to_records(fused, top_k)[0]
    record["clip"] = {
        "seconds": round(clip.duration, 3),
        "temperature": "views" if temperatures is None else "clips",
        "frames": _frames(clip, predictions.probs[CLASS_TASK], fused.probs[CLASS_TASK][0], predictions),
    }
    return record, fused


def _frames(
    clip: Clip, probs: NDArray[np.floating], fused: NDArray[np.floating], predictions: Predictions
) -> list[dict[str, Any]]:
    """List the frames of a clip, with their predictions of the class.

    Keys:
        seconds, dropped (the reason, or None); for frames that count, else None: label, probability (of its own most
        probable class), agrees (with the answer), support (log of the answer's probability over that of its runner-up;
        their mean decides between these two), decided (one of the most supportive)

    Shape:
        probs: (kept frames, labels); fused: (labels,)
    """
    values = support(probs, fused)
    strongest = np.argsort(-values, kind="stable")[:MAX_DECIDING]
    deciding = {int(row) for row in strongest if values[row] > 0}
    rows = {int(frame): row for row, frame in enumerate(clip.kept)}
    frames: list[dict[str, Any]] = []
    for frame, reason in enumerate(clip.dropped):
        entry: dict[str, Any] = {"seconds": round(float(clip.seconds[frame]), 3), "dropped": reason}
        own: dict[str, Any] = dict.fromkeys(("label", "probability", "agrees", "support", "decided"))
        if reason is None:
            row = rows[frame]
            code = int(probs[row].argmax())
            own = {
                "label": predictions.label_space.labels[CLASS_TASK][code],
                "probability": round(float(probs[row, code]), 4),
                "agrees": code == int(fused.argmax()),
                "support": round(float(values[row]), 3),
                "decided": row in deciding,
            }
        frames.append({**entry, **own})
    return frames


def support(probs: NDArray[np.floating], fused: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return how much each frame supports the fused answer: log of its probability over that of the fused runner-up.

    Frames are fused by geometric mean, so the fused odds of these two labels are e to the mean of the frames' support,
    before the temperature. With one label, support is 0.

    Shape:
        probs: (frames, labels); fused: (labels,); returns: (frames,)
    """
    order = np.argsort(-fused, kind="stable")
    first, second = order[0], order[min(1, len(order) - 1)]
    logs = np.log(np.maximum(probs.astype(np.float64), FLOOR))
    return np.asarray(logs[:, first] - logs[:, second])


def clip_sentence(clip: Mapping[str, Any]) -> str:
    """Describe which frames decided: "9 of 12 frames agree, decided at 0.4, 1.2 and 2.0 s; dropped: 2 blurred."."""
    frames = clip["frames"]
    used = [frame for frame in frames if frame["dropped"] is None]
    times = [f"{frame['seconds']:.1f}" for frame in used if frame["decided"]]
    text = f"{sum(frame['agrees'] for frame in used)} of {len(used)} frames agree"
    if times:
        text += f", decided at {' and '.join([', '.join(times[:-1]), times[-1]] if times[1:] else times)} s"
    counts = {reason: sum(frame["dropped"] == reason for frame in frames) for reason in (BLURRED, DUPLICATE)}
    dropped = [
        f"{num} {reason}{'s' if reason == DUPLICATE and num > 1 else ''}" for reason, num in counts.items() if num
    ]
    return text + (f"; dropped: {', '.join(dropped)}." if dropped else ".")
