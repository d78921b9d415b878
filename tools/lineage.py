"""Write what follows from imports: the modules and packages of every stage in dvc.yaml, and environment.yaml.

DVC does not follow Python imports. Each stage therefore lists its script and every module of the project that it
reaches, as deps, and every package that these import, as params of environment.yaml. A new version of a package then
reruns the stages that use it, and no others.

Reads   requirements.lock, stage scripts, src/vitrine/
Writes  every dvc.yaml, environment.yaml
"""

from __future__ import annotations

import ast
import io
import os
import re
import sys
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

ROOT = Path(__file__).parents[1]
PIPELINES = (
    "dvc.yaml",
    "crossval/dvc.yaml",
    "active/dvc.yaml",
    "export/dvc.yaml",
    "pretrain/dvc.yaml",
    "video/dvc.yaml",
    "data/sample/dvc.yaml",
    "data/outliers/dvc.yaml",
    "ood/dvc.yaml",
    "data/team13/dvc.yaml",
)
HEADER = """\
# What the stages import, as requirements.lock pins it. Written by `make lock`; do not edit.
# Stages track these keys as params: a new version reruns the stages that use the package, and no others.
"""


class LineageError(RuntimeError):
    """The dependencies of a stage cannot be determined."""


# -- imports ------------------------------------------------------------------------------------------------------


@cache
def imported_names(file: Path) -> frozenset[str]:
    """List the dotted names that a file imports anywhere; `from a import b` yields both a and a.b."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


def module_files(name: str, folders: tuple[Path, ...]) -> list[Path]:
    """List the files that importing a dotted name runs, packages first; empty if it is not in the folders."""
    parts, files = name.split("."), []
    for end in range(1, len(parts) + 1):
        stems = [folder.joinpath(*parts[:end]) for folder in folders]
        candidates = [file for stem in stems for file in (stem / "__init__.py", stem.with_suffix(".py"))]
        files += [file for file in candidates if file.is_file()][:1]
    return files


@cache
def templates(file: Path) -> frozenset[Path]:
    """List the templates that a module fills or a template imports by name."""
    folder = file.parent if file.suffix == ".j2" else file.parent / "templates"
    names = re.findall(r'"([\w.]+\.j2)"', file.read_text(encoding="utf-8"))
    return frozenset(path for path in (folder / name for name in names) if path.is_file())


def reach(file: Path, root: Path = ROOT) -> tuple[set[Path], set[str]]:
    """List the project's files that a file reaches, and the import names of packages.

    Modules are reached through imports, templates through their names. The package's outermost __init__.py, which only
    holds the version, and empty files do not count.
    """
    folders, outermost = (file.parent, root / "src"), root / "src/vitrine/__init__.py"
    modules: set[Path] = set()
    packages: set[str] = set()
    waiting = [file]
    while waiting:
        reader = waiting.pop()
        named = templates(reader)
        waiting += [template for template in named if template not in modules]
        modules.update(named)
        for name in imported_names(reader) if reader.suffix == ".py" else ():
            own = module_files(name, folders)
            waiting += [module for module in own if module not in modules]
            modules.update(own)
            top = name.split(".")[0]
            if not own and top not in sys.stdlib_module_names:
                packages.add(top)
    return {module for module in modules if module.stat().st_size} - {file, outermost}, packages


@cache
def _distributions() -> dict[str, list[str]]:
    return {name: sorted(map(canonicalize_name, names)) for name, names in packages_distributions().items()}


def distributions(packages: set[str]) -> list[str]:
    """Return the normalized names of the installed distributions that provide the import names.

    Raises:
        LineageError: a package is not installed.
    """
    missing = sorted(packages - set(_distributions()))
    if missing:
        raise LineageError(f"{', '.join(missing)}: imported by a stage but not installed. Run: make setup")
    return sorted({name for package in packages for name in _distributions()[package]})


# -- dvc.yaml -----------------------------------------------------------------------------------------------------


def pipeline_text(path: Path, root: Path = ROOT) -> str:
    """Return a dvc.yaml with the modules and packages of every stage updated from its script's imports.

    Nothing else changes: comments, order and style are preserved.
    """
    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 10_000
    yaml.indent(mapping=2, sequence=4, offset=2)
    document = yaml.load(path.read_text(encoding="utf-8"))
    for stage in document["stages"].values():
        _update(stage, (path.parent / stage.get("wdir", ".")).resolve(), root)
    text = io.StringIO()
    yaml.dump(document, text)
    return text.getvalue()


def _update(stage: CommentedMap, folder: Path, root: Path) -> None:
    script = folder / stage["cmd"].split()[1]
    modules, packages = reach(script, root)
    code = [os.path.relpath(file, folder) for file in (script, *sorted(modules))]
    stage["deps"] = CommentedSeq([*code, *(dep for dep in stage["deps"] if not dep.endswith((".py", ".j2")))])

    names = CommentedSeq(sorted(distributions(packages)))
    names.fa.set_flow_style()
    environment = os.path.relpath(root / "environment.yaml", folder)
    params = CommentedSeq(entry for entry in stage.get("params", []) if environment not in entry)
    params.append(CommentedMap({environment: names}))
    if "params" in stage:
        stage["params"] = params
    else:
        stage.insert(list(stage).index("deps") + 1, "params", params)


def environment_keys(text: str) -> set[str]:
    """List the keys of environment.yaml that the stages of a dvc.yaml track; `text` comes from `pipeline_text`."""
    stages = YAML(typ="safe").load(text)["stages"].values()
    return {key for stage in stages for keys in stage["params"][-1].values() for key in keys}


# -- environment.yaml ---------------------------------------------------------------------------------------------


def read_lock(path: Path) -> dict[str, str]:
    """Return the versions that requirements.lock pins for this machine, by normalized name.

    Raises:
        LineageError: a package is not pinned or has no hash.
    """
    pins: dict[str, str] = {}
    for entry in re.split(r"\n(?=\S)", path.read_text(encoding="utf-8").strip()):
        pinned, *hashes = [part.strip() for part in entry.split("--hash=")]
        requirement = Requirement(pinned.rstrip("\\ \n"))
        version = re.fullmatch(r"==([^=*,]+)", str(requirement.specifier))
        if version is None or not hashes:
            raise LineageError(f"{path}: {requirement.name} needs a version and hashes. Run: make lock")
        if requirement.marker is None or requirement.marker.evaluate():
            pins[canonicalize_name(requirement.name)] = version[1]
    return pins


def environment_text(keys: set[str], pins: dict[str, str]) -> str:
    """Return environment.yaml: the version of every package that a stage tracks.

    Python's own version is not in it: 3.11 to 3.13 give the same bytes.
    """
    missing = sorted(keys - set(pins))
    if missing:
        raise LineageError(f"requirements.lock lacks {', '.join(missing)}: add to pyproject.toml and run: make lock")
    return HEADER + "".join(f'{key}: "{pins[key]}"\n' for key in sorted(keys))


def generated() -> dict[Path, str]:
    """Return the text of every dvc.yaml and of environment.yaml according to imports and requirements.lock."""
    texts = {ROOT / pipeline: pipeline_text(ROOT / pipeline) for pipeline in PIPELINES}
    keys = set().union(*map(environment_keys, texts.values()))
    return {**texts, ROOT / "environment.yaml": environment_text(keys, read_lock(ROOT / "requirements.lock"))}


def main() -> None:
    for path, text in generated().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except LineageError as error:
        sys.exit(f"ERROR: {error}")
