"""The gallery searches with facets, ranks doubtful labels, records corrections and serves only its photographs."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitrine.app.gallery import Gallery
from vitrine.artifacts import ArtifactError, write_json
from vitrine.data.catalog import CatalogError, DataParams, apply_corrections, read_catalog, read_corrections
from vitrine.params import read_section
from vitrine.photos import PhotoError
from vitrine.retrieval.backend import compact_index
from vitrine.retrieval.sharded import ShardedIndex


@pytest.fixture
def gallery(project_folder: Path, tmp_path: Path) -> Gallery:
    folder = shutil.copytree(project_folder, tmp_path / "project")
    return Gallery.load(folder, read_section("data", DataParams, folder / "params.yaml"))


def test_a_sharded_gallery_gives_the_same_results(gallery: Gallery) -> None:
    compact_index(gallery.root / "index/deit", 10)
    shards = Gallery.load(gallery.root, gallery.data)
    assert isinstance(shards.indexes["deit"], ShardedIndex) and len(shards.indexes["deit"].shards) == 4
    label = gallery.label_space.labels["color"][0]
    for words, chosen in (("", {}), ("bottle", {}), ("", {"color": [label]}), ("not bottle", {"color": [label]})):
        assert shards.search("deit", words, chosen, None, 20) == gallery.search("deit", words, chosen, None, 20)
    assert shards.disagreements("deit", "class") == gallery.disagreements("deit", "class")
    like = gallery.indexes["deit"].embedding(17)
    assert [hit.row for hit in shards.similar("deit", like, 5)] == [hit.row for hit in gallery.similar("deit", like, 5)]
    for row in (0, 9, 10, 31):
        assert shards.answer_of("deit", row) == gallery.answer_of("deit", row)
        assert shards.labels_of("deit", row) == gallery.labels_of("deit", row)
        assert shards.thumbnail("deit", row) == gallery.thumbnail("deit", row)
    with pytest.raises(KeyError):
        shards.thumbnail("deit", 32)


def test_an_empty_query_shows_everything_in_order(gallery: Gallery) -> None:
    page = gallery.search("deit", "  ", {}, None, 5)
    assert [hit.row for hit in page.result.hits] == [0, 1, 2, 3, 4]
    assert page.num_found == len(gallery.indexes["deit"]) == 32


def test_facets_filter_by_prediction_and_count_within_the_other_filters(gallery: Gallery) -> None:
    index = gallery.indexes["deit"]
    colors = np.array([index.label_probs("color", code) for code in range(2)]).argmax(axis=0)
    chosen = index.label_space.labels["color"][int(colors[0])]
    page = gallery.search("deit", "bottle", {"color": [chosen]}, None, 100)
    assert {hit.row for hit in page.result.hits} == set(np.flatnonzero(colors == colors[0]).tolist())
    assert page.num_found == int((colors == colors[0]).sum())
    assert sum(page.facets["color"].values()) == 32  # a task's own choice does not hide its other labels
    assert sum(page.facets["class"].values()) == page.num_found


def test_filters_by_unknown_labels_are_ignored(gallery: Gallery) -> None:
    assert gallery.search("deit", "", {"color": ["<b>"], "size": ["x"]}, None, 3).num_found == 32


def test_disagreements_are_held_out_photographs_sorted_by_label_probability(gallery: Gallery) -> None:
    disagreements = gallery.disagreements("deit", "class")
    held_out = [row for row in range(32) if gallery.split_of("deit", row) != "train"]
    wrong = [
        row
        for row in held_out
        if gallery.probs_of("deit", row)["class"][0][0] != gallery.labels_of("deit", row)["class"]
    ]
    assert sorted(each.row for each in disagreements) == wrong and 0 < len(wrong) < len(held_out)
    assert [each.probability for each in disagreements] == sorted(each.probability for each in disagreements)
    for each in disagreements:
        assert each.ranked == tuple(gallery.probs_of("deit", each.row)["class"])
        assert each.given == gallery.labels_of("deit", each.row)["class"] != each.ranked[0][0]
        assert each.probability == dict(each.ranked)[each.given] and each.split in ("val", "test")


def test_a_photograph_without_a_label_is_not_a_disagreement(gallery: Gallery) -> None:
    names = [str(gallery.indexes["deit"].image_paths[each.row]) for each in gallery.disagreements("deit", "class")]
    gallery.table.loc[names, "class"] = None
    assert gallery.disagreements("deit", "class") == []


def test_neighbors_exclude_the_photograph_itself_and_have_one_per_item(gallery: Gallery) -> None:
    index = gallery.indexes["deit"]
    hits = gallery.similar("deit", index.embeddings[4], 5)
    items = [hit.instance_id for hit in hits]
    assert len(hits) == len(set(items)) == 5 and 4 not in [hit.row for hit in hits]
    expected = np.sort(index.embeddings @ index.embeddings[4])[::-1]
    assert expected[0] >= (hits[0].similarity or 0) >= (hits[-1].similarity or 0)
    turned = index.embeddings[4] + 0.5 * np.eye(len(index.embeddings[4]), dtype=np.float32)[0]
    assert (index.search(like=turned).hits[0].similarity or 0) < 0.99
    assert gallery.similar("deit", turned, 5)[0].row == index.search(like=turned).hits[0].row


def test_suggestions_are_label_pairs_of_actual_photographs(gallery: Gallery) -> None:
    suggested = gallery.suggestions()
    pairs = set(zip(gallery.table["color"], gallery.table["class"], strict=True))
    assert len(suggested) == 2
    for text in suggested:
        color, _, words = text.partition(" ")
        assert (color, words.replace(" ", "_")) in pairs
        assert gallery.search("deit", text, {}, None, 5).result.query.unknown_words == ()


def test_a_display_name_is_suggested_only_if_it_means_the_label(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"tall_bottle": "Bottle", "soap_bar": "Chocolate"}
    monkeypatch.setattr("vitrine.app.gallery.display_name", lambda label: names.get(label, label))
    assert {text.split(" ", 1)[1] for text in gallery.suggestions()} == {"bottle", "soap bar"}


def test_a_photograph_is_shown_whole_upright_and_without_its_metadata(gallery: Gallery) -> None:
    path = gallery.file("deit", 0)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "secret"  # rotated by 90 degrees; a description
    Image.new("RGB", (60, 20)).save(path.with_suffix(".jpg"), exif=exif)
    path.with_suffix(".jpg").rename(path)
    served = gallery.whole("deit", 0)
    image = Image.open(io.BytesIO(served))
    assert image.format == "WEBP" and image.size == (20, 60) and b"secret" not in served
    Image.fromarray(np.full((20, 30), 40_000, np.uint16)).save(path)
    assert Image.open(io.BytesIO(gallery.whole("deit", 0))).convert("L").getpixel((0, 0)) == pytest.approx(156, abs=3)
    for row in (-1, 32):
        with pytest.raises(KeyError):
            gallery.whole("deit", row)


def test_answers_for_indexed_photographs_match_the_predictor(gallery: Gallery) -> None:
    from vitrine.inference.predictor import Predictor

    predictor = Predictor.load("ensemble", gallery.root / "models")
    (expected,) = predictor.to_records(predictor.predict_files([gallery.file("ensemble", 5)]))
    answer = gallery.answer_of("ensemble", 5)
    assert list(answer) == list(expected["tasks"])
    for task, record in expected["tasks"].items():
        assert answer[task]["certainty"] == record["certainty"]
        assert [entry["label"] for entry in answer[task]["labels"]] == [entry["label"] for entry in record["labels"]]
    assert [record["certainty"] for record in answer.values()] == ["confident", "unsure", "unreliable"]


def test_photographs_above_the_limit_of_the_split_stage_are_rejected(gallery: Gallery) -> None:
    assert gallery.max_megapixels == 50.0
    write_json(gallery.root / "data/splits/decoding.json", {"photo_size_px": 24, "max_megapixels": 0.001})
    strict = Gallery.load(gallery.root, gallery.data)
    with pytest.raises(PhotoError, match=r"limit of 0\.001 megapixels"):
        strict.thumbnail("deit", 0)


def test_an_index_of_an_unknown_system_is_reported(gallery: Gallery) -> None:
    gallery.indexes["deit"].name = "stranger"
    gallery.indexes["deit"].save(gallery.root / "index/mine")
    with pytest.raises(ArtifactError, match=r"index/mine: models/systems\.json has no system 'stranger'"):
        Gallery.load(gallery.root, gallery.data)


@pytest.mark.parametrize("path", ["data/made_up", "./data/made_up/"])
def test_corrections_are_appended_and_change_what_the_split_stage_reads(gallery: Gallery, path: str) -> None:
    gallery.data = gallery.data.model_copy(update={"path": path})
    name = gallery.correct("deit", 3, "color", "red")
    gallery.correct("ensemble", 3, "color", "blue")
    gallery.correct("deit", 4, "class", "soap_bar")
    written = read_corrections(gallery.root / "data/corrections.csv")
    assert written["label"].tolist() == ["red", "blue", "soap_bar"]
    assert set(written["dataset"]) == {"data/made_up"}
    table = read_catalog(gallery.root / gallery.data.path, gallery.data)
    changed = apply_corrections(gallery.root, table, gallery.data)
    assert changed.set_index("image_path").loc[name, "color"] == "blue"  # the later line wins
    assert changed["class"].tolist()[4] == "soap_bar"


def test_invalid_corrections_are_rejected_and_not_written(gallery: Gallery) -> None:
    before = (gallery.root / "data/corrections.csv").read_bytes()
    for task, label in (("color", "=1+1"), ("size", "small"), ("class", "")):
        with pytest.raises(ArtifactError):
            gallery.correct("deit", 3, task, label)
    assert (gallery.root / "data/corrections.csv").read_bytes() == before


def test_corrections_are_undone_one_by_one_but_not_those_of_others(gallery: Gallery) -> None:
    path = gallery.root / "data/corrections.csv"
    before = path.read_bytes()
    with pytest.raises(ArtifactError, match="nothing to undo"):
        gallery.undo()
    names = [gallery.correct("deit", row, "class", "soap_bar") for row in (0, 1)]
    assert len(read_corrections(path)) == 2
    assert [gallery.undo(), gallery.undo()] == names[::-1]
    assert path.read_bytes() == before and gallery.labels_of("deit", 0)["class"] == "tall_bottle"
    gallery.correct("deit", 0, "class", "soap_bar")
    with path.open("a") as file:
        file.write("data/made_up,images/001.png,color,red\n")
    with pytest.raises(ArtifactError, match="its last line has changed"):
        gallery.undo()
    assert len(read_corrections(path)) == 2


def test_an_invalid_corrections_file_is_reported(gallery: Gallery) -> None:
    path = gallery.root / "data/corrections.csv"
    table = read_catalog(gallery.root / gallery.data.path, gallery.data)
    for text, fault in (
        ("dataset,image_path,task,label\nd,e\n", "line 2: 2 fields"),
        ("a,b\n", "line 1: expected dataset"),
    ):
        path.write_text(text)
        with pytest.raises(CatalogError, match=fault):
            apply_corrections(gallery.root, table, gallery.data)
    path.unlink()
    with pytest.raises(CatalogError, match="write its header"):
        apply_corrections(gallery.root, table, gallery.data)


def test_thumbnails_are_encoded_from_pixels_and_invalid_rows_are_rejected(gallery: Gallery) -> None:
    with Image.open(io.BytesIO(gallery.thumbnail("deit", 0))) as image:
        assert (image.format, image.size) == ("WEBP", (320, 320))
    for system, row in (("deit", 32), ("deit", -1), ("nobody", 0)):
        with pytest.raises(KeyError):
            gallery.thumbnail(system, row)


def test_a_project_without_an_index_is_reported(tmp_path: Path) -> None:
    data = DataParams(path="data", attributes=[], aliases={}, masked_labels={})
    with pytest.raises(ArtifactError, match="contains no index"):
        Gallery.load(tmp_path, data)
