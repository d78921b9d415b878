"""Imports are followed into modules, packages and siblings; dvc.yaml, environment.yaml and the lock agree with them."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

import lineage
import lock_check
from lineage import LineageError, environment_keys, environment_text, pipeline_text, reach, read_lock

PIPELINE = """\
# A comment.
stages:
  cook:
    desc: Cook # well
    cmd: python cook.py ${item.dish}
    matrix: {dish: [soup, stew]}
    deps:
      - cook.py
      - ../src/vitrine/forgotten.py
      - pot.csv
    params: [heat]
    outs:
      - "meal-${item.dish}.csv"

  eat:
    cmd: python eat.py
    deps: [meal.csv]
"""


@pytest.fixture
def kitchen(tmp_path: Path) -> Path:
    """A project with a package, a subpackage, a script with a sibling, and a pipeline in a folder."""
    files = {
        "kitchen/cook.py": "import os.path, sibling\nfrom vitrine.tools import knife\nimport PIL.Image\n",
        "kitchen/sibling.py": "def f():\n    from vitrine import water\n",
        "kitchen/eat.py": "import yaml\n",
        "kitchen/dvc.yaml": PIPELINE,
        "src/vitrine/__init__.py": "",
        "src/vitrine/water.py": "import numpy.linalg as algebra\n",
        "src/vitrine/tools/__init__.py": "from vitrine.steel import HARD\n",
        "src/vitrine/tools/knife.py": "from sklearn.svm import SVC\n",
        "src/vitrine/tools/fork.py": "import torch\n",
        "src/vitrine/steel.py": "import vitrine.water\nHARD = 1\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_imports_are_followed_through_packages_subpackages_and_siblings(kitchen: Path) -> None:
    modules, packages = reach(kitchen / "kitchen/cook.py", kitchen)
    package = ("vitrine/water.py", "vitrine/tools/__init__.py", "vitrine/tools/knife.py", "vitrine/steel.py")
    assert modules == {kitchen / "kitchen/sibling.py", *(kitchen / "src" / name for name in package)}
    assert packages == {"PIL", "numpy", "sklearn"}


def test_templates_are_followed_through_modules_and_other_templates(kitchen: Path) -> None:
    folder = kitchen / "src/vitrine/tools/templates"
    folder.mkdir()
    (folder / "recipe.md.j2").write_text('{% import "words.md.j2" as say %}')
    for name in ("words.md.j2", "unused.md.j2"):
        (folder / name).write_text("")
    (kitchen / "src/vitrine/tools/knife.py").write_text('render("recipe.md.j2")\nrender("missing.md.j2")\n')
    modules, _ = reach(kitchen / "kitchen/cook.py", kitchen)
    assert {path.name for path in modules if path.suffix == ".j2"} == {"recipe.md.j2"}
    (folder / "words.md.j2").write_text("words")
    lineage.templates.cache_clear()
    modules, _ = reach(kitchen / "kitchen/cook.py", kitchen)
    assert {path.name for path in modules if path.suffix == ".j2"} == {"recipe.md.j2", "words.md.j2"}


def test_the_renderer_is_reached_as_a_package() -> None:
    modules, packages = reach(lineage.ROOT / "pretrain/shard.py")
    assert {"__init__.py", "catalogue.py", "meshes.py"} < {
        path.name for path in modules if path.parent.name == "render"
    }
    assert {"mitsuba", "drjit"} < packages


def test_only_modules_and_packages_change_in_a_pipeline(kitchen: Path) -> None:
    text = pipeline_text(kitchen / "kitchen/dvc.yaml", kitchen)
    assert (
        text
        == """\
# A comment.
stages:
  cook:
    desc: Cook # well
    cmd: python cook.py ${item.dish}
    matrix: {dish: [soup, stew]}
    deps:
      - cook.py
      - sibling.py
      - ../src/vitrine/steel.py
      - ../src/vitrine/tools/__init__.py
      - ../src/vitrine/tools/knife.py
      - ../src/vitrine/water.py
      - pot.csv
    params:
      - heat
      - ../environment.yaml: [numpy, pillow, scikit-learn]
    outs:
      - "meal-${item.dish}.csv"

  eat:
    cmd: python eat.py
    deps:
      - eat.py
      - meal.csv
    params:
      - ../environment.yaml: [pyyaml]
"""
    )
    (kitchen / "kitchen/dvc.yaml").write_text(text)
    assert pipeline_text(kitchen / "kitchen/dvc.yaml", kitchen) == text
    assert environment_keys(text) == {"numpy", "pillow", "pyyaml", "scikit-learn"}


def test_a_package_that_is_not_installed_is_an_error(kitchen: Path) -> None:
    (kitchen / "kitchen/eat.py").write_text("import spoon\n")
    lineage.imported_names.cache_clear()
    with pytest.raises(LineageError, match=r"spoon: imported by a stage but not installed\. Run: make setup"):
        pipeline_text(kitchen / "kitchen/dvc.yaml", kitchen)


def test_a_lock_is_read_for_this_machine(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text(
        "numpy==2.0.1 \\\n    --hash=sha256:00 \\\n    --hash=sha256:01\n"
        "tzdata==1.0 ; sys_platform == 'nowhere' \\\n    --hash=sha256:02\n"
        "Ruamel.YAML==3 ; python_version >= '3' \\\n    --hash=sha256:03\n"
    )
    pins = read_lock(lock)
    assert pins == {"numpy": "2.0.1", "ruamel-yaml": "3"}
    text = environment_text({"numpy"}, pins)
    assert yaml.safe_load(text) == {"numpy": "2.0.1"}
    with pytest.raises(LineageError, match=r"requirements\.lock lacks torch"):
        environment_text({"torch"}, pins)


@pytest.mark.parametrize("line", ["numpy==2.0.1", "numpy>=2 \\\n    --hash=sha256:00", "numpy==2.* --hash=sha256:00"])
def test_a_lock_without_a_version_or_a_hash_is_an_error(tmp_path: Path, line: str) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text(f"{line}\n")
    with pytest.raises(LineageError, match=r"numpy needs a version and hashes\. Run: make lock"):
        read_lock(lock)


def test_the_lock_has_hashes_for_every_package_and_names_no_host() -> None:
    text = (lineage.ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert len(read_lock(lineage.ROOT / "requirements.lock")) > 150
    assert "://" not in text and "index" not in text and len(text) < 1_000_000


def test_the_lock_satisfies_the_requirements_of_the_project(tmp_path: Path) -> None:
    pyproject, pins = lineage.ROOT / "pyproject.toml", read_lock(lineage.ROOT / "requirements.lock")
    assert lock_check.requirement_faults(pyproject, pins) == []
    bumped = pyproject.read_text(encoding="utf-8").replace('"timm==', '"timm>').replace('"tqdm>', '"tqdmm>')
    (tmp_path / "pyproject.toml").write_text(bumped)
    faults = lock_check.requirement_faults(tmp_path / "pyproject.toml", pins)
    assert [re.match(r"requirements\.lock: (\w+)", fault)[1] for fault in faults] == ["timm", "tqdmm"]
    assert all(fault.endswith("Run: make lock") for fault in faults)


def test_a_stale_file_is_reported(tmp_path: Path) -> None:
    fresh, stale, gone = (tmp_path / name for name in ("fresh", "stale", "gone"))
    fresh.write_text("a")
    stale.write_text("b")
    faults = lock_check.generated_faults(dict.fromkeys((fresh, stale, gone), "a"))
    assert faults == [f"{path}: not what imports and requirements.lock say. Run: make deps" for path in (stale, gone)]


def test_installed_versions_are_compared_with_the_environment() -> None:
    assert lock_check.installed_faults({"numpy": version("numpy")}) == []
    faults = lock_check.installed_faults({"numpy": "1.0", "spoon": "3"})
    assert [fault.split(";")[0] for fault in faults] == [
        "environment.yaml: numpy 1.0 expected",
        "environment.yaml: spoon 3 expected",
    ]
    assert all(fault.endswith("is installed. Run: make setup") for fault in faults)
