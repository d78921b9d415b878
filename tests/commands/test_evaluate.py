"""`vitrine evaluate` prints a table that fits or JSON that follows the schema, and reports what it left out."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from judging import make_theirs
from typer.testing import CliRunner

from lineage import ROOT
from vitrine.cli import app

SCHEMA = json.loads((ROOT / "docs/schema.json").read_text(encoding="utf-8"))


def assert_is(kind: str, document: Any) -> None:
    Draft202012Validator({"$ref": f"#/$defs/{kind}", "$defs": SCHEMA["$defs"]}).validate(document)


@pytest.fixture
def project(judged_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a project with predictions, and external photographs inside and next to it."""
    root = tmp_path / "project"
    shutil.copytree(judged_folder, root)
    monkeypatch.chdir(root)
    make_theirs(root / "data/theirs")
    make_theirs(tmp_path / "beside", 4, colors=("BLUE", "teal"))
    return root


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["evaluate", *arguments], env={"COLUMNS": "80"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_all_systems_are_evaluated_and_the_report_is_in_the_project(project: Path) -> None:
    code, out, err = run("data/theirs")
    assert code == 0 and err.endswith("Wrote report/external/theirs/index.html, report.md and evaluation.json.\n")
    assert out.startswith("theirs: 12 photographs of 6 items scored.\n") and max(map(len, out.splitlines())) <= 80
    for name in ("deit", "mobilevit", "ensemble"):
        assert sum(line.startswith(name) for line in out.splitlines()) == 4
    assert (project / "report/external/theirs/index.html").is_file() and "…" not in out


def test_external_datasets_and_other_working_folders_are_supported(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = run("../beside", "--model", "deit", "--alias", "color:teal=red", "--out", "../page", "-q")
    assert code == 0 and err == "" and (project.parent / "page/evaluation.json").is_file()
    assert "Unknown" not in out
    monkeypatch.chdir(project / "data")
    code, out, err = run("../../beside", "--model", "deit")
    assert code == 0 and "Wrote ../report/external/beside/index.html" in err
    assert "Unknown to the models, color: teal (4)." in out
    monkeypatch.chdir(project / "data/theirs")
    assert run(".", "--model", "deit")[0] == 0 and (project / "report/external/theirs/report.md").is_file()


def test_json_follows_the_schema(project: Path) -> None:
    code, out, _ = run("data/theirs", "--format", "json", "--model", "deit", "--model", "ensemble")
    evaluation = json.loads(out)
    assert_is("evaluation", evaluation)
    assert code == 0 and list(evaluation["systems"]) == ["deit", "ensemble"]
    assert json.loads((project / "report/external/theirs/evaluation.json").read_text(encoding="utf-8")) == evaluation
    lines = run("data/theirs", "--format", "jsonl", "--model", "deit")[1].splitlines()
    for line in lines:
        assert_is("evaluation_row", json.loads(line))
    rows = list(csv.DictReader(run("data/theirs", "--format", "csv", "--model", "deit")[1].splitlines()))
    assert [row["task"] for row in rows] == ["class", "color", "material"] and len(lines) == 3
    code, out, err = run("absent", "--format", "json")
    assert (code, out) == (2, "")
    assert_is("error", json.loads(err))


def test_broken_photographs_are_reported_and_the_exit_code_is_1(project: Path) -> None:
    (project / "data/theirs/images/2_1.png").write_bytes(b"no photograph")
    code, out, err = run("data/theirs", "--model", "deit")
    assert code == 1 and "Skipped data/theirs/images/2_1.png: is not an image that can be read\n" in err
    assert "Excluded because they cannot be read: 1 photograph." in out
    err = run("data/theirs", "--model", "deit", "--format", "json")[2]
    assert_is("error", json.loads(err.splitlines()[0]))


def test_photographs_of_the_project_are_rejected_or_left_out(project: Path) -> None:
    code, out, err = run("data/made_up", "--model", "deit")
    assert code == 2 and not out and err.count("same file") == 10 and "and 14 more" in err
    assert not (project / "report/external").exists()
    code, out, _ = run("data/made_up", "--model", "deit", "--allow-leakage")
    assert code == 0 and "Excluded, identical to photographs of train or val: 24\n" in out
    assert "The project's own test photographs: 8." in out and out.count(" (train)") + out.count(" (val)") == 10
    assert "Items whose name is also in train" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("absent", "not a folder"),
        ("params.yaml", "not a folder"),
        ("models", "contains no labels.csv"),
        ("data/theirs --model absent", "no system 'absent'"),
        ("data/theirs --alias color", "--alias: expected TASK:THEIRS=OURS"),
        ("data/theirs --alias shape:a=b", "alias for unknown task 'shape'"),
        ("data/theirs --out params.yaml", "is a file"),
        ("data/theirs --out data", "contains other files"),
    ],
)
def test_invalid_arguments_are_one_error(project: Path, arguments: str, message: str) -> None:
    code, out, err = run(*arguments.split())
    assert code == 2 and not out and err.startswith("ERROR: ") and message in err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_folder_without_permission_is_one_error(project: Path) -> None:
    (project.parent / "locked").mkdir(mode=0o500)
    code, _, err = run("data/theirs", "--model", "deit", "--out", "../locked/page")
    assert code == 2 and "Permission denied" in err
