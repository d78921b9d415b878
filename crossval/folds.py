"""Assign every item to a fold, with classes spread as evenly as possible; the split column is ignored.

Reads   data/splits/photos.csv
Writes  crossval/folds.csv
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from vitrine.artifacts import write_csv
from vitrine.data.splits import assign_folds
from vitrine.errors import exit_on_error
from vitrine.labels import read_photo_table
from vitrine.params import Section, read_section

NUM_FOLDS = 5
"""80 % of the items are for training, as in the given split. The matrix in dvc.yaml lists the folds."""


class FoldParams(Section):
    """How items are assigned to folds."""

    seed: Annotated[int, Field(ge=0)]


def main() -> None:
    exit_on_error()
    params = read_section("folds", FoldParams, Path("crossval/params.yaml"))
    table = read_photo_table(Path("data/splits/photos.csv"))
    table["fold"] = assign_folds(table, NUM_FOLDS, params.seed)
    write_csv(Path("crossval/folds.csv"), table[["image_path", "instance_id", "fold"]])


if __name__ == "__main__":
    main()
