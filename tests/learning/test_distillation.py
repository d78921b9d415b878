"""A student learns to predict what its teacher predicts; the teacher does not change."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toy_training import SPACE, data, params, same, strategy

from vitrine.artifacts import ArtifactError
from vitrine.labels import LabelSpace
from vitrine.learning import training
from vitrine.learning.distillation import (
    FEATURE_WEIGHT,
    DistillationParams,
    DistillationWrapper,
    attach_teacher,
    soft_label_loss,
)
from vitrine.learning.model import MultiTaskModel, create_model, save_model, tensors_of
from vitrine.learning.training import Fitted, Phase, fit
from vitrine.photos import Decoding

ON = DistillationParams(weight=1.0, temperature=2.0)


def network(architecture: str = "test_vit", size: int = 32, seed: int = 1, space: LabelSpace = SPACE) -> MultiTaskModel:
    torch.manual_seed(seed)
    return create_model(architecture, "none", space, Decoding(24, 50.0), size, 0.1, 0.2)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    save_model(network("test_efficientnet", size=48, seed=7), folder, {})
    return folder


def train(teacher: Path, resume: Path, settings: DistillationParams = ON, **changes: Any) -> tuple[Fitted, Any]:
    student, photos = network(), data()
    model = attach_teacher(student, teacher, photos.photos[photos.train], settings, 1.0)
    fitted = fit(model, photos, strategy(), params(**changes), resume)
    return fitted, student


def test_the_soft_label_loss_by_hand() -> None:
    # Softened by 2, (2 ln 3, 0) is (3/4, 1/4), and (0, 0) is (1/2, 1/2).
    targets, logits = torch.tensor([[2 * math.log(3), 0.0]]), torch.zeros(1, 2)
    by_hand = 4 * (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5))
    assert float(soft_label_loss(logits, targets, 2.0)) == pytest.approx(by_hand, rel=1e-5)
    assert float(soft_label_loss(targets, targets, 2.0)) == pytest.approx(0, abs=1e-7)
    twice = soft_label_loss(logits.repeat(2, 1), targets.repeat(2, 1), 2.0)
    assert float(twice) == pytest.approx(by_hand, rel=1e-5)  # the mean over photographs


def test_the_loss_is_zero_for_a_student_identical_to_its_teacher() -> None:
    teacher = network().eval()
    student = network().eval()
    model = DistillationWrapper(student, teacher, ON, 1.0)
    model.fit_feature_stats(data().photos)
    with torch.no_grad():  # a projection that standardizes features
        model.projection.weight.copy_(torch.diag(1 / model.feature_std))
        model.projection.bias.copy_(-model.feature_mean / model.feature_std)
    model.eval()
    images = model.spec.preprocessing.eval_transform(data().photos[:4], torch.device("cpu"))
    _, loss = model.forward_training(images)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-5)
    with torch.no_grad():
        model.projection.weight.neg_()
        model.projection.bias.neg_()
    _, opposite = model.forward_training(images)
    assert float(opposite.detach()) == pytest.approx(2 * FEATURE_WEIGHT, abs=1e-4)


def test_the_teacher_sees_the_same_pictures_in_its_own_size_and_colors() -> None:
    teacher, seen = network("mobilevit_xxs", size=64), []  # mean 0 and std 1, unlike the student's
    model = DistillationWrapper(network(), teacher, ON, 1.0)
    teacher.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    photos = np.full((2, 24, 24, 3), (51, 102, 204), dtype=np.uint8)
    model.forward_training(model.spec.preprocessing.eval_transform(photos, torch.device("cpu")))
    (images,) = seen
    assert images.shape == (2, 3, 64, 64)
    expected = torch.tensor([0.2, 0.4, 0.8]).view(1, 3, 1, 1).expand_as(images)
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-5)


def test_training_brings_the_student_closer_to_its_unchanged_teacher(teacher: Path, tmp_path: Path) -> None:
    fitted, student = train(teacher, tmp_path / "state")
    model = fitted.model
    assert isinstance(model, DistillationWrapper)
    before, images = (
        tensors_of(model.teacher[0]),
        model.spec.preprocessing.eval_transform(data().photos, torch.device("cpu")),
    )

    def loss(each: DistillationWrapper) -> float:
        with torch.no_grad():
            return float(each.eval().forward_training(images)[1])

    fresh = attach_teacher(network(), teacher, data().photos[data().train], ON, 1.0)
    assert isinstance(fresh, DistillationWrapper)
    assert loss(model) < 0.8 * loss(fresh)
    unchanged = tensors_of(fresh.teacher[0])
    assert all(np.array_equal(before[name], unchanged[name]) for name in before)
    assert {name.split(".")[0] for name in tensors_of(student)} == {"backbone", "heads"}
    assert not any("teacher" in name for name in model.state_dict())
    trained = tensors_of(model)
    assert all(np.array_equal(trained[name], tensor) for name, tensor in tensors_of(student).items())


def test_the_loss_in_the_history_is_the_loss_of_the_labels_only(teacher: Path, tmp_path: Path) -> None:
    """Otherwise the losses of train and val would not be comparable."""
    phases = [Phase("full", 1, 1e-9, 1e-9)]  # too small to change anything
    losses = []
    for name, settings in (("with", ON), ("without", DistillationParams(weight=0.0, temperature=2.0))):
        model = attach_teacher(network(), teacher, data().photos[data().train], settings, 1.0)
        fitted = fit(model, data(), strategy(phases), params(feature_dropout=0.0), tmp_path / name)
        losses.append(fitted.history["train_loss"].iloc[0])
    assert losses[0] == pytest.approx(losses[1], rel=0.02)  # the heads' dropout differs


def test_a_killed_run_ends_in_the_same_bits(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = train(teacher, tmp_path / "whole")
    step, calls = training.multi_task_loss, 0

    def killed(*arguments: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > 8:
            raise KeyboardInterrupt
        return step(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "multi_task_loss", killed)
        train(teacher, tmp_path / "state")
    assert (tmp_path / "state").exists()
    assert same(whole, train(teacher, tmp_path / "state")[0])


@pytest.mark.parametrize("change", ["weight", "teacher"])
def test_the_state_of_a_run_with_another_teacher_or_weight_is_not_resumed(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    train(teacher, tmp_path / "state")
    if change == "teacher":
        save_model(network("test_efficientnet", size=48, seed=8), tmp_path / "other", {})
        train(tmp_path / "other", tmp_path / "state")
    else:
        train(teacher, tmp_path / "state", DistillationParams(weight=0.5, temperature=2.0))
    assert "starting over" in capsys.readouterr().out


def test_a_weight_of_zero_needs_no_teacher(tmp_path: Path) -> None:
    student = network()
    off = DistillationParams(weight=0.0, temperature=2.0)
    assert attach_teacher(student, tmp_path / "nothing", data().photos, off, 1.0) is student
    with pytest.raises(ArtifactError, match="nothing"):
        attach_teacher(student, tmp_path / "nothing", data().photos, ON, 1.0)


def test_student_and_teacher_must_have_the_same_labels() -> None:
    other = LabelSpace({"class": ("blue", "red"), "shade": ("dark", "light")})
    with pytest.raises(ValueError, match="different label spaces"):
        DistillationWrapper(network(), network(space=other), ON, 1.0)
