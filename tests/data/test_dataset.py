"""Class folders become a table that the split stage accepts; an existing table is described and never changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from vitrine.cli import app
from vitrine.data.catalog import CatalogError, DataParams, check_table, decode_photos, read_catalog
from vitrine.data.dataset import describe_table, table_from_folders, write_table
from vitrine.data.splits import SplitParams, split_items

ROOT = Path(__file__).parents[2]


def photograph(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(np.kron(blocks, np.ones((8, 8, 1), dtype=np.uint8))).save(path)


def items_of(folder: Path) -> dict[str, str]:
    table, _ = table_from_folders(folder, 50.0, 4)
    return dict(zip(table["image_path"], table["instance_id"], strict=True))


def test_class_folders_become_a_table_that_the_split_stage_accepts(tmp_path: Path) -> None:
    for number, name in enumerate(("mug", "hat")):
        for item in range(6):
            for view in ("front", "back"):
                photograph(
                    tmp_path / "images" / name / f"{name}{item:02d}_{view}.png", 100 * number + 10 * item + len(view)
                )
    table, guess = table_from_folders(tmp_path, 50.0, 4)
    assert guess.named_classes == ("hat", "mug") and not guess.unreadable and not guess.joined
    assert table["instance_id"].nunique() == 12 and table.groupby("instance_id").size().eq(2).all()
    write_table(tmp_path, table)
    params = DataParams(path=str(tmp_path), attributes=[], aliases={}, masked_labels={})
    read = read_catalog(tmp_path, params)
    decode_photos(tmp_path, read, 16, 50.0)
    split = SplitParams(
        source="seeded", seed=1, val_fraction=0.2, test_fraction=0.2, photo_size_px=16, max_megapixels=50.0,
        near_duplicate_bits=4,
    )  # fmt: skip
    read["split"] = split_items(read, params.tasks, split)
    check_table(tmp_path / "labels.csv", read, params.tasks)


def test_splits_come_from_folders_named_after_them(tmp_path: Path) -> None:
    names = [
        f"images/{name}.png" for name in ("train/mug/1", "train/hat/1", "valid/mug/1", "valid/hat/1", "test/mug/1")
    ]
    for seed, name in enumerate(names):
        photograph(tmp_path / name, seed)
    table, _ = table_from_folders(tmp_path, 50.0, 4)
    found = dict(zip(table["image_path"], table["split"], strict=True))
    assert found["images/valid/mug/1.png"] == "val" and found["images/test/mug/1.png"] == "test"
    assert set(table["class_label"]) == {"mug", "hat"}
    assert table["instance_id"].nunique() == 5  # mug/1 of train is not mug/1 of test


@pytest.mark.parametrize("stem", ["IMG_{}", "{}", "DSC{}", "mug ({})", "Photo-{}"])
def test_numbered_file_names_do_not_join_photographs(tmp_path: Path, stem: str) -> None:
    for number in range(4):
        photograph(tmp_path / "images/mug" / (stem.format(number) + ".png"), number)
    found = items_of(tmp_path)
    assert len(set(found.values())) == 4


def test_near_duplicates_within_a_class_are_one_item(tmp_path: Path) -> None:
    for seed, name in enumerate(("images/mug/a.png", "images/mug/b.png", "images/mug/c.png", "images/hat/d.png")):
        photograph(tmp_path / name, seed)
    with Image.open(tmp_path / "images/mug/a.png") as image:
        image.resize((96, 96)).save(tmp_path / "images/mug/copy.png")
        image.save(tmp_path / "images/hat/copy.png")
    found = items_of(tmp_path)
    assert found["images/mug/copy.png"] == found["images/mug/a.png"] != found["images/mug/b.png"]
    assert found["images/hat/copy.png"] != found["images/mug/a.png"]  # an item has one class; the user decides which


def test_unreadable_files_are_skipped_and_named(tmp_path: Path) -> None:
    photograph(tmp_path / "images/mug/a.png", 0)
    (tmp_path / "images/mug/broken.jpg").write_bytes(b"no photograph")
    table, guess = table_from_folders(tmp_path, 50.0, 4)
    assert list(table["image_path"]) == ["images/mug/a.png"]
    assert len(guess.unreadable) == 1 and "broken.jpg" in guess.unreadable[0]


@pytest.mark.parametrize(
    ("name", "message"),
    [("images/loose.png", "'loose.png' is not in a class folder"), ("images/notes.txt", "no photographs"),
     ("mug/a.png", "contains no folder images.*mv new")],
)  # fmt: skip
def test_a_folder_without_class_folders_is_an_error(tmp_path: Path, name: str, message: str) -> None:
    photograph(tmp_path / f"{name}.png", 0)
    (tmp_path / f"{name}.png").rename(tmp_path / name)
    with pytest.raises(CatalogError, match=message):
        table_from_folders(tmp_path, 50.0, 4)


TABLE = """image_path,class_label,attributes,instance_id
a.png,mug,color:red;serial:1;size:big,A
b.png,mug,color:blue;serial:2;size:big,B
c.png,hat,color:blue,C
"""


def test_a_table_is_described_and_learnable_attributes_are_proposed(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(TABLE)
    found = describe_table(tmp_path)
    assert (found.num_photos, found.num_items, found.classes) == (3, 3, {"mug": 2, "hat": 1})
    assert found.attributes["color"] == {"blue": 2, "red": 1}
    assert found.proposed == ("color",)  # each serial number occurs once, and all sizes are equal
    assert not found.faults and (tmp_path / "labels.csv").read_text(encoding="utf-8") == TABLE


def test_a_table_without_a_required_column_is_named(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image_path,class_label\na.png,mug\n")
    with pytest.raises(CatalogError, match="column missing: attributes, instance_id; found image_path, class_label"):
        describe_table(tmp_path)


def test_the_conversions_in_the_documentation_make_valid_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_products").mkdir()
    (tmp_path / "export.csv").write_text(
        "image,id,class,color,item\n/data/upload/1/a.jpg,1,mug,red,A\n/data/upload/1/b.jpg,2,hat,,B\n"
    )
    (tmp_path / "my_products/metadata.jsonl").write_text(
        '{"file_name": "images/a.jpg", "label": "mug", "color": "red", "item": "A"}\n'
        '{"file_name": "images/b.jpg", "label": "hat", "color": null, "item": "B"}\n'
    )
    text = (ROOT / "data/README.md").read_text(encoding="utf-8")
    scripts = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    assert len(scripts) == 2
    params = DataParams(path="my_products", attributes=["color"], aliases={}, masked_labels={})
    for script in scripts:
        exec(compile(script, "data/README.md", "exec"), {})
        table = read_catalog(Path("my_products"), params)
        assert list(table["image_path"]) == ["images/a.jpg", "images/b.jpg"]
        assert list(table["class"]) == ["mug", "hat"] and table["color"].tolist() == ["red", None]


# -- the command --------------------------------------------------------------------------------------------------

PARAMS = """split: {source: seeded, seed: 1, val_fraction: 0.2, test_fraction: 0.2, photo_size_px: 16,
  max_megapixels: 50.0, near_duplicate_bits: 4}
"""


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_the_command_creates_a_table_once_and_then_only_checks_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(PARAMS)
    for seed, name in enumerate(("mug/IMG_1.png", "mug/IMG_2.png", "hat/a_1.png", "hat/a_2.png", "hat/b_1.png")):
        photograph(tmp_path / "goods/images" / name, seed)
    code, text = run("init", "goods")
    assert code == 0
    assert "Wrote goods/labels.csv: 5 photographs of 4 items in 2 classes." in text
    assert "inferred from prefixes of file names in: hat." in text and "In the other classes" in text
    assert "path: goods" in text and "attributes: []" in text and "source: seeded" in text
    created = (tmp_path / "goods/labels.csv").read_text(encoding="utf-8")
    edited = created.replace("IMG_1.png,mug,,", "IMG_1.png,mug,color:red,").replace("hat/b_1.png,hat", "hat/b_1.png,")
    (tmp_path / "goods/labels.csv").write_text(edited)
    code, text = run("init", "goods")
    assert code == 1 and "Fault: line" in text and "class_label" in text and "Wrote" not in text
    assert (tmp_path / "goods/labels.csv").read_text(encoding="utf-8") == edited
    code, text = run("init", "nowhere")
    assert code == 2 and "nowhere" in text
