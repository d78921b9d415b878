"""Compare indexing and prediction with the loop of the reference and with eager PyTorch, in one run.

The loop of the reference decodes each file, resizes it to 224 px with torchvision, and runs DeiT-Tiny and
MobileViT-XXS on it alone, in eager float32. Ours decodes in processes, and the exported systems `deit` and `mobilevit`
predict in batches at the image size in params.yaml, as with `serving.backend: auto`; starting the processes counts.
The processes import this file, so it imports most modules where they are used, like the command line. The variants
take turns; the ratio is the median of the ratios of the rounds. Needs `make repro` and `make export`.

    python benchmarks/serving.py [--rounds 3]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from vitrine.inference.predictor import Predictor

NAMES = {"deit": "deit_tiny_patch16_224", "mobilevit": "mobilevit_xxs"}
REFERENCE_SIZE_PX = 224
SIZES = {"96 px": (4096, 128), "12 megapixels": (96, 24)}
"""Numbers of photographs for our indexing and for the loop of the reference, which is slower."""


def reference_loop(files: Sequence[Path]) -> Callable[[], None]:
    import torch
    from torchvision import transforms

    from vitrine.labels import CLASS_TASK, LabelSpace
    from vitrine.learning.model import create_model
    from vitrine.photos import Decoding

    space = LabelSpace({CLASS_TASK: tuple("abcdefghij")})
    models = [create_model(name, "none", space, Decoding(224, 50.0), 224, 0.0, 0.0).eval() for name in NAMES.values()]
    for model in models:
        for module in model.modules():  # default of timm
            if hasattr(module, "fused_attn"):
                module.fused_attn = True
    steps = [transforms.Resize((REFERENCE_SIZE_PX, REFERENCE_SIZE_PX)), transforms.ToTensor()]
    transform = transforms.Compose([*steps, transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])

    def run() -> None:
        with torch.no_grad():
            for file in files:
                image = transform(Image.open(file).convert("RGB")).unsqueeze(0)
                for model in models:
                    model(image)

    return run


def our_stream(files: Sequence[Path], predictors: Sequence[Predictor]) -> Callable[[], None]:
    from vitrine.inference.stream import CHUNK, decode_ahead

    paths = [str(file) for file in files]
    chunk = min(CHUNK, max(1, len(paths) // (8 * (os.cpu_count() or 1))))

    def run() -> None:
        for photos, names, faults in decode_ahead(
            [paths[start : start + chunk] for start in range(0, len(paths), chunk)], predictors[0]
        ):
            assert not faults
            for predictor in predictors:
                predictor.predict(photos, names)

    return run


def seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(
    name: str, before: Callable[[], None], after: Callable[[], None], nums: tuple[int, int], rounds: int, note: str
) -> None:
    """Print photographs per second of both; `nums` are the numbers of photographs that they process."""
    after()
    before()
    rates = [(nums[0] / seconds(before), nums[1] / seconds(after)) for _ in range(rounds)]
    ratios = [new / old for old, new in rates]
    old, new = map(statistics.median, zip(*rates, strict=True))
    print(
        f"| {name} | {old:.0f} | {new:.0f} | {statistics.median(ratios):.1f} "
        f"({min(ratios):.1f} to {max(ratios):.1f}) | {note} |",
        flush=True,
    )


def small_jpeg(photo: np.ndarray, file: Path, _: np.random.Generator) -> None:
    Image.fromarray(photo).resize((96, 96)).save(file, quality=90)


def large_jpeg(photo: np.ndarray, file: Path, rng: np.random.Generator) -> None:
    wide = np.asarray(Image.fromarray(photo).resize((4000, 3000)), dtype=np.int16)
    grain = rng.normal(0, 6, (3000, 4000, 1)).astype(np.int16)
    Image.fromarray((wide + grain).clip(0, 255).astype(np.uint8)).save(file, quality=90)


def gallery(folder: Path, photos: np.ndarray, name: str) -> list[Path]:
    """Write JPEG files of 96 px or of 12 megapixels."""
    rng, write = np.random.default_rng(0), small_jpeg if name == "96 px" else large_jpeg
    files = [folder / f"{name} {number}.jpg" for number in range(SIZES[name][0])]
    for number, file in enumerate(files):
        write(photos[number % len(photos)], file, rng)
    return files


def points_lost(predictors: Sequence[Predictor]) -> str:
    """Describe the points of class accuracy on val and test that the served systems lose relative to the pipeline."""
    from vitrine.artifacts import read_json, read_npy
    from vitrine.labels import CLASS_TASK, LabelSpace, read_photo_table
    from vitrine.predictions import Predictions

    table = read_photo_table(Path("data/splits/photos.csv"))
    held_out = (table["split"] != "train").to_numpy()
    photos = read_npy(Path("data/splits/photos.npy"))[held_out]
    codes = LabelSpace.from_json(read_json(Path("data/splits/label_space.json"))).encode(table)[CLASS_TASK][held_out]
    lost = []
    for predictor in predictors:
        before = Predictions.load(Path("predictions") / f"{predictor.name}.npz").select(held_out).predicted(CLASS_TASK)
        after = predictor.predict(photos, [""] * len(photos)).predicted(CLASS_TASK)
        lost.append(100 * ((before == codes).mean() - (after == codes).mean()))
    return ", ".join(
        f"{predictor.name} in {predictor.runtime.name} loses {max(each, 0):.1f} points of class"
        for predictor, each in zip(predictors, lost, strict=True)
    )


def start_seconds(photo: str, backend: str) -> float:
    text = Path("params.yaml").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("models", "exports", "data"):
            Path(folder, name).symlink_to(Path(name).resolve())
        Path(folder, "params.yaml").write_text(text.replace("backend: auto", f"backend: {backend}"), encoding="utf-8")
        command = [str(Path(sys.executable).with_name("vitrine")), "predict", photo]
        work = lambda: subprocess.run(command, cwd=folder, check=True, capture_output=True)  # noqa: E731
        return statistics.median(seconds(work) for _ in range(5))


def main() -> None:
    from vitrine.artifacts import read_npy
    from vitrine.inference.predictor import Predictor

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    predictors = [Predictor.load(name) for name in NAMES]
    photos = np.array(read_npy(Path("data/splits/photos.npy"))[:512])
    print(f"{os.cpu_count()} processors; {points_lost(predictors)}\n")
    print("| work | before, photographs/s | now, photographs/s | ratio (min to max) | now with |")
    print("| --- | ---: | ---: | ---: | --- |")
    served = " and ".join(predictor.runtime.name for predictor in predictors)
    with tempfile.TemporaryDirectory() as folder:
        for name, (num, num_reference) in SIZES.items():
            files = gallery(Path(folder), photos, name)
            before, after = reference_loop(files[:num_reference]), our_stream(files, predictors)
            work = f"indexing with both transformers, photographs of {name}"
            compare(work, before, after, (num_reference, num), rounds, served)
    for predictor in [*predictors, Predictor.load("ensemble")]:
        eager = Predictor.load(predictor.name, backend="torch")
        eager.runtime.precision = "fp32"  # type: ignore[attr-defined]
        before, after = (
            lambda each=each: each.predict(photos, [""] * len(photos)) and None for each in (eager, predictor)
        )
        compare(
            f"{predictor.name}, in batches", before, after, (len(photos), len(photos)), rounds, predictor.runtime.name
        )
    photo = str(next(Path("data/sample/images").glob("*.jpg")).resolve())
    old, new = start_seconds(photo, "torch"), start_seconds(photo, "auto")
    print(f"\n`vitrine predict PHOTO` from start to answer: {old:.1f} s with torch, {new:.2f} s with the export")


if __name__ == "__main__":
    main()
