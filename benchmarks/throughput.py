"""Compare Vitrine's training step and batch inference with the plain loop of the reference, in one run.

The plain loop: float32, eager, contiguous memory, one photograph at a time through torchvision's transforms in the
main thread, inference one by one. Ours: the `precision` that params.yaml gives each model, channels last, augmentation
of whole batches, inference in batches. Both variants take turns, so that a noisy machine disturbs both; the ratio is
the median of the ratios of the pairs.

    python benchmarks/throughput.py [--rounds 5] [--image-size 224]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms

from vitrine.labels import LabelSpace
from vitrine.learning.model import MultiTaskModel, create_model, pick_device
from vitrine.learning.preprocess import Augmentation
from vitrine.learning.strategies import DeitParams, MobilevitParams
from vitrine.learning.training import TrainingParams, multi_task_loss, use_bf16
from vitrine.params import read_section
from vitrine.photos import Decoding

SPACE = LabelSpace(
    {task: tuple(f"{i:02d}" for i in range(n)) for task, n in (("class", 10), ("a", 13), ("b", 9), ("c", 4))}
)
PHOTO_SIZE_PX, BATCH = 96, 32


def plain_transform(model: MultiTaskModel, size: int, params: TrainingParams) -> Callable[[Image.Image], Tensor]:
    """The reference's training transform."""
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


def step(
    model: MultiTaskModel, optimizer: torch.optim.Optimizer, images: Tensor, codes: dict[str, Tensor], bf16: bool
) -> None:
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        logits = model(images)
    loss = multi_task_loss(logits, codes, 1.0, 0.5)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def seconds(work: Callable[[], None], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def compare(name: str, plain: Callable[[], None], ours: Callable[[], None], photos: int, rounds: int) -> str:
    for work in (plain, ours):
        work()  # warm-up
    pairs = [(seconds(plain, 2), seconds(ours, 2)) for _ in range(rounds)]
    ratio = statistics.median(before / after for before, after in pairs)
    low, high = min(before / after for before, after in pairs), max(before / after for before, after in pairs)
    before, after = (photos / statistics.median(values) for values in zip(*pairs, strict=True))
    return f"| {name} | {before:.0f} | {after:.0f} | {ratio:.2f} ({low:.2f} to {high:.2f}) |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--image-size", type=int, default=224)
    arguments = parser.parse_args()
    size = arguments.image_size
    params = read_section("training", TrainingParams, Path("params.yaml"))
    device = pick_device()
    rng = np.random.default_rng(0)
    photos = rng.integers(0, 256, (BATCH, PHOTO_SIZE_PX, PHOTO_SIZE_PX, 3), dtype=np.uint8)
    images = [Image.fromarray(photo) for photo in photos]
    codes = {task: torch.from_numpy(rng.integers(0, SPACE.num_labels(task), BATCH)).to(device) for task in SPACE}
    print(f"{torch.get_num_threads()} threads, {device}, {size} px, batches of {BATCH}\n")
    print("| work | plain, photographs/s | ours, photographs/s | ratio (least to most) |\n| --- | ---: | ---: | ---: |")
    shares = []
    for section, kind in (("train_deit", DeitParams), ("train_mobilevit", MobilevitParams)):
        backbone = read_section(section, kind)
        architecture, bf16 = backbone.architecture, use_bf16(backbone.precision, device)
        torch.manual_seed(0)
        plain_model, our_model = (
            create_model(architecture, "none", SPACE, Decoding(PHOTO_SIZE_PX, 50.0), size, 0.1, 0.2).to(device)
            for _ in range(2)
        )
        for module in plain_model.modules():  # timm's default
            if hasattr(module, "fused_attn"):
                module.fused_attn = True
        our_model.to(memory_format=torch.channels_last)
        optimizers = [
            torch.optim.AdamW(plain_model.parameters(), lr=1e-4),
            torch.optim.AdamW(our_model.parameters(), lr=1e-4, fused=True),
        ]
        transform, evaluation = plain_transform(plain_model, size, params), plain_evaluation(plain_model, size)
        augment = Augmentation(params, our_model.spec.preprocessing)
        generator = torch.Generator().manual_seed(0)

        def plain_step(model=plain_model, optimizer=optimizers[0], transform=transform) -> None:  # type: ignore[no-untyped-def]
            model.train()
            step(model, optimizer, torch.stack([transform(image) for image in images]).to(device), codes, False)

        def our_step(model=our_model, optimizer=optimizers[1], augment=augment, generator=generator, bf16=bf16) -> None:  # type: ignore[no-untyped-def]
            model.train()
            step(model, optimizer, augment(photos, generator, device), codes, bf16)

        def plain_inference(model=plain_model, evaluation=evaluation) -> None:  # type: ignore[no-untyped-def]
            model.eval()
            with torch.no_grad():
                for image in images:
                    model(evaluation(image).unsqueeze(0).to(device))

        def our_inference(model=our_model) -> None:  # type: ignore[no-untyped-def]
            model.infer(photos)

        print(compare(f"{architecture}: training step", plain_step, our_step, BATCH, arguments.rounds), flush=True)
        print(
            compare(f"{architecture}: inference", plain_inference, our_inference, BATCH, arguments.rounds), flush=True
        )
        augmenting = seconds(lambda augment=augment, generator=generator: augment(photos, generator, device), 5)
        shares.append(f"{architecture}: augmentation takes {100 * augmenting / seconds(our_step, 3):.1f} % of our step")
    print("\n" + "\n".join(shares))


if __name__ == "__main__":
    main()
