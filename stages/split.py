"""Split the labeled photographs into train, val and test, item by item, and decode them once.

Reads   ${data.path}/labels.csv, ${data.path}/images, data/corrections.csv
Writes  data/splits/ (photos.csv, training.csv, photos.npy, label_space.json, decoding.json, counts.json),
        metrics/split.json, plots/split/
"""

from __future__ import annotations

from pathlib import Path

from vitrine.artifacts import write_csv, write_json, write_metrics, write_npy
from vitrine.data.catalog import (
    SPLITS,
    DataParams,
    apply_corrections,
    check_table,
    decode_photos,
    missing_labels,
    read_catalog,
)
from vitrine.data.splits import (
    SplitParams,
    check_duplicates,
    count_by_split,
    exact_duplicates,
    near_duplicates,
    split_items,
    training_table,
)
from vitrine.errors import exit_on_error
from vitrine.labels import CLASS_TASK, LabelSpace
from vitrine.params import read_section
from vitrine.reporting.figures import class_by_split


def main() -> None:
    exit_on_error()
    data, params = read_section("data", DataParams), read_section("split", SplitParams)
    folder = Path(data.path)
    table = apply_corrections(Path(), read_catalog(folder, data), data)
    missing = missing_labels(table, data.tasks)
    table = table.dropna(subset=[CLASS_TASK])  # rows whose class is masked
    photos = decode_photos(folder, table, params.photo_size_px, params.max_megapixels)
    if params.source == "seeded" or "split" not in table:
        table["split"] = split_items(table, data.tasks, params)
    check_table(folder / "labels.csv", table, data.tasks)
    check_duplicates(exact_duplicates(folder, table))
    near = near_duplicates(photos, table, params.near_duplicate_bits)

    label_space, counts = LabelSpace.derive(table, data.tasks), count_by_split(table)
    out = Path("data/splits")
    write_csv(out / "photos.csv", table[["image_path", "split", "instance_id", *data.tasks]])
    write_csv(out / "training.csv", training_table(table, data.tasks))
    write_npy(out / "photos.npy", photos)
    write_json(out / "label_space.json", label_space.to_json())
    write_json(out / "decoding.json", params.model_dump(include={"photo_size_px", "max_megapixels"}))
    counted = {
        "photos": {split: int((table["split"] == split).sum()) for split in SPLITS},
        "items": {split: int(table.loc[table["split"] == split, "instance_id"].nunique()) for split in SPLITS},
        "labels": {task: label_space.num_labels(task) for task in label_space},
        "missing": missing,
    }
    write_json(out / "counts.json", counted)
    numbers = {"num_photos": len(table), "num_items": int(table["instance_id"].nunique())}
    write_metrics(Path("metrics/split.json"), {**numbers, "num_near_duplicates": len(near)})
    plots = Path("plots/split")
    write_csv(plots / "near_duplicates.csv", near)
    write_csv(plots / "class_by_split.csv", counts)
    class_by_split(counts, plots / "class_by_split.png")


if __name__ == "__main__":
    main()
