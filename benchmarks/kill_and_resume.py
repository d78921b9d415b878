"""Kill `dvc repro` at random moments, resume it, and compare the weights with those of an undisturbed run.

Works in a temporary copy of the project with few epochs, on the dataset that params.yaml names. Then forces a whole
rerun and compares all of models/, metrics/ and plots/.

    python benchmarks/kill_and_resume.py [--kills 5] [--seed 0] [--epochs 4]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
STAGES = ("train_deit", "train_mobilevit")


def dvc(root: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(root / "src"),
        "DVC_NO_ANALYTICS": "1",
    }
    log = (root / "log.txt").open("a")
    return subprocess.Popen(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=root, env=environment, stdout=log, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str], root: Path) -> None:
    if process.wait() != 0:
        sys.exit((root / "log.txt").read_text(encoding="utf-8")[-3000:] + "\nFAILED: dvc exited with an error")


def copy_project(root: Path, epochs: int) -> None:
    for name in ("src", "stages", "data", "weights"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "splits", "*.egg-info"))
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, root / name)
    for path in root.glob("data/*/dvc.*"):
        path.unlink()  # the copy has its data already
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["train_deit"] |= {"head_epochs": 1, "full_epochs": epochs - 1}
    params["train_mobilevit"]["epochs"] = epochs
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    finish(dvc(root, "init", "-q"), root)


def digests(root: Path, *folders: str) -> dict[str, str]:
    files = sorted(path for folder in folders for path in (root / folder).rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def compare(name: str, before: dict[str, str], after: dict[str, str]) -> None:
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    if changed:
        sys.exit(f"FAILED: {name}: these files differ: {', '.join(changed)}")
    print(f"ok: {name}: {len(before)} files are bit-identical", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=4)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        copy_project(root, arguments.epochs)
        finish(dvc(root, "repro", "split"), root)
        stage_seconds = {}
        for stage in STAGES:
            start = time.monotonic()
            finish(dvc(root, "repro", stage), root)
            stage_seconds[stage] = time.monotonic() - start
            print(f"undisturbed {stage}: {stage_seconds[stage]:.0f} s", flush=True)
        undisturbed = digests(root, "models", "metrics", "plots")

        shutil.rmtree(root / ".dvc/cache/runs", ignore_errors=True)
        kills = 0
        while kills < arguments.kills:
            stage = STAGES[kills % len(STAGES)]
            process = dvc(root, "repro", "--force", "--single-item", stage)
            moment = rng.uniform(0.1, 0.9) * stage_seconds[stage]
            try:
                process.wait(timeout=moment)
                continue  # it resumed and finished before it was killed: does not count
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            kills += 1
            states = [path.name for path in sorted((root / ".resume").glob("*"))]
            print(f"{stage} killed after {moment:.1f} s; states kept: {', '.join(states) or 'none'}", flush=True)
        finish(dvc(root, "repro", "--force", "--single-item", *STAGES), root)
        resumed = (root / "log.txt").read_text(encoding="utf-8").count("resuming after epoch")
        print(f"runs that resumed from a saved epoch: {resumed}")
        compare("killed and resumed", undisturbed, digests(root, "models", "metrics", "plots"))

        finish(dvc(root, "repro"), root)
        first = digests(root, "models", "metrics", "plots", "report", "index", "predictions")
        finish(dvc(root, "repro", "--force"), root)
        compare("forced rerun", first, digests(root, "models", "metrics", "plots", "report", "index", "predictions"))


if __name__ == "__main__":
    main()
