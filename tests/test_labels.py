"""The label space is derived from train alone and survives serialization."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vitrine.artifacts import ArtifactError, write_csv
from vitrine.labels import MISSING, LabelSpace, display_name, label_words, read_photo_table, read_score_table

TABLE = pd.DataFrame(
    {
        "split": ["train", "train", "test"],
        "class": ["hat", "cup", "cup"],
        "color": ["red", None, None],
        "image_path": ["1", "2", "3"],
    }
)


def test_labels_come_from_train_in_sorted_order() -> None:
    space = LabelSpace.derive(pd.concat([TABLE, TABLE.assign(split="val", color="blue")]), ["class", "color"])
    assert space.labels == {"class": ("cup", "hat"), "color": ("red",)}
    assert space.tasks == ("class", "color")
    assert space.num_labels("class") == 2


def test_codes_follow_the_labels_and_mark_missing_ones() -> None:
    codes = LabelSpace.derive(TABLE, ["class", "color"]).encode(TABLE)
    assert codes["class"].tolist() == [1, 0, 0]
    assert codes["color"].tolist() == [0, MISSING, MISSING]


def test_a_label_outside_the_space_is_an_error() -> None:
    with pytest.raises(ArtifactError, match="class: labels outside the label space: mug"):
        LabelSpace.derive(TABLE, ["class"]).encode(TABLE.assign(**{"class": "mug"}))


def test_the_space_survives_json_with_its_order() -> None:
    space = LabelSpace({"zeta": ("b", "a"), "alpha": ("c",)})
    assert list(LabelSpace.from_json(space.to_json())) == ["zeta", "alpha"]
    assert LabelSpace.from_json(space.to_json()) == space
    with pytest.raises(ArtifactError, match="not a label space"):
        LabelSpace.from_json([{"task": "a"}])


@pytest.mark.parametrize(
    "labels",
    [
        ("38", "4"), ("007", "7"), ("1", "01"), ("1e3", "1000"), ("true", "false"), ("NA", "None"), ("nan", "null"),
        ("inf", "-inf"), ("2024-01-31", "2024-02-29"), ("0x1F", "1_000"), ("-0", "0"), ("0.10", "0.1"),
    ],
)  # fmt: skip
def test_labels_and_ids_that_look_like_numbers_survive_photos_csv(tmp_path: Path, labels: tuple[str, str]) -> None:
    first, second = labels
    table = pd.DataFrame(
        {"image_path": labels, "split": "train", "instance_id": labels, "class": labels, "color": [first, None]}
    )
    write_csv(tmp_path / "photos.csv", table)
    again = read_photo_table(tmp_path / "photos.csv")
    for column in ("image_path", "instance_id", "class"):
        assert again[column].tolist() == [first, second]
    assert again["color"].tolist() == [first, None]
    space = LabelSpace.derive(table, ["class", "color"])
    assert LabelSpace.from_json(json.loads(json.dumps(space.to_json()))).encode(again)["class"].tolist() == (
        [0, 1] if first < second else [1, 0]
    )


WORDS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r\0"), min_size=1)


@given(st.lists(WORDS.map(str.strip).filter(bool), min_size=1))
def test_any_text_survives_photos_csv(tmp_path_factory: pytest.TempPathFactory, labels: list[str]) -> None:
    path = tmp_path_factory.mktemp("any") / "photos.csv"
    write_csv(path, pd.DataFrame({"image_path": [str(k) for k in range(len(labels))], "class": labels}))
    assert read_photo_table(path)["class"].tolist() == labels


def test_score_tables_keep_names_as_text_and_scores_as_numbers(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"task": ["1", "1"], "label": ["007", "NA"], "model": ["2", "3"], "f1": [0.5, None], "n": [1, 2]}
    )
    write_csv(tmp_path / "per_label.csv", table)
    again = read_score_table(tmp_path / "per_label.csv")
    assert again[["task", "label", "model"]].values.tolist() == [["1", "007", "2"], ["1", "NA", "3"]]
    assert again["f1"][0] == 0.5 and pd.isna(again["f1"][1]) and again["n"].sum() == 3


def test_display_names_come_from_the_project_or_from_the_label_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert display_name("_wrist_watch") == "wrist watch"  # no file
    (tmp_path / "other/data").mkdir(parents=True)
    (tmp_path / "other/data/display_names.yaml").write_text("wrist_watch: Wrist watch\n")
    monkeypatch.chdir(tmp_path / "other")
    assert (display_name("wrist_watch"), display_name("dark_red")) == ("Wrist watch", "dark red")
    assert label_words("wrist_watch") == "wrist watch"


@pytest.mark.parametrize("text", ["- wrist_watch", "wrist_watch: 7", "{"])
def test_an_invalid_file_of_display_names_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/display_names.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match=r"data/display_names\.yaml: (expected lines|cannot be read)"):
        display_name("wrist_watch")


def test_every_class_of_the_sample_has_a_display_name() -> None:
    root = Path(__file__).parents[1]
    names = yaml.safe_load((root / "data/display_names.yaml").read_text(encoding="utf-8"))
    assert set(names) == set(pd.read_csv(root / "data/sample/labels.csv")["class_label"])
