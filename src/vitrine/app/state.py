"""What the page can do, without Gradio: predictors loaded in the background, the gallery, searches, corrections."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from vitrine.app.gallery import Engine, Gallery, Page
from vitrine.app.watch import Metrics
from vitrine.artifacts import ArtifactError
from vitrine.data.catalog import DataParams
from vitrine.data.dataset import SUFFIXES
from vitrine.data.video import CLIP_SUFFIXES, Clip, VideoError, is_clip, read_clip
from vitrine.inference.predictor import Predictor, fuse
from vitrine.inference.runtimes import ServingParams
from vitrine.inference.systems import ENSEMBLE
from vitrine.inference.video import answer_clip
from vitrine.params import read_section
from vitrine.photos import PhotoError, decode_photo
from vitrine.retrieval.index import SearchResult

COMPARE = "compare"
"""The choice, instead of a system, of all networks side by side."""

NUM_EXAMPLES = 6
MAX_PHOTOS = 12
MAX_HITS = 1000
MAX_UPLOAD_BYTES = 20 * 1024 * 1024
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""Formats of uploads, whatever their suffix: Pillow reads more, and would run Ghostscript for PostScript."""

STALE_COSINE = 0.99
"""Embeddings of one photograph by one model differ only by rounding; below this, the index is another model's."""

log = logging.getLogger("vitrine")


@dataclass(frozen=True)
class Prediction:
    """A system's prediction of one item.

    Attributes:
        answer: as returned by `Predictor.to_records`
        seconds: duration of the prediction
        clip: the input, if it was a clip

    Shape:
        embedding: (features,)
    """

    system: str
    answer: Mapping[str, Any]
    seconds: float
    embedding: NDArray[np.floating]
    clip: Clip | None = None


class AppState:
    """Everything the page knows about a finished pipeline.

    Attributes:
        systems: those that have an index, the ensemble first; networks: the same without the ensemble
        plots: the evaluation's pictures by name
        warning: what is wrong with the models, empty if nothing
        loaded: whether all models are loaded and match the indexes
        metrics: of the page and of API clients
    """

    def __init__(self, root: Path, may_correct: bool, engines: Mapping[str, Engine] | None = None) -> None:
        self.root = root
        self.may_correct = may_correct
        self.gallery = Gallery.load(root, read_section("data", DataParams, root / "params.yaml"))
        self.gallery.search_with(engines or {})
        self.systems = [ENSEMBLE] if ENSEMBLE in self.gallery.indexes else []
        self.systems += [name for name in self.gallery.indexes if name != ENSEMBLE]
        self.networks = [name for name in self.systems if name != ENSEMBLE]
        self.plots = {path.name: path for path in sorted((root / "plots/evaluate").glob("*.png"))}
        self.backend = read_section("serving", ServingParams, root / "params.yaml").backend
        self.has_report = (root / "report/index.html").is_file()
        self.warning = ""
        self.metrics = Metrics()
        self.loaded = False
        self._predictors: dict[str, Predictor] = {}
        self._loading, self._correcting = threading.Lock(), threading.Lock()
        self._worker = ThreadPoolExecutor(1, "predict")
        self._warming: threading.Thread | None = None
        self._closing = False

    def chosen(self, model: str) -> list[str]:
        """Return the systems that a choice on the page stands for."""
        return self.networks if model == COMPARE else [model]

    # -- predictions -----------------------------------------------------------------------------------------------

    def predictor(self, system: str) -> Predictor:
        with self._loading:
            if system not in self._predictors:
                folders = self.root / "models", self.root / "exports"
                predictor = Predictor.load(system, *folders, self.backend)
                info = {"checkpoint": predictor.checkpoint, "backend": predictor.runtime.name}
                self.metrics.models.labels(system).info(info)
                self._predictors[system] = predictor
            return self._predictors[system]

    def loaded_models(self) -> dict[str, dict[str, str]]:
        """Return what is loaded: each system's checkpoint and backend."""
        return {
            name: {"checkpoint": predictor.checkpoint, "backend": predictor.runtime.name}
            for name, predictor in self._predictors.copy().items()
        }

    @property
    def status(self) -> str:
        """`loading` until all models are loaded, `failing` if `warning` says why, else `ok`."""
        return "failing" if self.warning else "ok" if self.loaded else "loading"

    def start(self) -> None:
        """Warm up in the background."""
        self._warming = threading.Thread(target=self.warm_up, daemon=True)
        self._warming.start()

    def warm_up(self) -> None:
        """Load every predictor, and check on three photographs that the indexes were made by the same models."""
        try:
            for system in self.systems:
                if self._closing:
                    return
                predictor, index = self.predictor(system), self.gallery.indexes[system]
                rows = range(min(3, len(index)))
                files = [self.gallery.file(system, row) for row in rows]
                embeddings = predictor.predict_files(files).embeddings
                lengths = np.maximum(np.linalg.norm(embeddings, axis=1), 1e-12)
                cosines = np.sum(embeddings * np.stack([index.embedding(row) for row in rows]), axis=1) / lengths
                if predictor.label_space != index.label_space or cosines.min() < STALE_COSINE:
                    raise ArtifactError(f"index/{system} was built with a different model")
            self.loaded = True
        except (ArtifactError, PhotoError, ValueError) as error:
            self.warning = f"The index does not match the models: {error}. Run: dvc repro"
            log.error(self.warning)
        except Exception as error:  # in its own thread, where it would go unnoticed
            self.warning = f"The models cannot be loaded ({type(error).__name__}). See the server log"
            log.exception(self.warning)

    def close(self, seconds: float) -> None:
        """Wait for the running prediction, drop waiting ones, and wait some seconds for a model that is loading.

        A process that exits while another thread loads a model aborts.
        """
        self._closing = True
        self._worker.shutdown(cancel_futures=True)
        if self._warming:
            self._warming.join(seconds)

    def decode(self, paths: Sequence[str], size_px: int) -> NDArray[np.uint8]:
        """Decode uploads, whose names, sizes and contents are untrusted.

        Shape:
            returns: (photos, size_px, size_px, channels)
        Raises:
            PhotoError: a file is not a supported photograph; the message omits its name.
        """
        if len(paths) > MAX_PHOTOS:
            raise PhotoError(f"at most {MAX_PHOTOS} photographs of one item can be combined")
        decoded = []
        for text in paths:
            path = Path(text)
            if path.suffix.lower() not in SUFFIXES:
                known, clips = (", ".join(suffix[1:] for suffix in each) for each in (SUFFIXES, CLIP_SUFFIXES))
                kinds = f"photographs ({known}) or one clip ({clips})"
                raise PhotoError(f"Can't read this file: only {kinds} are supported")
            try:
                if path.is_file() and path.stat().st_size > MAX_UPLOAD_BYTES:
                    raise PhotoError(f"is larger than {MAX_UPLOAD_BYTES // 1024**2} MB")
                check_format(path)
                decoded.append(decode_photo(path, size_px, self.gallery.max_megapixels))
            except PhotoError as error:
                reason = str(error).removeprefix(f"{path}: ")
                subject = "it " if reason.startswith(("is ", "cannot ")) else ""
                raise PhotoError(f"Can't read this image: {subject}{reason}") from None
        return np.stack(decoded)

    def decode_clip(self, path: str, size_px: int) -> Clip:
        """Read an upload with a clip's suffix.

        Raises:
            VideoError: it is not a supported clip; the message omits its name.
        """
        try:
            if Path(path).stat().st_size > MAX_UPLOAD_BYTES:
                raise VideoError(f"is larger than {MAX_UPLOAD_BYTES // 1024**2} MB")
            return read_clip(Path(path), size_px, self.gallery.max_megapixels)
        except VideoError as error:
            reason = str(error).removeprefix(f"{path}: ")
            subject = "" if reason.startswith(("clips need", "its ")) or reason[:1].isdigit() else "it "
            raise VideoError(f"Can't read this clip: {subject}{reason}") from None

    def predict(self, paths: Sequence[str], systems: Sequence[str]) -> list[Prediction]:
        """Predict one item from its photographs or from one clip with each system, waiting for its turn.

        Raises:
            PhotoError: as `decode`.
            ArtifactError: a model is missing or broken.
        """
        return self.enqueue(paths, systems).result()

    def enqueue(self, paths: Sequence[str], systems: Sequence[str]) -> Future[list[Prediction]]:
        """Schedule `predict`; predictions run one at a time, in the order of the calls."""
        waiting, running = self.metrics.waiting, self.metrics.running

        def run() -> list[Prediction]:
            waiting.dec()
            with running.track_inprogress():
                return self._predict(paths, systems)

        waiting.inc()
        future = self._worker.submit(run)
        future.add_done_callback(lambda done: waiting.dec() if done.cancelled() else None)
        return future

    def _predict(self, paths: Sequence[str], systems: Sequence[str]) -> list[Prediction]:
        if len(paths) == 1 and is_clip(paths[0]):
            return self._predict_clip(paths[0], systems)
        results = []
        decoded: dict[int, NDArray[np.uint8]] = {}
        for system in systems:
            predictor = self.predictor(system)
            side = predictor.photo_size_px
            if side not in decoded:
                decoded[side] = self.decode(paths, side)
            began = time.perf_counter()
            names = [f"photo {number + 1}" for number in range(len(paths))]
            predictions = predictor.predict(decoded[side], names)
            if len(predictions) > 1:
                predictions = fuse(predictions, "item")
            seconds = time.perf_counter() - began
            self.metrics.predict_seconds.labels(system).observe(seconds)
            answer = predictor.to_records(predictions)[0]
            if answer["novelty"] and answer["novelty"]["refused"]:
                self.metrics.refused.labels(system).inc()
            results.append(Prediction(system, answer, seconds, predictions.embeddings[0]))
        return results

    def _predict_clip(self, path: str, systems: Sequence[str]) -> list[Prediction]:
        results = []
        decoded: dict[int, Clip] = {}
        for system in systems:
            predictor = self.predictor(system)
            side = predictor.photo_size_px
            if side not in decoded:
                decoded[side] = self.decode_clip(path, side)
            began = time.perf_counter()
            answer, fused = answer_clip(predictor, decoded[side], "clip")
            seconds = time.perf_counter() - began
            self.metrics.predict_seconds.labels(system).observe(seconds)
            results.append(Prediction(system, answer, seconds, fused.embeddings[0], decoded[side]))
        return results

    # -- search ----------------------------------------------------------------------------------------------------

    def search(
        self, system: str, words: str, labels: Mapping[str, Sequence[str]], photo: str | None, like: str, num: int
    ) -> Page:
        """Search by words, by similarity to an uploaded or an indexed photograph (`SYSTEM/ROW`), and by labels."""
        embedding = None
        if photo:
            embedding = self.predict([photo], [system])[0].embedding
        elif like:
            known, row = self.locate(like)
            index = self.gallery.indexes[system]
            there = row if known == system else index.row_of(self.gallery.indexes[known].image_path(row))
            embedding = None if there is None else index.embedding(there)
        with self.metrics.search_seconds.labels(system).time():
            return self.gallery.search(system, words, labels, embedding, min(num, MAX_HITS))

    def search_index(
        self, system: str, words: str, like: NDArray[np.floating] | None, top_k: int, by_item: bool
    ) -> SearchResult:
        """Search like `Index.search`, for API clients: without filters and their counts."""
        with self.metrics.search_seconds.labels(system).time():
            return self.gallery.backend(system).search(words, like=like, top_k=top_k, by_item=by_item)

    def locate(self, picked: str) -> tuple[str, int]:
        """Parse `SYSTEM/ROW` as sent by the page. Raises: ArtifactError: there is no such photograph."""
        match = re.fullmatch(r"(\w{1,40})/(\d{1,9})", picked)
        if match and match[1] in self.gallery.indexes and int(match[2]) < len(self.gallery.indexes[match[1]]):
            return match[1], int(match[2])
        raise ArtifactError("There is no such photograph.")

    def correct(self, picked: str, task: str, label: str) -> str:
        """Write a correction; return the photograph's path. Raises: ArtifactError: it is not allowed or not valid."""
        if not self.may_correct:
            raise ArtifactError("Labels can be corrected only when the server listens on localhost.")
        system, row = self.locate(picked)
        with self._correcting:
            return self.gallery.correct(system, row, task, label)

    def undo(self) -> str:
        """Undo the last correction; return the photograph's path. Raises: ArtifactError: there is none."""
        with self._correcting:
            return self.gallery.undo()

    def example_rows(self) -> list[int]:
        """Return photographs of different classes that no model was trained on."""
        index = self.gallery.indexes[self.systems[0]]
        rows: dict[str | None, int] = {}
        test = set(self.gallery.table.index[self.gallery.table["split"] == "test"])
        for row, path in enumerate(index.paths()):
            if path in test:
                rows.setdefault(self.gallery.labels_of(index.name, row)["class"], row)
            if len(rows) == NUM_EXAMPLES:
                break
        return list(rows.values()) or list(range(min(NUM_EXAMPLES, len(index))))


def check_format(path: Path) -> None:
    """Check the format in a file's header. Raises: PhotoError: it is not supported, whatever the file's name."""
    try:
        with Image.open(path, formats=FORMATS):
            pass
    except UnidentifiedImageError:
        if path.stat().st_size:
            raise PhotoError(f"{path}: is not an image that can be read") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, FileNotFoundError):
        return  # `decode_photo` reports it, with the limit
    except Exception as error:  # decoders may raise anything
        raise PhotoError(f"{path}: cannot be decoded ({type(error).__name__})") from error
