"""Pre-training sees the right pictures with the right labels; the weights in the repository are the ones pinned."""

from __future__ import annotations

import hashlib
import io
import re
import runpy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from recording import keys_read

from vitrine.artifacts import ArtifactError, read_json, read_tensors, write_npz, write_tensors
from vitrine.labels import MISSING, LabelSpace
from vitrine.model import create_model, tensors_of
from vitrine.params import ParamsError, read_section
from vitrine.preprocess import Decoding
from vitrine.pretraining import (
    RENDERED_TASKS,
    GuidedModel,
    PretrainingParams,
    mimetic_init,
    pretraining_data,
    read_shard,
)
from vitrine.training import TrainingParams

ROOT = Path(__file__).parents[1]
PARAMS = {
    "architecture": "test_vit", "weights": "none", "weights_file": None, "image_size_px": 32, "precision": "fp32",
    "init": "default", "teacher": "none", "guidance": 0.0, "train_shards": [0], "val_shard": 1,
    "epochs": 1, "learning_rate": 1e-3,
}  # fmt: skip


def write_shard(folder: Path, number: int, grays: list[int]) -> None:
    files = []
    for gray in grays:
        file = io.BytesIO()
        Image.new("RGB", (16, 16), (gray, gray, gray)).save(file, "JPEG", quality=95)
        files.append(np.frombuffer(file.getvalue(), dtype=np.uint8))
    labels = {
        "class_label": np.array([f"class {gray % 2}" for gray in grays]),
        "color": np.array(["" if gray == 100 else "gray" for gray in grays]),
        "material": np.array(["metal"] * len(grays)),
        "condition": np.array(["new"] * len(grays)),
    }
    ends = np.cumsum([len(file) for file in files])
    write_npz(folder / f"{number}.npz", {**labels, "bytes": np.concatenate(files), "ends": ends})


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_shard(tmp_path, 0, [10, 101, 200])
    write_shard(tmp_path, 1, [100, 51])
    return tmp_path


def test_shards_come_in_order_and_the_last_one_is_val(shards: Path) -> None:
    write_shard(shards, 2, [60, 70])
    data = pretraining_data(shards, [2, 0], 1)
    grays = data.photos.mean(axis=(1, 2, 3)).round().astype(int)
    assert grays[data.train].tolist() == [60, 70, 10, 101, 200]
    assert grays[data.val].tolist() == [100, 51]
    assert data.codes["class"].tolist() == [0, 0, 0, 1, 0, 0, 1]
    assert data.codes["color"].tolist() == [0, 0, 0, 0, 0, MISSING, 0]


def test_a_shard_has_its_labels(shards: Path) -> None:
    _, table = read_shard(shards / "1.npz")
    assert table["class"].tolist() == ["class 0", "class 1"]
    assert table["color"].tolist() == [None, "gray"]


def test_a_missing_shard_is_an_error_that_names_it(shards: Path) -> None:
    with pytest.raises(ArtifactError, match=r"2\.npz: not found.*python pretrain/shard.py 2"):
        pretraining_data(shards, [0, 2], 1)
    with pytest.raises(ArtifactError, match=r"7\.npz: not found"):
        pretraining_data(shards, [0], 7)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"train_shards": [0, 1]}, "train.val_shard: expected a shard that is not one of train_shards; found 1"),
        ({"guidance": 1.0}, "train.guidance: expected above 0 with a teacher, 0 without one; found 1.0"),
        ({"teacher": "a.safetensors"}, "train.guidance: expected above 0 with a teacher, 0 without one; found 0.0"),
    ],
)
def test_params_that_contradict_each_other_are_an_error(tmp_path: Path, changes: dict[str, Any], fault: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump({"train": PARAMS}))
    assert read_section("train", PretrainingParams, path).val_shard == 1
    path.write_text(yaml.safe_dump({"train": {**PARAMS, **changes}}))
    with pytest.raises(ParamsError, match=re.escape(fault)):
        read_section("train", PretrainingParams, path)


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


# -- the script ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_backbone_and_its_student_are_trained_from_shards_alone(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole chain on five pictures; a second training gives the same bytes, and no param goes unread."""
    monkeypatch.chdir(shards)
    (shards / "pretrain/shards").mkdir(parents=True)
    for number in (0, 1):
        shutil.copy(f"{number}.npz", "pretrain/shards")
    sections = yaml.safe_load((ROOT / "pretrain/params.yaml").read_text(encoding="utf-8"))
    sections["training"] |= {"batch_size": 2}
    for name in ("train_mobilevit", "train_deit"):
        sections[name] |= {"image_size_px": 32, "epochs": 1}
    Path("pretrain/params.yaml").write_text(yaml.safe_dump(sections))
    made: dict[str, bytes] = {}
    read: set[str] = set()
    for section in ("train_mobilevit", "train_deit", "train_deit"):
        read |= keys_read(ROOT / "pretrain/backbone.py", section)
        name = section.removeprefix("train_")
        path = Path(f"pretrain/backbones/{name}.safetensors")
        assert made.setdefault(name, path.read_bytes()) == path.read_bytes()
        card = read_json(path.with_suffix(".json"))
        assert card["pictures_seen"] == 3 and set(card["accuracy_on_val_renders"]) == set(RENDERED_TASKS)
        assert {str(tensor.dtype) for tensor in read_tensors(path).values()} <= {"float16", "int64"}
        space = LabelSpace({"class": ("cup", "hat")})
        create_model(sections[section]["architecture"], str(path), space, Decoding(32, 1.0), 32, 0.0, 0.0)
    assert not list(Path(".resume").iterdir())

    sections["train_deit"] |= {"weights": "file", "weights_file": "pretrain/backbones/deit.safetensors"}
    Path("pretrain/params.yaml").write_text(yaml.safe_dump(sections))
    read |= keys_read(ROOT / "pretrain/backbone.py", "train_deit")
    kinds = {"training": TrainingParams, "train_deit": PretrainingParams}
    keys = {f"pretrain/params.yaml:{section}.{key}" for section, kind in kinds.items() for key in kind.model_fields}
    assert {key for key in read if ":train_mobilevit." not in key} == keys


# -- imported weights ---------------------------------------------------------------------------------------------

PINS = yaml.safe_load((ROOT / "pretrain/params.yaml").read_text(encoding="utf-8"))["import_weights"]
NAMES = [path.stem for path in sorted((ROOT / "weights").glob("*.safetensors"))]


def test_every_backbone_in_the_repository_is_pinned() -> None:
    assert sorted(PINS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_those_that_params_the_lock_and_their_card_name(name: str) -> None:
    path = ROOT / f"weights/{name}.safetensors"
    sha256, md5 = (hashlib.new(kind, path.read_bytes()).hexdigest() for kind in ("sha256", "md5"))
    card = read_json(path.with_suffix(".json"))
    assert sha256 == PINS[name]["sha256"] == card["sha256"]
    assert card["size_bytes"] == path.stat().st_size
    assert card["architecture"] == PINS[name]["architecture"]
    assert card["precisions"] == sorted({str(tensor.dtype) for tensor in read_tensors(path).values()})
    assert card["round_commits"] == PINS[name]["round_commits"]
    assert "imported" in card["origin"] and "cannot be rebuilt" in card["origin"]
    lock = yaml.safe_load((ROOT / "pretrain/dvc.lock").read_text(encoding="utf-8"))["stages"]
    entries = [entry for stage in lock.values() for kind in ("deps", "outs") for entry in stage.get(kind, [])]
    assert {entry["md5"] for entry in entries if entry["path"] == f"weights/{name}.safetensors"} == {md5}
    labels = LabelSpace({"class": ("cup", "hat")})
    create_model(
        card["architecture"], str(path), labels, Decoding(128, 1.0), 128, 0.0, 0.0
    )  # refuses tensors of another network


def test_weights_with_another_hash_are_refused_and_get_no_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pretrain").mkdir()
    shutil.copy(ROOT / "pretrain/params.yaml", "pretrain/params.yaml")
    for name in NAMES:
        (tmp_path / "weights").mkdir(exist_ok=True)
        shutil.copy(ROOT / f"weights/{name}.safetensors", "weights")
    main = runpy.run_path(str(ROOT / "pretrain/import_weights.py"))["main"]
    main()
    for name in NAMES:
        assert Path(f"weights/{name}.json").read_bytes() == (ROOT / f"weights/{name}.json").read_bytes()
        Path(f"weights/{name}.json").unlink()
    path = Path(f"weights/{NAMES[-1]}.safetensors")
    tensors = read_tensors(path)
    write_tensors(path, {**tensors, next(iter(tensors)): 2 * next(iter(tensors.values()))}, {"format": "pt"})
    with pytest.raises(ArtifactError, match=f"weights/{NAMES[-1]}.safetensors: its SHA-256 is .* pins"):
        main()
    assert not list(Path("weights").glob("*.json"))
