"""List what to index: the photographs in a folder or bucket, or those listed in a table."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import pandas as pd

from vitrine.errors import VitrineError
from vitrine.scale.storage import Access, Photo, StorageError, attempt, is_remote, open_storage

TABLES = (".csv", ".parquet")


class SourceError(VitrineError):
    """A source is of an unsupported kind, or a table is invalid."""


def read_source(source: str, access: Access) -> tuple[list[Photo], int]:
    """List photographs without duplicates: those of a folder or bucket by name, those of a table in its order.

    Names in the index are relative to the current folder for files inside it, otherwise absolute; URIs are unchanged.
    Files whose names start with a dot are skipped in folders. A table's relative paths are relative to its folder.

    Args:
        source: a folder, a table (.csv or .parquet with the columns path and, optionally, item), or a URI of either.

    Returns:
        photographs, and the number of duplicate rows in a table

    Raises:
        SourceError: the source is missing, of an unsupported kind, empty, or an invalid table.
        StorageError: the storage cannot be read.
    """
    if source.startswith("file://"):
        source = unquote(urlsplit(source).path)
    if not is_remote(source) and not Path(source).exists():
        raise SourceError(f"{source}: not found")
    try:
        if PurePosixPath(source).suffix.lower() in TABLES and not Path(source).is_dir():
            return _table(source, access)
        photos = list(_objects(source, access) if is_remote(source) else _files(source))
    except StorageError as error:
        raise StorageError(f"{source}: {error}") from None
    if not photos:
        raise SourceError(f"{source}: contains no photographs")
    return photos, 0


def _files(folder: str) -> Iterator[Photo]:
    if not Path(folder).is_dir():
        raise SourceError(f"{folder}: neither a folder nor a table ({', '.join(TABLES)}). Choose one, or a URI")
    paths = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [os.path.join(place, name) for name in names if not name.startswith(".")]
    for path in sorted(paths):
        yield _file(path)


def _file(path: str, item: str | None = None) -> Photo:
    location = os.path.abspath(path)
    current, fault = os.getcwd(), None
    stored = os.path.relpath(location, current) if location.startswith(current + os.sep) else location
    try:
        stored.encode()
    except UnicodeEncodeError:
        stored, fault = os.fsencode(stored).decode(errors="backslashreplace"), "its name is not valid UTF-8; rename it"
    try:
        status = os.stat(location)
        stamp = f"{status.st_size} {status.st_mtime_ns}"
    except OSError:
        stamp = ""
    return Photo(stored, location if fault is None else stored, stored if item is None else item, stamp, fault)


def _objects(uri: str, access: Access) -> Iterator[Photo]:
    from pyarrow.fs import FileSelector, FileType

    storage, place = open_storage(uri, access)
    root, scheme = place.rstrip("/"), uri.split("://", 1)[0]
    try:
        infos = attempt(lambda: storage.get_file_info(FileSelector(root, recursive=True)), access)
    except FileNotFoundError:
        raise SourceError(f"{uri}: not found") from None
    for info in sorted(infos, key=lambda info: info.path):
        relative = info.path.lstrip("/").removeprefix(root.lstrip("/"))
        if info.type == FileType.File and not any(part.startswith(".") for part in relative.split("/")):
            name = f"{scheme}://{info.path.lstrip('/')}"
            yield Photo(name, name, name, f"{info.size} {info.mtime_ns or ''}")


def _table(source: str, access: Access) -> tuple[list[Photo], int]:
    table = _read_table(source, access)
    if "path" not in table:
        raise SourceError(f"{source}: has no path column. Its columns are: {', '.join(map(str, table.columns))}")
    columns = ["path", "item"] if "item" in table else ["path"]
    table = table[columns].astype(object).where(table[columns].notna(), "").astype(str)
    empty = [row for row, path in enumerate(table["path"].tolist(), 1) if not path.strip()]
    if empty:
        raise SourceError(f"{source}: rows without a path: {', '.join(map(str, empty[:10]))}")
    folder = source.rpartition("/")[0] if is_remote(source) else os.path.dirname(source)
    photos: dict[str, Photo] = {}
    items = table["item"].tolist() if "item" in table else [""] * len(table)
    conflicts = []
    for path, item in zip(table["path"].tolist(), items, strict=True):
        photo = _row(path, item, folder)
        conflicts += [path] if photos.setdefault(photo.path, photo).item != photo.item else []
    if conflicts:
        raise SourceError(
            f"{source}: paths that belong to more than one item: {', '.join(sorted(set(conflicts))[:10])}"
        )
    if not photos:
        raise SourceError(f"{source}: lists no photographs")
    _check_storages(list(photos.values()), access)
    return list(photos.values()), len(table) - len(photos)


def _row(path: str, item: str, folder: str) -> Photo:
    if path.startswith("file://"):
        path = unquote(urlsplit(path).path)
    if not is_remote(path) and not is_remote(folder):
        return _file(os.path.join(folder, path), item or None)
    if is_remote(folder) and not is_remote(path):
        path = f"{folder}/{path}"
    return Photo(path, path, item or path)


def _check_storages(photos: list[Photo], access: Access) -> None:
    """Query every storage for its first photograph, so that a job fails early if a storage cannot be reached."""
    first = {photo.location.split("://")[0]: photo for photo in reversed(photos) if is_remote(photo.location)}
    for photo in first.values():
        storage, place = open_storage(photo.location, access)
        try:
            attempt(lambda storage=storage, place=place: storage.get_file_info(place), access)
        except StorageError as error:
            raise StorageError(f"{photo.location}: {error}") from None


def _read_table(source: str, access: Access) -> pd.DataFrame:
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    def load(file: Any) -> pd.DataFrame:
        if source.lower().endswith(".csv"):
            return pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8")
        return pq.read_table(file).to_pandas()

    try:
        if not is_remote(source):
            return load(source)
        storage, place = open_storage(source, access)
        return attempt(lambda: load(storage.open_input_file(place)), access)
    except FileNotFoundError:
        raise SourceError(f"{source}: not found") from None
    except (ArrowException, ValueError) as error:  # pandas raises ValueErrors for parsing and encoding errors
        raise SourceError(f"{source}: cannot be read as a table ({str(error).splitlines()[0]})") from None
