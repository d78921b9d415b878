"""Data-parallel training: start processes, split batches, sum gradients; the first process evaluates and writes.

With a single process all of this is a no-op, and no process group is initialized.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import ProcessExitedException, start_processes
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from vitrine.errors import VitrineError

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others; evaluation on val must be faster. A dead process is noticed at once."""

GRACE_SECONDS = 5.0
"""How long the remaining processes may take to exit on their own after one has died."""


class DistributedError(VitrineError):
    """Processes cannot be started, or one of them exited."""


class LostProcessError(DistributedError):
    """Another process does not respond."""


def num_processes() -> int:
    """Return how many processes train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Return this process's number, from 0."""
    return distributed.get_rank() if num_processes() > 1 else 0


def own_share() -> slice:
    """Return this process's share of the photographs of a batch."""
    return slice(rank(), None, num_processes())


# -- starting -----------------------------------------------------------------------------------------------------


def run_processes(num: int, function: Callable[..., None], *arguments: Any) -> None:
    """Call a function in `num` new processes that train together, or in this process if `num` is 1.

    Under `torchrun`, which has already started the processes, call it in this one and ignore `num`.

    Args:
        function: defined at module level, since new processes import it by name.
    Raises:
        DistributedError: there are fewer GPUs than processes, or a process failed (with its message) or was killed.
    """
    if distributed.is_available() and distributed.is_torchelastic_launched():
        number, size, local, local_size = (
            int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        )
        _check_devices(local_size)
        with process_group(number, size, local, "env://"):
            function(*arguments)
    elif num == 1:
        function(*arguments)
    else:
        _check_devices(num)
        _start(num, function, arguments)


def _check_devices(num: int) -> None:
    limit = torch.cuda.device_count() if torch.cuda.is_available() else num
    if torch.backends.mps.is_available():
        limit = 1
    if num > limit:
        raise DistributedError(f"training.processes: must be at most {limit}, the number of GPUs; got {num}")


@contextmanager
def process_group(number: int, size: int, local: int, meeting: str) -> Iterator[None]:
    """Join the process group, and wait for the other processes at the end.

    Args:
        local: local rank: the number of this process on this machine, and of its GPU.
        meeting: where the processes find each other: PyTorch's `init_method`.
    """
    if torch.cuda.is_available():
        torch.cuda.set_device(local)
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, meeting, TIMEOUT, size, number)
    yield
    from_first(lambda: None)
    distributed.destroy_process_group()  # not after an error: the others may be gone, and this would wait for them


def _start(num: int, function: Callable[..., None], arguments: Sequence[Any]) -> None:
    faults = multiprocessing.get_context("spawn").SimpleQueue()
    threads = max(1, torch.get_num_threads() // num)
    with tempfile.TemporaryDirectory() as folder:
        settings = (num, f"file://{folder}/meeting", threads, faults, function, arguments)
        started = start_processes(_work, settings, num, join=False)  # type: ignore[no-untyped-call]
        try:
            while not started.join(grace_period=GRACE_SECONDS):
                pass
        except ProcessExitedException as error:
            causes = []
            while not faults.empty():
                causes.append(faults.get())
            for index, process in enumerate(started.processes):
                # Processes that lost contact with others may abort or be terminated: neither is the cause.
                if process.exitcode < 0 and -process.exitcode not in (signal.SIGTERM, signal.SIGABRT):
                    name = signal.Signals(-process.exitcode).name
                    hint = "; if it ran out of memory, lower training.processes" if name == "SIGKILL" else ""
                    message = f"process {index} of {num} was killed by {name}. Run again to resume after the last epoch"
                    causes.append((1, message + hint))
            raise DistributedError(min(causes, default=(3, str(error)))[1]) from None


def _work(
    number: int, size: int, meeting: str, threads: int, faults: Any, function: Callable[..., None], arguments: Any
) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        with process_group(number, size, number, meeting):
            function(*arguments)
    except Exception as error:
        text = str(error) if isinstance(error, VitrineError) else traceback.format_exc()
        faults.put((2 if isinstance(error, LostProcessError) else 0, text))  # the smallest number is the cause
        sys.stdout.flush()
        os._exit(1)  # a normal exit would end gloo's threads while they wait, and print errors


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


# -- training together --------------------------------------------------------------------------------------------


@contextmanager
def _exchange() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise LostProcessError(
            f"process {rank()} of {num_processes()}: another process exited or did not respond for {TIMEOUT}. Run "
            f"again to resume after the last epoch ({error})"
        ) from error


def from_first(work: Callable[[], T]) -> T:
    """Call `work` in process 0 only and return its result in every process; the others wait for it."""
    if num_processes() == 1:
        return work()
    results = [work() if rank() == 0 else None]
    with _exchange():
        distributed.broadcast_object_list(results, src=0)
    return cast(T, results[0])


def copy_from_first(module: nn.Module) -> None:
    """Copy the weights of process 0 to every process."""
    if num_processes() > 1:
        with _exchange():
            for tensor in module.state_dict().values():
                distributed.broadcast(tensor, src=0)


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient with its sum over all processes, which must have gradients for the same parameters."""
    if num_processes() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    with _exchange():
        distributed.all_reduce(flat)
    for gradient, total in zip(gradients, torch.split(flat, [each.numel() for each in gradients]), strict=True):
        gradient.copy_(total.view_as(gradient))  # in place: fused AdamW needs the memory layout of the parameters


class _Sum(torch.autograd.Function):
    """A sum over processes; each process's part contributes to every loss, so gradients are summed, too."""

    @staticmethod
    def forward(_: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        with _exchange():
            distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(_, gradient)


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes; gradients flow back through it."""
    return tensor if num_processes() == 1 else cast(Tensor, _Sum.apply(tensor))


def synchronized_batch_norm() -> AbstractContextManager[Any]:
    """Return a context in which training-mode batch normalization computes its statistics over all processes.

    PyTorch's SyncBatchNorm does the same, but only on GPUs, and would replace timm's fused norm-activation layers.
    """
    return nullcontext() if num_processes() == 1 else _SynchronizedBatchNorm()


class _SynchronizedBatchNorm(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        keywords = keywords or {}
        if function is functional.batch_norm and keywords["training"]:
            return _batch_norm(*arguments, **keywords)
        return function(*arguments, **keywords)


def _batch_norm(
    inputs: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """Normalize as `functional.batch_norm` does, with statistics over all processes, whose shares may differ in size.

    Shape:
        inputs, returns: (batch, channels, ...); others: (channels,)
    """
    values = inputs.float()
    variance, mean = torch.var_mean(values, [0, *range(2, values.ndim)], correction=0)
    parts = values.new_zeros(num_processes(), 3, len(mean))
    parts[rank()] = torch.stack([mean, variance, torch.full_like(mean, values.numel() // len(mean))])
    means, variances, counts = sum_over_processes(parts).unbind(1)  # (processes, channels) each
    total = counts.sum(dim=0)
    mean = (counts / total * means).sum(dim=0)
    variance = (counts / total * (variances + (means - mean) ** 2)).sum(dim=0)
    with torch.no_grad():
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(variance * total / (total - 1), momentum)
    scale = (variance + eps).rsqrt() if weight is None else weight * (variance + eps).rsqrt()
    shift = -mean * scale if bias is None else bias - mean * scale
    shape = [1, -1, *[1] * (values.ndim - 2)]
    return torch.addcmul(shift.view(shape), values, scale.view(shape)).to(inputs.dtype)
