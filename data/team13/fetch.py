"""Fetch Team 13's photographs at a pinned commit, or copy them from a local folder, and verify their hashes.

Reads   the public repository named in params.yaml, or the folder that VITRINE_TEAM13_DIR names
Writes  images/, labels.csv
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from vitrine.data.repositories import FetchError, checkout_files

FOLDER_VARIABLE = "VITRINE_TEAM13_DIR"


def dvc_hash(path: Path) -> str:
    """Return the hash that DVC writes into dvc.lock for a file or a folder.

    Source:
        a folder's hash is the MD5 of the JSON list of its files' MD5s and relative paths (dvc-data, hashfile/tree.py).
    """
    if path.is_file():
        return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    files = sorted(file for file in path.rglob("*") if file.is_file())
    listing = [{"md5": dvc_hash(file), "relpath": file.relative_to(path).as_posix()} for file in files]
    listing.sort(key=lambda entry: entry["relpath"])
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def expected_hashes(params: dict[str, Any], lock: Path = Path("dvc.lock")) -> dict[str, str]:
    """Return the committed hash of every path; empty if the lock was made with other params."""
    if not lock.is_file():
        return {}
    stage = yaml.safe_load(lock.read_text(encoding="utf-8"))["stages"].get("fetch", {})
    if stage.get("params", {}).get("params.yaml", {}).get("fetch") != params:
        return {}
    return {out["path"]: out["md5"] for out in stage.get("outs", [])}


def bring(params: dict[str, Any], target: Path) -> None:
    """Copy all paths to `target`: from the local folder if one is set, else from the repository."""
    local = os.environ.get(FOLDER_VARIABLE)
    if local:
        for name in params["paths"]:
            source = Path(local) / name
            if not source.exists():
                raise FetchError(f"{source}: not found. {FOLDER_VARIABLE} must be set to a folder that contains {name}")
            if source.is_dir():
                shutil.copytree(source, target / name, copy_function=shutil.copyfile)
            else:
                shutil.copyfile(source, target / name)
        return
    hint = f"set {FOLDER_VARIABLE} to a folder that contains {' and '.join(params['paths'])} and run again"
    checkout_files(params["url"], params["commit"], params["paths"], target, hint)


def main() -> None:
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))["fetch"]
    with tempfile.TemporaryDirectory(dir=".", prefix=".fetch-") as folder:
        target = Path(folder)
        bring(params, target)
        expected = expected_hashes(params)
        actual = {name: dvc_hash(target / name) for name in params["paths"]}
        wrong = [
            f"  {name}: expected {expected[name]}, found {actual[name]}"
            for name in expected
            if actual.get(name) != expected[name]
        ]
        if wrong:
            raise FetchError("the photographs do not match dvc.lock; nothing was changed:\n" + "\n".join(wrong))
        if not expected:
            print("dvc.lock has no hashes for these params yet; it will record those of the current files")
        for name in params["paths"]:
            if Path(name).is_dir():
                shutil.rmtree(name)
            os.replace(target / name, name)


if __name__ == "__main__":
    try:
        main()
    except FetchError as error:
        sys.exit(f"ERROR: {error}")
