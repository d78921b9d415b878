"""Training learns, follows its params, and gives bit-identical results after being killed and resumed."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from toy_training import PHASES, SPACE, data, params, same, strategy

from vitrine.artifacts import write_csv, write_json, write_npy
from vitrine.data.splits import training_table
from vitrine.labels import MISSING, LabelSpace
from vitrine.learning import training
from vitrine.learning.model import MultiTaskModel, create_model, tensors_of
from vitrine.learning.training import (
    Fitted,
    Phase,
    TrainingData,
    TrainingError,
    fit,
    multi_task_loss,
    schedule,
)
from vitrine.photos import Decoding


def train(path: Path, phases: list[Phase] = PHASES, architecture: str = "test_vit", **changes: Any) -> Fitted:
    settings = params(**changes)
    torch.manual_seed(settings.seed)
    model = create_model(architecture, "none", SPACE, Decoding(24, 50.0), 32, 0.1, 0.2)
    return fit(model, data(), strategy(phases), settings, path)


def test_training_learns_colors(tmp_path: Path) -> None:
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
    # In the first epoch, in the first epoch of the second phase, and in the middle of that phase.
    for stop_at in (1, 6, 14):
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


def test_the_state_of_another_run_is_not_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path / "state", seed=1)
    other = train(tmp_path / "state", seed=2)
    assert "starting over" in capsys.readouterr().out
    assert same(other, train(tmp_path / "fresh", seed=2))


def test_two_runs_agree_and_another_seed_does_not(tmp_path: Path) -> None:
    assert same(train(tmp_path / "a"), train(tmp_path / "b"))
    assert not same(train(tmp_path / "c"), train(tmp_path / "d", seed=2))


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone is told to keep memory")
def test_freed_memory_is_kept_for_the_next_step() -> None:
    command = (
        "import resource, torch\n"
        "from vitrine.learning.training import keep_freed_memory\n"
        "keep_freed_memory()\n"
        "for _ in range(3):\n"
        "    torch.ones(2**23)\n"  # 32 MiB, freed at once
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(4):\n"
        "    torch.ones(2**23)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    faults = subprocess.run([sys.executable, "-c", command], check=True, capture_output=True, text=True).stdout
    assert int(faults) < 1000, "8192 pages each time without it"


@pytest.mark.parametrize("architecture", ["test_vit", "mobilevit_xxs"])
def test_no_uninitialized_memory_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
    plain = train(tmp_path / "plain", architecture=architecture)
    assert not torch.utils.deterministic.fill_uninitialized_memory, "filling takes a tenth of a step"
    torch.utils.deterministic.fill_uninitialized_memory = True
    monkeypatch.setattr(torch.utils, "deterministic", ModuleType("what fit turns off"))
    try:
        filled = train(tmp_path / "filled", architecture=architecture)  # memory is filled with NaN
    finally:
        monkeypatch.undo()
        torch.utils.deterministic.fill_uninitialized_memory = False
    assert same(plain, filled)


def test_a_frozen_backbone_is_unchanged(tmp_path: Path) -> None:
    torch.manual_seed(1)
    before = tensors_of(create_model("mobilevit_xxs", "none", SPACE, Decoding(24, 50.0), 32, 0.1, 0.2))
    after = tensors_of(train(tmp_path / "state", [Phase("heads", 2, 0.0, 1e-2)], "mobilevit_xxs").model)
    changed = {name.split(".")[0] for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"heads"}  # not even the statistics of batch normalization


def test_the_best_epoch_is_kept(tmp_path: Path) -> None:
    fitted = train(tmp_path / "state", [Phase("full", 6, 2e-3, 2e-3)])
    scores = fitted.history["val_macro_f1"]
    assert fitted.epoch == scores.idxmax() + 1
    logits, _ = fitted.model.infer(data().photos[data().val])
    accuracy = (logits["class"].argmax(axis=1) == data().codes["class"][data().val]).mean()
    assert accuracy == fitted.history["val_class_accuracy"][fitted.epoch - 1]


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = training.multi_task_loss
    monkeypatch.setattr(training, "multi_task_loss", lambda *arguments: step(*arguments) * math.nan)
    with pytest.raises(TrainingError, match=r"epoch 1 \(heads\): lower the learning rates"):
        train(tmp_path / "state")


def test_no_epochs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no epochs"):
        train(tmp_path / "state", [Phase("full", 0, 1e-3, 1e-3)])


def test_the_loss_weights_tasks_and_ignores_missing_labels() -> None:
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


def test_a_shortened_strategy_keeps_a_fraction_of_every_phase_and_at_least_one_epoch() -> None:
    phases = [Phase("heads", 3, 0.0, 1e-3), Phase("full", 15, 1e-4, 5e-4), Phase("off", 0, 1e-4, 1e-4)]
    for fraction, epochs in ((0.25, [1, 4, 0]), (0.05, [1, 1, 0]), (1.0, [3, 15, 0])):
        shorter = strategy(phases).shortened(fraction)
        assert [phase.epochs for phase in shorter.phases] == epochs
        assert [phase.name for phase in shorter.phases] == ["heads", "full", "off"]


def test_balanced_order_draws_all_classes_equally_often() -> None:
    rare = data(90, 9)
    classes = np.zeros(99, dtype=np.int64)
    classes[:10], classes[10:20] = 1, 2
    unbalanced = TrainingData(SPACE, rare.photos, {**rare.codes, "class": classes}, rare.train, rare.val)
    model = create_model("test_vit", "none", SPACE, Decoding(24, 50.0), 32, 0.1, 0.2)
    counts = {}
    for balanced in (True, False):
        run = training._Run(model, unbalanced, strategy(balanced=balanced), params())
        drawn = np.concatenate([run._order(torch.Generator().manual_seed(seed)) for seed in range(60)])
        counts[balanced] = np.bincount(classes[drawn], minlength=3) / len(drawn)
    assert np.allclose(counts[True], 1 / 3, atol=0.03)
    assert np.allclose(counts[False], [70 / 90, 1 / 9, 1 / 9])


def test_the_average_follows_every_step_and_reaches_its_decay() -> None:
    update = training.moving_average(0.5)
    average, steps = [torch.zeros(1), torch.zeros(1)], [torch.ones(1), torch.full((1,), 2.0)]
    update(average, steps, torch.tensor(1))  # keeps (1 + 1) / (10 + 1)
    assert torch.allclose(torch.cat(average), torch.tensor([9 / 11, 18 / 11]))
    before = torch.cat(average)
    update(average, steps, torch.tensor(1000))  # keeps half
    assert torch.allclose(torch.cat(average), (before + torch.tensor([1.0, 2.0])) / 2)
    counts = [torch.tensor(3)]
    update(counts, [torch.tensor(7)], torch.tensor(1000))
    assert counts == [torch.tensor(7)]


def test_the_decay_of_the_average_matters_within_an_epoch(tmp_path: Path) -> None:
    quick, slow = (
        train(tmp_path / name, [Phase("full", 1, 2e-3, 2e-3)], checkpoint="ema", ema_decay=decay, batch_size=2)
        for name, decay in (("quick", 0.5), ("slow", 0.6))
    )
    last = tensors_of(quick.model)["heads.0.0.weight"]
    assert not np.array_equal(last, tensors_of(slow.model)["heads.0.0.weight"])


def test_both_checkpoints_come_out_of_one_run(tmp_path: Path) -> None:
    best, ema = (train(tmp_path / name, checkpoint=name) for name in ("best", "ema"))
    average = tensors_of(ema.model)
    assert all(np.array_equal(tensor.numpy(), average[name]) for name, tensor in best.average.items())
    assert not np.array_equal(tensors_of(best.model)["heads.0.0.weight"], average["heads.0.0.weight"])


class Guided(MultiTaskModel):
    """A model with its own loss, as if from a module of the package."""

    __module__ = "vitrine.guided"
    weight = 1.0

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "weight": self.weight}


def guided_run(path: Path, monkeypatch: pytest.MonkeyPatch, weight: float = 1.0) -> training._Run:
    """Return a run of a model whose class is defined in the file at `path`."""
    module = ModuleType(Guided.__module__)
    module.__file__ = str(path)
    monkeypatch.setitem(sys.modules, Guided.__module__, module)
    torch.manual_seed(1)
    plain = create_model("test_vit", "none", SPACE, Decoding(24, 50.0), 32, 0.1, 0.2)
    model = Guided(plain.spec, plain.backbone)
    model.weight = weight
    return training._Run(model, data(), strategy(balanced=False), params())


def test_the_fingerprint_covers_the_settings_of_the_model_and_the_libraries(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "guided.py"
    path.write_text("")
    first = guided_run(path, monkeypatch).fingerprint()
    assert guided_run(path, monkeypatch).fingerprint() == first
    assert guided_run(path, monkeypatch, weight=2.0).fingerprint() != first
    monkeypatch.setattr(training.timm, "__version__", "0.0.0")
    assert guided_run(path, monkeypatch).fingerprint() != first


def test_the_fingerprint_covers_the_source_of_the_model_class(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "guided.py"
    path.write_text("")
    run = guided_run(path, monkeypatch)
    before = run.fingerprint()
    path.write_text("# another loss\n")
    assert run.fingerprint() != before


def test_training_reads_no_captions_items_or_test_labels(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "image_path": ["a", "b", "c"],
            "split": ["train", "test", "val"],
            "instance_id": ["1", "2", "3"],
            "class": ["007", "7", "1e3"],
        }
    )
    write_csv(tmp_path / "training.csv", training_table(table, ["class"]))
    write_npy(tmp_path / "photos.npy", np.zeros((3, 8, 8, 3), dtype=np.uint8))
    write_json(tmp_path / "label_space.json", LabelSpace({"class": ("007", "1e3")}).to_json())
    found = TrainingData.read(tmp_path)
    assert found.codes["class"].tolist() == [0, MISSING, 1]
    assert (found.train.tolist(), found.val.tolist()) == ([0], [2])
    before = (tmp_path / "training.csv").read_bytes()
    table.loc[1, ["class", "image_path", "instance_id"]] = ["other", "z", "9"]
    write_csv(tmp_path / "training.csv", training_table(table, ["class"]))
    assert (tmp_path / "training.csv").read_bytes() == before


def test_weights_from_a_file_require_its_path() -> None:
    values = {"architecture": "test_vit", "weights": "file", "image_size_px": 32, "precision": "fp32"}
    with pytest.raises(ValueError, match="weights_file"):
        training.BackboneParams(**values, weights_file=None)
    assert training.BackboneParams(**values, weights_file="w.safetensors").initial_weights == "w.safetensors"
    assert (
        training.BackboneParams(**{**values, "weights": "none"}, weights_file="w.safetensors").initial_weights == "none"
    )


def test_validation_scores_by_hand() -> None:
    codes = np.array([0, 0, 1, MISSING])
    logits = np.array([[1, 0], [0, 1], [0, 1], [1, 0]], dtype=np.float32)
    scores = training.validation_scores(codes, logits)
    assert scores == {"accuracy": pytest.approx(2 / 3), "macro_f1": pytest.approx(2 / 3)}
    assert training.validation_scores(codes[3:], logits[3:]) == {"accuracy": 0.0, "macro_f1": 0.0}


def test_frozen_blocks_keep_their_weights_and_statistics(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = create_model("test_efficientnet", "none", SPACE, Decoding(24, 50.0), 32, 0.1, 0.2)
    before = tensors_of(model)
    phases = [Phase("full", 1, 2e-3, 2e-3, frozen_blocks=2)]
    fit(model, data(), strategy(phases), params(), tmp_path / "state")
    changed = {name for name, tensor in tensors_of(model).items() if not np.array_equal(tensor, before[name])}
    first = ("backbone.conv_stem", "backbone.bn1", "backbone.blocks.0.", "backbone.blocks.1.")
    assert changed and not any(name.startswith(first) or "running" in name for name in changed)
    weights = {name for name, _ in model.named_parameters() if not name.startswith(first)}
    assert changed == weights


def test_more_frozen_blocks_than_there_are_is_an_error(tmp_path: Path) -> None:
    phases = [Phase("full", 1, 2e-3, 2e-3, frozen_blocks=99)]
    with pytest.raises(TrainingError, match="frozen_blocks: must be at most 6, the number of backbone blocks; got 99"):
        train(tmp_path / "state", phases)


def test_a_backbone_without_blocks_cannot_freeze_them(tmp_path: Path) -> None:
    phases = [Phase("full", 1, 2e-3, 2e-3, frozen_blocks=0)]
    with pytest.raises(TrainingError, match="frozen_blocks: the backbone has no blocks; choose another"):
        train(tmp_path / "state", phases, architecture="test_resnet")
