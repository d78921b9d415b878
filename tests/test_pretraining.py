"""Pre-training sees the right pictures with the right labels; its start weights and its probe do what they say."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import LeaveOneGroupOut, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vitrine.artifacts import ArtifactError, write_npz
from vitrine.formulas import formula_picture
from vitrine.labels import MISSING, LabelSpace
from vitrine.model import create_model, tensors_of
from vitrine.preprocess import Decoding
from vitrine.pretraining import (
    FORMULA_TASK,
    VARIANTS_PER_FORMULA,
    ArmParams,
    GuidedModel,
    mimetic_init,
    pretraining_data,
    read_shard,
)

ARM = ArmParams(
    architecture="test_vit",
    weights="none",
    weights_file=None,
    image_size_px=32,
    init="default",
    teacher="none",
    guidance=0.0,
    precision="fp32",
    val_shard=1,
    first_shard=0,
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


def data_of(shards: Path, num_renders: int, num_val: int, **changes: int) -> tuple[list[int], list[int]]:
    """Return the grey values of the train and the val photographs."""
    arm = ARM.model_copy(update={"num_renders": num_renders, "num_formulas": 0, **changes})
    data = pretraining_data(shards, arm, num_val)
    greys = data.photos.mean(axis=(1, 2, 3)).round().astype(int)
    return greys[data.train].tolist(), greys[data.val].tolist()


def test_renders_come_in_the_order_of_the_shards_and_never_from_val(shards: Path) -> None:
    assert data_of(shards, 2, 1) == ([10, 101], [51])
    assert data_of(shards, 4, 1) == ([10, 101, 200, 100], [51])
    write_shard(shards, 2, [60, 70])
    assert data_of(shards, 6, 1) == ([10, 101, 200, 100, 60, 70], [51])
    assert data_of(shards, 2, 1, first_shard=1) == ([100, 60], [51])
    assert data_of(shards, 4, 1, val_shard=2) == ([10, 101, 200, 100], [70])
    (shards / "0.npz").unlink()  # not needed
    assert data_of(shards, 2, 2, first_shard=1) == ([60, 70], [100, 51])


def test_a_shard_has_its_labels(shards: Path) -> None:
    _, table = read_shard(shards / "1.npz")
    assert table["class"].tolist() == ["class 0", "class 1"]
    assert table["color"].tolist() == [None, "grey"]


def test_too_few_renders_are_an_error(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"2\.npz: not found.*python pretrain/shard.py 2"):
        data_of(shards, 5, 1)
    (shards / "0.npz").unlink()
    with pytest.raises(ArtifactError, match=r"0\.npz: not found"):
        data_of(shards, 2, 1)
    with pytest.raises(ArtifactError, match=r"1\.npz: not found"):
        data_of(tmp_path / "none", 2, 1)


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
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    scores = cross_val_score(probe, features.reshape(48, -1), codes, groups=folds, cv=LeaveOneGroupOut())
    assert scores.mean() > 0.5  # chance is 0.25


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


# -- guidance -----------------------------------------------------------------------------------------------------


def guided(weight: float) -> GuidedModel:
    torch.manual_seed(0)
    space = LabelSpace({"class": ("cup", "hat")})
    student = create_model("test_vit", "none", space, Decoding(64, 50.0), 64, 0.0, 0.0)
    return GuidedModel(student, create_model("mobilevit_xxs", "none", space, Decoding(64, 50.0), 64, 0.0, 0.0), weight)


def test_a_guided_student_predicts_as_it_did_alone() -> None:
    torch.manual_seed(0)
    alone = create_model("test_vit", "none", LabelSpace({"class": ("cup", "hat")}), Decoding(64, 50.0), 64, 0.0, 0.0)
    photos = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    assert np.array_equal(guided(1.0).infer(photos)[0]["class"], alone.infer(photos)[0]["class"])


def test_a_teacher_sees_the_students_picture_in_its_own_scale_and_place() -> None:
    model = guided(1.0).eval()
    pixels = torch.rand(2, 3, 64, 64)
    targets = model._targets(model.spec.preprocessing.normalise(pixels), 4)
    features = model.teacher.forward_intermediates(pixels, indices=[3])[1][0]  # MobileViT takes pixels in [0, 1]
    patch = features[1, :, 2, 3]  # second row from below, last column
    expected = (patch - patch.mean()) / (patch.var(unbiased=False) + 1e-5).sqrt()
    assert torch.allclose(targets[1, 2 * 4 + 3, : len(patch)], expected, atol=1e-3)


def test_guidance_teaches_the_student_and_never_the_teacher() -> None:
    model = guided(2.0).train()
    assert not model.teacher.training
    before = {name: tensor.copy() for name, tensor in tensors_of(model.teacher).items()}
    images = torch.rand(8, 3, 64, 64)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(30):
        loss = model.forward_training(images)[1]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(np.array_equal(tensor, before[name]) for name, tensor in tensors_of(model.teacher).items())
    assert guided(4.0).train().forward_training(images)[1].item() == pytest.approx(2 * losses[0], rel=1e-5)
