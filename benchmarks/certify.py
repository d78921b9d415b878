"""Rerun the committed pipeline in a clean clone with a clean environment, and report differences.

Clones HEAD into a temporary folder (TMPDIR), installs the locked environment there, runs every stage of dvc.yaml with
an empty DVC cache, and compares: inputs and outputs by hash, metrics with the committed intervals. Writes
report/certificate.json and report/certificate.md. The exit code is 1 if an input differs or a metric moved beyond its
interval, changed its count or vanished. Needs 8 GB of disk and about 15 minutes on 2 cores.

    python benchmarks/certify.py
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from vitrine.artifacts import read_json, write_json, write_text
from vitrine.reporting.certificate import Certificate, compare_locks, compare_metrics, lock_files, stage_order

ROOT = Path(__file__).resolve().parents[1]
DISK_GB = 8
KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "CUDA_VISIBLE_DEVICES", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
ENVIRONMENT = "import json; from vitrine.reporting.certificate import describe_environment as d; print(json.dumps(d()))"


def clean_environment(folder: Path) -> dict[str, str]:
    """Keep variables for finding and fetching programs; drop those that affect the pipeline, such as PYTHONPATH."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in KEPT or name.startswith(("PIP_", "SSL_")) or name.lower().endswith("_proxy")
    }
    ours = {str(Path(sys.prefix) / "bin"), str(ROOT / ".venv/bin")}
    kept["PATH"] = os.pathsep.join(part for part in kept["PATH"].split(os.pathsep) if part not in ours)
    private = {}
    for name in ("TMPDIR", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR", "DVC_SITE_CACHE_DIR", "MPLCONFIGDIR"):
        (folder / name).mkdir()
        private[name] = str(folder / name)
    return {**kept, **private, "DVC_NO_ANALYTICS": "1", "PYTHONNOUSERSITE": "1"}


def run(*command: str, cwd: Path, env: dict[str, str], capture: bool = False) -> str:
    """Run a command, and stop it and its children if this process is stopped. If it fails, exit."""
    process = subprocess.Popen(
        command, cwd=cwd, env=env, stdout=subprocess.PIPE if capture else None, text=True, start_new_session=True
    )
    try:
        output, _ = process.communicate()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    if process.returncode:
        sys.exit(f"ERROR: `{' '.join(command)}` failed in the clean clone; nothing was certified")
    return output or ""


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def say(step: int, text: str) -> None:
    print(f"[{step}/4] {text}", flush=True)


def read_lock(clone: Path) -> dict[str, Any]:
    stages: dict[str, Any] = yaml.safe_load((clone / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    return stages


def read_metrics(clone: Path, lock: dict[str, Any]) -> dict[str, Any]:
    outs = sorted(out for stage in lock.values() for out in lock_files(stage)["outputs"])
    return {out: read_json(clone / out) for out in outs if out.startswith("metrics/") and (clone / out).is_file()}


def certify(commit: str, folder: Path) -> Certificate:
    """Rerun the pipeline of a commit below `folder` and compare."""
    clone, env = folder / "clone", clean_environment(folder)
    say(1, f"cloning {commit[:12]}")
    run("git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(clone), cwd=folder, env=env)
    run("git", "checkout", "--quiet", "--detach", commit, cwd=clone, env=env)
    say(2, "installing the locked environment")
    run("make", "setup", cwd=clone, env=env)

    committed = read_lock(clone)
    metrics = read_metrics(clone, committed)
    stages = stage_order(committed)
    (clone / "dvc.lock").unlink()  # so that all its hashes afterwards are from this rerun
    env["PATH"] = f"{clone / '.venv/bin'}{os.pathsep}{env['PATH']}"
    say(3, f"running {', '.join(stages)}")
    # Stage by stage: a plain --force would also render the sample, which is an input here and in Git.
    run("python", "-m", "dvc", "repro", "--force", "--single-item", *stages, cwd=clone, env=env)

    say(4, "comparing")
    rerun = read_lock(clone)
    environment = json.loads(run("python", "-c", ENVIRONMENT, cwd=clone, env=env, capture=True))
    compared = compare_metrics(metrics, read_metrics(clone, rerun))
    return Certificate(commit, environment, compare_locks(committed, rerun), compared)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ERROR: stopped; nothing was certified"))
    modified = git("status", "--porcelain", "--untracked-files=no")
    if modified:
        sys.exit(f"ERROR: tracked files are modified; commit or stash them first, since HEAD is certified:\n{modified}")
    free_gb = shutil.disk_usage(tempfile.gettempdir()).free / 1e9
    if free_gb < DISK_GB:
        sys.exit(
            f"ERROR: {tempfile.gettempdir()} has {free_gb:.0f} GB free; a clean environment needs {DISK_GB}. Free some "
            "space or set TMPDIR to a folder on a larger disk"
        )
    with tempfile.TemporaryDirectory(prefix="vitrine-certify-", ignore_cleanup_errors=True) as folder:
        certificate = certify(git("rev-parse", "HEAD"), Path(folder))
    write_json(ROOT / "report/certificate.json", certificate.to_json())
    write_text(ROOT / "report/certificate.md", certificate.to_markdown())
    print("\n".join([certificate.verdict, *certificate.faults]))
    if certificate.faults:
        sys.exit(1)


if __name__ == "__main__":
    main()
