"""Read 1, 4, 8 or 16 frames of every clip as `vitrine predict` does, and predict them with every network.

Reads   video/clips/, models/
Writes  video/predictions/: frames.csv, and the raw predictions of each network for its rows
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from vitrine.artifacts import read_csv, read_json, write_csv
from vitrine.data.video import read_clip
from vitrine.errors import exit_on_error
from vitrine.evaluation.video import VideoParams
from vitrine.inference.network import Network
from vitrine.inference.systems import NETWORKS
from vitrine.params import read_section
from vitrine.photos import Decoding


def main() -> None:
    exit_on_error()
    params = read_section("fuse", VideoParams, Path("video/params.yaml"))
    decoding = Decoding(**read_json(Path("data/splits/decoding.json")))
    clips, out = Path("video/clips"), Path("video/predictions")
    rows, photos = [], []
    for file in tqdm(read_csv(clips / "clips.csv", dtype=str)["file"], unit="clip", disable=None):
        for num in params.num_frames:
            clip = read_clip(clips / file, decoding.photo_size_px, decoding.max_megapixels, num)
            photos.append(clip.photos)
            for seconds, reason in zip(clip.seconds, clip.dropped, strict=True):
                rows.append({"file": file, "num_frames": num, "seconds": seconds, "dropped": reason})
    out.mkdir(parents=True, exist_ok=True)
    write_csv(out / "frames.csv", pd.DataFrame(rows))
    stacked = np.concatenate(photos)
    names = [f"{row['file']} {row['num_frames']} {row['seconds']}" for row in rows]
    for name in NETWORKS:
        predictions = Network.load(Path("models") / name).predict(stacked, names)
        replace(predictions, embeddings=predictions.embeddings[:, :0]).save(out / f"{name}.npz")


if __name__ == "__main__":
    main()
