"""Distill one backbone: the stream of pictures, the schedule, snapshots, and resuming."""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import timm
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from vitrine.artifacts import write_tensors
from vitrine.learning.model import MultiTaskModel, create_model, load_tensors, pick_device, tensors_of
from vitrine.learning.preprocess import (
    Augmentation,
    AugmentationParams,
    Fraction,
    Preprocessing,
    resize_images,
    shrink_photos,
)
from vitrine.learning.state import ResumeState, load_optimizer, optimizer_tensors
from vitrine.learning.training import (
    BackboneParams,
    Rate,
    TrainingError,
    moving_average,
    multi_task_loss,
    schedule,
    use_bf16,
)
from vitrine.photos import Decoding
from vitrine.pretraining.distilling import (
    STATISTICS_PICTURES,
    Student,
    Teacher,
    distillation_losses,
    mix_pairs,
    weighted_sum,
)
from vitrine.pretraining.shards import Pictures

Weight = Annotated[float, Field(ge=0)]


class PretrainingParams(AugmentationParams):
    """Settings shared by both backbones: the stream of pictures, the losses, the optimizer."""

    seed: Annotated[int, Field(ge=0)]
    batch_size: Annotated[int, Field(ge=2)]
    render_shards: list[Annotated[int, Field(ge=0)]]
    render_fraction: Annotated[float, Field(ge=0, lt=1)]
    mix_probability: Fraction
    teacher_image_size_px: Annotated[int, Field(ge=16, le=1024)]
    temperature: Annotated[float, Field(gt=0)]
    feature_loss_weight: Weight
    soft_label_loss_weight: Weight
    map_loss_weight: Weight
    class_loss_weight: Weight
    attribute_loss_weight: Weight
    weight_decay: Weight
    gradient_clip_norm: Annotated[float, Field(gt=0)]
    ema_decay: Annotated[float, Field(gt=0, lt=1)]
    snapshot_pictures: Annotated[int, Field(ge=1)]

    def loss_weights(self) -> dict[str, float]:
        """Return the weight of every loss; the loss of the labels is already a weighted sum over the tasks."""
        return {
            "features": self.feature_loss_weight,
            "soft_labels": self.soft_label_loss_weight,
            "maps": self.map_loss_weight,
            "labels": 1.0,
        }


class StudentParams(BackboneParams):
    """One backbone, its initial weights, and its schedule."""

    weights: Literal["file", "none"]
    pictures: Annotated[int, Field(ge=1)]
    warmup_pictures: Annotated[int, Field(ge=0)]
    learning_rate: Rate


class Stream:
    """Endless batches of photographs and renders; batch n is the same each time it is requested.

    Both are reshuffled after each full pass. Photographs come first in a batch.
    """

    def __init__(self, pictures: Pictures, params: PretrainingParams, side_px: int) -> None:
        self.params = params
        self.num_renders = round(params.render_fraction * params.batch_size)
        self.num_photos = params.batch_size - self.num_renders
        for name, num in (("photos", self.num_photos), ("renders", self.num_renders)):
            if num and not len(getattr(pictures, name)):
                raise TrainingError(f"render_fraction: {params.render_fraction:g} requires {name}, but there are none")
        # A quarter above the network's size, so that typical crops are not upscaled.
        self.photos, self.renders = (
            shrink_photos(each, math.ceil(1.25 * side_px)) for each in (pictures.photos, pictures.renders)
        )
        self.codes = {task: torch.from_numpy(np.array(codes)) for task, codes in pictures.codes.items()}
        pixels = Preprocessing(Decoding(side_px, 1.0), side_px, 1.0, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        self.augmentation = Augmentation(params, pixels)

    def batch(self, step: int, device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the crops of batch `step`, pixels in [0, 1], and the label codes of its renders.

        Pairs of photographs are mixed; renders are not, so that their labels remain valid.

        Shape:
            (batch, channels, height, width), square; {task: (renders,)}
        """
        generator = torch.Generator().manual_seed(seed_of(self.params.seed, step))
        photos = self.photos[self._rows(step, self.num_photos, len(self.photos), 0)]
        crops = self.augmentation(photos, generator, device)
        draw = torch.rand(2, self.num_photos, generator=generator)
        coefficients = torch.where(draw[0] < self.params.mix_probability, draw[1], 1.0)
        crops = mix_pairs(crops, coefficients.to(device))
        if not self.num_renders:
            return crops, {}
        rows = self._rows(step, self.num_renders, len(self.renders), 1)
        crops = torch.cat([crops, self.augmentation(self.renders[rows], generator, device)])
        return crops, {task: codes[rows].to(device) for task, codes in self.codes.items()}

    def _rows(self, step: int, num: int, total: int, kind: int) -> NDArray[np.int64]:
        """Return `num` rows from position step * num of the concatenated shuffles."""
        positions = np.arange(step * num, (step + 1) * num)
        rows = np.empty(num, dtype=np.int64)
        for epoch in np.unique(positions // total):
            inside = positions // total == epoch
            order = np.random.default_rng([self.params.seed, kind, int(epoch)]).permutation(total)
            rows[inside] = order[positions[inside] % total]
        return rows


def seed_of(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])


def create_student(params: StudentParams, pictures: Pictures, teacher: Teacher, seed: int) -> Student:
    """Build the student from its initial weights.

    Raises:
        WeightsError: see `create_model`.
    """
    torch.manual_seed(seed)
    decoding = Decoding(params.image_size_px, 1.0)
    space = pictures.label_space
    model = create_model(params.architecture, params.initial_weights, space, decoding, params.image_size_px, 0.0, 0.0)
    return Student(model, teacher)


class DistillationRun:
    """The state of training a student; every random number depends only on the seed and the step.

    A run that was stopped and resumed on the same machine is therefore bit-identical to an uninterrupted one.

    Attributes:
        step: batches seen
        seconds: training time, over all resumed parts
        history: one row per snapshot: pictures seen, hours, and the mean of every loss since the last snapshot
    """

    def __init__(
        self,
        network: nn.Module,
        pictures: Pictures,
        params: PretrainingParams,
        student: StudentParams,
        folder: Path,
    ) -> None:
        self.params, self.student_params, self.folder = params, student, folder
        self.device = pick_device()
        self.teacher = Teacher(network, params.teacher_image_size_px)
        self.student = create_student(student, pictures, self.teacher, params.seed)
        self.fingerprint = self._fingerprint(pictures)
        for module in (self.teacher, self.student):
            module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.stream = Stream(pictures, params, max(student.image_size_px, params.teacher_image_size_px))
        self.average = AveragedModel(
            self.model.backbone, multi_avg_fn=moving_average(params.ema_decay), use_buffers=True
        )
        self.optimizers = self._create_optimizers()
        self.bf16 = use_bf16(student.precision, self.device)
        self.step, self.seconds = 0, 0.0
        self.num_steps = math.ceil(student.pictures / params.batch_size)
        self.history: list[dict[str, float]] = []
        self.sums: dict[str, Tensor] = {}
        self.num_summed = 0
        saved = ResumeState.load(self.state_path)
        if saved is not None:
            self._restore(saved)
        else:
            picked = np.linspace(0, len(self.stream.photos) - 1, STATISTICS_PICTURES).astype(np.int64)
            self.teacher.fit_feature_stats(self.stream.photos[np.unique(picked)], self.device)

    @property
    def model(self) -> MultiTaskModel:
        return self.student.model

    @property
    def state_path(self) -> Path:
        return self.folder / "state.safetensors"

    @property
    def pictures_seen(self) -> int:
        return self.step * self.params.batch_size

    def train(self, stopping: Callable[[], bool], title: str) -> bool:
        """Train to the end, or until `stopping`; save the state either way, and return whether the end was reached."""
        params, total = self.params, self.num_steps * self.params.batch_size
        self.student.train()
        with tqdm(total=total, initial=self.pictures_seen, desc=title, unit="picture", disable=None) as bar:
            started = time.monotonic() - self.seconds
            while self.step < self.num_steps and not stopping():
                losses = self._train_step()
                self.seconds = time.monotonic() - started
                bar.update(params.batch_size)
                if (
                    self.pictures_seen // params.snapshot_pictures
                    > (self.pictures_seen - params.batch_size) // params.snapshot_pictures
                    or self.step == self.num_steps
                ):
                    self._close_row(title)
                    bar.set_postfix(loss=f"{float(losses):.3f}")
        self._save()
        return self.step == self.num_steps

    def _train_step(self) -> Tensor:
        params = self.params
        seen, total, warmup = self.pictures_seen, self.student_params.pictures, self.student_params.warmup_pictures
        # The new layers train first: their random outputs would damage a trained backbone.
        scales = {"backbone": schedule(seen - warmup, total - warmup, warmup) if seen >= warmup else 0.0}
        scales["new"] = schedule(seen, total, warmup)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.student_params.learning_rate * scales[group["part"]]
            optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(seed_of(params.seed, self.step))  # dropout and stochastic depth, if the backbone has them
        crops, codes = self.stream.batch(self.step, self.device)
        preprocessing = self.model.spec.preprocessing
        images = preprocessing.normalize(resize_images(crops, preprocessing.image_size_px))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=use_bf16("auto", self.device)):
            targets = self.teacher(crops)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            views, features = self.student(images.contiguous(memory_format=torch.channels_last))
            logits = self.model.classify(features[self.stream.num_photos :])
        losses = distillation_losses(views, targets, params.temperature)
        if codes:
            losses["labels"] = multi_task_loss(logits, codes, params.class_loss_weight, params.attribute_loss_weight)
        loss = weighted_sum(losses, params.loss_weights())
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.student.parameters(), params.gradient_clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        self.average.update_parameters(self.model.backbone)
        self.step += 1
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, torch.zeros((), device=self.device)) + value.detach()
        self.num_summed += 1
        return loss.detach()

    def _close_row(self, title: str) -> None:
        """Append a row to the history, and write the averaged backbone and the state."""
        means = {name: float(value) / self.num_summed for name, value in sorted(self.sums.items())}
        if not all(map(math.isfinite, means.values())):
            raise TrainingError(f"a loss is not finite at {self.pictures_seen} pictures: lower learning_rate")
        self.sums, self.num_summed = {}, 0
        self.history.append({"pictures": self.pictures_seen, "hours": self.seconds / 3600, **means})
        losses = ", ".join(f"{name} {value:.4f}" for name, value in means.items())
        speed = self.pictures_seen / self.seconds
        tqdm.write(
            f"{title}: {self.pictures_seen:,} of {self.student_params.pictures:,} pictures, {losses} ({speed:.0f}/s)"
        )
        write_tensors(self.folder / f"{self.pictures_seen:09d}.safetensors", self.backbone(), {"format": "pt"})
        self._save()

    def backbone(self) -> dict[str, NDArray[Any]]:
        """Return the averaged backbone in 16-bit floats."""
        tensors = tensors_of(self.average.module)
        return {name: each.astype(np.float16) if each.dtype == np.float32 else each for name, each in tensors.items()}

    def curve(self) -> pd.DataFrame:
        return pd.DataFrame(self.history)

    def _create_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return Muon for the matrices of the backbone, AdamW for its other parameters and for the new layers.

        Muon's steps are scaled to the size of AdamW's, so that both share one learning rate. As usual for
        transformers, weight decay applies to matrices and kernels, not to biases, norms and other vectors.

        Source:
            Jordan et al., Muon: an optimizer for hidden layers in neural networks (2024); the scale is that of
            Liu et al., Muon is scalable for LLM training (2025).
        """
        backbone = list(self.model.backbone.parameters())
        known = set(backbone)
        new = [parameter for parameter in self.student.parameters() if parameter not in known]
        matrices = [parameter for parameter in backbone if parameter.ndim == 2]
        others = [parameter for parameter in backbone if parameter.ndim != 2]
        rate, decay = self.student_params.learning_rate, self.params.weight_decay
        groups = []
        for part, parameters in (("backbone", others), ("new", new)):
            decayed, free = ([each for each in parameters if (each.ndim > 1) == wide] for wide in (True, False))
            groups.append({"params": decayed, "part": part, "weight_decay": decay})
            groups.append({"params": free, "part": part, "weight_decay": 0.0})
        optimizers: list[torch.optim.Optimizer] = []
        if matrices:
            group = {"params": matrices, "part": "backbone"}
            optimizers.append(torch.optim.Muon([group], rate, decay, adjust_lr_fn="match_rms_adamw"))
        return [*optimizers, torch.optim.AdamW(groups, rate, fused=self.device.type in ("cpu", "cuda"))]

    # -- surviving a kill -----------------------------------------------------------------------------------------

    def _fingerprint(self, pictures: Pictures) -> str:
        """Hash params, pictures, initial weights and code, but not the machine, which may change."""
        digest = hashlib.sha256(pictures.digest.encode())
        settings = [self.params.model_dump(), self.student_params.model_dump(), torch.__version__, timm.__version__]
        digest.update(json.dumps(settings, sort_keys=True).encode())
        kinds = (DistillationRun, Student, Pictures, MultiTaskModel, Augmentation, BackboneParams, ResumeState)
        for kind in kinds:
            digest.update(Path(str(sys.modules[kind.__module__].__file__)).read_bytes())
        for module in (self.teacher, self.student):
            for tensor in tensors_of(module).values():
                digest.update(np.ascontiguousarray(tensor).data)
        return digest.hexdigest()

    def _save(self) -> None:
        progress = {name: getattr(self, name) for name in ("step", "seconds", "history", "num_summed")}
        tensors = {
            "student": tensors_of(self.student),
            "average": tensors_of(self.average),
            "teacher": {"mean": self.teacher.mean.cpu().numpy(), "std": self.teacher.std.cpu().numpy()},
            "sums": {name: value.cpu().numpy() for name, value in self.sums.items()},
            **{f"optimizer {number}": optimizer_tensors(each) for number, each in enumerate(self.optimizers)},
        }
        ResumeState(self.fingerprint, progress, tensors).save(self.state_path)

    def _restore(self, saved: ResumeState) -> None:
        if saved.fingerprint != self.fingerprint:
            raise TrainingError(
                f"{self.state_path}: state of another run (params, pictures, initial weights or code differ). "
                f"To start over, delete {self.folder}"
            )
        for name, value in saved.progress.items():
            setattr(self, name, value)
        load_tensors(self.student, saved.tensors["student"])
        load_tensors(self.average, saved.tensors["average"])
        for name, array in saved.tensors["teacher"].items():
            getattr(self.teacher, name).copy_(torch.from_numpy(np.array(array)))
        sums = saved.tensors.get("sums", {})
        self.sums = {name: torch.from_numpy(np.array(each)).to(self.device) for name, each in sums.items()}
        for number, optimizer in enumerate(self.optimizers):
            load_optimizer(optimizer, saved.tensors.get(f"optimizer {number}", {}))
        tqdm.write(f"{self.state_path}: resuming after {self.pictures_seen:,} pictures")
