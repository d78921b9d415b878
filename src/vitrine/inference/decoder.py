"""Decode photographs in another process, so that one that kills its decoder ends that process alone. Needs no torch."""

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
"""Photographs of a chunk in a row whose decoders die; with more, it is the machine that is at fault."""

Fault = tuple[str, str]
"""The path of a file that is no photograph, and what is wrong with it."""

Decoded = tuple[NDArray[np.uint8], list[str], list[Fault]]


class DecoderError(VitrineError):
    """This machine cannot decode photographs in other processes."""


def decode_files(paths: Sequence[str], size_px: int, max_megapixels: float) -> Decoded:
    """Decode the files that are photographs, in this process.

    Shape:
        returns: (photos, size_px, size_px, channels), their paths, and what is wrong with the other files
    """
    return _collect(paths, [_decode(path, size_px, max_megapixels) for path in paths], size_px)


class Decoder:
    """A process that decodes files for one thread of this one; it starts when it is first needed.

    When it dies (a crash in a decoding library, or the system ends it because memory runs out), another one continues
    with the file at which it died. If that one dies at the same file, the file is at fault.
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
        """Do as `decode_files`.

        Raises:
            DecoderError: no process can be started, or they die at one file after another.
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
                cause, row = self._bury(), len(answers)
                if tried == row:
                    answers.append(f"its decoder died ({cause})")
                    died.append(row)
                    if died[-MAX_DEATHS - 1 :] == list(range(row - MAX_DEATHS, row + 1)):
                        what = f"the decoders of {MAX_DEATHS + 1} photographs in a row died ({cause})"
                        raise DecoderError(f"{paths[row]}: {what}. See whether memory runs out") from None
                tried = row
        return _collect(paths, answers, self.size_px)

    def close(self) -> None:
        """End the process, whatever it does."""
        if self._running:
            self._running[0].kill()
            self._bury()

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
                cause = self._bury()
                raise DecoderError(f"a process that decodes photographs cannot start ({cause})") from None
        return self._running[1]

    def _bury(self) -> str:
        """Wait for the end of the process, and say what ended it."""
        assert self._running is not None
        process, link = self._running
        self._running = None
        link.close()
        process.join()
        code = process.exitcode or 0
        process.close()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _serve(link: Connection, size_px: int, max_megapixels: float) -> None:
    """Answer each list of paths with a photograph or a fault for each, until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal: the parent decides
    with suppress(OSError):  # only Linux has it: if memory runs out, this process is the one to end
        Path("/proc/self/oom_score_adj").write_text("1000")
    with suppress(EOFError, OSError):
        link.send(None)
        while True:
            for path in link.recv():
                link.send(_decode(path, size_px, max_megapixels))


def _decode(path: str, size_px: int, max_megapixels: float) -> NDArray[np.uint8] | str:
    """Return a photograph, or what is wrong with it."""
    try:
        return decode_photo(Path(path), size_px, max_megapixels)
    except PhotoError as error:
        return str(error).removeprefix(f"{path}: ")


def _collect(paths: Sequence[str], answers: Sequence[NDArray[np.uint8] | str], size_px: int) -> Decoded:
    found = [(path, answer) for path, answer in zip(paths, answers, strict=True) if not isinstance(answer, str)]
    wrong = [(path, answer) for path, answer in zip(paths, answers, strict=True) if isinstance(answer, str)]
    photos = np.stack([photo for _, photo in found]) if found else np.empty((0, size_px, size_px, 3), dtype=np.uint8)
    return photos, [path for path, _ in found], wrong
