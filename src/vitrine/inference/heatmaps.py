"""Draw heat maps, and decide for which systems and tasks they are shown. Does not need torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitrine.artifacts import ArtifactError, read_json, write_json
from vitrine.errors import VitrineError
from vitrine.inference.runtimes import checkpoint_digest

VERDICTS = "explanations.json"
"""File in the models folder with the results of the stage `explain`."""

RAMP = ((0.0, (38, 20, 72)), (0.35, (150, 38, 104)), (0.65, (236, 98, 52)), (1.0, (252, 222, 120)))
"""Colors from cold to hot: lightness rises evenly, so that the map is readable without color."""

COVER = 0.72
"""Opacity of the heat map at its hottest place, over the photograph's lightness."""

CONTROL_NAMES = {
    "random": "random maps",
    "gaussian": "a spot in the center",
    "random_network": "a network with random weights",
}
"""Display names of the controls that a heat map must beat."""


class ExplanationError(VitrineError):
    """There is no heat map for a system and a task."""


@dataclass(frozen=True)
class Verdict:
    """Whether the heat maps of a system are faithful to its answers for a task.

    Attributes:
        checkpoint: `checkpoint_digest` of the evaluated system
        differences: by control, the faithfulness of the heat maps minus that of the control, on val: the value and
            the ends of its 95 % interval
    """

    checkpoint: str
    differences: Mapping[str, tuple[float, float, float]]

    @property
    def unbeaten(self) -> list[str]:
        """Controls that the heat maps are not shown to beat."""
        failed = [name for name, (_, low, _) in self.differences.items() if not low > 0]
        return sorted(failed, key=list(CONTROL_NAMES).index)

    @property
    def shown(self) -> bool:
        return bool(self.differences) and not self.unbeaten


Verdicts = Mapping[tuple[str, str], Verdict]
"""By system and task."""


def write_verdicts(path: Path, verdicts: Verdicts) -> None:
    document: dict[str, dict[str, Any]] = {}
    for (system, task), verdict in verdicts.items():
        document.setdefault(system, {})[task] = {**asdict(verdict), "shown": verdict.shown}
    write_json(path, document)


def read_verdicts(models: Path) -> Verdicts:
    """Read the verdicts on the models in a folder.

    Raises:
        ArtifactError: the file is missing or invalid.
    """
    path = models / VERDICTS
    document = read_json(path)
    try:
        return {
            (system, task): Verdict(
                entry["checkpoint"],
                {control: (value, low, high) for control, (value, low, high) in entry["differences"].items()},
            )
            for system, tasks in document.items()
            for task, entry in tasks.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: not a valid verdict file ({error!r}). Run: dvc repro explain") from None


def reason_hidden(system: str, task: str, models: Path = Path("models")) -> str | None:
    """Return why heat maps of a system are not shown for a task; None if they are.

    Raises:
        ArtifactError: the file of verdicts is broken, or there is no such system.
    """
    if not (models / VERDICTS).is_file():
        return "the faithfulness of the heat maps has not been measured. Run: dvc repro explain"
    verdict = read_verdicts(models).get((system, task))
    if verdict is None or verdict.checkpoint != checkpoint_digest(system, models):
        return "heat maps of these models have not been measured. Run: dvc repro explain"
    if verdict.shown:
        return None
    names = [CONTROL_NAMES.get(name, name) for name in verdict.unbeaten]
    listed = " or ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
    return f"on val its heat maps are not more faithful than {listed or 'controls'}"


def check_shown(system: str, task: str, models: Path = Path("models")) -> None:
    """Raises: ExplanationError when heat maps of a system are not shown for a task."""
    reason = reason_hidden(system, task, models)
    if reason:
        raise ExplanationError(f"{system}, {task}: no heat map is shown: {reason}")


def colorize(heatmap: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Shape: (height, width) in [0, 1] -> (height, width, channels)."""
    stops, colors = [place for place, _ in RAMP], np.array([color for _, color in RAMP])
    channels = [np.interp(heatmap, stops, colors[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def overlay(photo: NDArray[np.uint8], heatmap: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Overlay a heat map on a grayscale photograph: hot is bright yellow, cold is gray.

    Shape:
        photo: (height, width, channels); heatmap: (map height, map width) in [0, 1]
        returns: (height, width, channels)
    """
    height, width = photo.shape[:2]
    heat = Image.fromarray(np.asarray(heatmap, np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    share = np.clip(np.asarray(heat, dtype=np.float64), 0, 1)[..., None]
    gray = np.asarray(Image.fromarray(photo).convert("L"), dtype=np.float64)[..., None] * 0.85 + 20
    cover = COVER * np.sqrt(share)
    mixed = gray * (1 - cover) + colorize(share[..., 0]) * cover
    return np.clip(mixed.round(), 0, 255).astype(np.uint8)
