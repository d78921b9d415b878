"""A certificate detects differences, and certification reruns the pipeline in a clean clone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from vitrine.reporting.certificate import (
    Certificate,
    Metric,
    compare_locks,
    compare_metrics,
    describe_environment,
    stage_order,
)

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"python": "3.11.9", "threads": 2, "instruction_sets": ["avx2"], "packages": {"torch": "2.15.0"}}


def lock() -> dict[str, Any]:
    """Return a lock of two stages: `a_report` reads from the output folder of `train`."""

    def files(**md5: str) -> list[dict[str, str]]:
        return [{"path": path.replace("__", "/"), "md5": value} for path, value in md5.items()]

    return {
        "a_report": {"cmd": "python report.py", "deps": files(models__net="n1", code="c1"), "outs": files(page="p1")},
        "train": {
            "cmd": "python train.py",
            "deps": files(data="d1", code="c1"),
            "params": {"params.yaml": {"train": {"rate": 0.1}}},
            "outs": files(models="m1", metrics__train="t1"),
        },
    }


FILE = "metrics/train/net.json"
METRICS = {FILE: {"class": 0.8, "num_photos": 100, "loss": 0.5, "epoch": 6, "intervals": {"class": [0.7, 0.9]}}}


def certificate(rerun: dict[str, Any] | None = None, metrics: dict[str, Any] | None = None) -> Certificate:
    compared = compare_metrics(METRICS, METRICS if metrics is None else metrics)
    return Certificate("abc123", ENVIRONMENT, compare_locks(lock(), rerun or lock()), compared)


def metrics_with(**changes: float) -> dict[str, Any]:
    document = json.loads(json.dumps(METRICS))
    document[FILE] |= changes
    return document


def test_stages_come_after_their_dependencies() -> None:
    assert stage_order(lock()) == ["train", "a_report"]


def test_an_identical_run_is_certified_as_bit_identical() -> None:
    found = certificate()
    assert found.faults == []
    assert found.verdict == "All 3 outputs are bit-identical."
    page = found.to_markdown()
    assert page.splitlines()[2] == "**All 3 outputs are bit-identical.**"
    assert "`abc123`" in page and "torch 2.15.0" in page and "avx2" in page
    assert "4 of 4 metrics are the same" in page and "## Faults" not in page
    document = found.to_json()
    assert document["certified"] is True and document["commit"] == "abc123"
    assert document["stages"]["train"]["outputs"]["models"] == {"committed": "m1", "rerun": "m1"}


def test_other_bytes_and_metrics_within_their_intervals_are_certified() -> None:
    rerun = lock()
    rerun["train"]["outs"][0]["md5"] = "m2"
    rerun["a_report"]["deps"][0]["md5"] = "n2"  # an output of train, so not an input of the run
    found = certificate(rerun, metrics_with(**{"class": 0.9}, loss=0.4))
    assert found.faults == []
    assert found.verdict == "2 of 3 outputs are bit-identical; no headline metric moved beyond its interval."
    page = found.to_markdown()
    assert "| train | 2 | `models` |" in page
    assert "| train/net: class | 0.8000 [0.7000, 0.9000] | 0.9000 | +0.1 | within its interval |" in page
    assert "| train/net: loss | 0.5000 | 0.4000 | -0.1 | no interval |" in page
    assert "num_photos" not in page


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"class": 0.69}, "beyond its interval"),
        ({"class": 0.91}, "beyond its interval"),
        ({"num_photos": 99}, "count changed"),
        ({"macro_f1": 0.5}, "new"),
    ],
)
def test_a_metric_that_moves_too_far_fails(changes: dict[str, float], verdict: str) -> None:
    found = certificate(metrics=metrics_with(**changes))
    name = next(iter(changes))
    assert [metric.name for metric in found.metrics if metric.verdict == verdict] == [name]
    assert [fault.split(": ")[1:] for fault in found.faults] == [[FILE, name]]
    assert found.to_json()["certified"] is False
    assert "**Not certified" in found.to_markdown() and "## Faults" in found.to_markdown()


def test_a_metric_or_a_whole_file_that_vanishes_fails() -> None:
    document = metrics_with()
    del document[FILE]["class"]
    assert certificate(metrics=document).faults == [f"metric vanished: {FILE}: class"]
    assert len(certificate(metrics={}).faults) == 4


def test_a_different_input_fails_even_if_all_outputs_are_the_same() -> None:
    for change, name in (
        ("train", "data"),
        ("code", "code"),
        ("params", "params.yaml: train"),
        ("cmd", "command of train"),
    ):
        rerun = lock()
        if change == "train":
            rerun["train"]["deps"][0]["md5"] = "d2"
        elif change == "code":
            rerun["train"]["deps"][1]["md5"] = "c2"  # another stage reads the same file, unchanged
        elif change == "params":
            rerun["train"]["params"]["params.yaml"]["train"]["rate"] = 0.2
        else:
            rerun["train"]["cmd"] = "python other.py"
        found = certificate(rerun)
        assert found.faults == [f"input differs: {name}"]
        assert found.verdict.endswith("all 3 outputs are bit-identical.")


def test_a_missing_output_or_stage_fails() -> None:
    rerun = lock()
    del rerun["train"]["outs"][1]
    assert certificate(rerun).faults == ["output is missing in one run: metrics/train"]
    del rerun["a_report"]
    assert "output is missing in one run: page" in certificate(rerun).faults


def test_the_epoch_is_not_a_count() -> None:
    assert Metric("f", "epoch", 6, 7, None, None).verdict == "no interval"
    assert Metric("f", "num_queries", 6, 7, None, None).verdict == "count changed"


def test_the_environment_does_not_contain_the_host_or_folders() -> None:
    found = describe_environment()
    text = json.dumps(found)
    assert os.uname().nodename not in text and str(Path.home()) not in text and "/" not in text
    assert found["packages"]["torch"] and found["threads"] >= 1 and found["device"]


# -- whole runs ---------------------------------------------------------------------------------------------------

STAGE = """
import json, os, pathlib, time
elsewhere = float(pathlib.Path({elsewhere!r}).read_text(encoding="utf-8"))  # stands for another processor
if elsewhere > 1:
    time.sleep(600)
accuracy = 0.5 + elsewhere + float(os.environ.get("LEAK", 0))
metrics = dict(accuracy=accuracy, intervals=dict(accuracy=[0.4, 0.6]))
pathlib.Path("metrics/m.json").write_text(json.dumps(metrics))
"""
METRICS_FILE = {"metrics/m.json": {"cache": False}}
PIPELINE = {"stages": {"judge": {"cmd": "python judge.py", "deps": ["judge.py"], "metrics": [METRICS_FILE]}}}


class Repository:
    """A repository with one stage, whose `make setup` reuses this environment."""

    def __init__(self, folder: Path) -> None:
        self.root, self.temporary, self.elsewhere = folder / "project", folder / "tmp", folder / "elsewhere.txt"
        for path in (self.root / "benchmarks", self.root / "metrics", self.temporary):
            path.mkdir(parents=True)
        self.elsewhere.write_text("0")
        shutil.copy(ROOT / "benchmarks/certify.py", self.root / "benchmarks")
        (self.root / "judge.py").write_text(STAGE.format(elsewhere=str(self.elsewhere)))
        (self.root / "dvc.yaml").write_text(yaml.safe_dump(PIPELINE))
        wrapper = folder / "python"
        wrapper.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT / "src"} exec {sys.executable} "$@"\n')
        wrapper.chmod(0o755)
        (self.root / "Makefile").write_text(f"setup:\n\tmkdir -p .venv/bin && cp {wrapper} .venv/bin/python\n")
        (self.root / ".gitignore").write_text(".venv/\n")
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT / "src"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "TMPDIR": str(self.temporary),
            "DVC_NO_ANALYTICS": "1",
            "LEAK": "0",
        }
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false")
        for command in (
            ("git", "init", "-q"),
            (sys.executable, "-m", "dvc", "init", "-q"),
            (sys.executable, "-m", "dvc", "repro", "-q"),
            ("git", "add", "-A"),
            ("git", *identity, "commit", "-qm", "run"),
        ):
            subprocess.run(command, cwd=self.root, env=self.environment, check=True)
        self.environment["LEAK"] = "0.3"  # must not reach the rerun

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "benchmarks/certify.py"]
        return subprocess.Popen(
            command, cwd=self.root, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def certify(self, elsewhere: float) -> tuple[int, str]:
        self.elsewhere.write_text(str(elsewhere))
        process = self.start()
        output, _ = process.communicate()
        assert not list(self.temporary.iterdir())
        return process.returncode, output

    def report(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.root / "report/certificate.json").read_text(encoding="utf-8"))
        return document


@pytest.mark.slow
def test_the_committed_pipeline_is_rerun_in_a_clean_clone(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    code, output = repository.certify(0)
    assert (code, repository.report()["verdict"]) == (0, "All 1 outputs are bit-identical."), output
    assert "[3/4] running judge" in output
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=repository.root, capture_output=True, text=True)
    assert repository.report()["commit"] == head.stdout.strip()
    page = (repository.root / "report/certificate.md").read_text(encoding="utf-8")
    assert str(tmp_path) not in page + json.dumps(repository.report())

    code, output = repository.certify(0.1)
    assert code == 0 and repository.report()["verdict"].startswith("0 of 1 outputs are bit-identical; no"), output
    code, output = repository.certify(0.11)
    assert code == 1 and not repository.report()["certified"], output
    assert "metric moved beyond the interval: metrics/m.json: accuracy" in output


@pytest.mark.slow
def test_a_stopped_or_refused_certification_leaves_nothing_behind(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    repository.elsewhere.write_text("2")
    process = repository.start()
    assert process.stdout is not None
    while "[3/4]" not in process.stdout.readline():
        assert process.poll() is None
    process.terminate()
    output, _ = process.communicate()
    assert process.returncode != 0 and "nothing was certified" in output
    assert not list(repository.temporary.iterdir())

    (repository.root / "judge.py").write_text("")
    code, output = repository.certify(0)
    assert code != 0 and "tracked files are modified" in output and "judge.py" in output
    assert not (repository.root / "report").exists()
