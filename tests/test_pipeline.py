"""dvc.yaml, params.yaml and code agree, and the whole pipeline runs under DVC on a small made-up dataset."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import make_dataset

import lineage
from vitrine.params import read_section
from vitrine.pretraining import ArmParams
from vitrine.systems import NETWORKS

ROOT = Path(__file__).parents[1]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
WEIGHTS = ("weights/deit_tiny.safetensors", "weights/mobilevit_xxs.safetensors")
LIGHT = (
    *("params", "artifacts", "labels", "predictions", "photos", "catalog", "splits", "metrics", "retrieval", "figures"),
    *("resampling", "calibration", "scoring", "systems", "reporting", "pages", "queries", "relevance"),
)


# -- contracts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", lineage.PIPELINES)
def test_every_stage_declares_the_modules_and_packages_that_it_imports(path: str) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == lineage.pipeline_text(ROOT / path), "Run: make deps"


def test_the_environment_is_what_stages_import_as_the_lock_pins_it() -> None:
    stale = [path for path, text in lineage.generated().items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "Run: make deps"
    versions = yaml.safe_load((ROOT / "environment.yaml").read_text(encoding="utf-8"))
    assert {"numpy", "pillow", "scikit-learn", "timm", "torch", "mitsuba", "python"} < set(versions)
    assert "gradio" not in versions


def test_no_pipeline_is_left_out() -> None:
    files = subprocess.run(["git", "ls-files", "*dvc.yaml"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(files.stdout.split()) == set(lineage.PIPELINES)


def test_the_outermost_package_holds_only_the_version() -> None:
    text = (ROOT / "src/vitrine/__init__.py").read_text(encoding="utf-8")
    assert [type(node) for node in ast.parse(text).body] == [ast.Expr, ast.Assign]


def test_stages_are_named_like_their_scripts_and_params() -> None:
    assert list(STAGES) == ["split", *(f"train_{name}" for name in NETWORKS), "evaluate", "index", "report"]
    for name, stage in STAGES.items():
        assert stage["cmd"] == f"python stages/{name}.py"
        assert len((ROOT / f"stages/{name}.py").read_text(encoding="utf-8").splitlines()) <= 80


def test_every_arm_of_pre_training_is_valid_trained_and_probed() -> None:
    stages = yaml.safe_load((ROOT / "pretrain/dvc.yaml").read_text(encoding="utf-8"))["stages"]
    sections = yaml.safe_load((ROOT / "pretrain/params.yaml").read_text(encoding="utf-8"))
    arms = {name for name, section in sections.items() if "architecture" in section}
    trained = {name.removeprefix("train_") for name in stages if name.startswith("train_")}
    assert arms == {*trained, *stages["ablate"]["matrix"]["arm"]}
    assert {f"pretrain/backbones/{arm}.safetensors" for arm in arms} < set(stages["probe"]["deps"])
    for arm in arms:
        params = read_section(arm, ArmParams, ROOT / "pretrain/params.yaml")
        stage = stages.get(f"train_{arm}", stages["ablate"])
        assert {path for path in (params.start, params.teacher) if path != "none"} <= set(stage["deps"])
        if stage is not stages["ablate"]:
            assert stage["cmd"].split()[-1] == arm and stage["params"][0]["pretrain/params.yaml"] == ["training", arm]
            assert set(stage["outs"]) == {f"pretrain/backbones/{arm}.{suffix}" for suffix in ("safetensors", "json")}


def declared_keys(folder: Path, stage: dict[str, Any]) -> set[str]:
    """List the params that a stage declares, key by key, as file:section.key; packages aside."""
    files: dict[str, list[str]] = {}
    for entry in stage["params"]:
        for file, names in (entry if isinstance(entry, dict) else {"params.yaml": [entry]}).items():
            files.setdefault(file, []).extend(names)
    keys = set()
    for file, names in files.items():
        if Path(file).name != "environment.yaml":
            sections = yaml.safe_load((folder / file).read_text(encoding="utf-8"))
            for name in names:
                section, _, key = name.partition(".")
                keys |= {f"{file}:{section}.{each}" for each in ([key] if key else sections[section])}
    return keys


def test_every_section_of_params_belongs_to_a_stage() -> None:
    entries = [entry for stage in STAGES.values() for entry in stage["params"] if isinstance(entry, str)]
    assert set(PARAMS) == set(entries)


def test_every_key_of_params_has_a_comment() -> None:
    lines = (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines()
    bare = [line for line in lines if line.startswith("  ") and "#" not in line]
    assert bare == []


def test_light_modules_never_import_torch_and_only_figures_draws() -> None:
    package = ROOT / "src/vitrine"
    for module in LIGHT:
        assert not lineage.reach(package / f"{module}.py")[1] & {"torch", "torchvision", "timm"}, module
    for path in [*package.glob("*.py"), *(ROOT / "stages").glob("*.py")]:
        names = {name.split(".")[0] for name in lineage.imported_names(path)}
        assert "stages" not in names
        assert "matplotlib" not in names or path.name == "figures.py"


@pytest.mark.parametrize("stage", ["split", "index", "report"])
def test_light_stages_start_without_torch(stage: str) -> None:
    code = f"import sys; sys.path.insert(0, 'stages'); import {stage}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_outputs_lie_where_they_belong_and_small_ones_are_in_git() -> None:
    for stage in STAGES.values():
        for kind in ("outs", "metrics", "plots"):
            for entry in stage.get(kind, []):
                path, options = next(iter(entry.items())) if isinstance(entry, dict) else (entry, {})
                assert path.split("/")[0] in ("data", "models", "predictions", "index", "metrics", "plots", "report")
                assert (options.get("cache") is False) == (path.split("/")[0] in ("metrics", "plots", "report"))


# -- a whole run --------------------------------------------------------------------------------------------------

SMALL: dict[str, dict[str, Any]] = {
    "data": {"path": "data/small", "attributes": ["color", "material"], "aliases": {}, "masked_labels": {}},
    "split": {"photo_size_px": 24},
    "training": {"batch_size": 8, "warmup_epochs": 0},
    "train_deit": {
        "architecture": "test_vit",
        "weights": "none",
        "image_size_px": 32,
        "head_epochs": 1,
        "full_epochs": 1,
    },
    "train_mobilevit": {"image_size_px": 32, "epochs": 1},
}


class Project:
    """A copy of the project in a repository of its own, on the made-up dataset."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("src", "stages"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        (root / "data").mkdir()
        (root / "weights").mkdir()
        for name in ("dvc.yaml", ".dvcignore", "data/synonyms.yaml", "data/corrections.csv", *WEIGHTS):
            shutil.copy(ROOT / name, root / name)
        make_dataset(root / "data/small")
        params = {name: {**values, **SMALL.get(name, {})} for name, values in PARAMS.items()}
        (root / "params.yaml").write_text(yaml.safe_dump(params))
        self.git("init", "-q")
        self.dvc("init", "-q")
        self.dvc("config", "core.analytics", "false")
        self.commit("start")

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.root / "src"),
            "DVC_NO_ANALYTICS": "1",
            "OMP_NUM_THREADS": "2",
        }
        return subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True)

    def dvc(self, *arguments: str) -> str:
        result = self.run(sys.executable, "-m", "dvc", *arguments)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout + result.stderr

    def git(self, *arguments: str) -> None:
        name = ("-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false")
        result = self.run("git", *name, *arguments)
        assert result.returncode == 0, result.stderr

    def commit(self, message: str) -> None:
        self.git("add", "-A")
        self.git("commit", "-qm", message)

    def set_param(self, section: str, key: str, value: Any) -> None:
        params = yaml.safe_load((self.root / "params.yaml").read_text())
        params[section][key] = value
        (self.root / "params.yaml").write_text(yaml.safe_dump(params))

    def outputs(self) -> dict[str, bytes]:
        folders = ("models", "predictions", "index", "metrics", "plots", "report", "data/splits")
        files = (path for folder in folders for path in (self.root / folder).rglob("*") if path.is_file())
        return {path.relative_to(self.root).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("project"))
    project.dvc("repro")
    project.commit("first run")
    return project


@pytest.mark.slow
def test_a_run_makes_everything_and_a_second_one_does_nothing(project: Project) -> None:
    found = set(project.outputs())
    for stage in STAGES.values():
        for kind in ("outs", "metrics", "plots"):
            for entry in stage.get(kind, []):
                path = next(iter(entry)) if isinstance(entry, dict) else entry
                assert any(name == path or name.startswith(f"{path}/") for name in found), path
    assert "up to date" in project.dvc("repro")
    metrics = json.loads((project.root / "metrics/evaluate.json").read_text())
    assert set(metrics) == {"deit", "mobilevit", "ensemble", "svm"}
    assert set(metrics["deit"]) == {"class", "color", "material", "all_tasks"}
    assert not list((project.root / ".resume").iterdir())
    report = (project.root / "report/report.md").read_text()
    pictures = set(re.findall(r"!\[[^]]*\]\(([^)]+)\)", report))
    assert len(pictures) >= 15
    for picture in pictures:
        assert (project.root / "report" / picture).is_file(), picture


@pytest.mark.slow
def test_examples_in_the_documentation_run(project: Project) -> None:
    text = (ROOT / "docs/search.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        code = block.replace("data/sample", "data/small").replace("*.jpg", "*.png")
        result = project.run(sys.executable, "-c", code)
        assert result.returncode == 0 and result.stdout, result.stderr


@pytest.mark.slow
def test_a_forced_run_gives_the_same_bytes(project: Project) -> None:
    before = project.outputs()
    project.dvc("repro", "--force")
    after = project.outputs()
    assert [name for name in before if before[name] != after.get(name)] == []


@pytest.mark.slow
def test_one_models_param_reruns_that_model_and_what_follows(project: Project) -> None:
    project.set_param("train_mobilevit", "learning_rate", 0.01)
    output = project.dvc("repro")
    ran = [name for name in STAGES if f"Running stage '{name}'" in output]
    assert ran == ["train_mobilevit", "evaluate", "index", "report"]
    change = json.loads(project.dvc("metrics", "diff", "--json"))
    assert "metrics/train_mobilevit.json" in change
    assert "metrics/train_deit.json" not in change
    params = json.loads(project.dvc("params", "diff", "--json"))
    rates = params["params.yaml"]["train_mobilevit.learning_rate"]
    assert (rates["old"], rates["new"]) == (PARAMS["train_mobilevit"]["learning_rate"], 0.01)
    plots = project.dvc("plots", "diff", "--json")
    assert "Validation macro F1 of the class" in plots
    project.git("checkout", "-q", ".")
    project.dvc("checkout")
    assert "up to date" in project.dvc("repro")


@pytest.mark.slow
def test_faults_stop_a_run_with_one_clear_message_and_leave_nothing(project: Project) -> None:
    photo = project.root / "data/small/images/000.png"
    whole = photo.read_bytes()
    photo.write_bytes(whole[:40])
    broken = project.run(sys.executable, "-m", "dvc", "repro", "split")
    assert broken.returncode != 0
    assert "line 2, column image_path: 'images/000.png' is not an image" in broken.stderr
    assert "Traceback" not in broken.stderr
    assert not (project.root / "data/splits/photos.csv").exists()
    assert not (project.root / "metrics/split.json").exists()
    photo.write_bytes(whole)

    project.set_param("train_deit", "full_epochs", "many")
    wrong = project.run(sys.executable, "-m", "dvc", "repro", "train_deit")
    assert wrong.returncode != 0
    assert "train_deit.full_epochs: expected a valid integer; found 'many'" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    assert not (project.root / "models/deit").exists()
    project.git("checkout", "-q", ".")
    project.dvc("checkout")
    assert "up to date" in project.dvc("repro")
