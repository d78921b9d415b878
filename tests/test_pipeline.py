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

from vitrine.params import read_section
from vitrine.pretraining import PretrainingParams

ROOT = Path(__file__).parents[1]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
WEIGHTS = ("weights/deit_tiny.safetensors", "weights/mobilevit_xxs.safetensors")
LIGHT = (
    *("params", "artifacts", "labels", "predictions", "photos", "catalog", "splits", "metrics", "retrieval", "figures"),
    *("resampling", "calibration", "scoring", "systems", "reporting", "pages", "queries", "relevance"),
)


# -- contracts ----------------------------------------------------------------------------------------------------


def imports(path: Path) -> set[str]:
    """List the modules that a file imports anywhere, `from vitrine import x` as vitrine.x."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"vitrine.{alias.name}" for alias in node.names} if node.module == "vitrine" else {node.module}
    return found


def closure(script: Path, package: Path) -> set[str]:
    """List the modules of the package that a script reaches."""
    reached: set[str] = set()
    waiting = [script]
    while waiting:
        for name in imports(waiting.pop()):
            module = name.removeprefix("vitrine.")
            if name.startswith("vitrine.") and module not in reached:
                reached.add(module)
                waiting.append(package / f"{module}.py")
    return reached


def undeclared_and_unused(script: Path, package: Path, deps: list[str]) -> tuple[set[str], set[str]]:
    """Compare a script's modules with the deps of its stage."""
    needed = closure(script, package)
    declared = {Path(dep).stem for dep in deps if dep.startswith("src/vitrine/")}
    return needed - declared, declared - needed


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_modules_that_a_stage_reaches(stage: str) -> None:
    deps = STAGES[stage]["deps"]
    assert undeclared_and_unused(ROOT / f"stages/{stage}.py", ROOT / "src/vitrine", deps) == (set(), set())
    assert f"stages/{stage}.py" in deps


def test_the_check_of_deps_sees_what_is_missing_and_what_is_too_much(tmp_path: Path) -> None:
    (tmp_path / "stage.py").write_text("from vitrine.one import x\n")
    (tmp_path / "one.py").write_text("def f():\n    from vitrine import two\n")
    (tmp_path / "two.py").write_text("import json\n")
    found = undeclared_and_unused(tmp_path / "stage.py", tmp_path, ["src/vitrine/one.py", "src/vitrine/three.py"])
    assert found == ({"two"}, {"three"})


def test_stages_are_named_like_their_scripts_and_params() -> None:
    assert list(STAGES) == ["split", "train_deit", "train_mobilevit", "evaluate", "index", "report"]
    for name, stage in STAGES.items():
        assert stage["cmd"] == f"python stages/{name}.py"
        assert len((ROOT / f"stages/{name}.py").read_text(encoding="utf-8").splitlines()) <= 80


@pytest.mark.parametrize("name", ["folds", "train", "baselines", "judge"])
def test_deps_of_cross_validation_are_the_modules_that_it_reaches(name: str) -> None:
    stage = yaml.safe_load((ROOT / "crossval/dvc.yaml").read_text(encoding="utf-8"))["stages"][name]
    script = ROOT / f"crossval/{name}.py"
    assert undeclared_and_unused(script, ROOT / "src/vitrine", stage["deps"]) == (set(), set())
    assert f"crossval/{name}.py" in stage["deps"]


PRETRAINING = {
    "import_weights": "import_weights", "render": "shard", "train_mobilevit": "backbone", "train_deit": "backbone",
}  # fmt: skip


@pytest.mark.parametrize(("name", "script"), PRETRAINING.items())
def test_deps_of_pre_training_are_the_modules_that_it_reaches(name: str, script: str) -> None:
    stages = yaml.safe_load((ROOT / "pretrain/dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert set(PRETRAINING) == set(stages)
    path = ROOT / f"pretrain/{script}.py"
    assert f"pretrain/{script}.py" in stages[name]["deps"]
    if name != "render":  # whose modules form a package
        assert undeclared_and_unused(path, ROOT / "src/vitrine", stages[name]["deps"]) == (set(), set())


@pytest.mark.parametrize("name", ["train_mobilevit", "train_deit"])
def test_pre_training_declares_the_files_that_its_params_name(name: str) -> None:
    stages = yaml.safe_load((ROOT / "pretrain/dvc.yaml").read_text(encoding="utf-8"))["stages"]
    params = read_section(name, PretrainingParams, ROOT / "pretrain/params.yaml")
    shards = {*params.train_shards, params.val_shard}
    named = {f"pretrain/shards/{shard}.npz" for shard in shards}
    named |= {path for path in (params.start, params.teacher) if path != "none"}
    assert named == {dep for dep in stages[name]["deps"] if not dep.endswith(".py")}
    assert shards <= set(stages["render"]["matrix"]["shard"])


def sections_read(script: Path) -> set[str]:
    calls = (node for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
    read = [call.args[0] for call in calls if getattr(call.func, "id", "") == "read_section"]
    return {ast.literal_eval(name) for name in read if isinstance(name, ast.Constant)}


@pytest.mark.parametrize("stage", STAGES)
def test_params_declared_are_params_read(stage: str) -> None:
    assert sections_read(ROOT / f"stages/{stage}.py") == set(STAGES[stage].get("params", []))


def test_every_section_of_params_belongs_to_a_stage() -> None:
    assert set(PARAMS) == {section for stage in STAGES.values() for section in stage.get("params", [])}


@pytest.mark.parametrize("stage", STAGES)
def test_every_key_of_params_is_used_by_the_stages_code(stage: str) -> None:
    script = ROOT / f"stages/{stage}.py"
    files = [script, *(ROOT / f"src/vitrine/{module}.py" for module in closure(script, ROOT / "src/vitrine"))]
    attributes = {
        node.attr for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
    }  # fmt: skip
    keys = {key for section in STAGES[stage].get("params", []) for key in PARAMS[section]}
    assert keys <= attributes


def test_every_key_of_params_has_a_comment() -> None:
    lines = (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines()
    bare = [line for line in lines if line.startswith("  ") and "#" not in line]
    assert bare == []


def test_light_modules_never_import_torch_and_only_figures_draws() -> None:
    package = ROOT / "src/vitrine"
    for module in LIGHT:
        for reached in {module, *closure(package / f"{module}.py", package)}:
            assert not {name.split(".")[0] for name in imports(package / f"{reached}.py")} & {
                "torch",
                "torchvision",
                "timm",
            }
    for path in [*package.glob("*.py"), *(ROOT / "stages").glob("*.py")]:
        names = {name.split(".")[0] for name in imports(path)}
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
