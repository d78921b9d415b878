"""Training learns, follows its params, and survives being killed with the same bits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vitrine import training
from vitrine.labels import MISSING, LabelSpace
from vitrine.model import create_model, tensors_of
from vitrine.training import Fitted, Phase, TrainingData, TrainingError, TrainingParams, fit, multi_task_loss, schedule

SPACE = LabelSpace({"class": ("blue", "green", "red"), "shade": ("dark", "light")})
PHASES = [Phase("heads", 1, 0.0, 1e-3), Phase("full", 3, 2e-3, 2e-3)]


def params(**changes: Any) -> TrainingParams:
    values: dict[str, Any] = {
        "seed": 1, "batch_size": 8, "class_loss_weight": 1.0, "attribute_loss_weight": 0.5,
        "feature_dropout": 0.1, "head_dropout": 0.2, "weight_decay": 0.05, "warmup_epochs": 1,
        "gradient_clip_norm": 1.0, "checkpoint": "best", "ema_decay": 0.9,
        "crop_area_min": 0.8, "flip_probability": 0.5, "rotation_degrees": 10.0, "translation_fraction": 0.1,
        "brightness": 0.1, "contrast": 0.1, "saturation": 0.1, "hue_fraction": 0.0,
        "erase_probability": 0.1, "erase_area_min": 0.02, "erase_area_max": 0.2,
    }  # fmt: skip
    return TrainingParams(**{**values, **changes})


def data(num_train: int = 27, num_val: int = 9) -> TrainingData:
    """Plain colours, dark and light, with some noise; the third photograph has no shade."""
    total = num_train + num_val
    rng = np.random.default_rng(0)
    classes = np.arange(total) % 3
    shades = (np.arange(total) // 3) % 2
    photos = rng.integers(0, 40, (total, 24, 24, 3))
    photos[np.arange(total), :, :, 2 - classes] += np.where(shades == 1, 200, 110)[:, None, None]
    shades = shades.copy()
    shades[2] = MISSING
    return TrainingData(
        SPACE,
        photos.astype(np.uint8),
        {"class": classes.astype(np.int64), "shade": shades.astype(np.int64)},
        np.arange(num_train),
        np.arange(num_train, total),
    )


def train(path: Path, phases: list[Phase] = PHASES, architecture: str = "test_vit", **changes: Any) -> Fitted:
    settings = params(**changes)
    torch.manual_seed(settings.seed)
    model = create_model(architecture, "none", SPACE, 24, 32, 0.1, 0.2)
    return fit(model, data(), phases, settings, balanced=True, precision="fp32", resume=path, title="test")


def same(first: Fitted, second: Fitted) -> bool:
    left, right = tensors_of(first.model), tensors_of(second.model)
    return (
        first.epoch == second.epoch
        and first.history.equals(second.history)
        and all(np.array_equal(left[name], right[name]) for name in left)
    )


def test_training_learns_colours(tmp_path: Path) -> None:
    fitted = train(tmp_path / "state", [Phase("full", 12, 2e-3, 2e-3)])
    assert fitted.history["val_class_accuracy"].max() == 1.0
    assert fitted.history["train_loss"].iloc[-1] < 0.7 * fitted.history["train_loss"].iloc[0]
    assert list(fitted.history["epoch"]) == list(range(1, 13))


@pytest.mark.parametrize("checkpoint", ["best", "ema"])
@pytest.mark.parametrize("architecture", ["test_vit", "mobilevit_xxs"])
def test_a_killed_run_ends_in_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: str, architecture: str
) -> None:
    whole = train(tmp_path / "whole", architecture=architecture, checkpoint=checkpoint)
    step = training.multi_task_loss
    for stop_at in (1, 6, 14):  # in the first epoch, in the first of the second phase, in the middle of it
        calls = 0

        def killed(*arguments: Any, stop_at: int = stop_at) -> torch.Tensor:
            nonlocal calls
            calls += 1
            if calls > stop_at:
                raise KeyboardInterrupt
            return step(*arguments)

        state = tmp_path / f"state-{stop_at}"
        monkeypatch.setattr(training, "multi_task_loss", killed)
        with pytest.raises(KeyboardInterrupt):
            train(state, architecture=architecture, checkpoint=checkpoint)
        monkeypatch.setattr(training, "multi_task_loss", step)
        assert state.exists() == (stop_at > 5)
        assert same(whole, train(state, architecture=architecture, checkpoint=checkpoint))


def test_a_resumed_run_does_not_repeat_finished_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = train(tmp_path / "state")

    def never(*_: Any) -> torch.Tensor:
        raise AssertionError("a finished epoch was trained again")

    monkeypatch.setattr(training, "multi_task_loss", never)
    assert same(first, train(tmp_path / "state"))


def test_the_state_of_another_run_is_not_continued(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path / "state", seed=1)
    other = train(tmp_path / "state", seed=2)
    assert "starting anew" in capsys.readouterr().out
    assert same(other, train(tmp_path / "fresh", seed=2))


def test_two_runs_agree_and_another_seed_does_not(tmp_path: Path) -> None:
    assert same(train(tmp_path / "a"), train(tmp_path / "b"))
    assert not same(train(tmp_path / "c"), train(tmp_path / "d", seed=2))


def test_a_frozen_backbone_stays_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(1)
    before = tensors_of(create_model("mobilevit_xxs", "none", SPACE, 24, 32, 0.1, 0.2))
    after = tensors_of(train(tmp_path / "state", [Phase("heads", 2, 0.0, 1e-2)], "mobilevit_xxs").model)
    changed = {name.split(".")[0] for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"heads"}  # not even the statistics of batch normalisation


def test_the_best_epoch_is_kept(tmp_path: Path) -> None:
    fitted = train(tmp_path / "state", [Phase("full", 6, 2e-3, 2e-3)])
    scores = fitted.history["val_macro_f1"]
    assert fitted.epoch == scores.idxmax() + 1
    logits, _ = fitted.model.infer(data().photos[data().val])
    accuracy = (logits["class"].argmax(axis=1) == data().codes["class"][data().val]).mean()
    assert accuracy == fitted.history["val_class_accuracy"][fitted.epoch - 1]


def test_a_loss_that_explodes_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = training.multi_task_loss
    monkeypatch.setattr(training, "multi_task_loss", lambda *arguments: step(*arguments) * math.nan)
    with pytest.raises(TrainingError, match=r"epoch 1 \(heads\): lower the learning rates"):
        train(tmp_path / "state")


def test_no_epochs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no epochs"):
        train(tmp_path / "state", [Phase("full", 0, 1e-3, 1e-3)])


def test_the_loss_weighs_tasks_and_leaves_out_missing_labels() -> None:
    logits = {"class": torch.tensor([[2.0, 0.0], [0.0, 0.0]]), "shade": torch.tensor([[0.0, 1.0], [5.0, 0.0]])}
    codes = {"class": torch.tensor([0, 1]), "shade": torch.tensor([1, MISSING])}
    expected = (math.log(1 + math.exp(-2)) + math.log(2)) / 2 + 0.5 * math.log(1 + math.exp(-1))
    assert multi_task_loss(logits, codes, 1.0, 0.5).item() == pytest.approx(expected)
    nothing = {"class": torch.tensor([0, 1]), "shade": torch.tensor([MISSING, MISSING])}
    expected = (math.log(1 + math.exp(-2)) + math.log(2)) / 2
    assert multi_task_loss(logits, nothing, 1.0, 0.5).item() == pytest.approx(expected)


def test_the_schedule_warms_up_then_falls_to_zero() -> None:
    assert [schedule(epoch, 10, 2) for epoch in (0, 1)] == [pytest.approx(1 / 3), pytest.approx(2 / 3)]
    assert schedule(2, 10, 2) == 1.0
    assert schedule(6, 10, 2) == pytest.approx(0.5)
    assert schedule(10, 10, 2) == pytest.approx(0.0)
    assert schedule(0, 4, 0) == 1.0


def test_balanced_order_draws_rare_classes_as_often() -> None:
    rare = data(90, 9)
    classes = np.zeros(99, dtype=np.int64)
    classes[:10], classes[10:20] = 1, 2
    unbalanced = TrainingData(SPACE, rare.photos, {**rare.codes, "class": classes}, rare.train, rare.val)
    model = create_model("test_vit", "none", SPACE, 24, 32, 0.1, 0.2)
    counts = {}
    for balanced in (True, False):
        run = training._Run(model, unbalanced, params(), balanced, "fp32", PHASES)
        drawn = np.concatenate([run._order(torch.Generator().manual_seed(seed)) for seed in range(60)])
        counts[balanced] = np.bincount(classes[drawn], minlength=3) / len(drawn)
    assert np.allclose(counts[True], 1 / 3, atol=0.03)
    assert np.allclose(counts[False], [70 / 90, 1 / 9, 1 / 9])


def test_validation_scores_by_hand() -> None:
    codes = np.array([0, 0, 1, MISSING])
    logits = np.array([[1, 0], [0, 1], [0, 1], [1, 0]], dtype=np.float32)
    scores = training.validation_scores(codes, logits)
    assert scores == {"accuracy": pytest.approx(2 / 3), "macro_f1": pytest.approx(2 / 3)}
    assert training.validation_scores(codes[3:], logits[3:]) == {"accuracy": 0.0, "macro_f1": 0.0}
