"""Distill one backbone from EfficientNet-Lite0 on photographs and renders: python pretrain/distill.py NAME.

Reads   pretrain/params.yaml, pretrain/shards/, the weights that the backbone starts from
Writes  pretrain/backbones/NAME.safetensors (16-bit, averaged over steps), NAME.json (how it was made), and NAME.csv
        (the losses against the pictures seen)

NAME is mobilevit or deit. A run stopped by SIGTERM (as sent by `timeout 9m`) saves its state to .resume/ and fails; the
next one resumes there. After a killed run, the next one resumes from the last snapshot. A state of other params or code
is an error rather than discarded, because it may hold hours of work.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import torch

from vitrine.artifacts import write_csv, write_json, write_tensors
from vitrine.errors import exit_on_error
from vitrine.learning.imagenet import PACKAGE, SHA256, create_imagenet_model
from vitrine.params import read_section
from vitrine.pretraining.run import DistillationRun, PretrainingParams, StudentParams
from vitrine.pretraining.shards import read_pictures
from vitrine.pretraining.sources import FetchParams

PARAMS = Path("pretrain/params.yaml")
SHARDS = Path("pretrain/shards")


def main(name: str) -> None:
    exit_on_error()
    sources = read_section("fetch", FetchParams, PARAMS).sources
    params = read_section("distillation", PretrainingParams, PARAMS)
    student = read_section(f"distill_{name}", StudentParams, PARAMS)
    renders = [SHARDS / f"{number}.npz" for number in params.render_shards]
    pictures = read_pictures([SHARDS / "photos" / f"{source}.npz" for source in sources], renders)
    run = DistillationRun(create_imagenet_model(), pictures, params, student, Path(".resume") / f"distill_{name}")
    signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: signals.append(number))
    if not run.train(lambda: bool(signals), title=name):
        sys.exit(f"stopped after {run.pictures_seen:,} of {student.pictures:,} pictures; run again to resume")

    target = Path("pretrain/backbones") / name
    write_tensors(target.with_suffix(".safetensors"), run.backbone(), {"format": "pt"})
    write_csv(target.with_suffix(".csv"), run.curve())
    card = {
        "student": student.model_dump(),
        "distillation": params.model_dump(),
        "preprocessing": run.model.spec.preprocessing.to_json(),
        "pictures_seen": run.pictures_seen,
        "hours": round(run.seconds / 3600, 2),
        "hardware": torch.cuda.get_device_name() if run.device.type == "cuda" else f"{torch.get_num_threads()} threads",
        "photographs": {
            source.repository: {"commit": source.commit, "license": source.license, "photographs": source.photos}
            for source in sources.values()
        },
        "renders": len(pictures.renders),
        "teacher": {"package": PACKAGE, "sha256": SHA256, "license": "Apache-2.0"},
    }
    write_json(target.with_suffix(".json"), card)
    run.state_path.unlink()  # otherwise a run with other params or code would fail; the snapshots stay


if __name__ == "__main__":
    main(sys.argv[1])
