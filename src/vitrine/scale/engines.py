"""Predict shards in this process, with its decoders; `ray_engine` does the same on many machines."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitrine.artifacts import ArtifactError
from vitrine.inference.decoder import Decoded, Decoder
from vitrine.inference.predictor import Predictor
from vitrine.inference.runtimes import MixedRuntime, OnnxRuntime, OpenvinoRuntime, TorchRuntime, open_variant
from vitrine.inference.stream import CHUNK, decode_ahead
from vitrine.scale.parquet import encode_shard
from vitrine.scale.storage import Access, Photo, decode_photos, is_remote


@dataclass(frozen=True)
class Shard:
    """Photographs of one Parquet file.

    Attributes:
        name: file name: its number, and a hash of the photographs and of what predicts them
    """

    name: str
    photos: tuple[Photo, ...]

    def chunks(self) -> list[Sequence[Photo]]:
        """Split into chunks to decode and predict at once, the same for all engines, as the batch size affects bits."""
        return [self.photos[start : start + CHUNK] for start in range(0, len(self.photos), CHUNK)]


def predict_here(shards: Sequence[Shard], predictor: Predictor, access: Access) -> Iterator[tuple[str, bytes]]:
    """Predict shards in this process.

    Yields:
        name and bytes of a shard's Parquet file, in order

    Raises:
        StorageError: a storage does not respond for a whole chunk.
        DecoderError: decoding processes cannot be started, or die on one photograph after another.
    """
    fix_threads(predictor, os.cpu_count() or 1)
    chunks = [chunk for shard in shards for chunk in shard.chunks()]
    with decoder_for(predictor) as decoder:  # starts its processes on first use
        if any(is_remote(photo.location) for chunk in chunks for photo in chunk):
            decoded = decode_in_turn(chunks, decoder, access)
        else:
            decoded = _decode_files(chunks, predictor)
        for shard in shards:
            yield shard.name, predict_shard(predictor, shard, decoded)


def predict_shard(predictor: Predictor, shard: Shard, decoded: Iterator[Decoded]) -> bytes:
    """Return the Parquet file of a shard, whose decoded chunks are the next items of `decoded`."""
    parts, faults = [], []
    for _ in shard.chunks():
        photos, names, wrong = next(decoded)
        parts.append(predictor.predict(photos, names))
        faults += wrong
    return encode_shard(predictor, shard.photos, parts, faults)


def decoder_for(predictor: Predictor) -> Decoder:
    return Decoder(predictor.photo_size_px, predictor.max_megapixels)


def decode_in_turn(chunks: Iterable[Sequence[Photo]], decoder: Decoder, access: Access) -> Iterator[Decoded]:
    """Read and decode one chunk after another."""
    for chunk in chunks:
        yield decode_photos(chunk, decoder, access)


def _decode_files(chunks: Sequence[Sequence[Photo]], predictor: Predictor) -> Iterator[Decoded]:
    files = [[photo.location for photo in chunk if photo.fault is None] for chunk in chunks]
    for chunk, (photos, names, wrong) in zip(chunks, decode_ahead(files, predictor), strict=True):
        yield photos, names, wrong + [(photo.location, photo.fault) for photo in chunk if photo.fault is not None]


def fix_threads(predictor: Predictor, num_threads: int) -> None:
    """Compute every batch in a single thread, so that bits do not depend on the number of cores.

    Args:
        num_threads: number of batches to compute in parallel. PyTorch computes one at a time.
    """
    runtime = predictor.runtime
    if isinstance(runtime, OpenvinoRuntime | MixedRuntime):
        for each in runtime.runtimes.values() if isinstance(runtime, MixedRuntime) else (runtime,):
            each.settings |= {"INFERENCE_NUM_THREADS": str(num_threads), "NUM_STREAMS": str(num_threads)}
            each.settings["ENABLE_CPU_PINNING"] = "NO"  # every process would pin its first thread to the first core
            each.compiled.clear()  # recompiled with these settings at the next prediction
    elif isinstance(runtime, OnnxRuntime):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads  # threads split outputs, not sums
        runtime.session = onnxruntime.InferenceSession(runtime.path, options, providers=["CPUExecutionProvider"])
    elif isinstance(runtime, TorchRuntime):
        import torch

        torch.set_num_threads(1)


@dataclass(frozen=True)
class Copy:
    """A recipe for loading a copy of a predictor in another process.

    Attributes:
        variant: name of the runtime
        checkpoint: expected checkpoint of the models
        models, exports: absolute paths, the same on all machines
    """

    system: str
    variant: str
    checkpoint: str
    models: Path
    exports: Path

    @classmethod
    def of(cls, predictor: Predictor, models: Path, exports: Path) -> Copy:
        return cls(predictor.name, predictor.runtime.name, predictor.checkpoint, models.absolute(), exports.absolute())

    def load(self) -> Predictor:
        """Raises: ArtifactError: this machine has no models, or different ones."""
        if self.variant.startswith("torch"):
            predictor = Predictor(self.system, TorchRuntime.load(self.system, self.models, self.variant.split()[1]))
        else:
            predictor = Predictor(self.system, open_variant(self.exports / self.system, self.variant, self.models))
        if predictor.checkpoint != self.checkpoint:
            raise ArtifactError(
                f"{self.models}: a worker has different models in this folder. Copy the project to all machines"
            )
        fix_threads(predictor, 1)
        return predictor
