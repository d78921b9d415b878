"""Draw contact sheets of the catalog: every item once, items in every condition, every material.

Reads   images/, labels.csv
Writes  sheets/catalogue.jpg, sheets/conditions.jpg, sheets/materials.jpg
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from vitrine.errors import exit_on_error
from vitrine.params import read_section
from vitrine.render.catalogue import Job, RenderParams, in_parallel
from vitrine.render.items import Item
from vitrine.render.materials import CONDITIONS, MATERIALS

GAP_PX, TEXT_PX = 6, 26
# A class that is typical of each material.
SHOWN = {
    "plastic": "food_storage_plastic_container",
    "metal": "tableware_water_bottle",
    "synthetic": "travel_backpack",
    "fabric": "footwear_sneakers",
    "leather": "travel_handbag",
    "glass": "tableware_water_bottle",
    "rubber": "clothing_wrist_watch",
    "soap": "personal_care_soap_bar",
    "cotton": "clothing_cap",
}


def sheet(rows: list[list[tuple[Path, str]]], path: Path) -> None:
    """Lay out photographs in rows, each with two lines of text below."""
    side = Image.open(rows[0][0][0]).width
    width, height = side + GAP_PX, side + TEXT_PX + GAP_PX
    page = Image.new("RGB", (max(map(len, rows)) * width + GAP_PX, len(rows) * height + GAP_PX), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(10.5)
    for y, row in enumerate(rows):
        for x, (photo, text) in enumerate(row):
            corner = (GAP_PX + x * width, GAP_PX + y * height)
            page.paste(Image.open(photo), corner)
            draw.multiline_text((corner[0], corner[1] + side + 1), text, fill=(40, 40, 40), font=font, spacing=1)
    path.parent.mkdir(exist_ok=True)
    page.save(path, "JPEG", quality=85)


def words(label: str) -> str:
    return " ".join(label.split("_")[-2:])


def main() -> None:
    exit_on_error()
    params = read_section("render", RenderParams)
    table = pd.read_csv("labels.csv")
    rows = []
    for class_label, photos in table.groupby("class_label", sort=True):
        first = photos.groupby("instance_id").nth(0).head(12)
        labels = [dict(pair.split(":") for pair in text.split(";")) for text in first["attributes"]]
        texts = [f"{words(str(class_label))}\n{a['color']}, {a['material']}, {a['condition']}" for a in labels]
        rows.append(list(zip(map(Path, first["image_path"]), texts, strict=True)))
    sheet(rows, Path("sheets/catalogue.jpg"))

    def item(class_label: str, number: int, material: str, color: str, condition: str = "new") -> Item:
        seed = (params.seed, 900_000 + number)  # far from the catalog's own items
        return Item("SHEET", class_label, color, material, condition, "medium", "modern", seed)

    shown = [
        ("footwear_sneakers", "fabric", "white"),
        ("travel_handbag", "leather", "brown"),
        ("tableware_water_bottle", "metal", "blue"),
    ]
    by_condition = [
        [(item(name, k, material, color, condition), condition) for condition in CONDITIONS]
        for k, (name, material, color) in enumerate(shown)
    ]
    colors = {"soap": "pink", "cotton": "red", "glass": "transparent", "rubber": "black", "leather": "brown"}
    by_material = [
        (item(SHOWN[material], 10 + k, material, colors.get(material, "blue")), material)
        for k, material in enumerate(MATERIALS)
    ]
    with TemporaryDirectory() as folder:
        shots = [(*pair, 0) for row in by_condition for pair in row] + [(*pair, 1) for pair in by_material]
        work = [Job(thing, view, f"{k}.jpg") for k, (thing, _, view) in enumerate(shots)]
        paths = [Path(folder) / path for path, _ in in_parallel(work, Path(folder), params)]
        texts = [f"{words(thing.class_label)}\n{thing.color}, {label}" for thing, label, _ in shots]
        tiles = list(zip(paths, texts, strict=True))
        num = len(CONDITIONS)
        sheet([tiles[k * num : (k + 1) * num] for k in range(len(shown))], Path("sheets/conditions.jpg"))
        sheet([tiles[len(shown) * num :]], Path("sheets/materials.jpg"))


if __name__ == "__main__":
    main()
