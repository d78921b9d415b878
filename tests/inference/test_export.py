"""An exported system predicts what the pipeline predicts without the package, and describes itself."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from vitrine.artifacts import ArtifactError, read_json, write_json
from vitrine.inference import runtimes
from vitrine.inference.export import export_onnx, resize_matrix
from vitrine.inference.network import Network
from vitrine.inference.novelty import FOLDER, Detector, Novelty
from vitrine.inference.package import package_export
from vitrine.inference.predictor import Predictor
from vitrine.inference.quantize import backbone_nodes, calibration_rows, quantize_onnx, quantize_openvino
from vitrine.inference.runtimes import (
    FILES,
    MIXED,
    Description,
    ExportRuntime,
    MixedRuntime,
    OpenvinoRuntime,
    TorchRuntime,
    available_variants,
    checkpoint_digest,
    load_runtime,
    open_variant,
)
from vitrine.inference.systems import System, save_systems
from vitrine.labels import LabelSpace
from vitrine.learning.model import create_model, save_model
from vitrine.learning.preprocess import Preprocessing
from vitrine.photos import Decoding
from vitrine.predictions import Predictions
from vitrine.scale.engines import fix_threads

SPACE = LabelSpace({"class": ("cup", "hat", "über_hat"), "color": ("blue", "red", "green")})
PHOTOS = np.random.default_rng(3).integers(0, 256, (9, 48, 48, 3), dtype=np.uint8)
NAMES = {"one": ("one",), "two": ("two",), "ensemble": ("one", "two")}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export and quantize two networks and an ensemble that has two members for class and one for color."""
    root = tmp_path_factory.mktemp("exported")
    for seed, (name, architecture) in enumerate({"one": "test_efficientnet", "two": "test_vit"}.items()):
        torch.manual_seed(seed)
        model = create_model(architecture, "none", SPACE, Decoding(48, 50.0), 32, 0.1, 0.2)
        for parameter in model.heads.parameters():
            parameter.data *= 4  # makes probabilities differ clearly
        save_model(model, root / "models" / name, {})
    systems = {}
    for name, members in NAMES.items():
        temperatures = {"class": 0.6 + 0.1 * len(systems), "color": 1.7}
        systems[name] = System({"class": members, "color": members[:1]}, temperatures, {"class": 0.4, "color": None})
    save_systems(root / "models/systems.json", systems)
    for name in ("two", "ensemble"):
        units = TorchRuntime.load(name, root / "models").predict(PHOTOS[:4])[1]
        bank = units / np.linalg.norm(units, axis=1, keepdims=True)
        novelty = Novelty(Detector("neighbors", {"bank": bank}, 2), 0.001, checkpoint_digest(name, root / "models"))
        novelty.save(root / "models" / FOLDER, name)
        export_onnx(name, root / "models", root / "exports" / name)
    quantize_openvino(root / "exports/two", PHOTOS)
    quantize_onnx(root / "exports/two", PHOTOS)
    return root


def reference(project: Path, system: str) -> TorchRuntime:
    return TorchRuntime.load(system, project / "models")


@pytest.mark.parametrize("variant", ["onnxruntime fp32", "openvino fp32"])
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_an_export_predicts_what_pytorch_predicts(project: Path, variant: str, batch_size: int) -> None:
    expected, embeddings = reference(project, "ensemble").predict(PHOTOS)
    found, units = open_variant(project / "exports/ensemble", variant, project / "models").predict(PHOTOS, batch_size)
    assert list(found) == list(SPACE)
    for task in SPACE:
        np.testing.assert_allclose(found[task], expected[task], atol=2e-6)
        assert found[task].std() > 0.01
    np.testing.assert_allclose(np.linalg.norm(units, axis=1), 1, atol=1e-6)
    cosines = np.sum(units * embeddings, axis=1) / np.linalg.norm(embeddings, axis=1)
    np.testing.assert_allclose(cosines, 1, atol=1e-6)
    assert units.shape[1] == Description.read(project / "exports/ensemble").num_features


@pytest.mark.parametrize("variant", ["onnxruntime fp32", "openvino fp32"])
@pytest.mark.parametrize("system", ["two", "ensemble"])
def test_the_graph_computes_the_novelty_score_of_the_predictor(project: Path, variant: str, system: str) -> None:
    runtime = open_variant(project / "exports" / system, variant, project / "models")
    assert isinstance(runtime, ExportRuntime)
    probs, embeddings, novelty = runtime.predict_all(PHOTOS, 3)
    fitted = Novelty.load(project / "models", system, runtime.checkpoint)
    assert novelty is not None and novelty.shape == (9,) and fitted is not None
    found = Predictions(SPACE, ("",) * 9, probs, embeddings)
    np.testing.assert_allclose(novelty, fitted.scores(found), atol=2e-6)
    assert novelty[4:].min() > 1e-5
    assert Description.read(project / "exports" / system).novelty == {"score": "neighbors", "threshold": 0.001}


def test_an_export_with_another_novelty_threshold_is_refused(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project / "models", tmp_path / "models")
    fitted = Novelty.load(tmp_path / "models", "two", checkpoint_digest("two", tmp_path / "models"))
    assert fitted is not None
    replace(fitted, threshold=0.5).save(tmp_path / "models" / FOLDER, "two")
    with pytest.raises(
        ArtifactError, match=r"two: its novelty score or threshold differs from models/novelty\. Run: make export"
    ):
        package_export(tmp_path / "taken", "two", "onnx", "fp32", tmp_path / "models", project / "exports")


@pytest.mark.parametrize("variant", ["onnxruntime fp32", "openvino fp32"])
def test_no_photographs_give_empty_arrays(project: Path, variant: str) -> None:
    probs, embeddings = open_variant(project / "exports/ensemble", variant, project / "models").predict(PHOTOS[:0])
    assert probs["class"].shape == (0, 3) and embeddings.shape[0] == 0 and embeddings.shape[1] > 0


def test_extreme_probabilities_are_floored_as_in_calibration(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("test_vit", "none", SPACE, Decoding(48, 50.0), 32, 0.0, 0.0)
    for parameter in model.heads.parameters():
        parameter.data *= 60
    save_model(model, tmp_path / "models/sure", {})
    system = System(dict.fromkeys(SPACE, ("sure",)), dict.fromkeys(SPACE, 4.0), dict.fromkeys(SPACE, None))
    save_systems(tmp_path / "models/systems.json", {"sure": system})
    export_onnx("sure", tmp_path / "models", tmp_path / "exports/sure")
    raw = Network.load(tmp_path / "models/sure").predict(PHOTOS, ["x"] * len(PHOTOS)).probs["class"]
    assert raw.min() < 1e-9, "nothing is floored"
    expected, _ = TorchRuntime.load("sure", tmp_path / "models").predict(PHOTOS)
    found, _ = open_variant(tmp_path / "exports/sure", "onnxruntime fp32", tmp_path / "models").predict(PHOTOS)
    np.testing.assert_allclose(found["class"], expected["class"], atol=2e-6)


@pytest.mark.parametrize(("side", "size", "crop"), [(48, 32, 0.9), (32, 48, 0.875), (40, 40, 1.0), (96, 17, 0.95)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_resizing_is_a_product_of_matrices(side: int, size: int, crop: float, interpolation: str) -> None:
    preprocessing = Preprocessing(Decoding(side, 1.0), size, crop, interpolation, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    photos = np.random.default_rng(1).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    matrix = resize_matrix(preprocessing)
    found = matrix @ (torch.from_numpy(photos).permute(0, 3, 1, 2) / 255) @ matrix.T
    torch.testing.assert_close(
        found.clamp(0, 1), preprocessing.eval_transform(photos, torch.device("cpu")), atol=1e-5, rtol=0
    )


def test_the_file_describes_itself_and_contains_no_local_paths(project: Path) -> None:
    path = project / "exports/ensemble/model.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["vitrine"])
    assert about == read_json(project / "exports/ensemble/export.json")
    assert about["display_names"]["über_hat"] == "über hat" and about["sure_thresholds"] == {
        "class": 0.4,
        "color": None,
    }
    assert about["checkpoint"] == checkpoint_digest("ensemble", project / "models") and about["license"] == "Apache-2.0"
    assert session.get_inputs()[0].shape[1:] == [48, 48, 3]
    onnx.checker.check_model(path)
    text = path.read_bytes()
    assert str(Path.cwd()).encode() not in text and b"site-packages" not in text


def test_the_example_needs_only_onnxruntime_numpy_and_pillow(project: Path, tmp_path: Path) -> None:
    package_export(tmp_path / "taken", "ensemble", "onnx", "fp32", project / "models", project / "exports")
    Image.fromarray(PHOTOS[0]).save(tmp_path / "photo.png")
    blocked = (
        "import sys, runpy\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'timm', 'vitrine', 'scipy', 'pandas', 'onnx', 'openvino'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    command = [sys.executable, "-c", blocked, "predict_onnx.py", "model.onnx", str(tmp_path / "photo.png")]
    found = subprocess.run(command, cwd=tmp_path / "taken", capture_output=True, text=True, check=True).stdout
    predictor = Predictor("ensemble", reference(project, "ensemble"))
    tasks = predictor.predict_records(PHOTOS[:1], ["x"])[0]["tasks"]
    for task, answer in tasks.items():
        best = answer["labels"][0]
        assert f"{task} {best['label'].replace('_', ' ')} {best['probability']:.4f}" in found
    example = (tmp_path / "taken/predict_onnx.py").read_text(encoding="utf-8").splitlines()
    assert len(example) <= 40


def test_two_precisions_of_one_file_do_not_share_a_cache(project: Path) -> None:
    variants = [each for each in available_variants(False) if each in ("openvino fp32", "openvino bf16")]
    first, *rest = sorted(variants, reverse=True)
    expected = open_variant(project / "exports/two", first, project / "models").predict(PHOTOS)[1]
    for variant in rest:  # on processors with bfloat16
        for _ in range(2):  # compiled, then from the cache
            found = open_variant(project / "exports/two", variant, project / "models").predict(PHOTOS)[1]
            assert np.isfinite(found).all() and np.sum(found * expected, axis=1).min() > 0.9
    assert {path.name for path in (project / ".cache").iterdir()} >= {each.replace(" ", "_") for each in variants}


def test_workers_of_one_machine_do_not_share_a_core(project: Path) -> None:
    runtime = open_variant(project / "exports/two", "openvino fp32", project / "models")
    assert isinstance(runtime, OpenvinoRuntime)
    fix_threads(Predictor("two", runtime), 1)
    runtime.predict(PHOTOS)
    for compiled in runtime.compiled.values():  # if pinned, the only thread of each worker would be on the first core
        assert compiled.get_property("ENABLE_CPU_PINNING") is False
        assert compiled.get_property("INFERENCE_NUM_THREADS") == 1


@pytest.mark.parametrize("variant", ["onnxruntime int8", "openvino int8"])
def test_int8_quantizes_only_the_backbone(project: Path, variant: str) -> None:
    expected, _ = reference(project, "two").predict(PHOTOS)
    found, units = open_variant(project / "exports/two", variant, project / "models").predict(PHOTOS)
    assert 1e-5 < np.abs(found["class"] - expected["class"]).max() < 0.5
    np.testing.assert_allclose(np.linalg.norm(units, axis=1), 1, atol=1e-5)
    file = FILES[variant].replace(".xml", ".bin")
    floats = sum(parameter.numel() for parameter in Network.load(project / "models/two").model.parameters())
    assert (project / "exports/two" / file).stat().st_size < 4 * floats


def test_nodes_before_convolutions_and_after_embeddings_stay_in_float() -> None:
    edges = [
        ("photos", "Parameter", []),
        ("matrix", "Constant", []),
        ("resize", "MatMul", ["photos", "matrix"]),
        ("patches", "Convolution", ["resize"]),
        ("pool", "ReduceMean", ["patches"]),
        ("parts.0.model.heads.0.0.weight", "Constant", []),
        ("first", "MatMul", ["pool", "parts.0.model.heads.0.0.weight"]),
        ("parts.0.model.heads.0.3.weight", "Constant", []),
        ("second", "MatMul", ["first", "parts.0.model.heads.0.3.weight"]),
        ("length", "ReduceL2", ["pool"]),
    ]
    assert backbone_nodes(edges) == {"patches", "pool"}


def test_calibration_photographs_are_spread_over_train() -> None:
    train = np.arange(1000) % 3 > 0
    rows = calibration_rows(train)
    assert len(rows) == 128 == len(set(rows.tolist())) and train[rows].all() and rows[0] == 1 and rows[-1] == 998
    assert calibration_rows(np.array([False, True, True])).tolist() == [1, 2]


# -- choosing ------------------------------------------------------------------------------------------------------


def folders(project: Path) -> tuple[Path, Path]:
    return project / "models", project / "exports"


def test_an_export_is_served_only_if_it_is_of_these_models(project: Path, tmp_path: Path) -> None:
    assert load_runtime("ensemble", *folders(project), "auto").name == "openvino fp32", "nothing else passed a gate"
    assert load_runtime("one", *folders(project), "auto").name == "torch fp32", "it has no export"
    assert load_runtime("ensemble", *folders(project), "torch").name == "torch fp32"
    assert load_runtime("ensemble", *folders(project), "onnxruntime").name == "onnxruntime fp32"
    models = tmp_path / "models"
    for name in ("one", "two"):
        (models / name).mkdir(parents=True)
        for file in ("model.json", "model.safetensors"):
            (models / name / file).write_bytes((project / "models" / name / file).read_bytes())
    document = read_json(project / "models/systems.json")
    document["ensemble"]["temperatures"]["class"] += 0.5
    write_json(models / "systems.json", document)
    assert load_runtime("ensemble", models, project / "exports", "auto").name == "torch fp32", "temperatures differ"
    with pytest.raises(ArtifactError, match=r"does not match the models in"):
        load_runtime("ensemble", models, project / "exports", "openvino")
    with pytest.raises(ArtifactError, match=r"contains no export. Run: make export"):
        load_runtime("one", *folders(project), "onnxruntime")


def test_rounded_variants_are_served_only_if_they_passed_the_gate(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gates = project / "exports/gates.json"
    monkeypatch.setattr(runtimes, "processor_precisions", lambda: {"FP32", "INT8"})
    assert load_runtime("two", *folders(project), "auto").name == "openvino fp32"
    try:
        write_json(gates, {"two": {"openvino int8": True, "openvino bf16": True, "onnxruntime int8": False}})
        assert load_runtime("two", *folders(project), "auto").name == "openvino int8", "no bfloat16 on this processor"
        assert load_runtime("two", *folders(project), "onnxruntime").name == "onnxruntime fp32"
        monkeypatch.setattr(runtimes, "find_spec", lambda name: None if name == "openvino" else find_spec(name))
        assert load_runtime("two", *folders(project), "auto").name == "onnxruntime fp32"
        with pytest.raises(ArtifactError, match="openvino is not installed"):
            load_runtime("two", *folders(project), "openvino")
    finally:
        gates.unlink()


@pytest.fixture(scope="module")
def whole(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the project with both networks exported, where bf16 passed for the first network and the ensemble."""
    root = tmp_path_factory.mktemp("whole") / "project"
    shutil.copytree(project, root)
    export_onnx("one", root / "models", root / "exports/one")
    passed = {"one": {"openvino bf16": True}, "two": {"openvino bf16": False}, "ensemble": {MIXED: True}}
    write_json(root / "exports/gates.json", passed)
    return root


def test_each_network_of_an_ensemble_uses_the_precision_that_passed(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtimes, "processor_precisions", lambda: {"FP32", "BF16"})
    runtime = load_runtime("ensemble", *folders(whole), "auto")
    assert isinstance(runtime, MixedRuntime) and runtime.name == "openvino mixed"
    assert {name: each.name for name, each in runtime.runtimes.items()} == {
        "one": "openvino bf16",
        "two": "openvino fp32",
    }
    assert load_runtime("one", *folders(whole), "auto").name == "openvino bf16", "a network has no members"
    expected, embeddings = reference(whole, "ensemble").predict(PHOTOS)
    for batch_size in (1, 3, 32):
        found, units = runtime.predict(PHOTOS, batch_size)
        assert list(found) == list(SPACE)
        np.testing.assert_allclose(found["class"], expected["class"], atol=0.03)  # `one` is a member
        np.testing.assert_allclose(found["color"], expected["color"], atol=0.03)
        np.testing.assert_allclose(units, embeddings, atol=0.03)
    assert runtime.checkpoint == checkpoint_digest("ensemble", whole / "models")
    empty, nothing = runtime.predict(PHOTOS[:0])
    assert empty["class"].shape == (0, 3) and nothing.shape == (0, embeddings.shape[1])


def test_a_mixed_ensemble_in_float32_equals_its_graph(whole: Path) -> None:
    write_json(whole / "exports/gates.json", {"ensemble": {MIXED: True}})
    runtime = open_variant(whole / "exports/ensemble", MIXED, whole / "models")
    expected, units = open_variant(whole / "exports/ensemble", "openvino fp32", whole / "models").predict(PHOTOS)
    found, embeddings = runtime.predict(PHOTOS)
    for task in SPACE:
        np.testing.assert_allclose(found[task], expected[task], atol=2e-6)
    np.testing.assert_allclose(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True), units, atol=1e-5)
    predictor = Predictor("ensemble", runtime)
    fix_threads(predictor, 1)
    assert isinstance(runtime, MixedRuntime)
    assert {each.settings["NUM_STREAMS"] for each in runtime.runtimes.values()} == {"1"}
    np.testing.assert_allclose(predictor.predict(PHOTOS, [""] * 9).probs["class"], expected["class"], atol=2e-6)


def test_an_ensemble_is_served_as_one_graph_without_bf16_or_an_export_of_a_network(
    whole: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ArtifactError, match=r"one: contains no export\. Run: make export"):
        open_variant(project / "exports/ensemble", MIXED, project / "models")
    write_json(whole / "exports/gates.json", {"ensemble": {MIXED: True}})
    monkeypatch.setattr(runtimes, "processor_precisions", lambda: {"FP32"})
    assert load_runtime("ensemble", *folders(whole), "auto").name == "openvino fp32"


def test_an_export_is_served_without_pytorch(project: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from vitrine.inference.predictor import Predictor\n"
        "predictor = Predictor.load('ensemble', Path('models'), Path('exports'))\n"
        "predictor.predict_records(np.zeros((1, 48, 48, 3), np.uint8), ['x'])\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=project, check=True)


@pytest.mark.parametrize("variant", list(FILES))
def test_a_truncated_file_is_one_clear_error(project: Path, tmp_path: Path, variant: str) -> None:
    folder = tmp_path / "exports/two"
    folder.mkdir(parents=True)
    for file in (project / "exports/two").iterdir():
        content = file.read_bytes()
        cut = file.name in (FILES[variant], FILES[variant].replace(".xml", ".bin"))
        (folder / file.name).write_bytes(content[: len(content) // 2] if cut else content)
    with pytest.raises(ArtifactError, match=r"cannot be loaded .* run: make export"):
        open_variant(folder, variant, project / "models")
    (folder / FILES[variant]).unlink()
    with pytest.raises(ArtifactError, match=r"not found. Run: make export"):
        open_variant(folder, variant, project / "models")


# -- packages ------------------------------------------------------------------------------------------------------


def test_a_package_is_complete_and_never_overwrites(project: Path, tmp_path: Path) -> None:
    paths = package_export(tmp_path / "deep/openvino", "ensemble", "openvino", "fp32", *folders(project))
    assert [path.name for path in paths] == ["export.json", "model.bin", "model.xml"]
    with pytest.raises(ArtifactError, match="already exists"):
        package_export(tmp_path / "deep/openvino", "ensemble", "onnx", "fp32", *folders(project))
    with pytest.raises(ArtifactError, match=r"did not pass the parity gate, or was not measured"):
        package_export(tmp_path / "int8", "two", "onnx", "int8", *folders(project))
    with pytest.raises(ArtifactError, match=r"contains no export. Run: make export"):
        package_export(tmp_path / "none", "one", "onnx", "fp32", *folders(project))
    with pytest.raises(ArtifactError, match="no system 'three'"):
        package_export(tmp_path / "none", "three", "onnx", "fp32", *folders(project))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep"], "half a package was left"


def test_a_process_exits_cleanly_with_all_variants_loaded(project: Path) -> None:
    code = (
        "from pathlib import Path; import numpy as np\n"
        "from vitrine.inference.runtimes import available_variants, open_variant\n"
        "kept = [open_variant(Path('exports/two'), each, Path('models')) for each in available_variants(False)]\n"
        "[each.predict(np.zeros((3, 48, 48, 3), np.uint8), 2) for each in kept]\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr.count("terminate")) == (0, 0), ended.stderr
