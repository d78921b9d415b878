"""Read photographs from local files, or from object storage through pyarrow and fsspec with bounded retries."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from vitrine.errors import VitrineError
from vitrine.inference.decoder import Decoded, Decoder

STORAGE_FAULT = "the storage cannot be read"
"""Prefix of the error of a photograph that may be readable later. The next run retries it."""

READERS = 16
"""Objects that a process reads at once: reading is bound by the network, not by the processor."""

PAUSE_SECONDS = 0.2
"""Delay before the second attempt; doubled before each further one."""


class StorageError(VitrineError):
    """Storage cannot be reached, or its kind is not supported."""


@dataclass(frozen=True)
class Access:
    """Limits on access to object storage.

    Attributes:
        timeout_seconds: time without receiving data after which an attempt fails
        attempts: failed attempts after which a photograph becomes an error row
    """

    timeout_seconds: float = 20.0
    attempts: int = 3


@dataclass(frozen=True, slots=True)
class Photo:
    """A photograph to index.

    Attributes:
        path: its name in the index
        location: absolute path or URI to read it from
        item: instance_id
        stamp: size and modification time, if known without reading
        fault: what is wrong with it, if known
    """

    path: str
    location: str
    item: str
    stamp: str = ""
    fault: str | None = None


def is_remote(location: str) -> bool:
    return "://" in location


def open_storage(uri: str, access: Access) -> tuple[Any, str]:
    """Return the pyarrow file system of a URI, and the path of the URI in it.

    Credentials, region and AWS_ENDPOINT_URL come from the environment, as for other S3 clients.

    Raises:
        StorageError: its kind is not supported, or needs a package that is not installed.
    """
    from pyarrow import fs

    scheme, place = uri.split("://", 1)
    if scheme in ("s3", "s3a"):
        endpoint = urlsplit(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "")
        storage: Any = fs.S3FileSystem(
            endpoint_override=endpoint.netloc or None,
            scheme=endpoint.scheme or "https",
            connect_timeout=access.timeout_seconds,
            request_timeout=access.timeout_seconds,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),  # `attempt` retries, for all kinds of storage
        )
        return storage, place
    if scheme in ("gs", "gcs"):
        return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=access.timeout_seconds)), place
    import fsspec

    try:
        storage = fsspec.filesystem(scheme)
    except (ImportError, ValueError) as error:
        raise StorageError(f"{uri}: storage of this kind is not available ({error})") from None
    return fs.PyFileSystem(fs.FSSpecHandler(storage)), place


def attempt(action: Any, access: Access, attempts: int | None = None) -> Any:
    """Return the result of `action`; retry after transient storage errors.

    Raises:
        StorageError: all attempts failed.
        FileNotFoundError: the object does not exist.
    """
    pause, left = PAUSE_SECONDS, attempts or access.attempts
    while True:
        try:
            return action()
        except FileNotFoundError:
            raise
        except OSError as error:
            left -= 1
            if not left:
                raise StorageError(f"{STORAGE_FAULT} ({_reason(error)})") from None
            time.sleep(pause)
            pause *= 2


def decode_photos(photos: Sequence[Photo], decoder: Decoder, access: Access) -> Decoded:
    """Read and decode photographs, as `Decoder.decode` does for local files.

    Raises:
        StorageError: the storage does not respond for any of them.
        DecoderError: processes cannot be started, or die on one photograph after another.
    """
    with TemporaryDirectory(prefix="vitrine-") as folder, ThreadPoolExecutor(READERS) as pool:
        reader = _Reader(Path(folder), access)
        copies = list(pool.map(reader.copy, range(len(photos)), photos))
        faults = {photo.location: fault for photo, (_, fault) in zip(photos, copies, strict=True) if fault is not None}
        if photos and len(faults) == len(photos) and all(fault.startswith(STORAGE_FAULT) for fault in faults.values()):
            location, fault = next(iter(faults.items()))
            raise StorageError(f"{location}: {fault}")
        names = {str(copy): photo.location for photo, (copy, _) in zip(photos, copies, strict=True)}
        files = [str(copy) for copy, fault in copies if fault is None]
        decoded, decoded_files, decoder_faults = decoder.decode(files)
    faults.update((names[file], fault) for file, fault in decoder_faults)
    in_order = [(photo.location, faults[photo.location]) for photo in photos if photo.location in faults]
    return decoded, [names[file] for file in decoded_files], in_order


class _Reader:
    """Copies objects into a folder, and opens each storage once."""

    def __init__(self, folder: Path, access: Access) -> None:
        self.folder, self.access = folder, access
        self.storages: dict[str, Any] = {}

    def copy(self, number: int, photo: Photo) -> tuple[str | Path, str | None]:
        """Return the path of a local file with the photograph, and the fault if there is none."""
        if photo.fault is not None or not is_remote(photo.location):
            return photo.location, photo.fault
        target = self.folder / str(number)
        try:
            attempt(lambda: self._copy(photo.location, target), self.access)
        except FileNotFoundError:
            return target, "not found"
        except StorageError as error:
            return target, str(error)
        return target, None

    def _copy(self, uri: str, target: Path) -> None:
        scheme, place = uri.split("://", 1)
        if scheme not in self.storages:
            self.storages[scheme] = open_storage(uri, self.access)[0]
        with self.storages[scheme].open_input_stream(place) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)


def _reason(error: OSError) -> str:
    """Return the last part of a message, which gives the cause; messages of AWS are long."""
    text = " ".join((error.strerror or str(error) or type(error).__name__).split())
    return text.rsplit("; Details: ")[-1][-160:]
