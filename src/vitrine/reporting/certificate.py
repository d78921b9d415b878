"""Compare a rerun of the pipeline with the committed run: hashes of inputs and outputs, metrics beside intervals."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vitrine.artifacts import INTERVALS
from vitrine.reporting.templating import render

Hashes = Mapping[str, Mapping[str, str | None]]
"""Hashes by file, in the committed run and in the rerun; None if the file is missing."""

PACKAGES = (
    *("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "scikit-image", "pandas"),
    *("pillow", "matplotlib", "safetensors", "dvc"),
)
"""Packages that determine the outputs' bytes."""

INSTRUCTION_SETS = ("avx", "fma", "f16c", "amx", "neon", "asimd", "sve", "sme", "bf16", "fp16", "i8mm")
"""Prefixes of the names of instruction sets that determine the kernels, and thus the order of summation."""

FAULTS = {
    "beyond its interval": "moved beyond the interval",
    "count changed": "counted differently",
    "vanished": "vanished",
    "new": "not in the committed run",
}
"""Verdicts on a metric that fail the certificate, and their wording on the page."""


# -- comparison ---------------------------------------------------------------------------------------------------


def lock_files(stage: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the hashes of a locked stage's inputs (command, params and files) and of its outputs."""
    inputs = {"command": _digest(stage["cmd"])}
    for file, sections in stage.get("params", {}).items():
        inputs |= {f"{file}: {name}": _digest(values) for name, values in sections.items()}
    inputs |= {entry["path"]: entry["md5"] for entry in stage.get("deps", [])}
    return {"inputs": inputs, "outputs": {entry["path"]: entry["md5"] for entry in stage.get("outs", [])}}


def _digest(value: Any) -> str:
    return hashlib.md5(json.dumps(value, sort_keys=True).encode()).hexdigest()


def stage_order(stages: Mapping[str, Any]) -> list[str]:
    """Order locked stages so that each comes after those whose outputs it reads."""
    makers = {out: name for name, stage in stages.items() for out in lock_files(stage)["outputs"]}
    graph = {
        name: {maker for path in lock_files(stage)["inputs"] for out, maker in makers.items() if _is_part(path, out)}
        for name, stage in stages.items()
    }
    return list(TopologicalSorter(graph).static_order())


def _is_part(path: str, out: str) -> bool:
    return path == out or path.startswith(f"{out}/")


def compare_locks(committed: Mapping[str, Any], rerun: Mapping[str, Any]) -> dict[str, dict[str, Hashes]]:
    """Pair the hashes of both runs, by stage and then "inputs" or "outputs"."""
    nothing: dict[str, dict[str, str]] = {"inputs": {}, "outputs": {}}
    stages: dict[str, dict[str, Hashes]] = {}
    for name in stage_order({**rerun, **committed}):
        old, new = (lock_files(run[name]) if name in run else nothing for run in (committed, rerun))
        stages[name] = {
            kind: {
                path: {"committed": old[kind].get(path), "rerun": new[kind].get(path)}
                for path in sorted({*old[kind], *new[kind]})
            }
            for kind in nothing
        }
    return stages


@dataclass(frozen=True)
class Metric:
    """A metric of both runs and the committed run's 95 % interval, if it has one."""

    file: str
    name: str
    committed: float | None
    rerun: float | None
    ci_low: float | None
    ci_high: float | None

    @property
    def verdict(self) -> str:
        """One of same, within its interval, no interval, and the keys of FAULTS."""
        if self.rerun is None:
            return "vanished"
        if self.committed is None:
            return "new"
        if self.rerun == self.committed:
            return "same"
        # The epoch chosen on val is an integer but not a count: it may differ on another processor.
        if isinstance(self.committed, int) and isinstance(self.rerun, int) and self.name != "epoch":
            return "count changed"
        if self.ci_low is None or self.ci_high is None:
            return "no interval"
        return "within its interval" if self.ci_low <= self.rerun <= self.ci_high else "beyond its interval"


def compare_metrics(committed: Mapping[str, Any], rerun: Mapping[str, Any]) -> list[Metric]:
    """Pair the metrics of both runs, by file and name."""
    metrics = []
    for file in sorted({*committed, *rerun}):
        old, new = committed.get(file, {}), rerun.get(file, {})
        for name in sorted({*old, *new} - {INTERVALS}):
            low, high = old.get(INTERVALS, {}).get(name, (None, None))
            metrics.append(Metric(file, name, old.get(name), new.get(name), low, high))
    return metrics


def describe_environment() -> dict[str, Any]:
    """Describe what may change the last bits of a number, without names or paths of this machine."""
    import torch

    from vitrine.learning.model import pick_device

    capabilities = torch.cpu.get_capabilities()
    sets = sorted(name for name, value in capabilities.items() if value is True and name.startswith(INSTRUCTION_SETS))
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "c_library": " ".join(platform.libc_ver()).strip() or "unknown",
        "processor": _processor(),
        "instruction_sets": sets,
        "pytorch_kernels": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "device": pick_device().type,
        "packages": {name: version(name) for name in PACKAGES},
    }


def _processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or "unknown"


# -- results ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Certificate:
    """A finished comparison of a rerun of `commit` with the committed run."""

    commit: str
    environment: Mapping[str, Any]
    stages: Mapping[str, Mapping[str, Hashes]]
    metrics: Sequence[Metric]

    @property
    def inputs(self) -> dict[str, Mapping[str, str | None]]:
        """Inputs that no stage makes; one that several stages read is different if it differs for any of them."""
        made = {path for stage in self.stages.values() for path in stage["outputs"]}
        inputs: dict[str, Mapping[str, str | None]] = {}
        for name, stage in self.stages.items():
            for path, hashes in stage["inputs"].items():
                key = f"command of {name}" if path == "command" else path
                if any(_is_part(path, out) for out in made) or key in _different(inputs):
                    continue
                inputs[key] = hashes
        return inputs

    @property
    def outputs(self) -> dict[str, Mapping[str, str | None]]:
        return {path: hashes for stage in self.stages.values() for path, hashes in stage["outputs"].items()}

    @property
    def faults(self) -> list[str]:
        """Reasons not to certify the committed run; empty if it is certified."""
        missing = [path for path, both in self.outputs.items() if None in both.values()]
        return [
            *(f"input differs: {path}" for path in _different(self.inputs)),
            *(f"output is missing in one run: {path}" for path in missing),
            *(
                f"metric {FAULTS[metric.verdict]}: {metric.file}: {metric.name}"
                for metric in self.metrics
                if metric.verdict in FAULTS
            ),
        ]

    @property
    def verdict(self) -> str:
        """Summarize the result of the rerun in one sentence."""
        total, identical = len(self.outputs), len(self.outputs) - len(_different(self.outputs))
        result = f"All {total} outputs are" if identical == total else f"{identical} of {total} outputs are"
        if self.faults:
            return f"Not certified (see Faults); {result[0].lower()}{result[1:]} bit-identical."
        rest = "" if identical == total else "; no headline metric moved beyond its interval"
        return f"{result} bit-identical{rest}."

    def to_json(self) -> dict[str, Any]:
        metrics: dict[str, dict[str, Any]] = {}
        for metric in self.metrics:
            entry = {"committed": metric.committed, "rerun": metric.rerun, "verdict": metric.verdict}
            if metric.ci_low is not None:
                entry |= {"ci_low": metric.ci_low, "ci_high": metric.ci_high}
            metrics.setdefault(metric.file, {})[metric.name] = entry
        return {
            "certified": not self.faults,
            "commit": self.commit,
            "environment": dict(self.environment),
            "faults": self.faults,
            "metrics": metrics,
            "stages": self.stages,
            "verdict": self.verdict,
        }

    def to_markdown(self) -> str:
        sets = ", ".join(self.environment["instruction_sets"]) or "none known"
        packages = ", ".join(f"{name} {number}" for name, number in self.environment["packages"].items())
        environment = {**self.environment, "instruction_sets": sets, "packages": packages}
        outputs = [
            [
                name,
                str(len(files["outputs"])),
                ", ".join(f"`{path}`" for path in _different(files["outputs"])) or "none",
            ]
            for name, files in self.stages.items()
        ]
        return render(
            "certificate.md.j2",
            verdict=self.verdict,
            commit=self.commit,
            faults=self.faults,
            environment=environment,
            same_inputs=len(self.inputs) - len(_different(self.inputs)),
            num_inputs=len(self.inputs),
            outputs=outputs,
            num_metrics=len(self.metrics),
            moved=[_metric_row(metric) for metric in self.metrics if metric.verdict != "same"],
        )


def _different(hashes: Hashes) -> list[str]:
    return [path for path, both in hashes.items() if both["committed"] != both["rerun"]]


def _metric_row(metric: Metric) -> list[str]:
    committed, rerun = (_shown(value) for value in (metric.committed, metric.rerun))
    if metric.ci_low is not None:
        committed += f" [{_shown(metric.ci_low)}, {_shown(metric.ci_high)}]"
    both = metric.committed is not None and metric.rerun is not None
    change = f"{metric.rerun - metric.committed:+.4g}" if both else ""  # type: ignore[operator]
    file = Path(metric.file).with_suffix("").as_posix().removeprefix("metrics/")
    return [f"{file}: {metric.name}", committed, rerun, change, metric.verdict]


def _shown(value: float | None) -> str:
    return "none" if value is None else str(value) if isinstance(value, int) else f"{value:.4f}"
