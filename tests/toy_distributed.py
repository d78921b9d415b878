"""Functions that test processes run. Processes import them by name, which does not work for a test file."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed
from toy_training import NETWORK, PHASES, SPACE, data, params, strategy

from vitrine.artifacts import write_json, write_npz
from vitrine.errors import VitrineError
from vitrine.learning import strategies, training
from vitrine.learning.distillation import DistillationParams, DistillationWrapper
from vitrine.learning.distributed import from_first, rank, run_processes, sum_over_processes
from vitrine.learning.model import MultiTaskModel, create_model, tensors_of
from vitrine.learning.training import Fitted, Strategy, fit
from vitrine.photos import Decoding

Gradients = dict[str, NDArray[Any]]

UNLABELED = 2
"""Index of the photograph in the toy data that has no shade."""

CASES: dict[str, tuple[str, bool, Sequence[int]]] = {
    "plain": ("test_vit", False, [0, 1, 2, 3, 4, 5, 6, 7]),
    "distilled": ("test_vit", True, [0, 1, 2, 3, 4, 5, 6, 7]),
    "uneven": ("test_vit", True, [7, 2, 5, 1, 9]),
    "first process without a label": ("test_vit", False, [UNLABELED, 5]),
    "second process without a label": ("test_vit", False, [5, UNLABELED, 6]),
    "no label at all": ("test_vit", False, [UNLABELED, UNLABELED]),
    "batch normalization": ("mobilevit_xxs", False, [7, 2, 5, 1, 9]),
}
"""Network, whether it has a teacher, and the photographs of the batch."""


def network(architecture: str = "test_vit", dropout: float = 0.1, seed: int = 1) -> MultiTaskModel:
    torch.manual_seed(seed)
    return create_model(architecture, "none", SPACE, Decoding(24, 50.0), 32, dropout, dropout)


def gradients(architecture: str, distilled: bool, rows: Sequence[int]) -> Gradients:
    """Return the losses, the gradients and the batch normalization buffers after one batch."""
    model = network(architecture, dropout=0.0)
    if distilled:
        teacher = network("test_efficientnet", seed=7)
        model = DistillationWrapper(model, teacher, DistillationParams(weight=0.5, temperature=2.0), 1.0)
        model.fit_feature_stats(data().photos)
    run = training._Run(model.train(), data(), strategy(), params())
    losses = sum_over_processes(run._backward(np.array(rows), torch.Generator().manual_seed(3)))
    grads = {name: each.grad.numpy() for name, each in model.named_parameters() if each.grad is not None}
    return {**grads, **{name: each.numpy() for name, each in model.named_buffers()}, "losses": losses.numpy()}


def digest(fitted: Fitted) -> str:
    """Hash the weights and the history."""
    hasher = hashlib.sha256(fitted.history.to_csv().encode())
    for name, tensor in sorted(tensors_of(fitted.model).items()):
        hasher.update(name.encode() + tensor.tobytes())
    return hasher.hexdigest()


def fit_once(folder: Path, victim: int = -1, steps: int = 0) -> None:
    """Train with the states in `folder`, one file per process; kill the process `victim` after `steps` steps."""
    step = training.multi_task_loss

    def counted(*arguments: Any) -> torch.Tensor:
        nonlocal steps
        steps -= 1
        if rank() == victim and steps < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(*arguments)

    training.multi_task_loss = counted
    fitted = fit(network(), data(), strategy(), params(), folder / f"state-{rank()}")
    training.multi_task_loss = step
    seed = torch.initial_seed()
    write_json(folder / f"end-{rank()}.json", {"digest": digest(fitted), "seed": seed, "epoch": fitted.epoch})


def stage(folder: Path) -> None:
    """Train like a stage does, with each process in its own project."""
    os.chdir(folder / str(rank()))
    strategies._train_and_write("toy", Strategy(NETWORK, PHASES[:1], balanced=False), params(), None)


def exercise(folder: Path) -> None:
    """Run everything in which no process dies, because starting processes takes longer than the work itself."""
    fit_once(folder)
    for number, case in enumerate(CASES.values()):
        arrays = gradients(*case)
        if rank() == 0:
            write_npz(folder / f"gradients-{number}.npz", arrays)
    stage(folder)


def fail(how: str) -> None:
    """Make the second process fail in the given way while the first waits for it."""
    if how == "stuck":
        distributed.set_timeout(timedelta(seconds=2))
    from_first(lambda: None)
    if rank() == 1:
        if how == "fault":
            raise VitrineError("the photographs are gone")
        if how == "bug":
            raise ZeroDivisionError("a bug")
        time.sleep(600)
    sum_over_processes(torch.ones(1))


def start_and_sleep(folder: str) -> None:
    """Start two processes that leave their ids in `folder` and sleep."""
    run_processes(2, sleep, Path(folder))


def sleep(folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(600)


if __name__ == "__main__":
    run_processes(1, fit_once, Path(sys.argv[1]))
