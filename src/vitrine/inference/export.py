"""Export a system as one ONNX file: from photographs as bytes to calibrated probabilities, embeddings and novelty."""

from __future__ import annotations

import copy
import json
import logging
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vitrine import __version__
from vitrine.artifacts import atomic_path, write_json
from vitrine.errors import VitrineError
from vitrine.inference.calibration import FLOOR
from vitrine.inference.graphs import rearrange_backbone
from vitrine.inference.network import Network
from vitrine.inference.novelty import Detector, Novelty
from vitrine.inference.runtimes import DESCRIPTION, checkpoint_digest
from vitrine.inference.systems import System, load_systems
from vitrine.labels import CLASS_TASK, display_name
from vitrine.learning.model import MultiTaskModel
from vitrine.learning.preprocess import Preprocessing

OPSET = 20
"""Version of the ONNX operator set."""

METADATA_KEY = "vitrine"
"""Entry of the ONNX file's metadata that holds the description, as JSON."""


class ExportError(VitrineError):
    """A system cannot be exported."""


class ExportedNetwork(nn.Module):
    """A network with its preprocessing inside."""

    matrix: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, model: MultiTaskModel) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        self.model.backbone = rearrange_backbone(self.model.backbone)
        preprocessing = model.spec.preprocessing
        self.register_buffer("matrix", resize_matrix(preprocessing))
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, 3, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, 3, 1))

    def forward(self, photos: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Shape: (batch, height, width, channels), uint8 -> {task: (batch, labels)} log probs, (batch, features)."""
        batch, _, _, channels = photos.shape
        side = self.matrix.shape[0]
        # Pixels come first in both products: OpenVINO packs a constant second operand once, at compile time.
        across = photos.permute(0, 3, 1, 2).float() @ self.matrix.T
        pixels = (across.transpose(2, 3) @ self.matrix.T).transpose(2, 3) / 255
        # Flattened: otherwise OpenVINO merges the channel normalization into the product, and fails.
        flat = (pixels.clamp(0, 1).flatten(2) - self.mean) / self.std
        embeddings = self.model.embed(flat.reshape(batch, channels, side, side))
        logits = self.model.classify(embeddings)
        return {task: torch.log_softmax(scores, dim=1) for task, scores in logits.items()}, embeddings


class ExportedNovelty(nn.Module):
    """A served novelty score, as computed by `Detector.scores`."""

    bank: Tensor
    means: Tensor
    axes: Tensor
    precisions: Tensor
    rest: Tensor

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.score, self.neighbors = detector.score, detector.neighbors
        for name, array in detector.tensors.items():
            self.register_buffer(name, torch.tensor(array, dtype=torch.float32))

    def forward(self, probs: Tensor, units: Tensor) -> Tensor:
        """Shape: (batch, classes), (batch, features) -> (batch,)."""
        if self.score == "max_probability":
            return 1 - probs.max(dim=1).values
        if self.score == "neighbors":
            return 1 - (units @ self.bank.T).topk(self.neighbors, dim=1).values[:, -1]
        # The axes are orthonormal: projecting units and means separately is cheaper than projecting all offsets.
        along = (units @ self.axes.T)[:, None] - (self.means @ self.axes.T)[None]
        squares = (units[:, None] - self.means[None]).square().sum(dim=2)
        off = (squares - along.square().sum(dim=2)).clamp(min=0)
        return ((along.square() * self.precisions).sum(dim=2) + self.rest * off).min(dim=1).values


class ExportedSystem(nn.Module):
    """A network or the ensemble: computes `system_predictions`, with unit embeddings, and novelty."""

    def __init__(
        self,
        name: str,
        systems: Mapping[str, System],
        networks: Mapping[str, Network],
        detector: Detector | None = None,
    ) -> None:
        super().__init__()
        self.name, self.systems = name, systems
        self.novelty = ExportedNovelty(detector) if detector else None
        self.names = list(networks)
        self.parts = nn.ModuleList(ExportedNetwork(network.model) for network in networks.values())
        self.tasks = tuple(next(iter(networks.values())).model.spec.label_space)

    def forward(self, photos: Tensor) -> tuple[Tensor, ...]:
        """Return the probabilities of every task, embeddings and, if there is a detector, novelty.

        Shape:
            photos: (batch, height, width, channels), uint8
            returns: per task (batch, labels); (batch, features); (batch,)
        """
        raw = {name: part(photos) for name, part in zip(self.names, self.parts, strict=True)}
        system, outputs = self.systems[self.name], []
        for task in self.tasks:
            members = [
                apply_temperature(raw[member][0][task], self.systems[member].temperatures[task])
                for member in system.members[task]
            ]
            probs = torch.stack(members).mean(dim=0)
            if self.name not in raw:
                probs = apply_temperature(torch.log(probs.clamp(min=FLOOR)), system.temperatures[task])
            outputs.append(probs)
        units = [functional.normalize(embeddings, dim=1, eps=1e-12) for _, embeddings in raw.values()]
        unit = functional.normalize(torch.cat(units, dim=1), dim=1)
        if self.novelty is None:
            return (*outputs, unit)
        return (*outputs, unit, self.novelty(outputs[self.tasks.index(CLASS_TASK)], unit))


def apply_temperature(log_probs: Tensor, temperature: float) -> Tensor:
    """Do the same as `calibration.apply_temperature` for log probabilities. Shape: (batch, labels)."""
    return torch.softmax(log_probs.clamp(min=math.log(FLOOR)) / temperature, dim=1)


def resize_matrix(preprocessing: Preprocessing) -> Tensor:
    """Return the crop and antialiased resizing along one axis as a matrix; both are linear.

    Runtimes differ in how they resize, and some ignore antialiasing; all multiply matrices the same way.

    Shape:
        returns: (image_size_px, photo_size_px)
    """
    side, size = preprocessing.decoding.photo_size_px, preprocessing.image_size_px
    crop = min(side, max(1, round(side * preprocessing.crop_fraction)))
    start = (side - crop) // 2
    matrix = torch.zeros(size, side)
    matrix[:, start : start + crop] = functional.interpolate(
        torch.eye(crop)[None, None], (size, crop), mode=preprocessing.interpolation, antialias=True, align_corners=False
    )[0, 0]
    return matrix


def describe(system: str, models: Path, networks: Mapping[str, Network], novelty: Novelty | None) -> dict[str, Any]:
    """Return the description of an export, as JSON."""
    spec = next(iter(networks.values())).model.spec
    labels = [label for task in spec.label_space for label in (task, *spec.label_space.labels[task])]
    return {
        "system": system,
        "label_space": spec.label_space.to_json(),
        "display_names": {label: display_name(label) for label in labels},
        "decoding": spec.preprocessing.to_json()["decoding"],
        "sure_thresholds": dict(load_systems(models / "systems.json")[system].sure_thresholds),
        "novelty": {"score": novelty.detector.score, "threshold": novelty.threshold} if novelty else None,
        "num_features": sum(int(each.model.backbone.num_features) for each in networks.values()),  # type: ignore
        "networks": {
            name: {
                "architecture": network.model.spec.architecture,
                "image_size_px": network.model.spec.preprocessing.image_size_px,
            }
            for name, network in networks.items()
        },
        "checkpoint": checkpoint_digest(system, models),
        "license": "Apache-2.0",
        "made_by": f"vitrine {__version__}",
    }


def load_networks(system: str, models: Path) -> dict[str, Network]:
    """Load the networks of a system, by name.

    Raises:
        ArtifactError: there is no such system, or a file is missing or broken.
    """
    checkpoint_digest(system, models)  # report missing files before loading anything
    return {name: Network.load(models / name) for name in load_systems(models / "systems.json")[system].networks}


def export_onnx(system: str, models: Path, folder: Path) -> None:
    """Write folder/model.onnx and folder/export.json.

    The model takes `photos`, uint8 (batch, height, width, channels) of any batch size, decoded to squares of
    `decoding.photo_size_px`, and returns `probs_TASK` for every task, `embedding` and, if the models have a novelty
    score, `novelty`: above the threshold in the metadata, a photograph belongs to none of the classes.

    Raises:
        ArtifactError: there is no such system, or a file is missing or broken.
        ExportError: PyTorch or ONNX cannot express the network.
    """
    import onnx

    systems = load_systems(models / "systems.json")
    networks = load_networks(system, models)
    novelty = Novelty.load(models, system, checkpoint_digest(system, models))
    graph = ExportedSystem(system, systems, networks, novelty.detector if novelty else None).cpu().eval()
    side = next(iter(networks.values())).model.spec.preprocessing.decoding.photo_size_px
    example = torch.zeros(2, side, side, 3, dtype=torch.uint8)  # a batch size of 1 would become fixed
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                graph,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["photos"],
                output_names=[
                    *(f"probs_{task}" for task in graph.tasks),
                    "embedding",
                    *(["novelty"] if novelty else []),
                ],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=65536)},),
                verbose=False,
            )
    except Exception as error:  # the exporter raises exceptions of any type
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExportError(f"{system}: cannot be expressed in ONNX ({first})") from error
    assert program is not None
    description = describe(system, models, networks, novelty)
    proto = program.model_proto
    for node in proto.graph.node:  # drop source locations, which hold paths of this machine
        del node.metadata_props[:]
        node.doc_string = ""
    del proto.graph.metadata_props[:]
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info, *proto.graph.initializer):
        del value.metadata_props[:]
    onnx.helper.set_model_props(
        proto, {METADATA_KEY: json.dumps(description, sort_keys=True, ensure_ascii=False), "license": "Apache-2.0"}
    )
    with atomic_path(folder / "model.onnx") as temporary:
        temporary.write_bytes(proto.SerializeToString(deterministic=True))
    write_json(folder / DESCRIPTION, description)
