"""Film the sample's val and test items, and new items of the same catalog, on a turntable.

Reads   data/splits/photos.csv, data/splits/label_space.json, data/sample/params.yaml
Writes  video/clips/: a clip per item, clips.csv with its split and labels, frames.csv with how each frame was filmed
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from vitrine.artifacts import read_json, write_csv
from vitrine.errors import exit_on_error
from vitrine.labels import LabelSpace, read_photo_table
from vitrine.params import read_section
from vitrine.render.catalogue import RenderParams
from vitrine.render.turntable import TurntableParams, clip_table, write_clips


def main() -> None:
    exit_on_error()
    params = read_section("film", TurntableParams, Path("video/params.yaml"))
    sample = read_section("render", RenderParams, Path("data/sample/params.yaml"))
    tasks = LabelSpace.from_json(read_json(Path("data/splits/label_space.json"))).tasks
    folder = Path("video/clips")
    items, table = clip_table(read_photo_table(Path("data/splits/photos.csv")), tasks, sample, params)
    films = write_clips(items, folder, Path(".resume/film"), params, sample)
    frames = [
        pd.DataFrame(
            {
                "file": name,
                "seconds": np.arange(len(film["angles"])) / params.frame_rate,
                "angle": film["angles"],
                "held": film["held"],
                "shaken": film["shaken"],
            }
        )
        for name, film in zip(table["file"], films, strict=True)
    ]
    write_csv(folder / "frames.csv", pd.concat(frames))
    write_csv(folder / "clips.csv", table)


if __name__ == "__main__":
    main()
