"""Fail unless the committed locks match code, params, data and the environment that runs this.

Needs neither the cached models nor the photographs that are not in git.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

from lineage import PIPELINES, ROOT, LineageError, generated, read_lock


def requirement_faults(pyproject: Path, pins: dict[str, str]) -> list[str]:
    """Compare the lock with the requirements in pyproject.toml, including all extras."""
    document = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    project, build = document["project"], document["build-system"]
    groups = [build["requires"], project["dependencies"], *project["optional-dependencies"].values()]
    faults = []
    for requirement in map(Requirement, chain.from_iterable(groups)):
        pinned = pins.get(canonicalize_name(requirement.name))
        if pinned is None or pinned not in requirement.specifier:
            faults.append(f"requirements.lock: {requirement} expected; found {pinned or 'nothing'}. Run: make lock")
    return faults


def generated_faults(texts: dict[Path, str]) -> list[str]:
    """Compare generated files with their expected content."""
    stale = [path for path, text in texts.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    return [f"{path}: not what imports and requirements.lock say. Run: make deps" for path in stale]


def installed_faults(environment: dict[str, str]) -> list[str]:
    """Compare the installed packages with environment.yaml."""
    faults = []
    for name, expected in environment.items():
        try:
            installed = version(name)
        except PackageNotFoundError:
            installed = "nothing"
        if installed != expected:
            faults.append(f"environment.yaml: {name} {expected} expected; {installed} is installed. Run: make setup")
    return faults


def lock_faults() -> list[str]:
    """Compare every dvc.lock with its pipeline. `dvc repro --dry` exits with 0 either way, so read its output."""
    command = [sys.executable, "-m", "dvc", "repro", "--dry", "--allow-missing", *PIPELINES]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    output = result.stdout + result.stderr
    if result.returncode == 0 and "up to date" in output:
        return []
    return [output, "dvc.lock does not match code, params or data. Run `dvc repro` and commit what it changes"]


def main() -> list[str]:
    faults = requirement_faults(ROOT / "pyproject.toml", read_lock(ROOT / "requirements.lock"))
    faults += generated_faults(generated())
    faults += installed_faults(YAML(typ="safe").load(ROOT / "environment.yaml"))
    return faults + lock_faults()


if __name__ == "__main__":
    try:
        faults = main()
    except LineageError as error:
        faults = [str(error)]
    if faults:
        sys.exit("\n".join(f"ERROR: {fault}" for fault in faults))
    print("requirements.lock, environment.yaml, dvc.yaml and dvc.lock match code, params, data and environment")
