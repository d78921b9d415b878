"""The examples of docs/api.md and docs/explain.md run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from judging import make_judged, make_theirs
from PIL import Image

from lineage import ROOT
from vitrine.inference.predictor import Predictor

EXAMPLES = [
    example
    for page in ("docs/api.md", "docs/explain.md")
    for example in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
]


@pytest.fixture(scope="module")
def repro_folder(project_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small project, plus the files that the examples read."""
    root = tmp_path_factory.mktemp("repro") / "project"
    make_judged(project_folder, root)
    make_theirs(root / "market_photos", colors=("Navy", "red"))
    images = sorted((root / "data/made_up").glob("images/*.png"))
    (root / "data/sample/images").mkdir(parents=True)
    for path in images[:2]:
        Image.open(path).save(root / f"data/sample/images/{path.stem}.jpg")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_runs_and_prints(repro_folder: Path, example: str) -> None:
    result = subprocess.run([sys.executable, "-c", example], cwd=repro_folder, capture_output=True, text=True)
    assert result.returncode == 0 and result.stdout and not result.stderr, result.stderr


def test_the_pages_have_five_examples() -> None:
    assert len(EXAMPLES) == 5


@pytest.mark.parametrize("signature", re.findall(r"`(\w+)\.(\w+)\(", (ROOT / "docs/api.md").read_text("utf-8")))
def test_documented_methods_exist(signature: tuple[str, str]) -> None:
    from vitrine.predictions import Predictions
    from vitrine.retrieval.index import Index

    classes = {each.__name__: each for each in (Predictor, Index, Predictions)}
    assert signature[0] not in classes or callable(getattr(classes[signature[0]], signature[1]))
