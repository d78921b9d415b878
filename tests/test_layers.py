"""Imports go down the layers only, and layers that need no PyTorch never import it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from lineage import ROOT, imported_names, module_files, reach

PACKAGE = ROOT / "src/vitrine"
GROUND, APART = "ground", ("pretraining", "render")
LAYERS = (
    GROUND,
    "data",
    "learning",
    "inference",
    "evaluation",
    "retrieval",
    "scale",
    "reporting",
    "app",
    "commands",
    "cli",
)
"""Lowest first. A module may import its own layer and those before it."""

WITHOUT_TORCH = (GROUND, "data", "evaluation", "retrieval", "scale", "reporting", "app", "commands", "cli")
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def layer_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return first if first in (*LAYERS, *APART) else GROUND


def imported_modules(path: Path) -> set[Path]:
    files = {file for name in imported_names(path) for file in module_files(name, (ROOT / "src",))}
    return {file for file in files if file.name != "__init__.py"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_imports_its_own_layer_and_lower_ones(path: Path) -> None:
    layer = layer_of(path)
    for other in imported_modules(path):
        if layer in APART:
            assert layer_of(other) in (layer, GROUND, "data", "learning"), other
        else:
            assert layer_of(other) not in APART, other
            assert LAYERS.index(layer_of(other)) <= LAYERS.index(layer), other


def test_there_are_no_circular_imports() -> None:
    for path in MODULES:
        assert path not in reach(path)[0] and not any(path in reach(other)[0] for other in imported_modules(path)), path


@pytest.mark.parametrize("layer", WITHOUT_TORCH)
def test_layers_without_pytorch_never_import_it(layer: str) -> None:
    for path in MODULES:
        if layer_of(path) == layer:
            assert not {"timm", "torch", "torchvision"} & reach_at_import(path), path


def reach_at_import(path: Path) -> set[str]:
    """List the packages that importing a module imports, except imports inside functions."""
    seen, packages, waiting = {path}, set(), [path]
    while waiting:
        tree = ast.parse(waiting.pop().read_text(encoding="utf-8"))
        for node in tree.body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            for name in names:
                own = module_files(name, (ROOT / "src",))
                waiting += [file for file in own if file not in seen]
                seen.update(own)
                if not own:
                    packages.add(name.split(".")[0])
    return packages
