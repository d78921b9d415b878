"""Read and write the files that stages exchange: atomic, UTF-8, the same bytes for the same content, no pickle."""

from __future__ import annotations

import io
import json
import math
import os
import secrets
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vitrine.errors import VitrineError


class ArtifactError(VitrineError):
    """A file that a stage reads is missing, corrupt or has unexpected content."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; move it there if the block succeeds, delete it otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(8)}{path.suffix}")
    temporary.touch(exist_ok=False)  # with the default permissions of a new file
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def read_text(path: Path) -> str:
    text: str = _read(path, lambda: path.read_text(encoding="utf-8"))
    return text


def write_json(path: Path, document: Any) -> None:
    """Write JSON with sorted keys and finite numbers, so that equal content gives equal bytes."""
    write_text(path, json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    return _read(path, lambda: json.loads(path.read_text(encoding="utf-8")))


INTERVALS = "intervals"
"""Key of the intervals in a metrics file: {metric: [low, high]}."""


def write_metrics(
    path: Path,
    metrics: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]] | None = None,
    digits: int = 4,
) -> None:
    """Write metrics rounded to `digits` places, with their intervals as lists, which DVC's tables omit.

    Raises:
        ArtifactError: a value is not a finite number; DVC would drop or misread it.
    """
    document: dict[str, Any] = {name: _rounded(value, digits, f"{path}: {name}") for name, value in metrics.items()}
    if intervals:
        document[INTERVALS] = {
            name: [_rounded(end, digits, f"{path}: {name}") for end in ends] for name, ends in intervals.items()
        }
    write_json(path, document)


def _rounded(value: Any, digits: int, where: str) -> int | float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise ArtifactError(f"{where}: a metric must be a number; found {value!r}")
    if isinstance(value, (int, np.integer)):
        return int(value)
    if not math.isfinite(value):
        raise ArtifactError(f"{where}: a metric must be finite; found {value!r}")
    return round(float(value), digits)


def write_csv(path: Path, table: pd.DataFrame, digits: int = 6) -> None:
    """Write a table without its index, floats rounded to `digits` places, missing values empty."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n", encoding="utf-8", float_format=f"%.{digits}g")


def read_csv(path: Path, dtype: Any = None) -> pd.DataFrame:
    """Read a table; only empty fields count as missing, so labels such as 'none' and 'NA' are kept.

    Args:
        dtype: as in `pandas.read_csv`: str, or {column: str}, for text that may look like numbers.
    """
    return _read(path, lambda: pd.read_csv(path, dtype=dtype, keep_default_na=False, na_values=[""], encoding="utf-8"))


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays with deterministic bytes; those of `np.savez` vary between Python versions."""
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in sorted(arrays.items()):
            member = io.BytesIO()
            np.save(member, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue(), zipfile.ZIP_DEFLATED)


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    def load() -> dict[str, NDArray[Any]]:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}

    return _read(path, load)


def write_npy(path: Path, array: NDArray[Any]) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def read_npy(path: Path) -> NDArray[Any]:
    """Memory-map an array, read-only."""
    return _read(path, lambda: np.load(path, mmap_mode="r", allow_pickle=False))


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None) -> None:
    """Write arrays as safetensors."""
    from safetensors.numpy import save

    contiguous = {name: np.asarray(tensor, order="C") for name, tensor in sorted(tensors.items())}
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(contiguous, metadata=dict(metadata) if metadata else None))


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    from safetensors.numpy import load_file

    return _read(path, lambda: load_file(path))


def _read(path: Path, load: Callable[[], Any]) -> Any:
    if not path.is_file():
        raise ArtifactError(f"{path}: not found. Create it with: dvc repro")
    try:
        return load()
    except Exception as error:
        raise ArtifactError(f"{path}: cannot be read ({error}). Delete it and run: dvc repro") from error
