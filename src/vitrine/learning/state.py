"""The state that a killed run needs to resume: tensors and progress, in one atomically written file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vitrine.artifacts import read_tensors, write_tensors

Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class ResumeState:
    """The state of a run between two steps.

    Attributes:
        fingerprint: hash of everything the run depends on; a state can only resume a run with the same one
        progress: serializable as JSON
        tensors: by group, such as `model`; group names contain no dot
    """

    fingerprint: str
    progress: Mapping[str, Any]
    tensors: Mapping[str, Tensors]

    def save(self, path: Path) -> None:
        header = json.dumps({"fingerprint": self.fingerprint, "progress": self.progress})
        tensors = {f"{group}.{name}": each for group, part in self.tensors.items() for name, each in part.items()}
        write_tensors(path, {**tensors, "header": np.frombuffer(header.encode(), dtype=np.uint8)})

    @classmethod
    def load(cls, path: Path) -> ResumeState | None:
        """Return what `save` wrote, or None if there is no file. Empty groups are omitted.

        Raises:
            ArtifactError: the file is not a safetensors file.
        """
        if not path.is_file():
            return None
        tensors = read_tensors(path)
        header = json.loads(tensors.pop("header").tobytes())
        groups: dict[str, dict[str, NDArray[Any]]] = {}
        for name, tensor in tensors.items():
            group, rest = name.split(".", 1)
            groups.setdefault(group, {})[rest] = tensor
        return cls(header["fingerprint"], header["progress"], groups)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, NDArray[Any]]:
    """Copy an optimizer's state to NumPy arrays, keyed by parameter index."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{key}": value.cpu().numpy().copy() for index, entry in state.items() for key, value in entry.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    document = optimizer.state_dict()
    for name, array in tensors.items():
        index, key = name.split(".", 1)
        tensor = torch.from_numpy(np.array(array))
        if tensor.ndim:
            # The fused kernel walks memory: moments need the memory format of their parameter (such as channels last).
            tensor = torch.empty_like(parameters[int(index)]).copy_(tensor)
        document["state"].setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict(document)
