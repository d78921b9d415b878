"""Changes between two commits are judged by their noise and described in plain words."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from vitrine.artifacts import write_metrics
from vitrine.cli import app
from vitrine.reporting.compare import Change, classify_changes, count_changes, direction

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("class", 1), ("macro_f1", 1), ("map_gain", 1), ("views_at_5", 1), ("loss", -1), ("m.class.nll", -1), ("ece", -1),
     ("num_photos", 0), ("epoch", 0)],
)  # fmt: skip
def test_every_metric_has_its_direction(name: str, expected: int) -> None:
    assert direction(name) == expected


def judged(old: tuple[float, float, float], new: tuple[float, float, float], name: str = "class") -> Change:
    """Classify the change of one metric, given as value, low, high."""
    document = {"a.json": {name: {"old": old[0], "new": new[0]}}}
    ends = ({"a.json": {name: list(values[1:])}} for values in (old, new))
    return classify_changes(document, *ends)[0]


def test_noise_is_the_root_sum_of_squares_of_half_intervals() -> None:
    # Half widths 0.03 and 0.04: noise 0.05.
    change = judged((0.5, 0.47, 0.53), (0.44, 0.4, 0.48))
    assert change.noise == pytest.approx(0.05)
    assert change.verdict == "worse"
    # Asymmetric intervals: the lower half of the old one and the upper half of the new one count.
    change = judged((0.9, 0.84, 0.92), (0.78, 0.6, 0.86))
    assert change.noise == pytest.approx(0.1) and change.verdict == "worse"
    assert judged((0.5, 0.47, 0.53), (0.46, 0.42, 0.5)).verdict == "within noise"
    assert judged((0.44, 0.4, 0.48), (0.5, 0.47, 0.53)).verdict == "better"
    assert judged((0.44, 0.4, 0.48), (0.5, 0.47, 0.53), "nll").verdict == "worse"


def test_metrics_without_interval_are_not_judged_and_new_and_vanished_ones_are_named() -> None:
    verdicts = {c.name: c.verdict for c in classify_changes({"a.json": {
        "class": {"old": 0.9, "new": 0.1}, "brier": {"new": 0.5}, "epoch": {"old": 1, "new": 9},
        "macro_f1": {"old": 0.3}, "note": {"old": "x", "new": "y"}}}, {}, {"a.json": {"class": [0, 1]}})}  # fmt: skip
    assert verdicts == {"class": "no interval", "brier": "new", "epoch": "neither", "macro_f1": "gone"}


def test_a_vanished_metric_fails_the_gate_and_a_vanished_count_does_not() -> None:
    gone = {"class": {"old": 0.5}, "num_photos": {"old": 20}}
    changes = {change.name: change for change in classify_changes({"a.json": gone}, {"a.json": {"class": [0, 1]}}, {})}
    assert {name: change.verdict for name, change in changes.items()} == {"class": "gone", "num_photos": "neither"}
    assert "1 gone, 0 new" in count_changes(list(changes.values()))


class Repository:
    """A DVC project with a few files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "plots/evaluate").mkdir(parents=True)
        (root / "metrics/evaluate").mkdir(parents=True)
        self.git("init", "-q")
        subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=root, check=True)
        stage = {"cmd": "x", "params": ["train"], "metrics": [{"metrics/evaluate/deit.json": {"cache": False}}]}
        (root / "dvc.yaml").write_text(json.dumps({"stages": {"x": stage}}))

    def git(self, *arguments: str) -> None:
        name = ("-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *name, *arguments], cwd=self.root, check=True, capture_output=True)

    def commit(self, learning_rate: float, accuracy: float, loss: float) -> None:
        (self.root / "params.yaml").write_text(f"train:\n  learning_rate: {learning_rate}\n")
        write_metrics(
            self.root / "metrics/evaluate/deit.json",
            {"num_photos": 100, "class": accuracy, "loss": loss},
            {"class": (accuracy - 0.05, accuracy + 0.05)},
        )
        Image.new("RGB", (4, 4), (int(255 * accuracy), 0, 0)).save(self.root / "plots/evaluate/curves.png")
        self.git("add", "-A")
        self.git("commit", "-qm", f"rate {learning_rate}")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(os.environ, "DVC_NO_ANALYTICS", "1")
    repository = Repository(tmp_path)
    repository.commit(0.001, 0.80, 1.5)
    return repository


def test_the_gate_fails_only_on_metrics_that_are_worse_beyond_noise(repository: Repository) -> None:
    repository.commit(0.002, 0.75, 9.5)
    within = CliRunner().invoke(app, ["gate", "HEAD~1"])
    assert within.exit_code == 0, within.output
    assert "within noise" in within.output and "no interval" in within.output and "+8.0000" in within.output
    repository.commit(0.003, 0.65, 1.5)
    worse = CliRunner().invoke(app, ["gate", "HEAD~2"])
    assert worse.exit_code == 1
    assert "-0.1500 \u00b1 0.0707" in worse.output and "1 worse beyond noise" in worse.output
    assert CliRunner().invoke(app, ["gate", "HEAD"]).exit_code == 0
    repository.commit(0.004, 0.95, 1.5)
    better = CliRunner().invoke(app, ["gate", "HEAD~1"])
    assert better.exit_code == 0 and "1 better beyond noise" in better.output


def test_the_gate_fails_if_a_metric_is_gone(repository: Repository) -> None:
    write_metrics(repository.root / "metrics/evaluate/deit.json", {"num_photos": 100, "nll": 0.5})
    gone = CliRunner().invoke(app, ["gate", "HEAD"])
    assert gone.exit_code == 1, gone.output
    assert "0 worse beyond noise" in gone.output and "2 gone, 1 new" in gone.output
    summary = CliRunner().invoke(app, ["summary", "HEAD"])
    assert summary.exit_code == 0
    text = (repository.root / "summary.md").read_text(encoding="utf-8")
    assert "| evaluate/deit: class | 0.8000 |  | gone |" in text.partition("<details>")[0]
    (repository.root / "metrics/evaluate/deit.json").unlink()
    assert CliRunner().invoke(app, ["gate", "HEAD"]).exit_code == 1


def test_ci_compares_with_the_merge_base() -> None:
    steps = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]["test"]["steps"]
    commands = [step.get("run", "") for step in steps]
    assert any('MERGE_BASE=$(git merge-base "$BASE" HEAD)' in command for command in commands)
    compared = [command for command in commands if "vitrine gate" in command or "vitrine summary" in command]
    assert len(compared) == 2 and all('"$MERGE_BASE"' in command for command in compared)


def test_the_summary_of_two_commits(repository: Repository) -> None:
    repository.commit(0.002, 0.65, 1.25)
    result = CliRunner().invoke(app, ["summary", "HEAD~1", "--out", "docs/pull_request.md"])
    assert result.exit_code == 0, result.output
    text = (repository.root / "docs/pull_request.md").read_text(encoding="utf-8")
    assert "**1 worse beyond noise, 0 better beyond noise, 0 changed within noise, 1 changed without an" in text
    assert "| `train.learning_rate` | `0.001` | `0.002` |" in text
    assert "| evaluate/deit: class | 0.8000 | 0.6500 | -0.1500 \u00b1 0.0707 \u25bc |" in text
    assert "| evaluate/deit: loss | 1.5000 | 1.2500 | -0.2500 |" in text
    assert (
        "interval" not in text.partition("### Pictures")[0].replace("without an interval", "")
        and "num_photos" not in text
    )
    assert "![curves before](pull_request_pictures/curves_before.png)" in text
    pictures = repository.root / "docs/pull_request_pictures"
    assert (pictures / "curves_before.png").read_bytes() != (pictures / "curves_now.png").read_bytes()
    assert (pictures / "curves_now.png").read_bytes() == (repository.root / "plots/evaluate/curves.png").read_bytes()


def test_the_summary_names_what_is_compared(repository: Repository) -> None:
    repository.commit(0.002, 0.65, 1.25)
    CliRunner().invoke(app, ["summary", "HEAD~1"])
    first = (repository.root / "summary.md").read_text(encoding="utf-8").splitlines()[0]
    assert re.fullmatch(r"## What `[0-9a-f]{7,}` changes compared with `[0-9a-f]{7,}`", first)
    (repository.root / "params.yaml").write_text("train:\n  learning_rate: 0.003\n")
    CliRunner().invoke(app, ["summary", "HEAD"])
    first = (repository.root / "summary.md").read_text(encoding="utf-8").splitlines()[0]
    assert re.fullmatch(r"## What the working tree changes compared with `[0-9a-f]{7,}`", first)


def test_on_github_pictures_are_linked_by_commit(repository: Repository) -> None:
    repository.commit(0.002, 0.65, 1.25)
    address = "https://example.com/o/r"
    assert CliRunner().invoke(app, ["summary", "HEAD~1", "--repository-url", address]).exit_code == 0
    text = (repository.root / "summary.md").read_text(encoding="utf-8")
    log = subprocess.run(["git", "rev-parse", "HEAD~1", "HEAD"], cwd=repository.root, capture_output=True, text=True)
    commits = log.stdout.split()
    assert len(commits) == 2
    for commit in commits:
        assert f"{address}/blob/{commit}/plots/evaluate/curves.png?raw=true" in text


def test_an_unknown_revision_is_one_clear_error(repository: Repository) -> None:
    for command in ("gate", "summary"):
        result = CliRunner().invoke(app, [command, "nowhere"])
        assert result.exit_code == 2
        assert "nowhere" in result.output and "Traceback" not in result.output
