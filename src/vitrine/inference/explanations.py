"""Heat maps of the parts of a photograph that the answer of a network or system is based on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torchcam.methods import GradCAM

from vitrine.artifacts import ArtifactError
from vitrine.inference.heatmaps import ExplanationError
from vitrine.inference.network import Network
from vitrine.inference.systems import System, load_systems, system_predictions
from vitrine.learning.model import INFERENCE_BATCH_SIZE, MultiTaskModel, create_model
from vitrine.photos import decode_photo
from vitrine.predictions import Predictions

MIN_CELLS = 5
"""Minimum side of the explained feature map; chosen on val by benchmarks/explain.py."""

Maps = dict[str, NDArray[np.float32]]
"""Heat maps per task, (photos, height, width) in [0, 1]; 1 is the hottest place of each."""


def is_transformer(model: MultiTaskModel) -> bool:
    """Return whether the backbone is a timm vision transformer, whose attention can be read."""
    blocks = getattr(model.backbone, "blocks", None)
    return isinstance(blocks, nn.Sequential) and all(hasattr(getattr(b, "attn", None), "attn_drop") for b in blocks)


def feature_layer(model: MultiTaskModel, min_cells: int = MIN_CELLS) -> nn.Module:
    """Return the deepest layer of a convolutional backbone whose feature map has at least `min_cells` per side.

    Raises:
        ExplanationError: the backbone does not list its feature layers.
    """
    info = getattr(model.backbone, "feature_info", None)
    listed: Sequence[Mapping[str, Any]] = info if isinstance(info, list) else getattr(info, "info", [])
    size = model.spec.preprocessing.image_size_px
    fitting = [each["module"] for each in listed if each["module"] and size // each["reduction"] >= min_cells]
    if not fitting:
        raise ExplanationError(f"{model.spec.architecture}: has no feature maps to explain")
    return model.backbone.get_submodule(fitting[-1])


def activation_maps(
    model: MultiTaskModel,
    images: Tensor,
    codes: Mapping[str, Sequence[int]],
    method: Any = GradCAM,
    min_cells: int = MIN_CELLS,
) -> dict[str, Tensor]:
    """Return class activation maps of a convolutional network: one forward pass, one short backward pass per task.

    Args:
        codes: per task, the label to explain for every photograph.
        method: from torchcam's Grad-CAM family.

    Shape:
        images: (photos, channels, side, side); returns: per task (photos, cells, cells)
    Source:
        Selvaraju et al., Grad-CAM (2017), https://arxiv.org/abs/1610.02391, as implemented in torchcam.
    """
    with method(model, feature_layer(model, min_cells)) as extract, torch.enable_grad():
        logits = model(images)
        return {
            task: extract(class_idx=list(wanted), scores=logits[task], retain_graph=True)[0].float()
            for task, wanted in codes.items()
        }


def attention_maps(
    model: MultiTaskModel, images: Tensor, codes: Mapping[str, Sequence[int]], num_blocks: int | None = None
) -> dict[str, Tensor]:
    """Return LeGrad maps of a vision transformer: how every block's own score depends on its attention.

    The tokens of each block are classified as if it were the last one; the positive gradients of the label's logit
    with respect to the block's attention are averaged over heads, queries and blocks.

    Args:
        codes: as in `activation_maps`.
        num_blocks: number of last blocks to use; None for all.

    Shape:
        as `activation_maps`
    Source:
        Bousselham et al., LeGrad (2024), https://arxiv.org/abs/2404.03214, equations 5 to 9.
    """
    backbone: Any = model.backbone
    blocks = list(backbone.blocks)[-(num_blocks or len(backbone.blocks)) :]
    attended: list[Tensor] = []
    tokens: list[Tensor] = []
    handles = [b.attn.attn_drop.register_forward_hook(lambda _, __, out: attended.append(out)) for b in blocks]
    handles += [b.register_forward_hook(lambda _, __, out: tokens.append(out)) for b in blocks]
    fused = [block.attn.fused_attn for block in blocks]
    try:
        for block in blocks:
            block.attn.fused_attn = False  # fused kernels do not expose the attention
        with torch.enable_grad():
            backbone.forward_features(images)
            logits = [model.classify(backbone.forward_head(backbone.norm(each))) for each in tokens]
    finally:
        for handle in handles:
            handle.remove()
        for block, was in zip(blocks, fused, strict=True):
            block.attn.fused_attn = was
    maps = {}
    for task, wanted in codes.items():
        chosen = torch.as_tensor(wanted, device=images.device)[:, None]
        layers = []
        for scores, attention in zip(logits, attended, strict=True):
            (gradient,) = torch.autograd.grad(scores[task].gather(1, chosen).sum(), attention, retain_graph=True)
            layers.append(gradient.clamp(min=0).mean(dim=(1, 2)))
        patches = torch.stack(layers).mean(dim=0)[:, backbone.num_prefix_tokens :]
        maps[task] = patches.reshape(len(images), *backbone.patch_embed.grid_size).detach().float()
    return maps


class NetworkExplainer:
    """Heat maps of one trained network: Grad-CAM for convolutions, LeGrad for vision transformers."""

    def __init__(self, network: Network) -> None:
        self.network, self.model = network, network.model

    @property
    def view_px(self) -> int:
        """Side of the center square of a photograph that the network sees."""
        preprocessing = self.model.spec.preprocessing
        side = preprocessing.decoding.photo_size_px
        return min(side, max(1, round(side * preprocessing.crop_fraction)))

    def heatmaps(self, photos: NDArray[np.uint8], codes: Mapping[str, NDArray[np.int64]]) -> Maps:
        """Explain labels of decoded photographs; pixels that the network does not see are 0.

        Args:
            codes: per task, the code of the label to explain for every photograph.

        Shape:
            photos: (photos, side, side, channels), as returned by `decode_photo`; codes[task]: (photos,)
        """
        device = next(self.model.parameters()).device
        find = attention_maps if is_transformer(self.model) else activation_maps
        parts: dict[str, list[NDArray[np.float32]]] = {task: [] for task in codes}
        for start in range(0, len(photos), INFERENCE_BATCH_SIZE):
            chunk = slice(start, start + INFERENCE_BATCH_SIZE)
            images = self.model.spec.preprocessing.eval_transform(photos[chunk], device)
            wanted = {task: [int(code) for code in values[chunk]] for task, values in codes.items()}
            for task, maps in find(self.model, images, wanted).items():
                parts[task].append(self._placed(maps, photos.shape[1]))
        empty = np.zeros((0, photos.shape[1], photos.shape[1]), np.float32)
        return {task: np.concatenate(chunks) if chunks else empty for task, chunks in parts.items()}

    def _placed(self, maps: Tensor, side: int) -> NDArray[np.float32]:
        """Scale maps to [0, 1] and place them in the square that the network sees. Shape: (photos, cells, cells)."""
        view = self.view_px
        grown = functional.interpolate(maps[:, None], (view, view), mode="bilinear", align_corners=False)[:, 0]
        lowest, highest = (each(grown, dim=(1, 2), keepdim=True) for each in (torch.amin, torch.amax))
        placed = np.zeros((len(maps), side, side), np.float32)
        start = (side - view) // 2
        scaled = (grown - lowest) / (highest - lowest).clamp(min=1e-12)
        placed[:, start : start + view, start : start + view] = scaled.cpu().numpy()
        return placed


def without_training(network: Network, seed: int) -> Network:
    """Return a network of the same architecture with random weights, for the sanity check of heat maps.

    Source:
        Adebayo et al., Sanity Checks for Saliency Maps (2018), https://arxiv.org/abs/1810.03292.
    """
    spec = network.model.spec
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = create_model(
            spec.architecture,
            "none",
            spec.label_space,
            spec.preprocessing.decoding,
            spec.preprocessing.image_size_px,
            spec.feature_dropout,
            spec.head_dropout,
        )
    return Network(model.to(next(network.model.parameters()).device).to(memory_format=torch.channels_last))


@dataclass(frozen=True)
class Explanation:
    """Why a system gives a label to a photograph.

    Shape:
        heatmap: (side, side) in [0, 1]
    """

    task: str
    label: str
    probability: float
    heatmap: NDArray[np.float32]


class Explainer:
    """Heat maps of a system: a network's own, or the mean over the ensemble's members."""

    def __init__(self, name: str, systems: Mapping[str, System], networks: Mapping[str, Network]) -> None:
        self.name, self.systems = name, systems
        self.members = {each: NetworkExplainer(networks[each]) for each in systems[name].networks}
        spec = next(iter(self.members.values())).model.spec
        self.label_space, self.decoding = spec.label_space, spec.preprocessing.decoding

    @classmethod
    def load(cls, name: str, models: Path = Path("models")) -> Explainer:
        """Load a system's networks with PyTorch.

        Raises:
            ArtifactError: there is no such system, or a checkpoint is missing or broken.
        """
        systems = load_systems(models / "systems.json")
        if name not in systems:
            raise ArtifactError(f"{models}: no system '{name}'. Available: {', '.join(systems)}")
        missing = [each for each in systems[name].networks if not (models / each / "model.safetensors").is_file()]
        if missing:
            raise ArtifactError(
                f"{models / missing[0]}: contains no checkpoint. Heat maps need the networks themselves; an export is "
                "not enough. Run: dvc repro, or dvc pull"
            )
        return cls(name, systems, {each: Network.load(models / each) for each in systems[name].networks})

    @property
    def view_px(self) -> int:
        """Side of the center square of a photograph that any of the networks sees."""
        return max(member.view_px for member in self.members.values())

    def predict(self, photos: NDArray[np.uint8]) -> Predictions:
        """Return the system's calibrated predictions, in float32. Shape: as `heatmaps`."""
        names = [str(row) for row in range(len(photos))]
        raw = {name: member.network.predict(photos, names) for name, member in self.members.items()}
        return system_predictions(self.name, self.systems, raw)

    def predict_task(self, photos: NDArray[np.uint8], task: str) -> NDArray[np.float32]:
        """Predict one task as `predict` does, using only its members. Shape: as `heatmaps` -> (photos, labels)."""
        system, names = self.systems[self.name], [str(row) for row in range(len(photos))]
        members = system.members[task]
        raw = {name: self.members[name].network.predict(photos, names) for name in members}
        if members != (self.name,):
            system = System({task: members}, system.temperatures, system.sure_thresholds)
        return system_predictions(self.name, {**self.systems, self.name: system}, raw).probs[task]

    def heatmaps(self, photos: NDArray[np.uint8], codes: Mapping[str, NDArray[np.int64]]) -> Maps:
        """Explain labels as `NetworkExplainer.heatmaps` does; for the ensemble, average each task's members."""
        members = self.systems[self.name].members
        member_maps = {
            name: member.heatmaps(photos, {task: values for task, values in codes.items() if name in members[task]})
            for name, member in self.members.items()
        }
        maps = {}
        for task in codes:
            mean = np.mean([member_maps[name][task] for name in members[task]], axis=0, dtype=np.float64)
            highest = np.maximum(mean.max(axis=(1, 2), keepdims=True), 1e-12)
            maps[task] = (mean / highest).astype(np.float32)
        return maps

    def explain(
        self, photos: NDArray[np.uint8], tasks: Sequence[str], labels: Mapping[str, str] | None = None
    ) -> list[dict[str, Explanation]]:
        """Return the label of each task for every photograph, with the heat map that explains it.

        Args:
            labels: labels to explain instead of the predicted ones, by task.

        Shape:
            photos: (photos, side, side, channels), as returned by `decode_photo`
        Raises:
            ExplanationError: there is no such task or label.
        """
        for task, label in [*((task, None) for task in tasks), *(labels or {}).items()]:
            known: Sequence[str] = self.label_space.labels.get(task, ())
            if not known:
                raise ExplanationError(f"{task}: no such task. Available: {', '.join(self.label_space)}")
            if label is not None and label not in known:
                raise ExplanationError(f"{task}: no such label '{label}'. Available: {', '.join(known)}")
        predictions = self.predict(photos)
        codes = {
            task: np.full(len(photos), self.label_space.labels[task].index(labels[task]), dtype=np.int64)
            if labels and task in labels
            else predictions.predicted(task)
            for task in tasks
        }
        maps = self.heatmaps(photos, codes)
        return [
            {
                task: Explanation(
                    task,
                    self.label_space.labels[task][codes[task][row]],
                    float(predictions.probs[task][row, codes[task][row]]),
                    maps[task][row],
                )
                for task in tasks
            }
            for row in range(len(photos))
        ]

    def explain_files(
        self, paths: Sequence[Path], tasks: Sequence[str], labels: Mapping[str, str] | None = None
    ) -> list[dict[str, Explanation]]:
        """Decode and explain files.

        Raises:
            PhotoError: a file is not a readable photograph.
            ExplanationError: as `explain`.
        """
        side = self.decoding.photo_size_px
        photos = [decode_photo(path, side, self.decoding.max_megapixels) for path in paths]
        return self.explain(np.stack(photos), tasks, labels) if photos else []


def predict_systems(
    explainers: Mapping[str, Explainer], photos: NDArray[np.uint8]
) -> dict[tuple[str, str], NDArray[np.float32]]:
    """Return the probabilities of several systems, by system and task; every network predicts once.

    Shape:
        photos: as `Explainer.heatmaps`; returns: (photos, labels) each
    """
    names = [str(row) for row in range(len(photos))]
    networks = {name: member.network for each in explainers.values() for name, member in each.members.items()}
    raw = {name: network.predict(photos, names) for name, network in networks.items()}
    predictions = {name: system_predictions(name, each.systems, raw) for name, each in explainers.items()}
    return {(name, task): probs for name, each in predictions.items() for task, probs in each.probs.items()}
