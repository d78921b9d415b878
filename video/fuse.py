"""Compare fused clips with single frames, and fit the temperature of fused clips on val.

Reads   video/predictions/, video/clips/, models/systems.json, models/, data/splits/label_space.json
Writes  models/clips.json, metrics/video.json, plots/video/
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from vitrine.artifacts import read_csv, read_json, write_csv, write_json, write_metrics
from vitrine.data.video import read_clip
from vitrine.errors import exit_on_error
from vitrine.evaluation.video import (
    VideoParams,
    answers,
    compare_methods,
    curve_rows,
    dropping_table,
    fit_temperatures,
    headline,
)
from vitrine.inference.predictor import Predictor
from vitrine.inference.runtimes import checkpoint_digest
from vitrine.inference.systems import ENSEMBLE, NETWORKS, load_systems, system_predictions
from vitrine.inference.video import CALIBRATION, answer_clip
from vitrine.labels import CLASS_TASK, LabelSpace, read_photo_table
from vitrine.params import read_section
from vitrine.predictions import Predictions
from vitrine.reporting.video_figures import accuracy_by_frames, contact_sheet


def main() -> None:
    exit_on_error()
    params = read_section("fuse", VideoParams, Path("video/params.yaml"))
    models, plots, most = Path("models"), Path("plots/video"), params.num_frames[-1]
    table = read_photo_table(Path("video/clips/clips.csv"))
    space = LabelSpace.from_json(read_json(Path("data/splits/label_space.json")))
    codes, val = space.encode(table), (table["split"] == "val").to_numpy()
    frames = read_csv(Path("video/predictions/frames.csv"), dtype={"file": str, "dropped": str})
    frames = frames.merge(table[["file", "split"]].assign(clip=np.arange(len(table))), on="file", how="left")
    raw = {name: Predictions.load(Path(f"video/predictions/{name}.npz")) for name in NETWORKS}

    systems, calibration, rows, curves = load_systems(models / "systems.json"), {}, [], []
    for name in systems:
        probs = system_predictions(name, systems, raw).probs
        temperatures = fit_temperatures(frames, probs, codes, val, most)
        calibration[name] = {"checkpoint": checkpoint_digest(name, models), "temperatures": temperatures}
        for task in space:
            by_num_frames = {
                num: answers(frames, probs[task], codes[task], ~val, num, temperatures[task])
                for num in params.num_frames
            }
            known = {"system": name, "task": task}
            rows += [{**known, **row} for row in compare_methods(by_num_frames[most], params.calibration_bins)]
            curves += [{**known, **row} for row in curve_rows(by_num_frames, ("single", "vote", "fused_all", "fused"))]
    scores, curve = pd.DataFrame(rows), pd.DataFrame(curves)
    write_json(models / CALIBRATION, calibration)
    write_csv(plots / "scores.csv", scores)
    write_csv(plots / "curve.csv", curve)
    filmed = read_csv(Path("video/clips/frames.csv"), dtype={"file": str})
    write_csv(plots / "dropping.csv", dropping_table(frames, filmed, most))
    accuracy_by_frames(curve, plots / "accuracy_by_frames.png")
    write_metrics(Path("metrics/video.json"), *headline(scores, ENSEMBLE))
    sample = np.flatnonzero((table["source"] == "sample").to_numpy() & ~val)
    predictor, shown = Predictor.load(ENSEMBLE, models, backend="torch"), []
    for row in sample[np.linspace(0, len(sample) - 1, params.shown_clips).round().astype(int)]:
        file = Path("video/clips") / table.loc[row, "file"]
        clip = read_clip(file, predictor.photo_size_px, predictor.max_megapixels, most)
        shown.append((clip, answer_clip(predictor, clip, file.name)[0], table.loc[row, CLASS_TASK]))
    contact_sheet(shown, plots / "sheet.jpg")


if __name__ == "__main__":
    main()
