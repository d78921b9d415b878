"""Profile a training step, and measure the speedup and the effect on the loss of variants of it.

The step is the one of the pipeline on its own data (run `make repro` first): augmentation of a batch, forward pass,
teacher, loss, backward pass, clipping, AdamW, moving average. `--variants` runs the step as it is and with one change
each, in processes that take turns; the ratio is the median ratio of processor time over the rounds. The change of the
result is the largest difference of the loss in the first steps, with the same initial weights and random numbers.

    python benchmarks/profile_training.py [--network deit] [--variants NAME,...] [--rounds 5] [--steps 4]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.optim.swa_utils import AveragedModel
from torch.profiler import ProfilerActivity, profile

from vitrine.artifacts import read_json
from vitrine.learning.distillation import DistillationParams, DistillationWrapper, attach_teacher
from vitrine.learning.model import create_model
from vitrine.learning.preprocess import Augmentation, shrink_photos
from vitrine.learning.strategies import TEACHER, DeitParams, MobilevitParams
from vitrine.learning.training import (
    TrainingData,
    TrainingParams,
    keep_freed_memory,
    moving_average,
    multi_task_loss,
    use_bf16,
)
from vitrine.params import read_section
from vitrine.photos import Decoding

KINDS: dict[str, type[DeitParams] | type[MobilevitParams]] = {"deit": DeitParams, "mobilevit": MobilevitParams}
SAME_STEPS = 5
"""Number of first steps whose losses are compared."""

NUM_OPERATORS = 12


class Step:
    """A training step of a network that records the time of its phases."""

    def __init__(self, name: str) -> None:
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False
        keep_freed_memory()
        network = read_section(f"train_{name}", KINDS[name])
        self.params = read_section("training", TrainingParams)
        folder = Path("data/splits")
        self.data, decoding = TrainingData.read(folder), Decoding(**read_json(folder / "decoding.json"))
        torch.manual_seed(self.params.seed)
        student = create_model(
            network.architecture,
            network.initial_weights,
            self.data.label_space,
            decoding,
            network.image_size_px,
            self.params.feature_dropout,
            self.params.head_dropout,
        )
        photos, distillation = self.data.photos[self.data.train], read_section("distillation", DistillationParams)
        self.model = attach_teacher(student, TEACHER, photos, distillation, self.params.class_loss_weight)
        self.model.to(memory_format=torch.channels_last)
        self.augmentation = Augmentation(self.params, self.model.spec.preprocessing)
        self.photos = shrink_photos(self.data.photos, int(np.ceil(1.25 * network.image_size_px)))
        self.codes = {task: torch.from_numpy(np.array(codes)) for task, codes in self.data.codes.items()}
        self.bf16 = use_bf16(network.precision, torch.device("cpu"))
        self.fused: bool | None = True
        self.clips = self.averages = True
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def start(self) -> None:
        """Initialize with the settings of the variant."""
        torch.manual_seed(0)
        self.generator = torch.Generator().manual_seed(0)
        self.model.train()
        decay = self.params.weight_decay
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-4, weight_decay=decay, fused=self.fused)
        update = moving_average(self.params.ema_decay)
        self.average = AveragedModel(self.model, multi_avg_fn=update, use_buffers=True) if self.averages else None
        if isinstance(self.model, DistillationWrapper):
            teacher = self.model.teacher[0]
            if not hasattr(teacher, "timed"):
                teacher.timed = True
                for method in ("embed", "classify"):
                    setattr(teacher, method, self.timed("teacher", getattr(teacher, method)))

    def timed(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            with self.phase(phase):
                return function(*arguments)

        return call

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.seconds[name] += time.process_time() - start

    def __call__(self) -> float:
        """Train one step and return its loss."""
        rows = self.data.train[torch.randperm(len(self.data.train), generator=self.generator).numpy()]
        rows = rows[: self.params.batch_size]
        with self.phase("augmentation"):
            images = self.augmentation(self.photos[rows], self.generator, torch.device("cpu"))
        codes = {task: values[rows] for task, values in self.codes.items()}
        with self.phase("forward, with the teacher"), torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            logits, auxiliary = self.model.forward_training(images)
        with self.phase("loss"):
            weights = self.params.class_loss_weight, self.params.attribute_loss_weight
            loss = auxiliary + multi_task_loss(logits, codes, *weights)
            self.model.zero_grad(set_to_none=True)
        with self.phase("backward"):
            loss.backward()
        if self.clips:
            with self.phase("clipping of gradients"):
                nn.utils.clip_grad_norm_(self.model.parameters(), self.params.gradient_clip_norm)
        with self.phase("optimizer"):
            self.optimizer.step()
        if self.average is not None:
            with self.phase("moving average"):
                self.average.update_parameters(self.model)
        return float(loss.detach())


# -- variants ---------------------------------------------------------------------------------------------------------


def contiguous(step: Step) -> None:
    step.model.to(memory_format=torch.contiguous_format)
    augment = step.augmentation
    step.augmentation = lambda *arguments: augment(*arguments).contiguous()  # type: ignore[assignment]


def other_precision(step: Step) -> None:
    step.bf16 = not step.bf16


def products_in_bf16(step: Step) -> None:
    """Keep tensors in float32 and let oneDNN round inside products of matrices and convolutions."""
    torch.set_float32_matmul_precision("medium")
    torch.backends.mkldnn.set_flags(_fp32_precision="bf16")


def convolutions_in_bf16(step: Step) -> None:
    torch.backends.mkldnn.conv.fp32_precision = "bf16"


def teacher_of(step: Step) -> nn.Module:
    assert isinstance(step.model, DistillationWrapper)
    return step.model.teacher[0]


def teacher_in_float32(step: Step) -> None:
    teacher = teacher_of(step)
    embed = teacher.embed  # type: ignore[attr-defined]

    def in_float32(images: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return embed(images.float())

    teacher.embed = in_float32  # type: ignore[method-assign, assignment]


def teacher_folded(step: Step) -> None:
    """Fold the teacher's batch normalization into its convolutions."""
    for parent in list(teacher_of(step).modules()):
        children = list(parent.named_children())
        for (name, convolution), (next_name, norm) in pairwise(children):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                activation = nn.Sequential(getattr(norm, "drop", nn.Identity()), getattr(norm, "act", nn.Identity()))
                setattr(parent, name, fuse_conv_bn_eval(convolution, norm))
                setattr(parent, next_name, activation)


def no_teacher(step: Step) -> None:
    step.model.forward_training = lambda images: (step.model(images), 0.0)  # type: ignore[method-assign]


def frozen_backbone(step: Step) -> None:
    """Freeze the backbone as in the phase of the heads: the time that cached features would save."""
    step.model.backbone.requires_grad_(False)
    step.model.backbone.eval()
    step.model.train = lambda mode=True: step.model  # type: ignore[method-assign]


def compiled(step: Step) -> None:
    step.model.backbone = torch.compile(step.model.backbone)


def memory_filled(step: Step) -> None:
    torch.utils.deterministic.fill_uninitialized_memory = True


def setting(name: str, value: Any) -> Callable[[Step], None]:
    return lambda step: setattr(step, name, value)


VARIANTS: dict[str, tuple[Callable[[Step], None], dict[str, str]]] = {
    "as it is": (lambda step: None, {}),
    "contiguous": (contiguous, {}),
    "other precision": (other_precision, {}),
    "products in bf16": (products_in_bf16, {}),
    "convolutions in bf16": (convolutions_in_bf16, {}),
    "teacher in float32": (teacher_in_float32, {}),
    "teacher folded": (teacher_folded, {}),
    "no teacher": (no_teacher, {}),
    "frozen backbone": (frozen_backbone, {}),
    "torch.compile": (compiled, {}),
    "memory filled": (memory_filled, {}),
    "huge pages": (lambda step: None, {"THP_MEM_ALLOC_ENABLE": "1"}),
    "AdamW by tensor lists": (setting("fused", False), {}),
    "no clipping": (setting("clips", False), {}),
    "no moving average": (setting("averages", False), {}),
}


def serve(network: str, variant: str) -> None:
    """Print the losses of the first steps, then train as many steps as each input line says and print the seconds."""
    step = Step(network)
    VARIANTS[variant][0](step)
    step.start()
    print(" ".join(repr(step()) for _ in range(SAME_STEPS)), flush=True)
    for line in sys.stdin:
        start, cpu = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            step()
        print(time.perf_counter() - start, time.process_time() - cpu, flush=True)


def compare(network: str, names: list[str], rounds: int, steps: int) -> None:
    print(f"| {network} | speed, relative to the unchanged step (min to max) | largest difference in loss |")
    print("| --- | ---: | ---: |")

    def start(name: str) -> subprocess.Popen[str]:
        command = [sys.executable, __file__, "--network", network, "--serve", name]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env={**os.environ, **VARIANTS[name][1]}, **pipes)

    def line(process: subprocess.Popen[str], ask: str = "") -> list[float]:
        assert process.stdin is not None and process.stdout is not None
        if ask:
            process.stdin.write(ask)
            process.stdin.flush()
        return [float(value) for value in process.stdout.readline().split()]

    base = start("as it is")
    losses = line(base)
    for name in names:
        other = start(name)
        found = line(other)
        if not found:
            print(f"| {name} | failed | |", flush=True)
            continue
        # Processor time, so that other work on the machine does not count.
        pairs = [(line(base, f"{steps}\n")[1], line(other, f"{steps}\n")[1]) for _ in range(rounds)]
        ratios = [before / after for before, after in pairs]
        change = max(abs(one - two) for one, two in zip(losses, found, strict=True))
        print(
            f"| {name} | {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | {change:.2g} |",
            flush=True,
        )
        other.communicate()
    base.communicate()


def print_profile(network: str, steps: int) -> None:
    step = Step(network)
    step.start()
    for _ in range(3):
        step()
    step.seconds.clear()
    start = time.process_time()
    for _ in range(steps):
        step()
    whole = time.process_time() - start
    start = time.process_time()
    step.model.infer(step.data.photos[step.data.val])
    judging = time.process_time() - start
    epoch = whole / steps * (len(step.data.train) // step.params.batch_size)
    seconds = dict(step.seconds)
    seconds["forward"] = seconds.pop("forward, with the teacher") - seconds.get("teacher", 0.0)
    seconds["the rest"] = whole - sum(seconds.values())
    print(f"\n| {network}: phase | ms of processor time per step | share |\n| --- | ---: | ---: |")
    for name, value in sorted(seconds.items(), key=lambda item: -item[1]):
        print(f"| {name} | {1000 * value / steps:.1f} | {100 * value / whole:.1f} % |")
    print(f"| the step | {1000 * whole / steps:.1f} | 100 % |")
    print(f"\nEvaluation on val adds {100 * judging / epoch:.0f} % to an epoch.")
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(steps):
            step()
    events = [event for event in profiler.key_averages() if event.self_cpu_time_total > 0]
    total = sum(event.self_cpu_time_total for event in events)
    print(f"\n| {network}: operator | calls per step | share |\n| --- | ---: | ---: |")
    for event in sorted(events, key=lambda event: -event.self_cpu_time_total)[:NUM_OPERATORS]:
        print(f"| `{event.key}` | {event.count / steps:.0f} | {100 * event.self_cpu_time_total / total:.1f} % |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=list(KINDS), action="append")
    parser.add_argument("--variants", nargs="?", const=",".join(list(VARIANTS)[1:]))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    networks = arguments.network or list(KINDS)
    if arguments.serve:
        serve(networks[0], arguments.serve)
        return
    print(f"{torch.get_num_threads()} threads")
    for network in networks:
        if arguments.variants:
            compare(network, arguments.variants.split(","), arguments.rounds, arguments.steps)
        else:
            print_profile(network, arguments.steps)


if __name__ == "__main__":
    main()
