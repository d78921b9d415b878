"""Runtimes that compute predictions: OpenVINO or ONNX Runtime for an exported system, PyTorch for the networks."""

from __future__ import annotations

import hashlib
import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from vitrine.artifacts import ArtifactError, read_json
from vitrine.inference.novelty import Novelty
from vitrine.inference.systems import System, load_systems, system_predictions
from vitrine.labels import LabelSpace
from vitrine.params import Section
from vitrine.photos import Decoding
from vitrine.predictions import Predictions

if TYPE_CHECKING:
    from vitrine.inference.network import Network

FILES = {
    "openvino bf16": "model.onnx",
    "openvino int8": "model.int8.xml",
    "openvino fp32": "model.onnx",
    "onnxruntime fp32": "model.onnx",
    "onnxruntime int8": "model.int8.onnx",
}
"""Variants of an export and their files, fastest first as measured (docs/export.md). `auto` takes the first one that is
installed, that this processor can run, and that passed the parity gate."""

MIXED = "openvino mixed"
"""An ensemble whose networks run separately in OpenVINO, in bf16 if it passed the network's own gate; faster than all
other variants, and measured like them."""

TORCH_BF16 = "torch bf16"

DESCRIPTION = "export.json"
GATES = "gates.json"
BATCH_SIZE = 8
"""Photographs per OpenVINO batch; two or more batches run in parallel."""


class ServingParams(Section):
    """Backend for the command line and the page."""

    backend: Literal["auto", "openvino", "onnxruntime", "torch"]


Outputs = tuple[dict[str, NDArray[np.float32]], NDArray[np.float32]]


class Runtime(Protocol):
    """Computes calibrated probabilities and embeddings of one system.

    Attributes:
        name: backend and precision, such as `openvino bf16`
        sure_thresholds: per task, the lowest confidence of a sure answer; None if the task is unreliable
        checkpoint: as returned by `checkpoint_digest`
    """

    name: str
    checkpoint: str
    label_space: LabelSpace
    decoding: Decoding
    sure_thresholds: Mapping[str, float | None]

    def predict(self, photos: NDArray[np.uint8], batch_size: int = BATCH_SIZE) -> Outputs:
        """Return probabilities per task and embeddings.

        Shape:
            photos: (photos, height, width, channels), square; returns: {task: (photos, labels)}, (photos, features)
        """
        ...


@dataclass(frozen=True)
class Description:
    """Description of an export: in export.json beside it, and in the ONNX file's metadata under `vitrine`.

    Attributes:
        checkpoint: SHA-256 of the networks and their calibration; see `checkpoint_digest`
        novelty: the `score` of its output `novelty`, and the highest accepted value, `threshold`; None without one
    """

    system: str
    label_space: LabelSpace
    decoding: Decoding
    sure_thresholds: Mapping[str, float | None]
    num_features: int
    checkpoint: str
    novelty: Mapping[str, Any] | None

    @classmethod
    def read(cls, folder: Path) -> Description:
        """Raises: ArtifactError when export.json is missing or invalid."""
        document = read_json(folder / DESCRIPTION)
        try:
            return cls(
                document["system"],
                LabelSpace.from_json(document["label_space"]),
                Decoding(**document["decoding"]),
                document["sure_thresholds"],
                document["num_features"],
                document["checkpoint"],
                document.get("novelty"),
            )
        except (KeyError, TypeError) as error:
            raise ArtifactError(
                f"{folder / DESCRIPTION}: not a valid export description ({error!r}). Run: make export"
            ) from None


class TorchRuntime:
    """The networks in PyTorch, on the device used for training."""

    def __init__(
        self,
        system: str,
        systems: Mapping[str, System],
        networks: Mapping[str, Network],
        checkpoint: str,
        precision: str = "fp32",
    ) -> None:
        self.name = f"torch {precision}"
        self.system, self.systems, self.networks = system, systems, networks
        self.checkpoint, self.precision = checkpoint, precision
        spec = next(iter(networks.values())).model.spec
        self.label_space, self.decoding = spec.label_space, spec.preprocessing.decoding
        self.sure_thresholds = systems[system].sure_thresholds

    @classmethod
    def load(cls, system: str, models: Path, precision: str = "fp32") -> TorchRuntime:
        from vitrine.inference.network import Network  # importing PyTorch takes seconds

        systems = _systems(system, models)
        networks = {name: Network.load(models / name) for name in systems[system].networks}
        return cls(system, systems, networks, checkpoint_digest(system, models), precision)

    def predict(self, photos: NDArray[np.uint8], batch_size: int = BATCH_SIZE) -> Outputs:
        """Predict as `Runtime.predict` does, but in batches as in validation: `batch_size` is ignored."""
        names = [str(row) for row in range(len(photos))]
        raw = {name: network.predict(photos, names, self.precision) for name, network in self.networks.items()}
        predictions = system_predictions(self.system, self.systems, raw)
        return dict(predictions.probs), predictions.embeddings


class ExportRuntime(ABC):
    """Base class of both runtimes of exported files."""

    def __init__(self, folder: Path, variant: str, description: Description) -> None:
        self.name, self.path = variant, folder / FILES[variant]
        self.label_space, self.decoding = description.label_space, description.decoding
        self.sure_thresholds, self.num_features = description.sure_thresholds, description.num_features
        self.checkpoint, self.has_novelty = description.checkpoint, description.novelty is not None
        if not self.path.is_file():
            raise ArtifactError(f"{self.path}: not found. Run: make export")

    @abstractmethod
    def _batches(self, photos: NDArray[np.uint8], batch_size: int) -> list[list[NDArray[np.float32]]]:
        """Compute batches; each has probabilities per task in the label space's order, embeddings, and novelty."""

    def predict(self, photos: NDArray[np.uint8], batch_size: int = BATCH_SIZE) -> Outputs:
        """Predict as `Runtime.predict` does."""
        return self.predict_all(photos, batch_size)[:2]

    def predict_all(
        self, photos: NDArray[np.uint8], batch_size: int = BATCH_SIZE
    ) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32], NDArray[np.float32] | None]:
        """Return all outputs of the graph, including novelty (photos,), None if it has none.

        The page and the command line compute novelty from other outputs, which suffers less from rounding in the graph.
        """
        widths = [*(self.label_space.num_labels(task) for task in self.label_space), self.num_features]
        if len(photos):
            outputs = [np.concatenate(parts) for parts in zip(*self._batches(photos, batch_size), strict=True)]
        else:
            outputs = [*(np.empty((0, width), np.float32) for width in widths), np.empty(0, np.float32)]
        probs = dict(zip(self.label_space, outputs, strict=False))
        return probs, outputs[len(widths) - 1], outputs[len(widths)] if self.has_novelty else None


class OnnxRuntime(ExportRuntime):
    """An exported system in ONNX Runtime."""

    def __init__(self, folder: Path, variant: str, description: Description) -> None:
        import onnxruntime

        super().__init__(folder, variant, description)
        try:
            self.session = onnxruntime.InferenceSession(self.path, providers=["CPUExecutionProvider"])
        except Exception as error:  # of any kind, all of the runtime's own
            raise _broken(self.path, error) from error

    def _batches(self, photos: NDArray[np.uint8], batch_size: int) -> list[list[NDArray[np.float32]]]:
        return [
            self.session.run(None, {"photos": np.ascontiguousarray(photos[start : start + batch_size])})
            for start in range(0, len(photos), batch_size)
        ]


class OpenvinoRuntime(ExportRuntime):
    """An exported system in OpenVINO; compiled models are kept in .cache beside the exports.

    Models are compiled for a fixed batch size: dynamic sizes are a tenth slower, and crash INT8 convolutions on small
    maps.
    """

    def __init__(self, folder: Path, variant: str, description: Description) -> None:
        import openvino

        super().__init__(folder, variant, description)
        self.settings = {
            # Set explicitly: by default it rounds to bfloat16 if the processor supports it.
            "INFERENCE_PRECISION_HINT": "bf16" if variant.endswith("bf16") else "f32",
            "PERFORMANCE_HINT": "THROUGHPUT",
            # With a fixed batch size OpenVINO 2026.4 fuses parts of MobileViT into kernels that compute it wrongly.
            "SNIPPETS_MODE": "DISABLE",
            # One directory per variant: a shared cache would return float32 layers for a model in bfloat16.
            "CACHE_DIR": str(folder.parent.resolve().parent / ".cache" / variant.replace(" ", "_")),
        }
        self.core: Any = openvino.Core()
        self.compiled: dict[int, Any] = {}
        # Models that are alive at interpreter exit abort the process: their threads are gone by then.
        weakref.finalize(self, self.compiled.clear)
        self._compile(1)

    def _compile(self, batch_size: int) -> Any:
        """Return the model for a batch size, compiled on first use."""
        if batch_size not in self.compiled:
            side = self.decoding.photo_size_px
            try:
                model: Any = self.core.read_model(self.path)
                model.reshape([batch_size, side, side, 3])
                self.compiled[batch_size] = self.core.compile_model(model, "CPU", self.settings)
            except Exception as error:  # of any kind, all of the runtime's own
                raise _broken(self.path, error) from error
        return self.compiled[batch_size]

    def _batches(self, photos: NDArray[np.uint8], batch_size: int) -> list[list[NDArray[np.float32]]]:
        """Compute batches as in ExportRuntime; the last batch is padded, and the padding is dropped."""
        batch_size = batch_size if len(photos) > 1 else 1
        model = self._compile(batch_size)
        # Requests in turn, without callbacks: those wait for Python's lock, and can wait forever when a process ends.
        requests = [model.create_infer_request() for _ in range(model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))]
        batches: list[list[NDArray[np.float32]]] = []

        def collect(number: int) -> None:
            request, start = requests[number % len(requests)], number * batch_size
            request.wait()
            batches.append([np.array(each.data[: len(photos) - start]) for each in request.output_tensors])

        num_batches = -(-len(photos) // batch_size)
        for number in range(num_batches):
            if number >= len(requests):
                collect(number - len(requests))
            batch = np.ascontiguousarray(photos[number * batch_size : (number + 1) * batch_size])
            if len(batch) < batch_size:
                batch = np.concatenate([batch, np.repeat(batch[-1:], batch_size - len(batch), axis=0)])
            requests[number % len(requests)].start_async({0: batch})
        for number in range(max(0, num_batches - len(requests)), num_batches):
            collect(number)
        return batches


class MixedRuntime:
    """An ensemble of exported networks, each in bf16 if it passed its own gate, otherwise in float32."""

    name = MIXED

    def __init__(self, folder: Path, description: Description, models: Path) -> None:
        self.system, self.checkpoint = folder.name, description.checkpoint
        self.label_space, self.decoding = description.label_space, description.decoding
        self.sure_thresholds = description.sure_thresholds
        systems = _systems(self.system, models)
        names = systems[self.system].networks

        def open_network(network: str) -> OpenvinoRuntime:
            exported = current_export(network, models, folder.parent)
            variant = "openvino bf16" if "openvino bf16" in passed_gates(folder.parent, network) else "openvino fp32"
            return OpenvinoRuntime(folder.parent / network, variant, exported)

        with ThreadPoolExecutor() as pool:
            self.runtimes = dict(zip(names, pool.map(open_network, names), strict=True))
        # The networks' exports return calibrated probabilities.
        calibrated = dict.fromkeys(self.label_space, 1.0)
        networks = {network: replace(systems[network], temperatures=calibrated) for network in self.runtimes}
        self.systems = {**systems, **networks}

    def predict(self, photos: NDArray[np.uint8], batch_size: int = BATCH_SIZE) -> Outputs:
        """Predict as `Runtime.predict` does."""
        names = tuple(str(row) for row in range(len(photos)))
        parts = {
            network: Predictions(self.label_space, names, *runtime.predict(photos, batch_size))
            for network, runtime in self.runtimes.items()
        }
        predictions = system_predictions(self.system, self.systems, parts)
        return dict(predictions.probs), predictions.embeddings


def load_runtime(system: str, models: Path, exports: Path, backend: str) -> Runtime:
    """Choose and load a system's runtime.

    With `auto`, an export is used if it is of exactly these models; models trained since then run in PyTorch.

    Args:
        backend: as in ServingParams.

    Raises:
        ArtifactError: the system is unknown, the backend is not installed, its export is missing or older
            than the models, or a file is broken.
    """
    ensemble = len(_systems(system, models)[system].networks) > 1
    folder, gates = exports / system, passed_gates(exports, system)
    description = Description.read(folder) if (folder / DESCRIPTION).is_file() else None
    current = description is not None and description.checkpoint == checkpoint_digest(system, models)
    if backend == "torch" or (backend == "auto" and not current):
        bf16 = current and TORCH_BF16 in gates and "BF16" in processor_precisions()
        return TorchRuntime.load(system, models, "bf16" if bf16 else "fp32")
    if backend != "auto" and find_spec(backend) is None:
        raise ArtifactError(f"{backend} is not installed. Install the extra: pip install -e '.[export]'")
    if not current:
        current_export(system, models, exports)
    allowed = ("openvino", "onnxruntime") if backend == "auto" else (backend,)
    for variant in available_variants(ensemble):
        chosen, precision = variant.split()
        if chosen in allowed and (precision == "fp32" or variant in gates):
            return open_variant(folder, variant, models)
    return TorchRuntime.load(system, models)


def available_variants(ensemble: bool) -> list[str]:
    """Return the variants that are installed and supported by this processor, fastest first.

    Args:
        ensemble: whether the system has several networks.
    """
    bf16 = "BF16" in processor_precisions()
    installed = [each for each in (MIXED, *FILES) if find_spec(each.split()[0]) is not None]
    return [
        each
        for each in [*installed, TORCH_BF16]
        if (bf16 or not each.endswith(("bf16", "mixed"))) and (ensemble or each != MIXED)
    ]


def open_variant(folder: Path, variant: str, models: Path) -> Runtime:
    """Open one of `available_variants` of the export in a folder that is named after its system.

    Raises:
        ArtifactError: a file is missing or broken, or a network of an ensemble has no export or one of other models.
    """
    if variant == TORCH_BF16:
        return TorchRuntime.load(folder.name, models, "bf16")
    if variant == MIXED:
        return MixedRuntime(folder, Description.read(folder), models)
    kind = OpenvinoRuntime if variant.startswith("openvino") else OnnxRuntime
    return kind(folder, variant, Description.read(folder))


def current_export(system: str, models: Path, exports: Path) -> Description:
    """Return the description of a system's export.

    Raises:
        ArtifactError: there is none, or it is of other models.
    """
    folder, digest = exports / system, checkpoint_digest(system, models)
    if not (folder / DESCRIPTION).is_file():
        raise ArtifactError(f"{folder}: contains no export. Run: make export")
    description = Description.read(folder)
    if description.checkpoint != digest:
        raise ArtifactError(f"{folder}: does not match the models in {models}. Run: make export")
    return description


def novelty_is_current(description: Description, models: Path) -> bool:
    """Return whether an export has the same novelty score and threshold as the models, or none if they have none."""
    novelty = Novelty.load(models, description.system, description.checkpoint)
    own = {"score": novelty.detector.score, "threshold": novelty.threshold} if novelty else None
    return own == description.novelty


def passed_gates(exports: Path, system: str) -> set[str]:
    """Return the variants of a system that passed the parity gate; empty if it was not measured."""
    path = exports / GATES
    gates: Mapping[str, Mapping[str, Any]] = read_json(path) if path.is_file() else {}
    return {variant for variant, passed in gates.get(system, {}).items() if passed}


def installed_backends() -> dict[str, str]:
    """Return the versions of the backends that are installed, by name."""
    versions = {}
    for name in ("openvino", "onnxruntime", "torch"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def processor_precisions() -> set[str]:
    """Return the precisions that OpenVINO supports on this processor, such as BF16; empty if it is not installed."""
    if find_spec("openvino") is None:
        return set()
    import openvino

    return set(openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def checkpoint_digest(system: str, models: Path) -> str:
    """Return the SHA-256 of what determines a system's predictions: its networks, members, temperatures, thresholds.

    Raises:
        ArtifactError: there is no such system, or a file is missing.
    """
    systems = _systems(system, models)
    digest = hashlib.sha256(repr([(name, systems[name]) for name in (*systems[system].networks, system)]).encode())
    for name in systems[system].networks:
        for file in ("model.json", "model.safetensors"):
            path = models / name / file
            if not path.is_file():
                raise ArtifactError(f"{path}: not found. Run: dvc repro")
            with path.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def _systems(system: str, models: Path) -> dict[str, System]:
    systems = load_systems(models / "systems.json")
    if system not in systems:
        raise ArtifactError(f"{models}: no system '{system}'. Available: {', '.join(systems)}")
    return systems


def _broken(path: Path, error: Exception) -> ArtifactError:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ArtifactError(f"{path}: cannot be loaded ({first}). Delete it and run: make export")
