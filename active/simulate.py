"""Simulate labeling on train and val: does choosing the next items beat random ones?

Reads   data/splits/
Writes  metrics/active.json, plots/active/
"""

from __future__ import annotations

from pathlib import Path

from vitrine.artifacts import read_json, read_npy, write_csv, write_metrics
from vitrine.errors import exit_on_error
from vitrine.evaluation.active import OURS, ActiveParams, gains, learning_curves, simulate
from vitrine.evaluation.baselines import PROBE_SIZE_PX
from vitrine.evaluation.scoring import number_items
from vitrine.inference.network import imagenet_features
from vitrine.labels import LabelSpace, read_photo_table
from vitrine.params import read_section


def main() -> None:
    exit_on_error()
    params = read_section("active", ActiveParams, Path("active/params.yaml"))
    data, plots = Path("data/splits"), Path("plots/active")
    table = read_photo_table(data / "photos.csv")
    label_space = LabelSpace.from_json(read_json(data / "label_space.json"))
    kept = (table["split"] != "test").to_numpy()  # test is for evaluation, not for choosing a strategy
    photos, table = read_npy(data / "photos.npy")[kept], table[kept].reset_index(drop=True)

    features = imagenet_features(photos, PROBE_SIZE_PX)
    results = simulate(features, label_space.encode(table), number_items(table["instance_id"]), label_space, params)
    compared = gains(results)
    write_csv(plots / "curves.csv", learning_curves(results))
    write_csv(plots / "gains.csv", compared)
    ours = compared.set_index("strategy").loc[OURS]
    write_metrics(
        Path("metrics/active.json"),
        {"area": ours["area"], "gain": ours["gain"]},
        {"gain": (ours["gain_ci_low"], ours["gain_ci_high"])},
    )


if __name__ == "__main__":
    main()
