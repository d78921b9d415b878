"""Photographs that a model has seen before: the same file, the same pixels, or nearly the same picture."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vitrine.data.catalog import SPLITS
from vitrine.data.splits import perceptual_hash

SEEN_SPLITS = ("train", "val")
"""Splits whose photographs shaped the models: weights are fitted to train; epochs, temperatures and thresholds to
val."""

Kind = Literal["same file", "same pixels", "near duplicate"]


@dataclass(frozen=True)
class Twin:
    """A photograph of a folder, and the photograph of the project's dataset that it duplicates.

    Attributes:
        row: row of the photograph in its folder
        image_path: path of the photograph
        project_path: path of the project's photograph; `split` is its split
        kind: kind of duplicate; `same pixels` compares the decoded squares that models see
        distance_bits: bits in which their 64-bit perceptual hashes differ
    """

    row: int
    image_path: str
    project_path: str
    split: str
    kind: Kind
    distance_bits: int

    @property
    def is_exact(self) -> bool:
        return self.kind != "near duplicate"

    @property
    def is_seen(self) -> bool:
        """Whether the models were trained or tuned on the project's photograph."""
        return self.split in SEEN_SPLITS


@dataclass(frozen=True)
class Fingerprints:
    """Files and hashes that identify photographs.

    Shape:
        files: one path per photograph; pixels: SHA-256 of each as decoded; hashes: (photos,), uint64, perceptual
    """

    files: Sequence[Path]
    pixels: Sequence[str]
    hashes: NDArray[np.uint64]

    @classmethod
    def of(cls, files: Sequence[Path], photos: NDArray[np.uint8]) -> Fingerprints:
        """Shape: photos: (photos, height, width, channels), as decoded from the files."""
        pixels = [hashlib.sha256(np.ascontiguousarray(photo).tobytes()).hexdigest() for photo in photos]
        bits = [np.packbits(perceptual_hash(np.asarray(photo))) for photo in photos]
        return cls(files, pixels, np.array(bits, dtype=np.uint8).reshape(-1, 8).view(np.uint64).ravel())


def find_twins(
    found: Fingerprints,
    image_paths: Sequence[str],
    project: Fingerprints,
    project_paths: Sequence[str],
    splits: Sequence[str],
    max_bits: int,
) -> list[Twin]:
    """List the photographs that duplicate one of the project's, each with its most severe match.

    Matches in train and val come before those in test, exact before near ones, nearer before farther ones.

    Args:
        max_bits: maximum number of bits in which perceptual hashes of near duplicates differ.
    """
    sizes = {path.stat().st_size for path in found.files}
    known_files: dict[str, list[int]] = {}
    for position, path in enumerate(project.files):
        if path.is_file() and path.stat().st_size in sizes:  # only these can be equal, so few are read
            known_files.setdefault(_digest(path), []).append(position)
    known_pixels: dict[str, list[int]] = {}
    for position, pixels in enumerate(project.pixels):
        known_pixels.setdefault(pixels, []).append(position)
    twins = []
    for row, path in enumerate(found.files):
        distances = np.bitwise_count(project.hashes ^ found.hashes[row])
        same_file = known_files.get(_digest(path), []) if known_files else []
        kinds: dict[int, Kind] = {int(each): "near duplicate" for each in np.flatnonzero(distances <= max_bits)}
        kinds |= dict.fromkeys(known_pixels.get(found.pixels[row], []), "same pixels")
        kinds |= dict.fromkeys(same_file, "same file")
        candidates = [
            Twin(row, image_paths[row], project_paths[each], splits[each], kind, int(distances[each]))
            for each, kind in kinds.items()
        ]
        if candidates:
            twins.append(min(candidates, key=_rank))
    return twins


def _rank(twin: Twin) -> tuple[bool, bool, int, int, str]:
    return not twin.is_seen, not twin.is_exact, twin.distance_bits, SPLITS.index(twin.split), twin.project_path


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
