"""Compare Vitrine's training step and PyTorch inference with the plain loop of the reference, in one run.

The plain loop: float32, eager, contiguous memory, one photograph at a time through torchvision's transforms in the
main thread, inference one photograph at a time. Ours: the `precision` of each model in params.yaml, channels last,
augmentation of whole batches, inference in batches, and the settings of training: deterministic algorithms and kept
freed memory. The latter is a setting of the process, so each variant has its own process. They take turns, so that a
noisy machine affects both; the ratio is the median of the ratios of the pairs.

    python benchmarks/throughput.py [--rounds 5] [--image-size 224]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms

from vitrine.labels import LabelSpace
from vitrine.learning.model import MultiTaskModel, create_model, pick_device
from vitrine.learning.preprocess import Augmentation
from vitrine.learning.strategies import DeitParams, MobilevitParams
from vitrine.learning.training import TrainingParams, keep_freed_memory, multi_task_loss, use_bf16
from vitrine.params import read_section
from vitrine.photos import Decoding

SPACE = LabelSpace(
    {task: tuple(f"{i:02d}" for i in range(n)) for task, n in (("class", 10), ("a", 13), ("b", 9), ("c", 4))}
)
KINDS: dict[str, type[DeitParams] | type[MobilevitParams]] = {
    "train_deit": DeitParams,
    "train_mobilevit": MobilevitParams,
}
PHOTO_SIZE_PX, BATCH, REPEATS = 96, 32, 2


def plain_transform(model: MultiTaskModel, size: int, params: TrainingParams) -> Callable[[Image.Image], Tensor]:
    """Return the training transform of the reference."""
    preprocessing = model.spec.preprocessing
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale=(params.crop_area_min, 1.0)),
            transforms.RandomHorizontalFlip(params.flip_probability),
            transforms.RandomRotation(params.rotation_degrees),
            transforms.ColorJitter(params.brightness, params.contrast, params.saturation, params.hue_fraction),
            transforms.RandomAffine(0, translate=(params.translation_fraction, params.translation_fraction)),
            transforms.ToTensor(),
            transforms.Normalize(preprocessing.mean, preprocessing.std),
            transforms.RandomErasing(params.erase_probability, (params.erase_area_min, params.erase_area_max)),
        ]
    )


def plain_evaluation(model: MultiTaskModel, size: int) -> Callable[[Image.Image], Tensor]:
    preprocessing = model.spec.preprocessing
    steps = [transforms.Resize((size, size)), transforms.ToTensor()]
    return transforms.Compose([*steps, transforms.Normalize(preprocessing.mean, preprocessing.std)])


def train_step(
    model: MultiTaskModel, optimizer: torch.optim.Optimizer, images: Tensor, codes: dict[str, Tensor], bf16: bool
) -> None:
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        logits = model(images)
    loss = multi_task_loss(logits, codes, 1.0, 0.5)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


class Variant(ABC):
    """One side of the comparison, alone in its process: a training step and inference of one architecture."""

    def __init__(self, section: str, size: int) -> None:
        params, backbone = read_section("training", TrainingParams), read_section(section, KINDS[section])
        device, rng = pick_device(), np.random.default_rng(0)
        self.photos = rng.integers(0, 256, (BATCH, PHOTO_SIZE_PX, PHOTO_SIZE_PX, 3), dtype=np.uint8)
        self.images = [Image.fromarray(photo) for photo in self.photos]
        self.codes = {
            task: torch.from_numpy(rng.integers(0, SPACE.num_labels(task), BATCH)).to(device) for task in SPACE
        }
        torch.manual_seed(0)
        decoding = Decoding(PHOTO_SIZE_PX, 50.0)
        self.model = create_model(backbone.architecture, "none", SPACE, decoding, size, 0.1, 0.2).to(device)
        self.params, self.size, self.device = params, size, device
        self.bf16 = use_bf16(backbone.precision, device)

    @abstractmethod
    def step(self) -> None: ...

    @abstractmethod
    def inference(self) -> None: ...


class Plain(Variant):
    def __init__(self, section: str, size: int) -> None:
        super().__init__(section, size)
        for module in self.model.modules():  # default of timm
            if hasattr(module, "fused_attn"):
                module.fused_attn = True
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.transform = plain_transform(self.model, size, self.params)
        self.evaluation = plain_evaluation(self.model, size)

    def step(self) -> None:
        self.model.train()
        images = torch.stack([self.transform(image) for image in self.images]).to(self.device)
        train_step(self.model, self.optimizer, images, self.codes, False)

    def inference(self) -> None:
        self.model.eval()
        with torch.no_grad():
            for image in self.images:
                self.model(self.evaluation(image).unsqueeze(0).to(self.device))


class Ours(Variant):
    def __init__(self, section: str, size: int) -> None:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        keep_freed_memory()
        super().__init__(section, size)
        self.model.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        self.augment = Augmentation(self.params, self.model.spec.preprocessing)
        self.generator = torch.Generator().manual_seed(0)

    def step(self) -> None:
        self.model.train()
        images = self.augment(self.photos, self.generator, self.device)
        train_step(self.model, self.optimizer, images, self.codes, self.bf16)

    def inference(self) -> None:
        self.model.infer(self.photos)

    def augmentation(self) -> None:
        self.augment(self.photos, self.generator, self.device)


def serve(link: Connection, kind: type[Variant], section: str, size: int) -> None:
    """Do the requested work and send its seconds; the first message says that the process is ready."""
    variant = kind(section, size)
    for work in (variant.step, variant.inference):
        work()
    link.send(None)
    with suppress(EOFError):
        while True:
            work = getattr(variant, link.recv())
            start = time.perf_counter()
            for _ in range(REPEATS):
                work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            link.send((time.perf_counter() - start) / REPEATS)


def start_process(kind: type[Variant], section: str, size: int) -> Callable[[str], float]:
    """Start the process of a variant; return a function that measures the seconds of some work in it."""
    context = get_context("spawn")
    link, its_end = context.Pipe()
    context.Process(target=serve, args=(its_end, kind, section, size), daemon=True).start()
    link.recv()

    def ask(work: str) -> float:
        link.send(work)
        return float(link.recv())

    return ask


def compare(name: str, plain: Callable[[str], float], ours: Callable[[str], float], work: str, rounds: int) -> str:
    pairs = [(plain(work), ours(work)) for _ in range(rounds)]
    ratios = [before / after for before, after in pairs]
    before, after = (BATCH / statistics.median(values) for values in zip(*pairs, strict=True))
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    return f"| {name} | {before:.0f} | {after:.0f} | {statistics.median(ratios):.2f} ({spread}) |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--image-size", type=int, default=224)
    arguments = parser.parse_args()
    size = arguments.image_size
    print(f"{torch.get_num_threads()} threads, {pick_device()}, {size} px, batches of {BATCH}\n")
    print("| work | plain, photographs/s | ours, photographs/s | ratio (min to max) |\n| --- | ---: | ---: | ---: |")
    shares = []
    for section in KINDS:
        plain, ours = (start_process(kind, section, size) for kind in (Plain, Ours))
        name = read_section(section, KINDS[section]).architecture
        print(compare(f"{name}: training step", plain, ours, "step", arguments.rounds), flush=True)
        print(compare(f"{name}: inference", plain, ours, "inference", arguments.rounds), flush=True)
        shares.append(f"{name}: augmentation takes {100 * ours('augmentation') / ours('step'):.1f} % of our step")
    print("\n" + "\n".join(shares))


if __name__ == "__main__":
    main()
