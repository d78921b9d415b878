"""An ExecuTorch program predicts what PyTorch predicts, in its own runtime, with all products in XNNPACK."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vitrine.inference.device import package_executorch, undelegated_ops
from vitrine.inference.export import ExportError
from vitrine.inference.runtimes import Description, TorchRuntime
from vitrine.inference.systems import System, save_systems
from vitrine.labels import LabelSpace
from vitrine.learning.model import create_model, save_model
from vitrine.photos import Decoding

pytest.importorskip("executorch")
SPACE = LabelSpace({"class": ("cup", "hat"), "color": ("blue", "red", "green")})
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # from its compiler, outside this project


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("device")
    systems = {}
    for seed, (name, architecture) in enumerate(
        {"deit": "deit_tiny_patch16_224", "mobilevit": "mobilevit_xxs"}.items()
    ):
        torch.manual_seed(seed)
        model = create_model(architecture, "none", SPACE, Decoding(48, 50.0), 64, 0.1, 0.2)
        save_model(model, folder / name, {})
        systems[name] = System(dict.fromkeys(SPACE, (name,)), dict.fromkeys(SPACE, 0.7), dict.fromkeys(SPACE, None))
    save_systems(folder / "systems.json", systems)
    return folder


@pytest.mark.parametrize("name", ["deit", "mobilevit"])
def test_a_program_predicts_what_pytorch_predicts(models: Path, tmp_path: Path, name: str) -> None:
    from executorch.runtime import Runtime

    paths = package_executorch(tmp_path / "taken", name, models)
    assert [path.name for path in paths] == ["export.json", "model.pte"]
    assert Description.read(tmp_path / "taken").label_space == SPACE
    method = Runtime.get().load_program(tmp_path / "taken/model.pte").load_method("forward")
    photos = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)
    expected, embeddings = TorchRuntime.load(name, models).predict(photos)
    for row in range(len(photos)):
        *probs, embedding = method.execute([torch.from_numpy(photos[row : row + 1])])
        for task, found in zip(SPACE, probs, strict=True):
            np.testing.assert_allclose(found.numpy()[0], expected[task][row], atol=1e-5)
        cosine = float(embedding[0] @ torch.from_numpy(embeddings[row])) / np.linalg.norm(embeddings[row])
        assert cosine == pytest.approx(1, abs=1e-5)


def test_products_that_are_not_delegated_are_named() -> None:
    class Product(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x @ x)

    graph = torch.export.export(Product(), (torch.ones(2, 2),)).graph_module
    assert undelegated_ops(graph) == ["aten.matmul.default"]


def test_without_executorch_there_is_one_clear_error(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "executorch"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "executorch", None)
    with pytest.raises(
        ExportError, match=r"executorch.* is not installed. Install the extra: pip install -e '.\[device\]'"
    ):
        package_executorch(tmp_path / "taken", "deit", models)
    assert list(tmp_path.iterdir()) == []
