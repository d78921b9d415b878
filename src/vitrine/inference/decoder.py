"""Decode photographs in another process, so that a decoder crash ends only that process. Does not need torch."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from vitrine.errors import VitrineError
from vitrine.photos import PhotoError, decode_photo

MAX_DEATHS = 8
"""Maximum consecutive photographs of a chunk whose decoders die; with more, the machine is at fault."""

Fault = tuple[str, str]
"""The path of a file that is not a photograph, and the reason."""

Decoded = tuple[NDArray[np.uint8], list[str], list[Fault]]


class DecoderError(VitrineError):
    """This machine cannot decode photographs in other processes."""


def decode_files(paths: Sequence[str], size_px: int, max_megapixels: float) -> Decoded:
    """Decode photographs in this process.

    Shape:
        returns: (photos, size_px, size_px, channels), their paths, and the faults of the other files
    """
    return _collect(paths, [_decode(path, size_px, max_megapixels) for path in paths], size_px)


class Decoder:
    """A process that decodes files for one thread of this process; it starts on first use.

    If it dies (a decoding library crashes, or the system kills it because memory runs out), another one resumes at the
    same file. If that one dies, too, the file is at fault.
    """

    def __init__(self, size_px: int, max_megapixels: float) -> None:
        self.size_px, self.max_megapixels = size_px, max_megapixels
        self._running: tuple[SpawnProcess, Connection] | None = None

    def __enter__(self) -> Decoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def decode(self, paths: Sequence[str]) -> Decoded:
        """Decode files as `decode_files` does.

        Raises:
            DecoderError: no process can be started, or they die on consecutive files.
        """
        answers: list[NDArray[np.uint8] | str] = []
        died: list[int] = []
        tried = -1
        while len(answers) < len(paths):
            left = list(paths[len(answers) :])
            link = self._start()
            try:
                link.send(left)
                for _ in left:
                    answers.append(link.recv())
            except (EOFError, OSError):
                cause, row = self._reap(), len(answers)
                if tried == row:
                    answers.append(f"its decoder died ({cause})")
                    died.append(row)
                    if died[-MAX_DEATHS - 1 :] == list(range(row - MAX_DEATHS, row + 1)):
                        message = f"the decoders of {MAX_DEATHS + 1} photographs in a row died ({cause})"
                        raise DecoderError(
                            f"{paths[row]}: {message}. Check whether the machine runs out of memory"
                        ) from None
                tried = row
        return _collect(paths, answers, self.size_px)

    def close(self) -> None:
        """Kill the process, even while it decodes."""
        if self._running:
            self._running[0].kill()
            self._reap()

    def _start(self) -> Connection:
        if self._running is None:
            context = get_context("spawn")
            link, its_end = context.Pipe()
            process = context.Process(target=_serve, args=(its_end, self.size_px, self.max_megapixels), daemon=True)
            process.start()
            its_end.close()
            self._running = process, link
            try:
                link.recv()
            except (EOFError, OSError):
                cause = self._reap()
                raise DecoderError(f"the decoder process cannot start ({cause})") from None
        return self._running[1]

    def _reap(self) -> str:
        """Wait for the process to end and return the cause."""
        assert self._running is not None
        process, link = self._running
        self._running = None
        link.close()
        process.join()
        code = process.exitcode or 0
        process.close()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _serve(link: Connection, size_px: int, max_megapixels: float) -> None:
    """Send a photograph or a fault for each path of the lists received, until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal: the parent decides
    with suppress(OSError):  # Linux only: if memory runs out, this process is killed first
        Path("/proc/self/oom_score_adj").write_text("1000")
    with suppress(EOFError, OSError):
        link.send(None)
        while True:
            for path in link.recv():
                link.send(_decode(path, size_px, max_megapixels))


def _decode(path: str, size_px: int, max_megapixels: float) -> NDArray[np.uint8] | str:
    """Return a photograph, or an error message."""
    try:
        return decode_photo(Path(path), size_px, max_megapixels)
    except PhotoError as error:
        return str(error).removeprefix(f"{path}: ")


def _collect(paths: Sequence[str], answers: Sequence[NDArray[np.uint8] | str], size_px: int) -> Decoded:
    valid = [(path, answer) for path, answer in zip(paths, answers, strict=True) if not isinstance(answer, str)]
    faults = [(path, answer) for path, answer in zip(paths, answers, strict=True) if isinstance(answer, str)]
    photos = np.stack([photo for _, photo in valid]) if valid else np.empty((0, size_px, size_px, 3), dtype=np.uint8)
    return photos, [path for path, _ in valid], faults
