"""A state survives saving and loading, and a run without one starts from scratch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vitrine.artifacts import ArtifactError
from vitrine.learning.state import ResumeState, load_optimizer, optimizer_tensors


def test_a_state_survives_saving_and_loading(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    assert ResumeState.load(path) is None
    tensors = {"model": {"a.b": np.arange(6.0).reshape(2, 3), "n": np.array(7)}, "best": {}}
    ResumeState("print", {"epoch": 3, "history": [{"loss": 0.1}]}, tensors).save(path)
    found = ResumeState.load(path)
    assert found is not None
    assert (found.fingerprint, found.progress) == ("print", {"epoch": 3, "history": [{"loss": 0.1}]})
    assert set(found.tensors) == {"model"}  # empty groups are not written
    assert all(np.array_equal(found.tensors["model"][name], each) for name, each in tensors["model"].items())


def test_a_broken_state_is_an_error_that_names_the_file_to_delete(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    path.write_bytes(b"half")
    with pytest.raises(ArtifactError, match=r"state\.safetensors: cannot be read .* Delete it"):
        ResumeState.load(path)


def test_a_loaded_optimizer_has_moments_in_the_memory_format_of_the_parameters() -> None:
    def create() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        layer = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        return layer, torch.optim.AdamW(layer.parameters(), lr=0.1)

    def step(layer: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        layer(torch.ones(1, 3, 5, 5)).square().sum().backward()
        optimizer.step()

    layer, optimizer = create()
    step(layer, optimizer)
    saved, weights = optimizer_tensors(optimizer), {name: each.clone() for name, each in layer.state_dict().items()}
    step(layer, optimizer)
    other, resumed = create()
    other.load_state_dict(weights)
    load_optimizer(resumed, saved)
    assert resumed.state[other.weight]["exp_avg"].is_contiguous(memory_format=torch.channels_last)
    step(other, resumed)
    assert all(torch.equal(each, other.state_dict()[name]) for name, each in layer.state_dict().items())
