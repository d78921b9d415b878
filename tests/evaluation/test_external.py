"""Other people's photographs are scored by label names, nothing is skipped silently, and leakage is found."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import write_labels
from judging import make_theirs
from PIL import Image

from vitrine.artifacts import ArtifactError
from vitrine.data.catalog import CatalogError
from vitrine.data.splits import perceptual_hash
from vitrine.evaluation.alignment import match_label, match_name
from vitrine.evaluation.external import (
    ExternalError,
    ExternalEvaluation,
    LeakageError,
    calibration_numbers,
    confidence_shift,
    confident_numbers,
    embedding_shift,
    evaluate_external,
    nearest_cosines,
    remove_temperature,
    summary_rows,
)
from vitrine.evaluation.leakage import Fingerprints, find_twins
from vitrine.evaluation.scoring import number_items, score
from vitrine.inference.calibration import apply_temperature
from vitrine.inference.export import export_onnx
from vitrine.inference.predictor import Predictor


def judge(project: Path, folder: Path, models: tuple[str, ...] = ("deit",), **options: object) -> ExternalEvaluation:
    return evaluate_external(folder, models=models, project=project, progress=False, **options)  # type: ignore[arg-type]


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    make_theirs(tmp_path / "theirs")
    return tmp_path / "theirs"


# -- labels -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "names", "found"),
    [
        ("red", ("red", "blue"), "red"),
        ("Water Bottle", ("water_bottle",), "water_bottle"),
        ("waterbottle", ("Water bottle",), "Water bottle"),
        ("RED", ("red", "Red"), None),  # ambiguous
        ("Red", ("red", "Red"), "Red"),
        ("green", ("red",), None),
    ],
)
def test_names_match_regardless_of_case_underscores_and_spaces(
    name: str, names: tuple[str, ...], found: str | None
) -> None:
    assert match_name(name, names) == found


def test_aliases_come_first_and_match_in_the_same_way() -> None:
    assert match_label("grey", ("gray",), {"Grey": "Gray"}) == "gray"
    assert match_label("mint", ("new", "mint"), {"mint": "new"}) == "new"
    assert match_label("grey", ("red",), {"grey": "gray"}) is None


def test_unknown_labels_are_counted_and_excluded_from_their_task(judged_folder: Path, tmp_path: Path) -> None:
    make_theirs(tmp_path, 8, ("Tall Bottle", "SOAP_bar", "chair"), ("BLUE", "teal", "crimson", ""))
    found = judge(judged_folder, tmp_path, aliases={"color": {"crimson": "red"}})
    of_class, color = found.labels["class"], found.labels["color"]
    assert (of_class.known, of_class.unknown, of_class.missing) == (12, {"chair": 4}, 0)
    assert of_class.renamed == {"SOAP_bar": "soap_bar", "Tall Bottle": "tall_bottle"}
    assert (color.known, color.unknown, color.missing) == (8, {"teal": 4}, 4)
    assert color.renamed == {"BLUE": "blue", "crimson": "red"}
    tasks = found.systems["deit"].tasks
    assert {task: result.scores["n"] for task, result in tasks.items()} == {"class": 12, "color": 8, "material": 16}
    assert tasks["class"].unknown_labels["n"] == 4 and tasks["class"].unknown_labels["confident"] == 1
    assert tasks["color"].unknown_labels["n"] == 4 and tasks["color"].unknown_labels["confident"] == 0
    assert found.num_listed == len(found.photos) == 16


def test_missing_tasks_and_unused_attributes_are_named(judged_folder: Path, tmp_path: Path) -> None:
    rows = make_theirs(tmp_path)
    for row in rows:
        row["attributes"] = "Color:red;size:large"
    write_labels(tmp_path, rows)
    found = judge(judged_folder, tmp_path)
    assert found.absent_tasks == ("material",) and found.unused_attributes == ("size",)
    assert found.tasks == ("class", "color") and found.labels["color"].known == 12


def test_a_task_without_known_labels_is_skipped_and_having_no_task_is_an_error(
    judged_folder: Path, tmp_path: Path
) -> None:
    rows = make_theirs(tmp_path, classes=("chair", "table"))
    assert judge(judged_folder, tmp_path).tasks == ("color", "material")
    for row in rows:
        row["attributes"] = "size:large"
    write_labels(tmp_path, rows)
    with pytest.raises(
        ExternalError, match=r"none of its labels are known to the models(.|\n)*class: found chair, table; .* soap_bar"
    ):
        judge(judged_folder, tmp_path)


@pytest.mark.parametrize("aliases", [{"shape": {"a": "b"}}, {"color": {"teal": "turquoise"}}])
def test_an_alias_of_an_unknown_task_or_label_is_an_error(
    judged_folder: Path, theirs: Path, aliases: dict[str, dict[str, str]]
) -> None:
    with pytest.raises(ExternalError, match="expected one of"):
        judge(judged_folder, theirs, aliases=aliases)


# -- scores -------------------------------------------------------------------------------------------------------


def test_scores_equal_those_of_the_evaluate_stage_on_the_same_predictions(judged_folder: Path, theirs: Path) -> None:
    found = judge(judged_folder, theirs, ("deit", "ensemble"))
    for name, system in found.systems.items():
        predictor = Predictor.load(name, judged_folder / "models", judged_folder / "exports")
        predicted = predictor.predict_files([theirs / path for path in found.photos["image_path"]])
        codes, items = predictor.label_space.encode(found.photos), number_items(found.photos["instance_id"])
        for task, result in system.tasks.items():
            expected = score(codes[task], predicted.probs[task], items, 3)
            assert {key: result.scores[key] for key in expected} == pytest.approx(expected, nan_ok=True)
            assert result.own_test["n"] == 8
    assert found.num_items == 6 and found.broken == found.twins == found.shared_items == ()
    assert found.best_on_val in found.systems


def test_json_contains_only_finite_numbers(judged_folder: Path, theirs: Path) -> None:
    found = judge(judged_folder, theirs)
    text = json.dumps([found.to_json(), summary_rows(found)], allow_nan=False)
    assert str(theirs) not in text
    assert found.to_json()["systems"]["deit"]["tasks"]["material"]["confident"]["threshold"] is None


def test_the_projects_own_test_photographs_have_the_scores_of_the_project(judged_folder: Path) -> None:
    own = judged_folder / "data/made_up"
    with pytest.raises(LeakageError, match="dataset of this project") as error:
        judge(judged_folder, own)
    assert len(error.value.twins) == 24 and str(error.value).count("same file") == 10
    assert str(error.value).endswith("... and 14 more")
    found = judge(judged_folder, own, allow_leakage=True)
    assert len(found.seen_twins(exact=True)) == 24 and len(found.photos) == 8
    assert [(twin.split, twin.kind) for twin in found.twins if not twin.is_seen] == [("test", "same file")] * 8
    for result in found.systems["deit"].tasks.values():
        assert {key: result.scores[key] for key in result.own_test} == pytest.approx(dict(result.own_test))


def test_unreadable_photographs_are_named_and_skipped(judged_folder: Path, theirs: Path) -> None:
    (theirs / "images/0_0.png").write_bytes(b"no photograph")
    (theirs / "images/1_0.png").unlink()
    found = judge(judged_folder, theirs)
    assert [path for path, _ in found.broken] == ["images/0_0.png", "images/1_0.png"]
    assert [fault for _, fault in found.broken] == ["is not an image that can be read", "not found"]
    assert len(found.photos) == 10 and found.num_listed == 12 and found.num_items == 6
    for path in (theirs / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ExternalError, match=r"no photograph can be read(.|\n)*0_0.png(.|\n)*and 2 more$"):
        judge(judged_folder, theirs)


def test_a_folder_without_a_dataset_is_one_error_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for name, fault in (("empty", "contains no labels.csv"), ("file", "not a folder"), ("absent", "not a folder")):
        with pytest.raises(CatalogError, match=fault):
            judge(tmp_path / "no project", tmp_path / name)


def test_a_broken_table_is_one_error_with_all_faults(judged_folder: Path, theirs: Path) -> None:
    (theirs / "labels.csv").write_text("image_path,class_label,attributes,instance_id\n../a.png,,color:red,1\n")
    with pytest.raises(CatalogError, match=r"2 faults(.|\n)*is empty(.|\n)*is not inside the dataset's folder"):
        judge(judged_folder, theirs)
    (theirs / "labels.csv").write_text("image_path,class_label\na.png,b\n")
    with pytest.raises(CatalogError, match="column missing: attributes, instance_id"):
        judge(judged_folder, theirs)


def test_a_system_or_predictions_of_other_photographs_are_errors(
    judged_folder: Path, theirs: Path, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match="no system 'absent'"):
        judge(judged_folder, theirs, ("absent",))
    project = tmp_path / "project"
    shutil.copytree(judged_folder, project)
    table = (project / "data/splits/photos.csv").read_text(encoding="utf-8").splitlines()
    (project / "data/splits/photos.csv").write_text("\n".join([table[0], table[2], table[1], *table[3:]]) + "\n")
    with pytest.raises(ArtifactError, match="does not match the photographs in data/splits"):
        judge(project, theirs)


# -- leakage ------------------------------------------------------------------------------------------------------


def add(folder: Path, photo: Image.Image, name: str, **row: str) -> None:
    """Add a photograph to an external folder."""
    rows = [line.split(",") for line in (folder / "labels.csv").read_text(encoding="utf-8").splitlines()]
    photo.save(folder / "images" / name)
    fields = {"class_label": "soap_bar", "instance_id": name, "attributes": "color:red", **row}
    rows.append([f"images/{name}" if key == "image_path" else fields[key] for key in rows[0]])
    (folder / "labels.csv").write_text("".join(",".join(each) + "\n" for each in rows))


def first_photo(project: Path, split: str) -> Path:
    """Return the first photograph of a split of the project's dataset."""
    from vitrine.labels import read_photo_table

    table = read_photo_table(project / "data/splits/photos.csv")
    return Path(project / "data/made_up" / table.loc[table["split"] == split, "image_path"].iloc[0])


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_same_picture_in_another_file_is_refused_or_skipped(judged_folder: Path, theirs: Path, split: str) -> None:
    add(theirs, Image.open(first_photo(judged_folder, split)), "copy.bmp")
    with pytest.raises(
        LeakageError, match=rf"1 photograph is (.|\n)*images/copy.bmp = .* \({split}, same pixels\)$"
    ) as e:
        judge(judged_folder, theirs)
    assert "its score does not measure performance on new photographs" in str(e.value)
    found = judge(judged_folder, theirs, allow_leakage=True)
    assert [twin.image_path for twin in found.seen_twins(exact=True)] == ["images/copy.bmp"]
    assert len(found.photos) == 12 and "images/copy.bmp" not in set(found.photos["image_path"])


def test_near_duplicates_are_scored_separately(judged_folder: Path, theirs: Path) -> None:
    original = np.asarray(Image.open(first_photo(judged_folder, "train")))
    add(theirs, Image.fromarray(np.clip(original.astype(int) + 1, 0, 255).astype(np.uint8)), "brighter.png")
    found = judge(judged_folder, theirs)
    (twin,) = found.twins
    assert (twin.image_path, twin.kind, twin.split) == ("images/brighter.png", "near duplicate", "train")
    result = found.systems["deit"].tasks["class"]
    assert result.near_duplicates["n"] == 1 and result.scores["n"] == 12
    assert found.systems["deit"].tasks["material"].near_duplicates["n"] == 0


def test_having_only_leaked_photographs_is_an_error(judged_folder: Path, tmp_path: Path) -> None:
    original = first_photo(judged_folder, "train")
    (tmp_path / "images").mkdir()
    shutil.copy(original, tmp_path / "images/a.png")
    row = {"image_path": "images/a.png", "class_label": "soap_bar", "attributes": "", "instance_id": "a"}
    write_labels(tmp_path, [row])
    with pytest.raises(ExternalError, match="remains: 1 exact and 0 near duplicates of train or val"):
        judge(judged_folder, tmp_path, allow_leakage=True)


def test_an_item_with_the_name_of_a_train_item_is_only_reported(judged_folder: Path, theirs: Path) -> None:
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8))
    add(theirs, photo, "other.png", instance_id="soap_bar-red-train-0")
    found = judge(judged_folder, theirs)
    assert found.shared_items == ("soap_bar-red-train-0",) and len(found.photos) == 13


def test_the_twin_is_the_most_serious_match(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    photo, other = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    files = [tmp_path / f"{number}.bin" for number in range(5)]
    for number, file in enumerate(files):
        file.write_bytes(b"same" if number in (0, 3) else bytes([number] * 4))
    brighter = np.clip(photo.astype(int) + 1, 0, 255).astype(np.uint8)
    distance = int((perceptual_hash(photo) != perceptual_hash(brighter)).sum())
    assert distance <= 4
    theirs = Fingerprints.of(files[:1], photo[None])
    ours = Fingerprints.of(files[1:], np.stack([photo, brighter, other, photo]))
    splits = ["test", "val", "train", "train"]  # the third is the same file, although it was decoded differently
    names = ["test", "near", "file", "pixels"]
    (twin,) = find_twins(theirs, ["mine"], ours, names, splits, 4)
    assert (twin.project_path, twin.kind, twin.distance_bits) == ("pixels", "same pixels", 0)
    (twin,) = find_twins(theirs, ["mine"], ours, names, ["test", "val", "train", "test"], 4)
    assert (twin.project_path, twin.kind) == ("file", "same file")
    (twin,) = find_twins(theirs, ["mine"], ours, names, ["test", "val", "test", "test"], 4)
    assert (twin.project_path, twin.kind, twin.distance_bits) == ("near", "near duplicate", distance)
    (twin,) = find_twins(theirs, ["mine"], ours, names, ["test"] * 4, 4)
    assert twin.is_exact and not twin.is_seen


# -- numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.25, 0.6, 1.0, 1.7, 3.2])
def test_a_temperature_is_undone(temperature: float) -> None:
    logits = np.random.default_rng(2).normal(0, 3, (50, 6))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    before = remove_temperature(apply_temperature(probs, temperature), temperature)
    np.testing.assert_allclose(before, probs, atol=1e-5)


def test_calibration_is_measured_before_and_after() -> None:
    codes = np.array([0, 1, 0, 1])
    before = np.array([[0.8, 0.2], [0.2, 0.8], [0.8, 0.2], [0.8, 0.2]])
    numbers = calibration_numbers(codes, apply_temperature(before, 2.0), 2.0, 1)
    assert numbers["nll_before"] == pytest.approx(-(3 * np.log(0.8) + np.log(0.2)) / 4, abs=1e-6)
    assert numbers["ece_before"] == pytest.approx(0.05, abs=1e-6)
    assert numbers["ece_after"] == pytest.approx(0.75 - 2 / 3, abs=1e-6)  # the root of 4 : 1 is 2 : 1


def test_overconfidence_is_confidence_minus_accuracy() -> None:
    codes, items = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1])
    probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])
    numbers = confidence_shift(codes, probs, items)
    assert numbers["mean_confidence"] == pytest.approx(0.75) and numbers["overconfidence"] == pytest.approx(0.0)
    low, high = numbers["overconfidence_ci_low"], numbers["overconfidence_ci_high"]
    assert low is not None and high is not None and -1 < low < 0 < high < 1


def test_confident_predictions_are_counted_by_photograph_and_item() -> None:
    codes, items = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1])
    probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])
    numbers = confident_numbers(codes, probs, items, 0.7)
    assert (numbers["coverage"], numbers["n"], numbers["items"]) == (0.75, 3, 2)
    assert numbers["accuracy"] == pytest.approx(2 / 3)
    without = confident_numbers(codes, probs, items, None)
    assert without["coverage"] == 0 and without["accuracy"] is None and without["coverage_ci_high"] is None
    assert confident_numbers(codes, probs, items, 0.99)["accuracy"] is None


def test_photographs_without_a_near_training_photograph_are_far() -> None:
    angles = np.linspace(0, 0.5, 101)
    train = np.array([[2.0, 0.0]])
    val = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = np.array([[1.0, 0.0], [3.0, 0.1], [0.0, 1.0], [-1.0, 0.0]])
    np.testing.assert_allclose(nearest_cosines(train, found), [1, 3 / np.hypot(3, 0.1), 0, -1], atol=1e-12)
    shift = embedding_shift(train, val, found, np.arange(4))
    assert shift["far"] == 0.5 and shift["far_below"] == pytest.approx(np.cos(0.475))
    assert shift["val_median_cosine"] == pytest.approx(np.cos(0.25))
    assert embedding_shift(train, val, val, np.arange(101))["far"] == pytest.approx(0.05, abs=0.01)
    with pytest.raises(ArtifactError, match="embedding size differs"):
        embedding_shift(np.ones((2, 3)), val, found, np.arange(4))


# -- exports ------------------------------------------------------------------------------------------------------

WITHOUT_TORCH = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "timm"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocked())
from pathlib import Path
from vitrine.evaluation.external import evaluate_external
from vitrine.reporting.external import write_evaluation
found = evaluate_external(Path("theirs"), models=["deit"], progress=False)
write_evaluation(found, Path("out"))
print(found.systems["deit"].backend, found.systems["deit"].tasks["class"].scores["nll"])
"""


@pytest.mark.slow
def test_an_exported_system_is_evaluated_without_pytorch(judged_folder: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(judged_folder, project)
    make_theirs(project / "theirs")
    expected = judge(project, project / "theirs").systems["deit"]
    export_onnx("deit", project / "models", project / "exports/deit")
    result = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], cwd=project, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    backend, precision, loss = result.stdout.split()
    assert backend in ("openvino", "onnxruntime") and precision == "fp32"
    assert float(loss) == pytest.approx(expected.tasks["class"].scores["nll"], abs=1e-4)
    assert expected.backend.startswith("torch") and (project / "out/index.html").is_file()
