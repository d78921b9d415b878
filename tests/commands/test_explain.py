"""`vitrine explain` writes pictures of the heat maps that are shown, and the reason if none is shown."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from PIL import Image
from typer.testing import CliRunner

from lineage import ROOT
from vitrine.cli import app
from vitrine.inference.heatmaps import Verdict, write_verdicts
from vitrine.inference.runtimes import checkpoint_digest

SCHEMA = json.loads((ROOT / "docs/schema.json").read_text(encoding="utf-8"))
WON, LOST = {"random": (0.2, 0.1, 0.3)}, {"random": (0.0, -0.1, 0.1)}


def judge(root: Path, **by_task: dict[str, tuple[float, float, float]]) -> None:
    verdicts = {
        (name, task): Verdict(checkpoint_digest(name, root / "models"), differences)
        for name in ("deit", "ensemble")
        for task, differences in by_task.items()
    }
    write_verdicts(root / "models/explanations.json", verdicts)


@pytest.fixture
def project(project_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = shutil.copytree(project_folder, tmp_path / "project")
    judge(root, **{"class": WON, "color": WON, "material": LOST})
    monkeypatch.chdir(root)
    return root


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["explain", *arguments], env={"COLUMNS": "120"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


PHOTO = "data/made_up/images/000.png"


def test_a_picture_is_written_for_the_task(project: Path) -> None:
    code, out, err = run(PHOTO, "--task", "color", "--model", "deit")
    assert code == 0 and err == "Wrote 1 picture to explanations.\n"
    assert "explanations/000_color_deit.png" in out and "%" in out
    with Image.open(project / "explanations/000_color_deit.png") as picture:
        assert picture.size == (512, 512) and picture.mode == "RGB"


def test_without_a_task_all_heat_maps_that_are_shown_are_written(project: Path) -> None:
    code, out, _ = run(PHOTO, "data/made_up/images/001.png", "--out", "why", "--format", "json", "-q")
    records = json.loads(out)
    Draft202012Validator({"$ref": "#/$defs/explanations", "$defs": SCHEMA["$defs"]}).validate(records)
    assert code == 0 and [(r["task"], Path(r["heatmap"]).name) for r in records] == [
        ("class", "001_000_class_ensemble.png"), ("color", "001_000_color_ensemble.png"),
        ("class", "002_001_class_ensemble.png"), ("color", "002_001_color_ensemble.png"),
    ]  # fmt: skip
    assert all((project / record["heatmap"]).is_file() for record in records)
    assert list(csv.DictReader(run(PHOTO, "--format", "csv", "-q")[1].splitlines()))[1]["task"] == "color"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--task", "material"), r"ensemble, material: no heat map is shown: on val .* more faithful than random maps"),
        (("--task", "size"), "--task size: no such task. Available: class, color, material"),
        (("--model", "absent"), "no system 'absent'"),
        (("--model", "mobilevit"), "mobilevit: no heat map is shown for any task: .* dvc repro explain"),
        (("--out", "params.yaml"), "params.yaml: is a file"),
    ],
)
def test_a_heat_map_that_cannot_be_shown_is_one_error(project: Path, arguments: Any, message: str) -> None:
    code, out, err = run(PHOTO, *arguments)
    assert code == 2 and not out and len(err.splitlines()) == 1 and not (project / "explanations").exists()
    assert re.search(message, err), err


def test_broken_photographs_are_reported_and_the_others_explained(project: Path) -> None:
    (project / "broken.png").write_text("x")
    code, out, err = run("broken.png", PHOTO, "--task", "class", "--format", "jsonl")
    assert code == 1 and json.loads(err.splitlines()[0])["image_path"] == "broken.png"
    assert len(out.splitlines()) == 1 and json.loads(out)["image_path"] == PHOTO


def test_an_export_alone_is_not_enough(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vitrine.inference.explanations", None)
    code, _, err = run(PHOTO, "--task", "class")
    assert code == 2 and "Heat maps need PyTorch; an export is not enough" in err
