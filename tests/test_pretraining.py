"""Pre-training sees the right pictures with the right labels; its start weights and its probe do what they say."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from vitrine.artifacts import ArtifactError, write_npz
from vitrine.formulas import formula_picture
from vitrine.labels import MISSING
from vitrine.pretraining import (
    FORMULA_TASK,
    VARIANTS_PER_FORMULA,
    ArmParams,
    linear_probe,
    mimetic_init,
    pretraining_data,
    read_renders,
)

ARM = ArmParams(
    architecture="test_vit",
    weights="none",
    image_size_px=32,
    init="default",
    num_renders=3,
    num_formulas=2,
    augmented=True,
    epochs=1,
    learning_rate=1e-3,
)


def write_shard(folder: Path, number: int, greys: list[int]) -> None:
    files = []
    for grey in greys:
        file = io.BytesIO()
        Image.new("RGB", (16, 16), (grey, grey, grey)).save(file, "JPEG", quality=95)
        files.append(np.frombuffer(file.getvalue(), dtype=np.uint8))
    labels = {
        "class_label": np.array([f"class {grey % 2}" for grey in greys]),
        "color": np.array(["" if grey == 100 else "grey" for grey in greys]),
        "material": np.array(["metal"] * len(greys)),
        "condition": np.array(["new"] * len(greys)),
    }
    ends = np.cumsum([len(file) for file in files])
    write_npz(folder / f"{number}.npz", {**labels, "bytes": np.concatenate(files), "ends": ends})


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_shard(tmp_path, 0, [10, 101, 200])
    write_shard(tmp_path, 1, [100, 51])
    return tmp_path


def test_renders_come_in_the_order_of_the_shards_with_their_labels(shards: Path) -> None:
    photos, table = read_renders(shards, 4)
    assert [int(photo.mean().round()) for photo in photos] == pytest.approx([10, 101, 200, 100], abs=1)
    assert table["class"].tolist() == ["class 0", "class 1", "class 0", "class 0"]
    assert table["color"].tolist() == ["grey", "grey", "grey", None]


def test_too_few_renders_are_an_error(shards: Path) -> None:
    with pytest.raises(ArtifactError, match=r"2\.npz: not found"):
        read_renders(shards, 6)


def test_renders_and_formulas_have_only_their_own_labels(shards: Path) -> None:
    data = pretraining_data(shards, ARM, num_val=2)
    num = 2 * VARIANTS_PER_FORMULA
    assert (data.train.tolist(), data.val.tolist()) == ([0, 1, 2, *range(5, 5 + num)], [3, 4])
    assert (data.codes[FORMULA_TASK][:5] == MISSING).all() and (data.codes["class"][5:] == MISSING).all()
    assert data.codes[FORMULA_TASK][5:].tolist() == [0] * VARIANTS_PER_FORMULA + [1] * VARIANTS_PER_FORMULA
    assert data.codes["color"][3] == MISSING
    assert np.array_equal(data.photos[6], formula_picture(0, 1, 16))


def test_an_arm_without_pictures_is_an_error(shards: Path) -> None:
    with pytest.raises(ArtifactError, match="needs renders or formulas"):
        pretraining_data(shards, ARM.model_copy(update={"num_renders": 0, "num_formulas": 0}), 2)


@pytest.mark.parametrize("formula", range(6))
def test_a_formula_draws_the_same_picture_again_and_another_for_every_variant(formula: int) -> None:
    first = formula_picture(formula, 0, 48)
    assert (first.shape, first.dtype) == ((48, 48, 3), np.uint8)
    assert np.array_equal(first, formula_picture(formula, 0, 48))
    assert not np.array_equal(first, formula_picture(formula, 1, 48))
    assert first.std() > 5  # something is to be seen


def test_formulas_can_be_told_apart_by_shape_alone() -> None:
    """Contours of one formula are alike when their colours are taken away; those of another are not."""

    def outline(formula: int, variant: int) -> np.ndarray:
        picture = formula_picture(formula, variant, 64).astype(float).mean(axis=2)
        spectrum = np.abs(np.fft.fft2(picture - picture.mean()))[:16, :16]
        return np.log1p(spectrum).ravel()

    features = np.array([[outline(3 * kind, variant) for variant in range(12)] for kind in range(4)])
    codes = np.repeat(np.arange(4), 12)
    folds = np.tile(np.arange(12) % 3, 4)
    correct = linear_probe(features.reshape(48, -1).astype(np.float32), codes, folds, 0.01)
    assert correct.mean() > 0.5  # chance is 0.25


def test_mimetic_attention_attends_to_itself_and_subtracts_the_value() -> None:
    torch.manual_seed(0)
    backbone = timm.create_model("deit_tiny_patch16_224", num_classes=0, img_size=96)
    mimetic_init(backbone, torch.Generator().manual_seed(0))
    attention = backbone.blocks[5].attn
    query, key, value = attention.qkv.weight.detach().view(3, 192, 192)
    for head in range(3):
        product = query[head * 64 : head * 64 + 64].T @ key[head * 64 : head * 64 + 64]
        off_diagonal = product - torch.diag(torch.diagonal(product))
        assert torch.diagonal(product).mean() > 10 * off_diagonal.mean().abs()
        assert torch.diagonal(product).mean() > 0.2
    product = attention.proj.weight.detach() @ value
    noise = 0.4 * torch.randn(192, 192, generator=torch.Generator().manual_seed(1)) / 192**0.5
    assert torch.diagonal(product).mean().item() == pytest.approx(-0.4, abs=0.02)
    assert (product + 0.4 * torch.eye(192)).std().item() == pytest.approx(noise.std().item(), rel=0.05)
    grid = backbone.pos_embed.detach()[0, 1:].view(6, 6, 192)
    near, far = (grid[0, 0] - grid[0, 1]).norm(), (grid[0, 0] - grid[5, 5]).norm()
    assert near < far
    assert backbone(torch.zeros(1, 3, 96, 96)).isfinite().all()


def test_the_probe_learns_what_is_in_the_features_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    codes = np.repeat([0, 1, MISSING], [40, 40, 10])
    folds = np.arange(90) % 5
    signal = rng.normal(size=(90, 8)).astype(np.float32)
    signal[:, 0] += 6 * codes
    correct = linear_probe(signal, codes, folds, 1.0)
    assert correct[:80].mean() > 0.95 and not correct[80:].any()
    noise = linear_probe(rng.normal(size=(90, 8)).astype(np.float32), codes, folds, 1.0)
    assert 0.25 < noise[:80].mean() < 0.75
