"""Fit a multi-task model: phases, schedule, loss, checkpoint selection, and resuming after a kill."""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
import pandas as pd
import timm
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationInfo, field_validator, model_validator
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from vitrine.artifacts import read_json, read_npy
from vitrine.errors import VitrineError
from vitrine.labels import CLASS_TASK, MISSING, LabelSpace, read_photo_table
from vitrine.learning.distributed import (
    copy_from_first,
    from_first,
    num_processes,
    own_share,
    rank,
    sum_gradients,
    sum_over_processes,
    synchronized_batch_norm,
)
from vitrine.learning.model import MultiTaskModel, load_tensors, tensors_of
from vitrine.learning.preprocess import Augmentation, AugmentationParams, shrink_photos
from vitrine.learning.state import ResumeState, Tensors, load_optimizer, optimizer_tensors
from vitrine.params import Section
from vitrine.scores import accuracy, confusion_counts, macro_f1

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Constants of glibc's malloc.h."""

Rate = Annotated[float, Field(gt=0, le=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]


class TrainingParams(AugmentationParams):
    """Settings that all models share: data order, loss, regularization, augmentation."""

    seed: Annotated[int, Field(ge=0)]
    batch_size: Annotated[int, Field(ge=2)]
    processes: Annotated[int, Field(ge=1)]
    class_loss_weight: Annotated[float, Field(gt=0)]
    attribute_loss_weight: Annotated[float, Field(ge=0)]
    feature_dropout: Dropout
    head_dropout: Dropout
    weight_decay: Annotated[float, Field(ge=0)]
    warmup_epochs: Annotated[int, Field(ge=0)]
    gradient_clip_norm: Annotated[float, Field(gt=0)]
    checkpoint: Literal["best", "ema"]
    ema_decay: Annotated[float, Field(gt=0, lt=1)]

    @field_validator("processes")
    @classmethod
    def _not_above_the_batch_size(cls, value: int, info: ValidationInfo) -> int:
        maximum = info.data.get("batch_size", value)
        if value > maximum:
            raise ValueError(f"at most batch_size, {maximum}")
        return value


class TrainingError(VitrineError):
    """Training cannot continue."""


class NetworkParams(Section):
    """Settings of a network that every training stage has."""

    architecture: str
    weights: Literal["file", "imagenet", "none"]
    image_size_px: Annotated[int, Field(ge=16, le=1024)]
    precision: Literal["auto", "bf16", "fp32"]

    @property
    def initial_weights(self) -> str:
        """The backbone's first weights, as `create_model` takes them."""
        return self.weights


class BackboneParams(NetworkParams):
    """A network whose initial weights may come from a file."""

    weights_file: str | None

    @model_validator(mode="after")
    def _file_is_named(self) -> BackboneParams:
        if self.weights == "file" and not self.weights_file:
            raise ValueError("the path of a safetensors file in weights_file, because weights is file")
        return self

    @property
    def initial_weights(self) -> str:
        """The backbone's first weights, as `create_model` takes them."""
        return str(self.weights_file) if self.weights == "file" else self.weights


@dataclass(frozen=True)
class Phase:
    """Epochs with one cosine schedule from these learning rates to zero.

    Attributes:
        backbone_learning_rate: zero freezes the backbone
        frozen_blocks: number of the backbone's first `blocks` that are frozen, with all layers before them; batch
            normalization then keeps its statistics in the whole backbone. None trains everything
    """

    name: str
    epochs: int
    backbone_learning_rate: float
    head_learning_rate: float
    frozen_blocks: int | None = None


@dataclass(frozen=True)
class Strategy:
    """How one network is trained.

    Attributes:
        network: its architecture, initial weights, image size and precision
        balanced: draw photographs with replacement, every class equally often, instead of each once per epoch
    """

    network: NetworkParams
    phases: Sequence[Phase]
    balanced: bool

    def shortened(self, fraction: float) -> Strategy:
        """Return the strategy with a fraction of each phase's epochs, but at least one epoch per nonempty phase."""
        phases = [
            replace(phase, epochs=min(phase.epochs, max(1, round(fraction * phase.epochs)))) for phase in self.phases
        ]
        return replace(self, phases=phases)


@dataclass(frozen=True)
class TrainingData:
    """Photographs and label codes, as written by the split stage.

    Shape:
        photos: (photos, height, width, channels), uint8, square
        codes[task]: (photos,), MISSING where unlabeled
        train, val: positions of the photographs of each split
    """

    label_space: LabelSpace
    photos: NDArray[np.uint8]
    codes: Mapping[str, NDArray[np.int64]]
    train: NDArray[np.int64]
    val: NDArray[np.int64]

    @classmethod
    def read(cls, folder: Path) -> TrainingData:
        """Read training.csv, photos.npy and label_space.json of the split stage; test photographs have no labels."""
        table, photos = read_photo_table(folder / "training.csv"), read_npy(folder / "photos.npy")
        label_space = LabelSpace.from_json(read_json(folder / "label_space.json"))
        rows = table["row"].to_numpy(dtype=np.int64)
        codes = {task: np.full(len(photos), MISSING, dtype=np.int64) for task in label_space}
        for task, known in label_space.encode(table).items():
            codes[task][rows] = known
        train, val = (rows[(table["split"] == split).to_numpy()] for split in ("train", "val"))
        return cls(label_space, photos, codes, train, val)


@dataclass(frozen=True)
class Fitted:
    """A trained model.

    Attributes:
        model: with the weights selected by `params.checkpoint`
        epoch: epoch of these weights, counted from 1
        history: one row per epoch
        average: state_dict of the moving average of the weights after the last epoch
    """

    model: MultiTaskModel
    epoch: int
    history: pd.DataFrame
    average: Mapping[str, Tensor]


def fit(model: MultiTaskModel, data: TrainingData, strategy: Strategy, params: TrainingParams, resume: Path) -> Fitted:
    """Train all phases and return the checkpoint selected by `params.checkpoint`.

    Every random number depends only on the seed and the epoch, so a run that was killed and resumed is bit-identical
    to an uninterrupted one. Multiple processes share every batch: the first evaluates and writes the state, and all
    return the same result.

    Args:
        model: on the training device; its weights are modified in place.
        resume: file of the state after the last finished epoch; the progress bar takes its name.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # otherwise CUDA rejects deterministic algorithms
    torch.use_deterministic_algorithms(True)
    # Otherwise PyTorch fills all new memory, a tenth of a step; nothing here reads memory before it is written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    keep_freed_memory()
    copy_from_first(model)
    run = _Run(model, data, strategy, params)
    fingerprint, saved = from_first(lambda: (run.fingerprint(), ResumeState.load(resume)))
    note = ""
    if saved is not None and saved.fingerprint == fingerprint:
        run.restore(saved)
        note = f"{resume}: resuming after epoch {run.epoch}"
    elif saved is not None:
        note = f"{resume}: state of another run (params, data or code differ); starting over"
    if note and rank() == 0:
        tqdm.write(note)
    steps = sum(phase.epochs for phase in run.phases) * run.steps_per_epoch
    done = run.epoch * run.steps_per_epoch
    quiet = True if rank() else None  # None: quiet if the output is not a terminal
    with tqdm(total=steps, initial=done, desc=resume.stem, unit="step", disable=quiet) as bar:
        while run.phase < len(run.phases):
            run.train_epoch(bar)
            if rank() == 0:
                run.state(fingerprint).save(resume)
    average, epoch = run.average.module.state_dict(), run.epoch
    if params.checkpoint == "best":
        load_tensors(model, run.best)
        epoch = run.best_epoch
    else:
        model.load_state_dict(average)
    return Fitted(model, epoch, pd.DataFrame(run.history), average)


class _Run:
    """A training run between two epochs."""

    def __init__(self, model: MultiTaskModel, data: TrainingData, strategy: Strategy, params: TrainingParams) -> None:
        self.model, self.data, self.params, self.balanced = model, data, params, strategy.balanced
        self.phases = [phase for phase in strategy.phases if phase.epochs > 0]
        if not self.phases:
            raise TrainingError("no epochs to train: set the epochs of at least one phase above 0")
        limit = min(params.batch_size, len(data.train))
        if num_processes() > limit:
            raise TrainingError(
                f"training.processes: must be at most {limit}: each process needs a photograph from every batch; got "
                f"{num_processes()}"
            )
        self.device = next(model.parameters()).device
        self.bf16 = use_bf16(strategy.network.precision, self.device)
        self.augmentation = Augmentation(params, model.spec.preprocessing)
        # A quarter above the network's size, so that typical crops are not upscaled.
        self.photos = shrink_photos(data.photos, math.ceil(1.25 * model.spec.preprocessing.image_size_px))
        self.codes = {task: torch.from_numpy(np.array(codes)) for task, codes in data.codes.items()}
        self.steps_per_epoch = len(self._batches(np.arange(len(data.train))))
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)
        model.to(memory_format=torch.channels_last)
        self.phase = 0
        self.epoch = 0  # finished epochs, over all phases
        self.history: list[dict[str, Any]] = []
        self.best: Tensors = {}
        self.best_epoch = 0
        self.average = AveragedModel(model, multi_avg_fn=moving_average(params.ema_decay), use_buffers=True)
        self.optimizer: torch.optim.Optimizer | None = None  # of the current phase, once it has begun

    def fingerprint(self) -> str:
        """Hash everything the run depends on; the saved state of a different run is never resumed."""
        digest = hashlib.sha256()
        kinds = [kind for kind in type(self.model).__mro__ if kind.__module__.startswith("vitrine.")]
        known = (Augmentation, LabelSpace, ResumeState, sum_gradients)
        modules = {__name__, *(each.__module__ for each in (*known, *kinds))}
        settings = {
            "model": [kinds[0].__qualname__, self.model.settings()],
            "phases": [asdict(phase) for phase in self.phases],
            "params": {**self.params.model_dump(), "processes": num_processes()},
            "balanced": self.balanced,
            "bf16": self.bf16,
            "versions": [torch.__version__, timm.__version__, np.__version__],
            "device": str(self.device),
            "threads": torch.get_num_threads(),
        }
        digest.update(json.dumps(settings, sort_keys=True).encode())
        for name in sorted(modules):
            digest.update(Path(str(sys.modules[name].__file__)).read_bytes())
        for array in [self.data.photos, self.data.train, self.data.val, *self.data.codes.values()]:
            digest.update(np.ascontiguousarray(array).data)
        for tensor in tensors_of(self.model).values():
            digest.update(np.ascontiguousarray(tensor).data)
        return digest.hexdigest()

    # -- one epoch ------------------------------------------------------------------------------------------------

    def train_epoch(self, bar: tqdm[Any]) -> None:
        """Train and evaluate the next epoch of the current phase; after its last epoch, enter the next phase."""
        phase = self.phases[self.phase]
        before = sum(earlier.epochs for earlier in self.phases[: self.phase])
        if self.optimizer is None:
            self.optimizer = self._create_optimizer(phase)
        loss = self._train_steps(phase, self.epoch - before, bar)
        self.epoch += 1
        self._judge(phase, loss)
        bar.set_postfix(epoch=self.epoch, loss=f"{loss:.3f}", val_f1=f"{self.history[-1]['val_macro_f1']:.3f}")
        if self.epoch == before + phase.epochs:
            self.phase, self.optimizer = self.phase + 1, None

    def _create_optimizer(self, phase: Phase) -> torch.optim.Optimizer:
        self.model.backbone.requires_grad_(phase.backbone_learning_rate > 0)
        if phase.frozen_blocks is not None:
            freeze_first_blocks(self.model.backbone, phase.frozen_blocks)
        groups = []
        backbone = set(self.model.backbone.parameters())
        rest = [each for each in self.model.parameters() if each not in backbone and each.requires_grad]
        for parameters, rate in (
            (list(self.model.backbone.parameters()), phase.backbone_learning_rate),
            (rest, phase.head_learning_rate),
        ):
            if rate == 0:
                continue
            # As usual for transformers, weight decay applies to matrices, not to biases, norms and other vectors.
            trained = [parameter for parameter in parameters if parameter.requires_grad]
            decayed = [parameter for parameter in trained if parameter.ndim > 1]
            others = [parameter for parameter in trained if parameter.ndim <= 1]
            groups.append({"params": decayed, "peak": rate, "weight_decay": self.params.weight_decay})
            groups.append({"params": others, "peak": rate, "weight_decay": 0.0})
        fused = self.device.type in ("cpu", "cuda")
        return torch.optim.AdamW(groups, lr=phase.head_learning_rate, fused=fused)

    def _train_steps(self, phase: Phase, epoch: int, bar: tqdm[Any]) -> float:
        assert self.optimizer is not None
        torch.manual_seed(self._epoch_seed(*([rank()] if rank() else [])))  # dropout and stochastic depth
        generator = torch.Generator().manual_seed(self._epoch_seed())  # order and augmentation, for all processes
        self.model.train()
        if phase.backbone_learning_rate == 0 or phase.frozen_blocks is not None:
            self.model.backbone.eval()
        totals = torch.zeros(2, device=self.device)  # loss of the tasks alone, as on val, and with the auxiliary loss
        batches = self._batches(self._order(generator))
        for step, rows in enumerate(batches):
            progress = epoch + step / len(batches)
            scale = schedule(progress, phase.epochs, min(self.params.warmup_epochs, phase.epochs - 1))
            for group in self.optimizer.param_groups:
                group["lr"] = group["peak"] * scale
            totals += self._backward(rows, generator)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.params.gradient_clip_norm)
            self.optimizer.step()
            self.average.update_parameters(self.model)
            bar.update()
        mean, total = (sum_over_processes(totals) / len(batches)).tolist()
        if not math.isfinite(total):
            raise TrainingError(
                f"the loss is {total} in epoch {self.epoch + 1} ({phase.name}): lower the learning rates"
            )
        return mean

    def _epoch_seed(self, *more: int) -> int:
        return int(np.random.SeedSequence([self.params.seed, self.epoch, *more]).generate_state(1)[0])

    def _backward(self, rows: NDArray[np.int64], generator: torch.Generator) -> Tensor:
        """Compute the gradients of a batch; return the loss of the tasks and the total loss.

        Each process computes its own share of the photographs and divides by counts of the whole batch, so that losses
        and gradients summed over processes equal those of a single process. Gradients are summed here.
        """
        own = rows[own_share()]
        images = self.augmentation(self.photos[rows], generator, self.device, own_share())
        codes = {task: values[own].to(self.device) for task, values in self.codes.items()}
        labeled = {task: int((values[rows] != MISSING).sum()) for task, values in self.codes.items()}
        with self.autocast, synchronized_batch_norm():
            logits, auxiliary = self.model.forward_training(images)
        weights = self.params.class_loss_weight, self.params.attribute_loss_weight
        task_loss = multi_task_loss(logits, codes, *weights, labeled)
        loss = len(own) / len(rows) * auxiliary + task_loss
        self.model.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        sum_gradients(self.model.parameters())
        return torch.stack([task_loss, loss]).detach()

    def _order(self, generator: torch.Generator) -> NDArray[np.int64]:
        train = self.data.train
        if not self.balanced:
            return train[torch.randperm(len(train), generator=generator).numpy()]
        classes = self.codes[CLASS_TASK][train]
        weights = 1.0 / torch.bincount(classes)[classes].double()
        return train[torch.multinomial(weights, len(train), replacement=True, generator=generator).numpy()]

    def _batches(self, order: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        batches = [
            order[start : start + self.params.batch_size] for start in range(0, len(order), self.params.batch_size)
        ]
        # Batch normalization cannot train on a single photograph, nor a process on none.
        return batches[:-1] if len(batches) > 1 and len(batches[-1]) < max(2, num_processes()) else batches

    # -- evaluation -----------------------------------------------------------------------------------------------

    def _judge(self, phase: Phase, train_loss: float) -> None:
        """Score the current weights (or their average) on val, append a row to the history, keep the best weights."""
        row = from_first(lambda: self._val_row(phase, train_loss))
        self.history.append(row)
        if self.params.checkpoint == "best" and row["val_macro_f1"] > self._best_score():
            self.best, self.best_epoch = tensors_of(self.model), self.epoch

    def _val_row(self, phase: Phase, train_loss: float) -> dict[str, Any]:
        model = self.model if self.params.checkpoint == "best" else cast(MultiTaskModel, self.average.module)
        logits, _ = model.infer(self.data.photos[self.data.val])
        codes = {task: values[self.data.val] for task, values in self.codes.items()}
        tensors = {task: torch.from_numpy(scores) for task, scores in logits.items()}
        loss = multi_task_loss(tensors, codes, self.params.class_loss_weight, self.params.attribute_loss_weight)
        scores = {task: validation_scores(codes[task].numpy(), logits[task]) for task in logits}
        row: dict[str, Any] = {
            "epoch": self.epoch,
            "phase": phase.name,
            "train_loss": train_loss,
            "val_loss": float(loss),
            "val_macro_f1": scores[CLASS_TASK]["macro_f1"],
        }
        for task, values in scores.items():
            row |= {f"val_{task}_{key}": value for key, value in values.items()}
        return row

    def _best_score(self) -> float:
        return float(self.history[self.best_epoch - 1]["val_macro_f1"]) if self.best_epoch else -1.0

    # -- surviving a kill -----------------------------------------------------------------------------------------

    def state(self, fingerprint: str) -> ResumeState:
        progress = {name: getattr(self, name) for name in ("phase", "epoch", "best_epoch", "history")}
        optimizer = {} if self.optimizer is None else optimizer_tensors(self.optimizer)
        parts = {"model": tensors_of(self.model), "average": tensors_of(self.average), "best": self.best}
        return ResumeState(fingerprint, progress, {**parts, "optimizer": optimizer})

    def restore(self, saved: ResumeState) -> None:
        for name, value in saved.progress.items():
            setattr(self, name, value)
        load_tensors(self.model, saved.tensors["model"])
        load_tensors(self.average, saved.tensors["average"])
        self.best = saved.tensors.get("best", {})
        if "optimizer" in saved.tensors:
            self.optimizer = self._create_optimizer(self.phases[self.phase])
            load_optimizer(self.optimizer, saved.tensors["optimizer"])


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next step: otherwise large tensors get new pages each time.

    Source:
        mallopt(3): thresholds above which memory is newly mapped, and returned to the system.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_THRESHOLD, 2**30) or mallopt(M_MMAP_THRESHOLD, 2**25)  # the limit of older versions


def freeze_first_blocks(backbone: nn.Module, num: int) -> None:
    """Freeze the first `num` of the backbone's `blocks` and all layers before them.

    Raises:
        TrainingError: the backbone has no such blocks.
    """
    blocks = getattr(backbone, "blocks", None)
    if blocks is None:
        raise TrainingError("frozen_blocks: the backbone has no blocks; choose another architecture")
    if num > len(blocks):
        raise TrainingError(f"frozen_blocks: must be at most {len(blocks)}, the number of backbone blocks; got {num}")
    for name, module in backbone.named_children():
        if name == "blocks":
            break
        module.requires_grad_(False)
    for block in blocks[:num]:
        block.requires_grad_(False)


def multi_task_loss(
    logits: Mapping[str, Tensor],
    codes: Mapping[str, Tensor],
    class_weight: float,
    attribute_weight: float,
    num_labeled: Mapping[str, int] | None = None,
) -> Tensor:
    """Return the weighted sum of the tasks' mean cross-entropies; photographs without a label do not count.

    Args:
        num_labeled: number of labeled photographs per task in the whole batch, if these are only a part of it: the
            losses of all parts then add up to that of the batch.
    Shape:
        logits[task]: (batch, labels); codes[task]: (batch,), MISSING where unlabeled; returns: scalar
    """
    total = torch.zeros((), device=next(iter(logits.values())).device)
    for task, scores in logits.items():
        labeled = codes[task] != MISSING
        here = int(labeled.sum())
        everywhere = here if num_labeled is None else num_labeled[task]
        if here:
            weight = (class_weight if task == CLASS_TASK else attribute_weight) * (here / everywhere)
            total = total + weight * functional.cross_entropy(scores.float()[labeled], codes[task][labeled])
        elif everywhere:
            total = total + 0 * scores.float().sum()  # so that the gradients of the head are zero, not missing
    return total


def schedule(progress: float, epochs: int, warmup_epochs: int) -> float:
    """Return the learning rate's factor after `progress` epochs: linear warmup, then cosine decay to zero.

    Source:
        Loshchilov and Hutter, SGDR, 2017, equation 5, without restarts.
    """
    if progress < warmup_epochs:
        return (progress + 1) / (warmup_epochs + 1)
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup_epochs) / (epochs - warmup_epochs)))


def moving_average(decay: float) -> Callable[[Any, Any, Any], None]:
    """Return a `multi_avg_fn` of AveragedModel for an exponential moving average over steps; integers are copied.

    Step n (from 1) keeps min(decay, (1 + n) / (10 + n)) of the average, so that random initial weights fade quickly.

    Source:
        the warmup of TensorFlow's ExponentialMovingAverage with `num_updates`.
    """

    @torch.no_grad()
    def update(averages: list[Tensor], currents: list[Tensor], num_averaged: Tensor) -> None:
        if averages[0].is_floating_point():
            num = int(num_averaged)
            torch._foreach_lerp_(averages, currents, 1 - min(decay, (1 + num) / (10 + num)))
        else:
            torch._foreach_copy_(averages, currents)

    return update


def validation_scores(codes: NDArray[np.int64], logits: NDArray[np.float32]) -> dict[str, float]:
    """Return accuracy and macro F1 over the labeled photographs (0 if there are none).

    Shape:
        codes: (photos,), MISSING where unlabeled; logits: (photos, labels)
    """
    counts = confusion_counts(codes, logits.argmax(axis=1), logits.shape[1])
    if not counts.any():
        return {"accuracy": 0.0, "macro_f1": 0.0}
    return {"accuracy": float(accuracy(counts)), "macro_f1": float(macro_f1(counts))}


def use_bf16(precision: str, device: torch.device) -> bool:
    """Return whether to train in bfloat16: as `precision` says or, if it is `auto`, if the processor supports it."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
