"""The command line serves people and programs, reports errors in one line, and starts quickly."""

from __future__ import annotations

import csv
import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator, ValidationError
from PIL import Image
from typer.testing import CliRunner

from lineage import ROOT
from vitrine.artifacts import read_json, write_json
from vitrine.cli import app
from vitrine.inference.novelty import FOLDER, Detector, Novelty
from vitrine.inference.predictor import Predictor
from vitrine.inference.runtimes import checkpoint_digest
from vitrine.inference.systems import System, save_systems
from vitrine.labels import LabelSpace
from vitrine.learning.model import create_model, save_model
from vitrine.photos import Decoding
from vitrine.reporting.compare import Change
from vitrine.retrieval.index import ARRAYS, Index, MatchRule
from vitrine.retrieval.shards import writing

SPACE = LabelSpace(
    {"class": ("travel_bag", "water_bottle"), "color": ("blue", "red"), "material": ("cloth", "plastic")}
)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one small system, four photographs and their index."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/synonyms.yaml").write_text("sack: bag\n")
    (tmp_path / "params.yaml").write_text("serving:\n  backend: auto\n")
    torch.manual_seed(0)
    save_model(create_model("test_vit", "none", SPACE, Decoding(24, 50.0), 32, 0.0, 0.0), tmp_path / "models/small", {})
    system = System(
        dict.fromkeys(SPACE, ("small",)), dict.fromkeys(SPACE, 1.0), {"class": 0.0, "color": 1.0, "material": None}
    )
    save_systems(tmp_path / "models/systems.json", {"small": system})
    rng = np.random.default_rng(0)
    photos = rng.integers(0, 256, (4, 24, 24, 3), dtype=np.uint8)
    names = [f"photo_{row}.png" for row in range(4)]
    for name, photo in zip(names, photos, strict=True):
        Image.fromarray(photo).save(tmp_path / name)
    predictions = Predictor.load("small").predict(photos, names)
    Index.build("small", predictions, ["A", "A", "B", "C"], {}).save(tmp_path / "index/small")
    return tmp_path


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_predictions_are_readable_text_or_json(project: Path) -> None:
    code, text = run("predict", "photo_0.png", "photo_1.png", "--model", "small")
    assert code == 0
    assert "photo_1.png" in text and "%" in text
    # The threshold of color is unreachable; material has none.
    sentence = (
        r"  (Travel|Water) b\w+\n  Confident: class \d+%; unsure: color \d+%; not reliable on this data: material\.\n"
    )
    assert len(re.findall(sentence, text, re.IGNORECASE)) == 2
    assert re.search(r"^    color +(blue|red) \d+% +(blue|red) \d+%$", text, re.MULTILINE)
    code, text = run("predict", "photo_0.png", "--model", "small", "--format", "json")
    answer = json.loads(text)[0]
    assert code == 0 and answer["image_path"] == "photo_0.png"
    assert {task: predicted["certainty"] for task, predicted in answer["tasks"].items()} == {
        "class": "confident", "color": "unsure", "material": "unreliable"
    }  # fmt: skip
    for predicted in answer["tasks"].values():
        probs = [label["probability"] for label in predicted["labels"]]
        assert probs == sorted(probs, reverse=True) and sum(probs) == pytest.approx(1, abs=1e-3)


def test_photographs_of_unknown_classes_are_reported_everywhere(project: Path) -> None:
    bank = np.stack([Index.load(project / "index/small").embedding(row) for row in range(4)])
    digest = checkpoint_digest("small", project / "models")
    Novelty(Detector("neighbors", {"bank": bank}, 1), 1e-5, digest).save(project / "models" / FOLDER, "small")
    Image.new("RGB", (24, 24), (128, 128, 128)).save(project / "gray.png")
    code, text = run("predict", "gray.png", "photo_0.png", "--model", "small")
    assert code == 0 and text.count("None of these") == 1
    reason = r"gray\.png\n  None of these\n  Looks like none of the 2 classes; nearest: (travel bag|water bottle)\.\n"
    assert re.search(reason, text)
    _, text = run("predict", "gray.png", "photo_0.png", "--model", "small", "--format", "json")
    assert_is("predictions", json.loads(text))
    assert [answer["novelty"]["refused"] for answer in json.loads(text)] == [True, False]
    _, text = run("predict", "gray.png", "photo_0.png", "--model", "small", "--format", "csv", "--top-k", "1")
    lines = list(csv.DictReader(text.splitlines()))
    assert [line["refused"] for line in lines] == ["True"] * 3 + ["False"] * 3
    _, text = run("index", "add", "gray.png", "photo_0.png", "--model", "small")
    assert "1 photograph of these looks like none of the classes." in text
    Novelty(Detector("neighbors", {"bank": bank}, 1), 1e-5, "others").save(project / "models" / FOLDER, "small")
    code, text = run("predict", "gray.png", "--model", "small")
    assert code == 2 and "does not match the models in models. Run: dvc repro ood" in text


def test_unreadable_photographs_are_reported_and_the_others_predicted(project: Path) -> None:
    (project / "broken.png").write_bytes(b"no photograph")
    code, text = run("predict", "broken.png", "photo_0.png", "absent.png", "--model", "small")
    assert code == 1
    assert "broken.png: is not an image" in text and "absent.png: not found" in text and "photo_0.png" in text


def test_the_megapixel_limit_is_the_one_saved_with_the_model(project: Path) -> None:
    path = project / "models/small/model.json"
    document = read_json(path)
    document["preprocessing"]["decoding"]["max_megapixels"] = 0.0005
    write_json(path, document)
    for arguments in (["predict", "photo_0.png"], ["search", "--like", "photo_0.png"], ["index", "add", "."]):
        _, text = run(*arguments, "--model", "small")
        assert "photo_0.png: 24 x 24 px is larger than the limit of 0.0005 megapixels" in text, arguments


def test_a_search_uses_words_a_photograph_or_both(project: Path) -> None:
    code, text = run("search", "blue bottles", "--model", "small", "--format", "json")
    result = json.loads(text)
    assert code == (0 if result["num_matches"] else 1) and len(result["hits"]) == 4
    assert [match["label"] for match in result["hits"][0]["matches"]] == ["blue", "water_bottle"]
    code, text = run("search", "--like", "photo_2.png", "--model", "small", "--format", "json", "--top-k", "1")
    hit = json.loads(text)["hits"][0]
    assert hit["image_path"] == "photo_2.png" and hit["similarity"] == pytest.approx(1, abs=1e-5)
    code, text = run("search", "not red", "--like", "photo_2.png", "--model", "small", "--by-item")
    assert "not red" in text and "similarity" in text
    assert sum(f"photo_{row}.png" in text for row in (0, 1)) == 1


def test_a_search_without_matches_prints_a_hint_and_exits_with_1(project: Path) -> None:
    code, text = run("search", "zebra", "--model", "small")
    assert code == 1 and "Not understood: 'zebra'. Try words such as: blue, cloth, travel bag." in text


@pytest.mark.parametrize("shard_photos", [None, 2, 100])
def test_photographs_are_added_replaced_and_removed(project: Path, shard_photos: int | None) -> None:
    if shard_photos:
        code, text = run("index", "compact", "--model", "small", "--photos", str(shard_photos))
        num = "2 shards" if shard_photos == 2 else "1 shard"
        assert code == 0 and text == f"index/small: {num} with 4 photographs in total.\n"
        assert f"shards       {num[0]}" in run("index", "info", "--model", "small")[1]
    rng = np.random.default_rng(1)
    (project / "new/deep").mkdir(parents=True)
    for name in ("new/a.png", "new/deep/b.jpg"):
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(project / name)
    (project / "new/notes.txt").write_text("no photograph")
    code, text = run("index", "add", "new", "--model", "small")
    assert code == 1, "a file was skipped"
    assert "Skipped new/notes.txt: is not an image" in text and "Added 2 photographs" in text
    (project / "new/notes.txt").unlink()
    assert "photographs  6" in run("index", "info", "--model", "small")[1]
    code, text = run("search", "--like", "new/deep/b.jpg", "--model", "small", "--format", "json", "--top-k", "1")
    assert json.loads(text)["hits"][0]["image_path"] == "new/deep/b.jpg"
    assert run("index", "add", "new", "--model", "small")[0] == 0
    assert "photographs  6" in run("index", "info", "--model", "small")[1]
    assert run("index", "remove", "new/a.png", "photo_0.png", "--model", "small")[0] == 0
    assert "photographs  4" in run("index", "info", "--model", "small")[1]
    code, text = run("index", "remove", "new/a.png", "photo_1.png", "--model", "small")
    assert code == 2 and "not indexed: new/a.png. Nothing was removed" in text
    assert "photographs  4" in run("index", "info", "--model", "small")[1]


def test_shards_give_the_same_results_as_the_original_index(project: Path) -> None:
    searches = [("search", "blue bag"), ("search", "red or cloth", "--by-item"), ("search", "--like", "photo_2.png")]
    before = [run(*words, "--model", "small", "--format", "json") for words in searches]
    assert run("index", "compact", "--model", "small", "--photos", "3")[0] == 0
    assert [run(*words, "--model", "small", "--format", "json") for words in searches] == before
    code, text = run("index", "remove", *(f"photo_{row}.png" for row in range(4)), "--model", "small")
    assert code == 2 and "an index cannot be empty" in text


def test_a_second_writer_is_rejected_before_prediction(project: Path) -> None:
    for _ in range(2):
        with writing(project / "index/small"):
            for command in (("add", "photo_0.png"), ("remove", "photo_0.png"), ("compact",)):
                code, text = run("index", *command, "--model", "small")
                assert code == 2 and "another process is changing this index" in text
            assert run("search", "blue", "--model", "small")[0] in (0, 1)
        assert run("index", "compact", "--model", "small")[0] == 0
    assert not (project / "index/small/.lock").exists()


KILLED_ADD = """
import os, signal
import vitrine.retrieval.index

vitrine.retrieval.index.write_json = lambda path, document: os.kill(os.getpid(), signal.SIGKILL)
from vitrine.cli import app
app(["index", "add", "new", "--model", "small"])
"""
"""Add photographs in a process that is killed just before it replaces index.json."""


@pytest.mark.slow
def test_a_killed_add_leaves_the_old_index_and_can_be_rerun(project: Path) -> None:
    rng = np.random.default_rng(1)
    (project / "new").mkdir()
    for row in range(3):
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(project / f"new/{row}.png")
    place = project / "index/small"
    before, names = Index.load(place).search("blue"), {path.name for path in place.iterdir()}
    killed = subprocess.run([sys.executable, "-c", KILLED_ADD], cwd=project, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert names < {path.name for path in place.iterdir()}  # the new arrays exist next to the old ones
    assert len(list((place / ".adding").glob("*.npz"))) == 1  # and so do the predictions
    assert len(Index.load(place)) == 4 and Index.load(place).search("blue") == before
    assert run("index", "add", "new", "--model", "small")[0] == 0
    assert len(Index.load(place)) == 7
    assert len(list(place.iterdir())) == 5


@pytest.mark.parametrize("name", ["photos.npy", "index.json"])
def test_a_folder_with_other_files_is_rejected_before_prediction(
    project: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(Predictor, "load", lambda *_, **__: pytest.fail("a model is loaded"))
    (project / "splits").mkdir()
    (project / "splits" / name).write_text("all photographs")
    code, text = run("index", "add", ".", "--model", "small", "--index", "splits")
    assert code == 2 and text.startswith("ERROR: splits") and name in text
    assert (project / "splits" / name).read_text(encoding="utf-8") == "all photographs"


@pytest.mark.parametrize(
    "arguments",
    [("search", "blue", "--model", "absent"), ("search", "--like", "absent.png", "--model", "small"),
     ("predict", "photo_0.png", "--model", "absent")],
)  # fmt: skip
def test_errors_are_one_line_with_exit_code_2(project: Path, arguments: tuple[str, ...]) -> None:
    code, text = run(*arguments)
    assert code == 2 and text.startswith("ERROR: ") and "absent" in text and text.count("\n") == 1


def test_help_and_text_search_never_import_torch(project: Path) -> None:
    for arguments in (["--help"], ["search", "--help"], ["search", "blue", "--model", "small"]):
        code = (
            f"import sys; from vitrine.cli import app; app({arguments!r}, standalone_mode=False); "
            "sys.exit(any(name in sys.modules for name in ('torch', 'timm', 'matplotlib')))"
        )
        subprocess.run([sys.executable, "-c", code], cwd=project, check=True, capture_output=True)


def outputs(*arguments: str, columns: str | None = "80", stdin: str | None = None) -> tuple[int, str, str]:
    """Run the command like `run`, but return the exit code, standard output and standard error."""
    result = CliRunner().invoke(app, list(arguments), input=stdin, env={"COLUMNS": columns})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


SCHEMA = json.loads((ROOT / "docs/schema.json").read_text(encoding="utf-8"))


def assert_is(kind: str, document: Any) -> None:
    """Check a document against a definition in docs/schema.json."""
    Draft202012Validator({"$ref": f"#/$defs/{kind}", "$defs": SCHEMA["$defs"]}).validate(document)


def test_json_follows_the_schema(project: Path) -> None:
    Draft202012Validator.check_schema(SCHEMA)
    small = ("--model", "small")
    code, out, err = outputs("predict", "photo_0.png", "absent.png", *small, "--format", "json", "-k", "1")
    assert_is("predictions", json.loads(out))
    assert_is("error", json.loads(err))
    assert code == 1 and json.loads(err)["image_path"] == "absent.png"
    assert all(len(result["labels"]) == 1 for result in json.loads(out)[0]["tasks"].values())
    records = Predictor.load("small").predict_records(np.zeros((1, 24, 24, 3), np.uint8), ["a"])
    assert_is("answers", {"answers": records})
    code, out, err = outputs("predict", "absent.png", *small, "--format", "json")
    assert code == 1 and json.loads(out) == []
    code, out, err = outputs("predict", "photo_0.png", "photo_1.png", *small, "--format", "jsonl")
    for line in out.splitlines():
        assert_is("prediction", json.loads(line))
    assert code == 0 and len(out.splitlines()) == 2 and not err
    like = ("search", "blue, not red", "--like", "photo_0.png", *small)
    result = json.loads(outputs(*like, "--format", "json")[1])
    assert_is("search_result", result)
    assert result["hits"][0]["file"] == result["hits"][0]["image_path"] == "photo_0.png"
    lines = [json.loads(line) for line in outputs(*like, "--format", "jsonl")[1].splitlines()]
    assert lines == result["hits"]
    assert_is("hit", lines[0])
    assert_is("search_result", Index.load(project / "index/small").search("zebra").to_record("small"))
    assert_is("search_result", Index.load(project / "index/small").search("blue").to_record("small"))
    code, out, err = outputs("search", "blue", "--model", "absent", "--format", "json")
    assert_is("error", json.loads(err))
    assert code == 2 and not out
    with pytest.raises(ValidationError):
        assert_is("search_result", {**result, "more": 1})


def test_csv_has_one_row_per_label_or_hit(project: Path) -> None:
    _, out, _ = outputs("predict", "photo_0.png", "photo_1.png", "--model", "small", "--format", "csv")
    rows = list(csv.DictReader(out.splitlines()))
    assert len(rows) == 2 * 3 * 2 and rows[0]["image_path"] == "photo_0.png"
    assert [(row["task"], row["rank"]) for row in rows[:3]] == [("class", "1"), ("class", "2"), ("color", "1")]
    _, out, _ = outputs("search", "blue", "--model", "small", "--format", "csv")
    rows = list(csv.DictReader(out.splitlines()))
    assert len(rows) == 4 and rows[0]["matches"].startswith("blue 0.") and rows[0]["file"] == rows[0]["image_path"]


def test_predict_and_add_accept_folders_patterns_and_standard_input(project: Path) -> None:
    (project / "more").mkdir()
    (project / "photo_3.png").rename(project / "more/photo_3.png")

    def predicted(*arguments: str, stdin: str | None = None) -> list[str]:
        out = outputs("predict", *arguments, "--model", "small", "--format", "jsonl", stdin=stdin)[1]
        return [json.loads(line)["image_path"] for line in out.splitlines()]

    assert predicted("more", "photo_[01].png") == ["more/photo_3.png", "photo_0.png", "photo_1.png"]
    assert predicted("-", stdin="photo_2.png\nmore\n") == ["photo_2.png", "more/photo_3.png"]
    assert "more/photo_3.png" not in predicted(".") and "more/photo_3.png" in predicted(".", "-r")
    code, out, _ = outputs("index", "add", "photo_*.png", "--model", "small", "--index", "own")
    assert (code, out) == (0, "Added 3 photographs to own, skipped 0 files.\n")
    code, out, _ = outputs("index", "add", "more", "--index", "own")
    assert (code, out) == (0, "Added 1 photograph to own, skipped 0 files.\n")
    (project / "more/empty").mkdir()
    code, _, err = outputs("predict", "more/empty", "--model", "small")
    assert (code, err) == (1, "No photographs: the folders contain no files.\n")


def test_the_project_is_found_from_subfolders_and_by_option_from_elsewhere(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (project / "data/display_names.yaml").write_text("water_bottle: Flask\ntravel_bag: Carrier\n")
    (project / "data/sample").mkdir()
    (project / "data/sample/params.yaml").write_text("render:\n  seed: 1\n")
    (project / "data/sample/photo_9.png").write_bytes((project / "photo_0.png").read_bytes())
    monkeypatch.chdir(project / "data/sample")
    code, out, _ = outputs("predict", "photo_9.png", "--model", "small")
    assert code == 0 and out.startswith("photo_9.png\n") and ("Flask" in out and "Carrier" in out)
    assert outputs("index", "add", ".", "--model", "small")[1].startswith("Added 1 photograph to ../../index/small")
    hits = json.loads(outputs("search", "--like", "photo_9.png", "--model", "small", "--format", "json")[1])["hits"]
    assert {hit["image_path"]: hit["file"] for hit in hits[:2]} == {
        "photo_0.png": "../../photo_0.png", "data/sample/photo_9.png": "photo_9.png"
    }  # fmt: skip
    assert outputs("index", "remove", "photo_9.png", "../../photo_1.png", "--model", "small")[0] == 0
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "mine.png").write_bytes((project / "photo_0.png").read_bytes())
    monkeypatch.chdir(elsewhere)
    code, _, err = outputs("predict", "mine.png", "--model", "small")
    assert code == 2 and "--project DIR" in err
    code, _, err = outputs("--project", ".", "predict", "mine.png", "--model", "small")
    assert code == 2 and err == "ERROR: .: does not contain params.yaml. Choose the folder of a project\n"
    here = ("--project", str(project))
    assert outputs(*here, "predict", "mine.png", "--model", "small")[0] == 0
    assert outputs(*here, "index", "add", "mine.png", "--model", "small", "--index", "own")[0] == 0
    out = outputs(*here, "search", "--like", "mine.png", "--index", "own", "--format", "json")[1]
    assert json.loads(out)["hits"][0]["file"] == str(elsewhere / "mine.png")
    assert Path.cwd() == elsewhere and (elsewhere / "own/index.json").is_file()


@pytest.mark.parametrize(
    "arguments",
    [
        "index add . --index file.txt", "index add . --index file.txt/deep", "index info --index file.txt",
        "search blue --index file.txt", "search blue --index file.txt/deep", "search --like folder --model small",
        "search --like folder.png --model small", "search --like gone.png --model small", "init file.txt",
        "summary --out folder", "--project file.txt predict photo_0.png", "--project absent search blue",
        "export file.txt --model small", "index remove photo_0.png --index file.txt",
    ],
)  # fmt: skip
def test_a_path_of_the_wrong_kind_is_an_error(project: Path, monkeypatch: pytest.MonkeyPatch, arguments: str) -> None:
    (project / "file.txt").write_text("text")
    (project / "folder").mkdir()
    (project / "folder.png").mkdir()
    (project / "gone.png").symlink_to("nowhere.png")
    monkeypatch.setattr("vitrine.reporting.compare.write_summary", lambda _, out, __: out.write_text(""))
    code, _, err = outputs(*arguments.split(), *(["--model", "small"] if arguments.startswith("index add") else []))
    message = err.splitlines()[-1] if arguments.startswith("index add") else err
    assert code == 2 and "ERROR: " in message, err


@pytest.mark.enable_socket
def test_a_busy_port_is_reported_before_the_page_starts(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vitrine.app.server", None)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, out, err = outputs("serve", "--port", str(port))
    assert (code, out) == (2, "")
    assert err == f"ERROR: 127.0.0.1, port {port}: is in use; choose another with --port\n"
    assert outputs("serve", "--host", "no such host")[2].startswith("ERROR: no such host, port 7860: ")


def test_a_search_counts_and_marks_matches(project: Path) -> None:
    def search_with_rule(least_score: float) -> tuple[int, str]:
        index = Index.load(project / "index/small")
        index.rule = MatchRule(least_score)
        index.save(project / "index/small")
        return outputs("search", "blue", "--model", "small", columns="60")[:2]

    scores = [hit.score for hit in Index.load(project / "index/small").search("blue").hits]
    code, text = search_with_rule(scores[0])
    assert code == 0 and text.startswith("1 photograph matches 'blue'.\n")
    assert [line.startswith("yes") for line in text.splitlines()[2:]] == [True, False, False, False]
    assert search_with_rule(scores[1])[1].startswith("2 photographs match 'blue'.\n")
    code, text = search_with_rule(1.0)
    assert code == 1 and text.startswith("No confident match; closest:\n") and "yes" not in text
    search_with_rule(0.0)
    text = outputs("search", "blue", "--like", "photo_0.png", "--model", "small", "--by-item")[1]
    assert re.match(r"(\d items? match(es)? 'blue' and photo_0.png\.|No confident match; closest:)\n", text)


def test_paths_and_scores_of_hits_are_complete_at_any_width(project: Path) -> None:
    name = "long/" + "x" * 90 + ".png"
    (project / "long").mkdir()
    (project / name).write_bytes((project / "photo_0.png").read_bytes())
    outputs("index", "add", "long", "--model", "small")
    for columns in ("40", "80", None):
        text = outputs("search", "blue bottle", "--model", "small", columns=columns)[1]
        assert name in text and "…" not in text
        assert text.count("blue ") == text.count("Water bottle") + text.count("water bottle") == 5
        assert not any(line != line.rstrip() for line in text.splitlines())


def test_metrics_keep_their_numbers_at_80_columns(monkeypatch: pytest.MonkeyPatch, project: Path) -> None:
    names = [f"{'very_' * 8}long_system_{number}.balanced_accuracy" for number in range(2)]
    changes = [Change("metrics/evaluate/x.json", name, 0.51234, 0.61234, 0.0123, "better") for name in names]
    monkeypatch.setattr("vitrine.reporting.compare.metric_changes", lambda _: changes)
    code, text, _ = outputs("gate", "a-long-name-of-a-branch/and-more")
    assert code == 0 and max(map(len, text.splitlines())) <= 80
    assert len(re.findall(r"0\.5123 +0\.6123  \+0\.1000 ± 0\.0123  better", text)) == 2 and text.count("…") == 3
    text = outputs("gate", "HEAD", columns=None)[1]
    assert all(f"evaluate/x: {name}" in text for name in names), "piped output is not truncated"


def test_a_new_index_inherits_the_match_rule(project: Path) -> None:
    pipeline = Index.load(project / "index/small")
    pipeline.rule = MatchRule(0.3, 7.0, -2.0)
    pipeline.save(project / "index/small")
    add = ("index", "add", "photo_0.png", "--model", "small", "--index")
    assert outputs(*add, "own")[0] == 0 and Index.load(project / "own").rule == MatchRule(0.3, 7.0, -2.0)
    other = LabelSpace({**SPACE.labels, "color": ("green", "red")})
    relabeled = Index("small", other, {}, *(getattr(pipeline, name) for name in ARRAYS), rule=pipeline.rule)
    relabeled.save(project / "index/small")
    assert outputs(*add, "other")[0] == 0 and Index.load(project / "other").rule == MatchRule()
    (project / "index/small/index.json").unlink()
    assert outputs(*add, "third")[0] == 0 and Index.load(project / "third").rule == MatchRule()


def test_quiet_hides_notes_and_verbose_adds_details(project: Path) -> None:
    predict = ("predict", "photo_0.png", "absent.png", "--model", "small")
    assert "computed with torch fp32" in outputs(*predict)[2]
    for quiet in (outputs(*predict, "-q"), outputs("-q", *predict)):
        assert quiet[2] == "Skipped absent.png: not found\n" and quiet[1] == outputs(*predict)[1]
    for verbose in (outputs(*predict, "-v"), outputs("--verbose", *predict)):
        assert f"Project {project}, model small" in verbose[2] and "1 file in " in verbose[2]
    assert outputs("index", "add", "photo_0.png", "--model", "small", "-q")[1] == ""
    _, _, err = outputs("search", "blue", "--model", "absent", "-v")
    assert "Traceback" in err and "ERROR: index/absent" in err


def test_every_command_has_help_and_shell_completion_is_available(project: Path) -> None:
    names = ["init", "predict", "evaluate", "export", "search", "serve", "gate", "summary", "index"]
    for command in ("", *names, "index add"):
        code, text, _ = outputs(*command.split(), "-h")
        assert code == 0 and text.startswith("Usage: "), command
    assert "--install-completion" in outputs("-h")[1]
    assert outputs("--version")[1].startswith("vitrine ")
    assert outputs("predict")[0] == 2


def test_clips_and_photographs_are_predicted_in_argument_order(project: Path) -> None:
    pytest.importorskip("av")
    from clips import encode, encode_sound, pictures

    encode(project / "clip.mp4", pictures(20))
    encode_sound(project / "sound.mp4")
    (project / "empty.mov").write_bytes(b"")
    names = ("photo_0.png", "clip.mp4", "empty.mov", "photo_1.png", "sound.mp4")
    code, out, err = outputs("predict", *names, "--model", "small", "--frames", "8", "--format", "json")
    records = json.loads(out)
    assert_is("predictions", records)
    assert code == 1 and [record["image_path"] for record in records] == ["photo_0.png", "clip.mp4", "photo_1.png"]
    assert ["clip" in record for record in records] == [False, True, False]
    clip = records[1]["clip"]
    assert (clip["temperature"], len(clip["frames"])) == ("views", 8)
    faults = [json.loads(line) for line in err.splitlines()]
    assert {fault["image_path"]: fault["error"] for fault in faults} == {
        "empty.mov": "is empty (0 bytes)", "sound.mp4": "contains sound but no video"
    }  # fmt: skip
    code, out, _ = outputs("predict", "clip.mp4", "--model", "small")
    assert code == 0 and re.search(r"^  \d+ of 16 frames agree, decided at \d\.\d", out, re.MULTILINE)
