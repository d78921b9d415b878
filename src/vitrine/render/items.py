"""Items to render, with labels in realistic combinations, and captions for their views."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vitrine.render.textures import Generator

# For every class: the relative frequency of each label. A class has only the materials that it has in Team 13's
# photographs. Colors overlap: none gives a class away.
_COMMON: dict[str, float] = {
    "black": 5,
    "blue": 4,
    "white": 3,
    "gray": 2,
    "green": 2,
    "red": 2,
    "pink": 2,
    "purple": 1.5,
    "brown": 2,
    "yellow": 2,
}
_MATERIAL: dict[str, dict[str, float]] = {
    "clothing_cap": {"cotton": 4, "fabric": 6, "synthetic": 5},
    "clothing_wrist_watch": {"metal": 6, "leather": 3, "rubber": 3, "plastic": 2},
    "food_storage_plastic_container": {"plastic": 6, "glass": 4},
    "footwear_sneakers": {"synthetic": 4, "leather": 3, "fabric": 4, "rubber": 3},
    "personal_care_deodorant": {"metal": 5, "plastic": 5},
    "personal_care_shampoo_bottle": {"plastic": 7, "glass": 3},
    "personal_care_soap_bar": {"soap": 5, "plastic": 5},
    "tableware_water_bottle": {"plastic": 5, "metal": 4, "glass": 3},
    "travel_backpack": {"synthetic": 6, "fabric": 3, "leather": 3},
    "travel_handbag": {"leather": 5, "synthetic": 3, "fabric": 3},
}
_COLOR: dict[str, dict[str, float]] = {
    "clothing_cap": {**_COMMON, "multicolor": 0.7},
    "clothing_wrist_watch": {
        "silver": 4,
        "gold": 3,
        "black": 5,
        "brown": 3,
        "blue": 2,
        "white": 1,
        "pink": 1,
        "gray": 1,
        "green": 0.7,
    },
    "food_storage_plastic_container": {**_COMMON, "transparent": 7, "multicolor": 0.7},
    "footwear_sneakers": {**_COMMON, "white": 4, "multicolor": 1},
    "personal_care_deodorant": {**_COMMON, "silver": 4, "gold": 1.7, "transparent": 2, "multicolor": 0.7},
    "personal_care_shampoo_bottle": {**_COMMON, "white": 5, "transparent": 1.5, "multicolor": 0.7},
    "personal_care_soap_bar": {**_COMMON, "black": 1, "white": 4, "multicolor": 1},
    "tableware_water_bottle": {**_COMMON, "transparent": 6, "silver": 4, "gold": 2.5, "purple": 2.5},
    "travel_backpack": {**_COMMON, "multicolor": 0.9},
    "travel_handbag": {**_COMMON, "brown": 5, "multicolor": 0.7},
}
_CONDITION: dict[str, dict[str, float]] = {
    "clothing_cap": {"mint": 1, "new": 4, "used": 4, "worn": 3},
    "clothing_wrist_watch": {"mint": 4, "new": 3, "used": 5, "worn": 1},
    "footwear_sneakers": {"mint": 1, "new": 4, "used": 3, "worn": 4},
    "travel_backpack": {"mint": 1, "new": 5, "used": 4, "worn": 2},
    "travel_handbag": {"mint": 4, "new": 3, "used": 4, "worn": 1},
}
_ANY_CONDITION = {"mint": 1, "new": 4, "used": 5, "worn": 1}
_SIZE = {"small": 3, "medium": 4, "large": 3}
_STYLE: dict[str, dict[str, float]] = {
    "clothing_cap": {"casual": 5, "sports": 4, "vintage": 3, "modern": 2},
    "clothing_wrist_watch": {"formal": 3, "sports": 4, "vintage": 2, "modern": 3},
    "footwear_sneakers": {"sports": 5, "casual": 4, "modern": 3, "vintage": 1},
    "travel_backpack": {"sports": 3, "casual": 4, "modern": 4, "vintage": 2},
    "travel_handbag": {"formal": 3, "casual": 3, "modern": 3, "vintage": 2},
}
_ANY_STYLE = {"modern": 5, "minimalist": 5, "vintage": 1}
CLASSES = tuple(_MATERIAL)

# Impossible pairs of color and material: only metal is silver or gold, and only plastic and glass are transparent.
_IMPOSSIBLE = {
    ("transparent", material) for material in ("metal", "synthetic", "fabric", "leather", "rubber", "soap", "cotton")
} | {
    (color, material)
    for color in ("silver", "gold")
    for material in ("plastic", "glass", "leather", "rubber", "synthetic", "fabric", "cotton", "soap")
}

_NOUNS = {
    "clothing_cap": ("cap", "baseball cap"),
    "clothing_wrist_watch": ("wrist watch", "watch"),
    "food_storage_plastic_container": ("food container", "storage box with lid"),
    "footwear_sneakers": ("sneakers", "running shoes"),
    "personal_care_deodorant": ("deodorant", "deodorant spray"),
    "personal_care_shampoo_bottle": ("shampoo bottle", "bottle of shampoo"),
    "personal_care_soap_bar": ("soap bar", "bar of soap"),
    "tableware_water_bottle": ("water bottle", "drinking bottle"),
    "travel_backpack": ("backpack", "school bag"),
    "travel_handbag": ("handbag", "bag with handles"),
}


@dataclass(frozen=True)
class Item:
    """One physical item. `seed` determines its shape and surfaces."""

    instance_id: str
    class_label: str
    color: str
    material: str
    condition: str
    size: str
    style: str
    seed: tuple[int, int]

    @property
    def rng(self) -> Generator:
        """A fresh generator: building the item twice gives the same item."""
        return np.random.default_rng([*self.seed, 1])

    @property
    def attributes(self) -> str:
        keys = ("color", "material", "condition", "size", "style")
        return ";".join(f"{key}:{getattr(self, key)}" for key in keys)

    def caption(self, view: str) -> str:
        """Return the caption of one view, such as "used blue plastic water bottle, held in a hand"."""
        noun = np.random.default_rng([*self.seed, 2]).choice(_NOUNS[self.class_label])
        material = "" if self.material in noun else f" {self.material}"
        return f"{self.condition} {self.color}{material} {noun}, {view}"


def _draw(rng: Generator, table: Mapping[str, float]) -> str:
    weights = np.array(list(table.values()), dtype=np.float64)
    return str(rng.choice(list(table), p=weights / weights.sum()))


def make_item(seed: int, number: int, uniform_fraction: float = 0.15) -> Item:
    """Return item `number` of the catalog generated from `seed`; classes alternate.

    Args:
        uniform_fraction: share of items whose color is drawn uniformly from the colors of the class, so that
            rare labels occur and color reveals little about the class.
    """
    rng = np.random.default_rng([seed, number, 0])
    class_label = CLASSES[number % len(CLASSES)]
    material = _draw(rng, _MATERIAL[class_label])
    colors = {c: w for c, w in _COLOR[class_label].items() if (c, material) not in _IMPOSSIBLE}
    if material == "glass" and "transparent" in colors:
        colors["transparent"] *= 2
    if material == "metal" and "silver" in colors:
        colors["silver"] *= 1.5
    if rng.random() < uniform_fraction:
        colors = dict.fromkeys(colors, 1.0)
    return Item(
        instance_id=f"{class_label.upper()}_{number // len(CLASSES):04d}",
        class_label=class_label,
        color=_draw(rng, colors),
        material=material,
        condition=_draw(rng, _CONDITION.get(class_label, _ANY_CONDITION)),
        size=_draw(rng, _SIZE),
        style=_draw(rng, _STYLE.get(class_label, _ANY_STYLE)),
        seed=(seed, number),
    )
