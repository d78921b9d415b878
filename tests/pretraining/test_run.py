"""Pre-training sees the right pictures with the right labels and learns from its teacher; the weights in the repository
are the pinned ones."""

from __future__ import annotations

import hashlib
import io
import os
import runpy
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
import yaml
from PIL import Image
from recording import keys_read
from torch import nn

from vitrine.artifacts import (
    ArtifactError,
    read_csv,
    read_json,
    read_tensors,
    write_csv,
    write_json,
    write_npy,
    write_npz,
    write_tensors,
)
from vitrine.labels import MISSING, LabelSpace
from vitrine.learning import imagenet
from vitrine.learning.model import create_model, tensors_of
from vitrine.learning.training import TrainingError
from vitrine.photos import Decoding
from vitrine.pretraining import run as run_module
from vitrine.pretraining.distilling import Student, Teacher, Views, distillation_losses, mix_pairs
from vitrine.pretraining.run import DistillationRun, PretrainingParams, Stream, StudentParams
from vitrine.pretraining.shards import Pictures, read_pictures, read_shard, write_shard

ROOT = Path(__file__).parents[2]
SHARED = {
    "seed": 1, "batch_size": 4, "render_shards": [0], "render_fraction": 0.5, "mix_probability": 0.0,
    "teacher_image_size_px": 32, "temperature": 2.0, "feature_loss_weight": 1.0, "soft_label_loss_weight": 1.0,
    "map_loss_weight": 1.0, "class_loss_weight": 1.0, "attribute_loss_weight": 0.5, "weight_decay": 0.01,
    "gradient_clip_norm": 1.0, "ema_decay": 0.9, "snapshot_pictures": 8, "crop_area_min": 0.5,
    "flip_probability": 0.5, "rotation_degrees": 0.0, "translation_fraction": 0.0, "brightness": 0.0, "contrast": 0.0,
    "saturation": 0.0, "hue_fraction": 0.0, "erase_probability": 0.0, "erase_area_min": 0.1, "erase_area_max": 0.2,
}  # fmt: skip
STUDENT = {
    "architecture": "test_vit", "weights": "none", "weights_file": None, "image_size_px": 32, "precision": "fp32",
    "pictures": 40, "warmup_pictures": 8, "learning_rate": 1e-3,
}  # fmt: skip


def jpeg(gray: int, side: int = 16) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), (gray, gray, gray)).save(file, "JPEG", quality=95)
    return file.getvalue()


def write_renders(path: Path, grays: list[int]) -> None:
    files = [np.frombuffer(jpeg(gray), dtype=np.uint8) for gray in grays]
    labels = {
        "class_label": np.array([f"class {gray % 2}" for gray in grays]),
        "color": np.array(["" if gray == 100 else "gray" for gray in grays]),
        "material": np.array(["metal"] * len(grays)),
        "condition": np.array(["new"] * len(grays)),
    }
    ends = np.cumsum([len(file) for file in files])
    write_npz(path, {**labels, "bytes": np.concatenate(files), "ends": ends})


def grays_of(pictures: np.ndarray) -> list[int]:
    return [round(float(picture.mean())) for picture in pictures]


def pictures(photos: list[int], renders: list[int], side: int = 32) -> Pictures:
    """Create gray pictures; renders with a gray above 128 are of class "light"."""
    flat = [
        np.repeat(np.array(grays, dtype=np.uint8), side * side * 3).reshape(-1, side, side, 3)
        for grays in (photos, renders)
    ]
    codes = {"class": (np.array(renders) > 128).astype(np.int64)} if renders else {}
    return Pictures(*flat, LabelSpace({"class": ("dark", "light")} if renders else {}), codes, "digest")


def noise(num_photos: int, num_renders: int) -> Pictures:
    random = np.random.default_rng(0)
    photos, renders = (random.integers(0, 256, (num, 32, 32, 3), dtype=np.uint8) for num in (num_photos, num_renders))
    return Pictures(photos, renders, LabelSpace({"class": ("a", "b")}), {"class": np.arange(num_renders) % 2}, "noise")


def tiny_teacher() -> nn.Module:
    torch.manual_seed(5)
    return timm.create_model("test_efficientnet", num_classes=7)


def start(folder: Path, data: Pictures, student: dict[str, Any] | None = None, **changes: Any) -> DistillationRun:
    params = PretrainingParams(**{**SHARED, **changes})
    return DistillationRun(tiny_teacher(), data, params, StudentParams(**{**STUDENT, **(student or {})}), folder)


def never() -> bool:
    return False


def after(steps: int) -> Callable[[], bool]:
    """Return a function that returns True from its call number `steps` + 1 on."""
    left = iter([False] * steps)
    return lambda: next(left, True)


# -- shards -------------------------------------------------------------------------------------------------------


def test_photographs_are_read_in_order_and_without_labels(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.npz", [jpeg(gray) for gray in (10, 250, 90)])
    photos, labels = read_shard(tmp_path / "a.npz")
    assert grays_of(photos) == [10, 250, 90]
    assert labels.shape == (3, 0)


def test_pictures_are_read_in_order_with_the_labels_of_renders(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.npz", [jpeg(5)])
    write_shard(tmp_path / "b.npz", [jpeg(7), jpeg(9)])
    write_renders(tmp_path / "0.npz", [10, 101, 200])
    write_renders(tmp_path / "1.npz", [100, 51])
    found = read_pictures(*([tmp_path / f"{name}.npz" for name in names] for names in ("ba", "10")))
    assert grays_of(found.photos) == [7, 9, 5]
    assert grays_of(found.renders) == [100, 51, 10, 101, 200]
    assert found.codes["class"].tolist() == [0, 1, 0, 1, 0]
    assert found.codes["color"].tolist() == [MISSING, 0, 0, 0, 0]
    write_renders(tmp_path / "1.npz", [100, 52])
    assert read_pictures([tmp_path / "b.npz"], [tmp_path / "1.npz"]).digest != found.digest


def test_a_missing_or_unlabeled_shard_is_a_clear_error(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.npz", [jpeg(5)])
    with pytest.raises(ArtifactError, match=r"7\.npz: not found.*dvc repro pretrain/dvc.yaml"):
        read_pictures([tmp_path / "a.npz"], [tmp_path / "7.npz"])
    with pytest.raises(ArtifactError, match="renders without labels for class, color, material, condition"):
        read_pictures([], [tmp_path / "a.npz"])


# -- teacher, student, losses -------------------------------------------------------------------------------------


def test_a_teacher_returns_standardized_outputs_of_its_network() -> None:
    network = tiny_teacher()
    found = Teacher(network, 32)
    photos = np.random.default_rng(0).integers(0, 256, (96, 32, 32, 3), dtype=np.uint8)
    found.fit_feature_stats(photos, torch.device("cpu"))
    pixels = torch.from_numpy(photos).permute(0, 3, 1, 2).float() / 255
    images = found.preprocessing.normalize(pixels)
    views = found.train()(pixels)
    with torch.no_grad():
        assert torch.allclose(views.soft_labels, network(images), atol=1e-4)
        pooled = network.forward_head(network.forward_features(images), pre_logits=True)
        maps = network.blocks(network.bn1(network.conv_stem(images)))
    assert torch.allclose(views.features * found.std + found.mean, pooled, atol=1e-4)
    position = maps[3, :, 0, 0]
    expected = (position - position.mean()) / (position.var(unbiased=False) + 1e-5).sqrt()
    assert torch.allclose(views.maps[3, :, 0, 0], expected, atol=1e-3)
    assert not any(parameter.requires_grad for parameter in found.parameters())


def test_feature_statistics_of_the_teacher_are_over_photographs() -> None:
    found = Teacher(tiny_teacher(), 32)
    photos = np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3), dtype=np.uint8)
    found.fit_feature_stats(photos, torch.device("cpu"))
    with torch.no_grad():
        features = found._views(found.preprocessing.eval_transform(photos, torch.device("cpu"))).features
    assert torch.allclose(found.mean, features.mean(dim=0), atol=1e-5)
    assert torch.allclose(found.std, features.std(dim=0).clamp(min=1e-3), atol=1e-5)


def test_patch_tokens_are_arranged_by_position() -> None:
    space = LabelSpace({})
    model = create_model("test_vit", "none", space, Decoding(64, 1.0), 64, 0.0, 0.0).eval()
    student = Student(model, Teacher(tiny_teacher(), 32))
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        views, features = student(images)
        tokens = model.backbone.forward_features(images)
        patch = tokens[1, model.backbone.num_prefix_tokens + 2 * 4 + 3]  # third row, fourth column of 4 x 4
        assert views.maps.shape == (2, student.maps.out_channels, 4, 4)
        expected = student.maps.weight[:, :, 0, 0] @ patch + student.maps.bias
        assert torch.allclose(views.maps[1, :, 2, 3], expected, atol=1e-5)
        assert torch.allclose(features, model.embed(images), atol=1e-5)


def test_losses_by_hand() -> None:
    student = Views(
        torch.tensor([[1.0, 0.0], [3.0, 4.0]]), torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.ones(2, 2, 1, 1)
    )
    targets = Views(
        torch.tensor([[0.0, 2.0], [6.0, 8.0]]),
        torch.tensor([[0.0, 2 * np.log(3.0)], [0.0, 0.0]], dtype=torch.float32),
        torch.tensor([[[[1.0, -1.0]], [[1.0, -1.0]]], [[[1.0, 1.0]], [[0.0, 0.0]]]]),
    )
    losses = distillation_losses(student, targets, 2.0)
    assert losses["features"].item() == pytest.approx((1 + 0) / 2)
    # The teacher's probabilities at temperature 2 are 1/4 and 3/4, the student's 1/2 and 1/2.
    divergence = 0.25 * np.log(0.25 / 0.5) + 0.75 * np.log(0.75 / 0.5)
    assert losses["soft_labels"].item() == pytest.approx(4 * divergence / 2, rel=1e-5)
    # Interpolated to one position, the first map is 0 (cosine 0), the second (1, 0) (cosine 1 / sqrt 2).
    assert losses["maps"].item() == pytest.approx(1 - (0 + 0.5**0.5) / 2, rel=1e-5)


def test_a_pair_is_blended_by_its_coefficient() -> None:
    pixels = torch.tensor([0.0, 0.4, 1.0]).view(3, 1, 1, 1).expand(3, 3, 2, 2)
    mixed = mix_pairs(pixels, torch.tensor([1.0, 0.25, 0.5]))
    assert mixed[:, 0, 0, 0].tolist() == pytest.approx([0.0, 0.1, 0.7])


# -- the stream ---------------------------------------------------------------------------------------------------


def test_every_picture_is_drawn_once_before_any_is_repeated() -> None:
    data = pictures([10, 20, 30, 40, 50], [100, 200, 150])
    stream = Stream(data, PretrainingParams(**SHARED), 32)
    batches = [stream.batch(step, torch.device("cpu")) for step in range(15)]
    grays = [[round(255 * float(crop.mean())) for crop in crops] for crops, _ in batches]
    photos, renders = ([gray for row in grays for gray in row[part]] for part in (slice(0, 2), slice(2, 4)))
    for seen, known in ((photos, [10, 20, 30, 40, 50]), (renders, [100, 150, 200])):
        rounds = [seen[first : first + len(known)] for first in range(0, len(seen), len(known))]
        assert all(sorted(each) == known for each in rounds)
        assert len({tuple(each) for each in rounds}) > 1
    again, _ = stream.batch(7, torch.device("cpu"))
    assert torch.equal(again, batches[7][0])


def test_only_renders_have_labels() -> None:
    stream = Stream(pictures([10, 20, 30], [100, 200, 90]), PretrainingParams(**{**SHARED, "batch_size": 6}), 32)
    for step in range(4):
        crops, codes = stream.batch(step, torch.device("cpu"))
        assert len(crops) == 6 and codes["class"].shape == (3,)
        assert codes["class"].tolist() == [int(crop.mean() > 0.5) for crop in crops[3:]]


def test_photographs_are_mixed_and_renders_are_not() -> None:
    params = PretrainingParams(**{**SHARED, "batch_size": 8, "mix_probability": 1.0})
    crops, _ = Stream(pictures([0, 80, 160, 240], [100, 200, 90, 50]), params, 32).batch(0, torch.device("cpu"))
    grays = [round(255 * float(crop.mean())) for crop in crops]
    assert not set(grays[:4]) & {0, 80, 160, 240}
    assert set(grays[4:]) == {100, 200, 90, 50}


def test_a_stream_without_renders_has_only_photographs() -> None:
    params = PretrainingParams(**{**SHARED, "render_fraction": 0.0})
    crops, codes = Stream(pictures([10, 20, 30, 40], []), params, 32).batch(0, torch.device("cpu"))
    assert len(crops) == 4 and codes == {}
    with pytest.raises(TrainingError, match=r"render_fraction: 0\.5 requires renders, but there are none"):
        Stream(pictures([10, 20], []), PretrainingParams(**SHARED), 32)


# -- the run ------------------------------------------------------------------------------------------------------


def test_teacher_and_student_see_the_same_crops_and_heads_see_only_renders(tmp_path: Path) -> None:
    run = start(tmp_path, noise(8, 4), mix_probability=0.5)
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        return lambda _, inputs: seen.update({name: inputs[0].detach().clone()})

    run.teacher.network.conv_stem.register_forward_pre_hook(keep("teacher"))
    run.model.backbone.patch_embed.register_forward_pre_hook(keep("student"))
    run.model.heads[0].register_forward_pre_hook(keep("heads"))
    run.train(after(1), "tiny")
    shown = run.teacher.preprocessing.denormalize(seen["teacher"])
    assert torch.allclose(shown, run.model.spec.preprocessing.denormalize(seen["student"]), atol=1e-5)
    assert torch.allclose(shown, run.stream.batch(0, run.device)[0], atol=1e-5)
    assert len(shown) == 4 and len(seen["heads"]) == 2


def test_the_student_learns_from_its_teacher_and_the_teacher_is_unchanged(tmp_path: Path) -> None:
    run = start(
        tmp_path, noise(4, 4), {"pictures": 320, "learning_rate": 3e-3}, crop_area_min=1.0, flip_probability=0.0,
        snapshot_pictures=40,
    )  # fmt: skip
    before = tensors_of(run.teacher)
    assert run.train(never, "tiny")
    curve = run.curve()
    assert curve["pictures"].tolist() == [40 * number for number in range(1, 9)]
    for loss in ("features", "soft_labels", "maps", "labels"):
        assert curve[loss].iloc[-1] < 0.7 * curve[loss].iloc[0], loss
    assert all(np.array_equal(tensor, before[name]) for name, tensor in tensors_of(run.teacher).items())


def test_the_new_layers_are_trained_before_the_backbone(tmp_path: Path) -> None:
    run = start(tmp_path, noise(8, 4), {"warmup_pictures": 8})
    backbone, layer = tensors_of(run.model.backbone), run.student.features.weight.detach().clone()
    run.train(after(2), "tiny")
    assert not torch.equal(run.student.features.weight, layer)
    assert all(np.array_equal(tensor, backbone[name]) for name, tensor in tensors_of(run.model.backbone).items())
    run.train(after(1), "tiny")
    changed = [
        name for name, tensor in tensors_of(run.model.backbone).items() if not np.array_equal(tensor, backbone[name])
    ]
    assert len(changed) == len(backbone)


def test_each_parameter_has_one_optimizer_and_matrices_of_the_backbone_use_muon(tmp_path: Path) -> None:
    run = start(tmp_path, noise(8, 8))
    found: dict[nn.Parameter, tuple[type, str]] = {}
    for optimizer in run.optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                assert parameter not in found
                found[parameter] = (type(optimizer), group["part"])
    backbone = set(run.model.backbone.parameters())
    assert set(found) == set(run.student.parameters())
    for parameter, (kind, part) in found.items():
        assert part == ("backbone" if parameter in backbone else "new")
        assert (kind is torch.optim.Muon) == (parameter in backbone and parameter.ndim == 2)


def test_a_weight_of_zero_disables_a_loss(tmp_path: Path) -> None:
    run = start(tmp_path, noise(8, 4), map_loss_weight=0.0, weight_decay=0.0)
    before = run.student.maps.weight.detach().clone()
    run.train(after(2), "tiny")
    assert torch.equal(run.student.maps.weight, before)
    assert not torch.equal(
        run.student.features.weight.detach(), start(tmp_path / "b", noise(8, 4)).student.features.weight
    )


@pytest.mark.parametrize("architecture", ["test_vit", "test_efficientnet"])
def test_an_interrupted_run_ends_in_the_same_bits(tmp_path: Path, architecture: str) -> None:
    student = {"architecture": architecture}
    whole = start(tmp_path / "whole", noise(8, 4), student, mix_probability=0.5)
    assert whole.train(never, "whole")
    for steps in (1, 0, 4, 2):  # before a snapshot, immediately, past two, past one
        assert not start(tmp_path / "pieces", noise(8, 4), student, mix_probability=0.5).train(after(steps), "piece")
    last = start(tmp_path / "pieces", noise(8, 4), student, mix_probability=0.5)
    assert last.pictures_seen == 28
    assert last.train(never, "last")
    assert last.curve().drop(columns="hours").equals(whole.curve().drop(columns="hours"))
    expected = whole.backbone()
    assert all(np.array_equal(tensor, expected[name]) for name, tensor in last.backbone().items())
    snapshots = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("whole", "pieces")]
    assert (
        snapshots[0]
        == snapshots[1]
        == [*(f"{number:09d}.safetensors" for number in (8, 16, 24, 32, 40)), "state.safetensors"]
    )


@pytest.mark.parametrize("change", ["params", "pictures", "code"])
def test_the_state_of_another_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    start(tmp_path / "run", noise(8, 4)).train(after(2), "tiny")
    data, changes = noise(8, 4), {}
    if change == "params":
        changes = {"temperature": 3.0}
    elif change == "pictures":
        data = Pictures(data.photos, data.renders, data.label_space, data.codes, "others")
    else:
        edited = tmp_path / "run.py"
        edited.write_text(Path(str(run_module.__file__)).read_text(encoding="utf-8") + "# another loss\n")
        monkeypatch.setattr(run_module, "__file__", str(edited))
    with pytest.raises(TrainingError, match=r"state of another run.*To start over, delete"):
        start(tmp_path / "run", data, **changes)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    run = start(tmp_path, noise(8, 4))
    with torch.no_grad():
        run.student.features.bias.fill_(float("nan"))
    with pytest.raises(TrainingError, match="not finite at 8 pictures: lower learning_rate"):
        run.train(never, "tiny")


# -- the script ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_script_resumes_after_a_signal_and_writes_backbone_card_and_curve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run the whole script on few pictures: an interrupted run gives the same backbone, and every param is read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(imagenet, "create_imagenet_model", tiny_teacher)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    sections = yaml.safe_load((ROOT / "pretrain/params.yaml").read_text(encoding="utf-8"))
    for name in sections["fetch"]["sources"]:
        write_shard(tmp_path / f"pretrain/shards/photos/{name}.npz", [jpeg(50, 40), jpeg(150, 40)])
    sections["distillation"] |= {
        "batch_size": 4, "teacher_image_size_px": 32, "render_shards": [0], "snapshot_pictures": 8
    }  # fmt: skip
    write_renders(tmp_path / "pretrain/shards/0.npz", [10, 101, 200])
    for name in ("distill_mobilevit", "distill_deit"):
        small = {"architecture": "test_vit", "weights": "none", "weights_file": None}
        sections[name] |= {**small, "image_size_px": 32, "pictures": 16, "warmup_pictures": 4}
    Path("pretrain/params.yaml").write_text(yaml.safe_dump(sections), encoding="utf-8")
    script = ROOT / "pretrain/distill.py"
    read = keys_read(script, "mobilevit")
    target = Path("pretrain/backbones/mobilevit.safetensors")
    whole = target.read_bytes()
    assert {str(tensor.dtype) for tensor in read_tensors(target).values()} == {"float16"}
    create_model("test_vit", str(target), LabelSpace({}), Decoding(32, 1.0), 32, 0.0, 0.0)
    card = read_json(target.with_suffix(".json"))
    assert card["pictures_seen"] == 16 and card["renders"] == 3
    assert card["teacher"]["license"] == "Apache-2.0"
    clothing = card["photographs"]["alexeygrigorev/clothing-dataset"]
    assert clothing["license"] == "CC0 1.0" and clothing["photographs"] == 5755
    assert read_csv(target.with_suffix(".csv"))["pictures"].tolist() == [8, 16]
    kinds = {"distillation": PretrainingParams, "distill_mobilevit": StudentParams}
    keys = {f"pretrain/params.yaml:{section}.{key}" for section, kind in kinds.items() for key in kind.model_fields}
    assert read == {
        *(keys - {"pretrain/params.yaml:distill_mobilevit.weights_file"}),
        "pretrain/params.yaml:fetch.sources",
    }

    assert [path.name for path in Path(".resume/distill_mobilevit").iterdir() if "state" in path.name] == []
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(imagenet, "create_imagenet_model", tiny_teacher)
    step = DistillationRun._train_step

    def terminated_step(self: DistillationRun) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGTERM)
        return step(self)

    before = signal.getsignal(signal.SIGTERM)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(DistillationRun, "_train_step", terminated_step)
            with pytest.raises(SystemExit, match="stopped after 4 of 16 pictures; run again to resume"):
                keys_read(script, "mobilevit")
        target.unlink()
        keys_read(script, "mobilevit")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert target.read_bytes() == whole


def test_the_probe_evaluates_snapshots_only_on_train_and_val(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test photographs have another gray and class, so reading them would change the accuracy."""
    monkeypatch.chdir(tmp_path)
    start(tmp_path / ".resume/distill_mobilevit", noise(8, 4)).train(after(2), "tiny")
    write_json(tmp_path / "pretrain/params.yaml", {"distill_mobilevit": STUDENT})
    rows, grays = [], []
    for item in range(20):
        split, light = ("test" if item > 14 else "val" if item > 9 else "train"), item % 2
        grays.append(250 if (light and split != "test") else 5)
        label = "light" if light else "dark"
        row = {"image_path": f"{item}.jpg", "split": split, "instance_id": str(item)}
        rows.append({**row, "class": label, "color": label})
    write_csv(tmp_path / "splits/photos.csv", pd.DataFrame(rows))
    write_npy(tmp_path / "splits/photos.npy", pictures(grays, []).photos)
    write_json(tmp_path / "splits/decoding.json", {"photo_size_px": 32, "max_megapixels": 1.0})
    labels = dict.fromkeys(("class", "color"), ("dark", "light"))
    write_json(tmp_path / "splits/label_space.json", LabelSpace(labels).to_json())
    script = runpy.run_path(str(ROOT / "pretrain/probe.py"))
    script["main"]("mobilevit", Path("splits"))
    curve = read_csv(Path("pretrain/curves/mobilevit.csv"))
    assert curve["pictures"].tolist() == [0, 8]
    assert curve["class_accuracy"].tolist() == curve["color_accuracy"].tolist() == [1, 1]
    assert curve["class_n"].tolist() == [15, 15] and (curve["class_accuracy_ci_low"] < 1).all()


def test_the_probe_never_trains_on_the_item_that_it_predicts() -> None:
    """Features identify items but not labels: training on a photograph of the same item would give the label away."""
    random = np.random.default_rng(0)
    items = np.repeat(np.arange(20), 4)
    codes = random.permutation(np.arange(20) % 2)[items]
    features = random.normal(size=(20, 64))[items].astype(np.float32)
    probe = runpy.run_path(str(ROOT / "pretrain/probe.py"))["probe"]
    found = probe(features, codes, items)
    assert found["n"] == 80 and found["accuracy_ci_low"] < found["accuracy"] < 0.8
    codes[:4] = MISSING
    found = probe(np.tile(codes[:, None], 64).astype(np.float32), codes, items)
    assert (found["n"], found["accuracy"]) == (76, 1)


# -- imported weights ---------------------------------------------------------------------------------------------

PINS = yaml.safe_load((ROOT / "pretrain/params.yaml").read_text(encoding="utf-8"))["import_weights"]
NAMES = [path.stem for path in sorted((ROOT / "weights").glob("*.safetensors"))]


def test_every_backbone_in_the_repository_is_pinned() -> None:
    assert sorted(PINS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_weights_match_params_the_lock_and_their_card(name: str) -> None:
    path = ROOT / f"weights/{name}.safetensors"
    sha256, md5 = (hashlib.new(kind, path.read_bytes()).hexdigest() for kind in ("sha256", "md5"))
    card = read_json(path.with_suffix(".json"))
    assert sha256 == PINS[name]["sha256"] == card["sha256"]
    assert card["size_bytes"] == path.stat().st_size
    assert card["architecture"] == PINS[name]["architecture"]
    assert card["precisions"] == sorted({str(tensor.dtype) for tensor in read_tensors(path).values()})
    assert card["commit"] == PINS[name]["commit"]
    record = read_json(ROOT / PINS[name]["record"])
    assert {key: card["distilled"][key] for key in record} == record
    assert record["pictures_seen"] > 10_000 and record["hours"] > 0 and record["hardware"]
    licenses = [source["license"] for source in record["photographs"].values()]
    assert len(licenses) == 7 and all(licenses) and record["teacher"]["license"] == "Apache-2.0"
    assert 0 < card["scores"]["class_accuracy_ci_low"] < card["scores"]["class_accuracy"] < 1
    lock = yaml.safe_load((ROOT / "pretrain/dvc.lock").read_text(encoding="utf-8"))["stages"]
    entries = [entry for stage in lock.values() for kind in ("deps", "outs") for entry in stage.get(kind, [])]
    assert {entry["md5"] for entry in entries if entry["path"] == f"weights/{name}.safetensors"} == {md5}
    labels = LabelSpace({"class": ("cup", "hat")})
    # Raises if the tensors are of another network.
    create_model(card["architecture"], str(path), labels, Decoding(128, 1.0), 128, 0.0, 0.0)


def test_weights_with_another_hash_are_refused_and_get_no_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pretrain").mkdir()
    shutil.copy(ROOT / "pretrain/params.yaml", "pretrain/params.yaml")
    for folder in ("records", "curves"):
        shutil.copytree(ROOT / "pretrain" / folder, f"pretrain/{folder}")
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
