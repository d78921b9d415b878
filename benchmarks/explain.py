"""Compare methods of explaining the networks on val, and measure the time of a heat map.

Methods are evaluated like in the stage `explain`, on one view of every val item; test is never used. Times are for
one photograph and one task, without decoding, for every system.

    python benchmarks/explain.py            # times only
    python benchmarks/explain.py --methods  # also methods; takes minutes
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchcam.methods import GradCAM, GradCAMpp, LayerCAM

import vitrine.inference.explanations as explanations
from vitrine.artifacts import read_json, read_npy
from vitrine.evaluation import faithfulness as faith
from vitrine.evaluation.scoring import SEED, number_items
from vitrine.inference.explanations import Explainer, activation_maps, attention_maps, is_transformer
from vitrine.inference.network import Network
from vitrine.inference.systems import NETWORKS, load_systems
from vitrine.labels import LabelSpace, read_photo_table

NUM_TIMED = 20
VIEW_PX = 112
"""Smallest view of the sample's photographs among the networks."""

CAMS = (GradCAM, GradCAMpp, LayerCAM)


def attention_gradients(model: Any, images: Any, codes: Any, num_blocks: int | None = None) -> Any:
    """Return attention times the gradient of the final logit, for the class token, summed over blocks."""
    backbone, attended = model.backbone, []
    blocks = list(backbone.blocks)[-(num_blocks or len(backbone.blocks)) :]
    handles = [b.attn.attn_drop.register_forward_hook(lambda _, __, out: attended.append(out)) for b in blocks]
    with torch.enable_grad():
        logits = model(images)
    for handle in handles:
        handle.remove()
    maps = {}
    for task, targets in codes.items():
        scores = logits[task].gather(1, torch.as_tensor(targets)[:, None]).sum()
        gradients = torch.autograd.grad(scores, attended, retain_graph=True)
        rows = [(g * a).clamp(min=0).mean(dim=1)[:, 0] for g, a in zip(gradients, attended, strict=True)]
        patches = torch.stack(rows).sum(dim=0)[:, backbone.num_prefix_tokens :]
        maps[task] = patches.reshape(len(images), *backbone.patch_embed.grid_size).detach()
    return maps


def candidates(model: Any) -> dict[str, Any]:
    if is_transformer(model):
        found = {f"LeGrad, last {num}": partial(attention_maps, num_blocks=num) for num in (12, 6, 3, 1)}
        return found | {
            f"gradient x attention, last {num}": partial(attention_gradients, num_blocks=num) for num in (12, 6, 3)
        }
    return {
        f"{cam.__name__}, {cells} cells or more": partial(activation_maps, method=cam, min_cells=cells)
        for cam in CAMS
        for cells in (4, 5, 10)
    }


def of(explainer: Explainer, photos: Any) -> Any:
    return {(explainer.name, task): probs for task, probs in explainer.predict(photos).probs.items()}


def gap(inner: Any, ends: faith.Ends, codes: Any) -> Any:
    return faith.curve_measures(inner, ends, codes)[faith.FAITHFULNESS]


def compare_methods(networks: list[str], only: str, steps: int) -> None:
    data = Path("data/splits")
    table, photos = read_photo_table(data / "photos.csv"), read_npy(data / "photos.npy")
    space = LabelSpace.from_json(read_json(data / "label_space.json"))
    val = table[table["split"] == "val"].drop_duplicates("instance_id")
    chosen, items = np.asarray(photos[val.index]), number_items(val["instance_id"])
    mean = photos[(table["split"] == "train").to_numpy()].mean(axis=(0, 1, 2))
    baselines = faith.baseline_photos(chosen, mean)
    noise = faith.within_view(faith.random_maps(len(val), photos.shape[1], SEED), VIEW_PX)
    systems = load_systems(Path("models/systems.json"))
    for name in networks:
        explainer = Explainer(name, systems, {name: Network.load(Path("models") / name)})
        model, view = explainer.members[name].model, explainer.view_px
        probs = explainer.predict(chosen)
        codes = {task: probs.predicted(task) for task in space}

        def measure(maps: Any, explainer: Explainer = explainer) -> Any:
            ranks = faith.pixel_ranks(maps, noise)
            return faith.perturbation_curves(chosen, baselines, ranks, steps, partial(of, explainer))

        ends = faith.predict_ends(chosen, baselines, partial(of, explainer))
        gauss = np.repeat(faith.gaussian_map(photos.shape[1])[None], len(val), axis=0)
        controls = {"random": noise, "gaussian": faith.within_view(gauss, view)}
        by_control = {}
        for key, maps in controls.items():
            found = measure(maps)
            by_control[key] = {t: gap(found[name, t], ends[name, t], codes[t]) for t in space}
            print(name, key, {task: round(float(values.mean()), 3) for task, values in by_control[key].items()})
        for method, find in candidates(model).items():
            if only not in method:
                continue
            explanations.activation_maps = explanations.attention_maps = find
            maps = explainer.heatmaps(chosen, codes)
            gains = {}
            for task in space:
                gained = gap(measure(maps[task])[name, task], ends[name, task], codes[task])
                hardest = max(by_control, key=lambda key, task=task: by_control[key][task].mean())
                diff = faith.mean_with_interval(gained - by_control[hardest][task], items, (-2.0, 2.0))
                gains[task] = (round(float(gained.mean()), 3), *(round(x, 3) for x in diff))
            total = np.mean([gain[0] for gain in gains.values()])
            print(f"  {method:32s} {total:.3f}  {gains}", flush=True)


def measure_times() -> None:
    systems = load_systems(Path("models/systems.json"))
    photos = read_npy(Path("data/splits/photos.npy"))
    print(f"{torch.get_num_threads()} threads; median and slowest of {NUM_TIMED} photographs, all tasks in turn")
    for name in systems:
        explainer = Explainer.load(name)
        seconds = []
        for number in range(NUM_TIMED + 4):
            photo, task = np.array(photos[number : number + 1]), explainer.label_space.tasks[number % 4]
            began = time.perf_counter()
            explainer.explain(photo, [task])
            seconds.append(time.perf_counter() - began)
        seconds = sorted(seconds[4:])
        print(f"{name:14s} {1000 * seconds[len(seconds) // 2]:.0f} ms, slowest {1000 * seconds[-1]:.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", action="store_true", help="also compare methods on val")
    parser.add_argument(
        "--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="networks whose methods to compare"
    )
    parser.add_argument("--only", default="", help="compare only methods whose names contain this text")
    parser.add_argument("--steps", type=int, default=4, help="number of steps of the deletion and insertion curves")
    options = parser.parse_args()
    measure_times()
    if options.methods:
        compare_methods(options.networks, options.only, options.steps)


if __name__ == "__main__":
    main()
