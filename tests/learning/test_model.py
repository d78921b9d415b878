"""Models are created, initialized, saved and loaded without silent fallbacks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from safetensors.numpy import load_file

from vitrine.artifacts import ArtifactError, write_tensors
from vitrine.labels import LabelSpace
from vitrine.learning.model import (
    INFERENCE_BATCH_SIZE,
    MultiTaskModel,
    WeightsError,
    create_model,
    load_model,
    save_model,
    tensors_of,
)
from vitrine.photos import Decoding

SPACE = LabelSpace({"class": ("cup", "hat", "pen"), "type": ("a", "b"), "color.tone": ("dark", "light")})


def build(architecture: str = "test_vit", weights: str = "none", image: int = 32) -> MultiTaskModel:
    torch.manual_seed(0)
    return create_model(architecture, weights, SPACE, Decoding(24, 50.0), image, 0.1, 0.2)


def photos(num: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num, 24, 24, 3), dtype=np.uint8)


def test_every_task_has_a_head_with_any_name() -> None:
    model = build()
    logits = model(torch.zeros(2, 3, 32, 32))
    assert {task: tuple(scores.shape) for task, scores in logits.items()} == {
        "class": (2, 3),
        "type": (2, 2),
        "color.tone": (2, 2),
    }
    first, _, dropout, last = model.heads[0]
    assert (first.in_features, first.out_features, last.in_features) == (64, 32, 32)
    assert (model.dropout.p, dropout.p) == (0.1, 0.2)


def test_parameter_counts_equal_those_of_the_reference() -> None:
    space = LabelSpace(
        {
            task: tuple("abcdefghijklmno"[:num])
            for task, num in (("class", 10), ("color", 15), ("material", 9), ("condition", 4))
        }
    )
    deit = create_model("deit_tiny_patch16_224", "none", space, Decoding(96, 50.0), 224, 0.1, 0.2)
    assert round(sum(p.numel() for p in deit.parameters()) / 1e6, 2) == 5.60
    mobilevit = create_model("mobilevit_xxs", "none", space, Decoding(96, 50.0), 224, 0.1, 0.2)
    assert round(sum(p.numel() for p in mobilevit.backbone.parameters()) / 1e6, 2) == 0.95


def test_inference_does_not_depend_on_the_batch_or_the_mode() -> None:
    model = build().train()
    batch = photos(INFERENCE_BATCH_SIZE + 3)
    logits, embeddings = model.infer(batch)
    assert embeddings.shape == (len(batch), 64)
    alone, _ = model.infer(batch[-1:])
    assert np.allclose(logits["class"][-1], alone["class"][0], atol=1e-5)
    assert np.array_equal(logits["class"], model.infer(batch)[0]["class"])


def test_no_photographs_give_empty_predictions() -> None:
    logits, embeddings = build().infer(photos(0))
    assert logits["class"].shape == (0, 3) and embeddings.shape == (0, 64)


def test_a_saved_model_predicts_the_same_and_needs_nothing_else(tmp_path: Path) -> None:
    model = build("mobilevit_xxs")
    save_model(model, tmp_path / "m", {"epoch": 3})
    again = load_model(tmp_path / "m")
    assert again.spec == model.spec
    batch = photos(3)
    assert np.array_equal(model.infer(batch)[1], again.infer(batch)[1])
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["model.json", "model.safetensors"]


def test_a_checkpoint_with_mismatched_files_is_refused(tmp_path: Path) -> None:
    save_model(build(), tmp_path / "m", {})
    description = tmp_path / "m" / "model.json"
    document = json.loads(description.read_text(encoding="utf-8"))
    document["label_space"][0]["labels"].append("extra")
    description.write_text(json.dumps(document))
    with pytest.raises(ArtifactError, match="do not match"):
        load_model(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"\x00" * 10)
    with pytest.raises(ArtifactError, match=r"model\.safetensors"):
        load_model(tmp_path / "m")
    with pytest.raises(ArtifactError, match="not found"):
        load_model(tmp_path / "nothing")


def test_weights_from_a_file_are_loaded_unchanged(tmp_path: Path) -> None:
    torch.manual_seed(5)
    source = timm.create_model("test_vit", num_classes=0, img_size=32)
    path = tmp_path / "backbone.safetensors"
    write_tensors(path, tensors_of(source))
    for name, tensor in tensors_of(build(weights=str(path)).backbone).items():
        assert np.array_equal(tensor, load_file(path)[name]), name


def test_position_embeddings_are_resized_to_the_image(tmp_path: Path) -> None:
    source = timm.create_model("test_vit", num_classes=0, img_size=64)
    path = tmp_path / "backbone.safetensors"
    write_tensors(path, tensors_of(source))
    model = build(weights=str(path), image=32)
    width = source.pos_embed.shape[2]
    grid = source.pos_embed[:, -16:].detach().permute(0, 2, 1).reshape(1, width, 4, 4)
    small = torch.nn.functional.interpolate(grid, (2, 2), mode="bicubic", antialias=True)
    prefix = source.pos_embed.shape[1] - 16
    assert torch.allclose(model.backbone.pos_embed[:, prefix:], small.flatten(2).permute(0, 2, 1), atol=1e-6)
    assert torch.equal(model.backbone.pos_embed[:, :prefix], source.pos_embed[:, :prefix])
    assert torch.equal(model.backbone.blocks[0].attn.qkv.weight, source.blocks[0].attn.qkv.weight)
    assert model(torch.zeros(1, 3, 32, 32))["class"].shape == (1, 3)


ROOT = Path(__file__).parents[2]
SECTIONS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", [name for name, section in SECTIONS.items() if "weights_file" in section])
def test_the_weights_in_git_are_loaded_and_finite(name: str) -> None:
    section = SECTIONS[name]
    found = load_file(ROOT / section["weights_file"])
    model = build(section["architecture"], str(ROOT / section["weights_file"]), image=section["image_size_px"])
    for name, tensor in tensors_of(model.backbone).items():
        assert np.isfinite(tensor).all()
        assert name == "pos_embed" or np.array_equal(tensor, found[name].astype(tensor.dtype)), name


def test_unavailable_weights_are_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="not a file"):
        build(weights="no/such/file.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not safetensors")
    with pytest.raises(WeightsError, match="not a safetensors file"):
        build(weights=str(broken))
    other = tmp_path / "other.safetensors"
    write_tensors(other, tensors_of(timm.create_model("test_resnet", num_classes=0)))
    with pytest.raises(WeightsError, match="tensors are missing"):
        build(weights=str(other))
    with pytest.raises(WeightsError, match="no model 'deit_tinny'"):
        build("deit_tinny")
    with pytest.raises(WeightsError, match="image_size_px"):
        build(image=8)


def test_unreachable_imagenet_weights_name_the_alternatives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match=r"cannot be fetched.*weights_file.*none"):
        build(weights="imagenet")
