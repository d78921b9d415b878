"""Predict shards with Ray Data: actors on one or more machines, each on one processor."""

from __future__ import annotations

import logging
import os
import pickle
import socket
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from vitrine.errors import VitrineError
from vitrine.inference.decoder import DecoderError
from vitrine.scale.engines import Copy, Shard, decode_in_turn, decoder_for, predict_shard
from vitrine.scale.storage import Access, StorageError

# Read when Ray starts.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # exceptions report what stops a job

OBJECT_STORE_BYTES = 512 << 20
"""Object store size of a cluster on this machine: shards in flight take a few megabytes."""


CONNECT_SECONDS = 10

MAX_RETRIES = 5
"""Retries of a shard whose actor died: a shard that kills every actor must not occupy a cluster forever."""


class ClusterError(VitrineError):
    """Ray cannot be reached, or stopped a job."""


class ShardPredictor:
    """The actor: reads, decodes and predicts a shard, and returns its Parquet file."""

    def __init__(self, copy: Copy, access: Access) -> None:
        self.predictor, self.access = copy.load(), access
        self.decoder = decoder_for(self.predictor)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        (shard,) = (pickle.loads(each) for each in batch["shard"])
        decoded = decode_in_turn(shard.chunks(), self.decoder, self.access)
        try:
            parquet, fault = predict_shard(self.predictor, shard, decoded), b""
        except (DecoderError, StorageError) as error:
            parquet, fault = b"", pickle.dumps(error)
        return {"name": [shard.name], "parquet": [parquet], "fault": [fault]}


def predict_with_ray(
    shards: Sequence[Shard], copy: Copy, access: Access, *, workers: int | None, address: str | None, quiet: bool
) -> Iterator[tuple[str, bytes]]:
    """Predict shards in actors; an actor that dies is replaced, and its shard is retried.

    Args:
        workers: number of actors; by default the number of processors in the cluster.
        address: address of a running cluster; by default one is started on this machine.

    Yields:
        name and bytes of a shard's Parquet file, in any order

    Raises:
        ClusterError: the cluster cannot be reached, has too few processors, or an actor cannot start.
        StorageError: a storage does not respond for a whole chunk.
        DecoderError: decoding processes cannot be started, or die on one photograph after another.
    """
    import ray.data
    from ray.exceptions import RayError

    with _cluster(address, workers):
        cpus = int(ray.cluster_resources().get("CPU", 0))
        actors = workers or cpus
        if not 0 < actors <= cpus:
            raise ClusterError(f"the cluster has {cpus} processors, fewer than the {max(actors, 1)} workers requested")
        arguments = shards, copy, access, min(actors, len(shards)), quiet
        is_client = address is not None and address.startswith("ray://")
        try:
            for row in _rows_of_client(*arguments) if is_client else _rows(*arguments):
                if row["fault"]:
                    raise pickle.loads(row["fault"])
                yield row["name"], row["parquet"]
        except RayError as error:
            cause = getattr(error, "cause", None) or error
            raise ClusterError(f"Ray stopped the job: {_last_line(cause)}. Run the same command again") from error


def _rows(shards: Sequence[Shard], copy: Copy, access: Access, workers: int, quiet: bool) -> Iterator[dict[str, Any]]:
    """Yield the rows that ShardPredictor returns."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = not quiet
    context.memory_usage_poll_interval_s = None  # reading the memory of an actor of this size takes half its time
    rows = ray.data.from_items([{"shard": pickle.dumps(shard)} for shard in shards], override_num_blocks=len(shards))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray has no other way to bound retries, and is pinned
        results = rows.map_batches(
            ShardPredictor,
            batch_size=1,
            num_cpus=1,
            fn_constructor_args=(copy, access),
            compute=ray.data.ActorPoolStrategy(size=workers),
            max_task_retries=MAX_RETRIES,
        )
    yield from results.iter_rows()


class _Job:
    """Runs Ray Data inside a cluster, because it does not work in a process connected as a client."""

    def __init__(self, *arguments: Any) -> None:
        self.rows = _rows(*arguments)

    def next(self) -> dict[str, Any] | None:
        return next(self.rows, None)


def _rows_of_client(*arguments: Any) -> Iterator[dict[str, Any]]:
    import ray

    job = ray.remote(num_cpus=0)(_Job).remote(*arguments)
    while (row := ray.get(job.next.remote())) is not None:
        yield row


@contextmanager
def _cluster(address: str | None, workers: int | None) -> Iterator[None]:
    """Connect to a cluster, or start one here."""
    import ray

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its errors are also raised as exceptions
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        settings |= {"address": "local", "num_cpus": workers, "include_dashboard": False}
        settings |= {"object_store_memory": OBJECT_STORE_BYTES, "_node_ip_address": "127.0.0.1"}
    else:
        _check_address(address)
        settings["address"] = address
    try:
        ray.init(**settings)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        hint = (
            ""
            if address is None or os.environ.get("RAY_AUTH_MODE")
            else ". If it needs a token, set RAY_AUTH_MODE=token"
        )
        raise ClusterError(f"{address or 'Ray'}: cannot be reached ({_last_line(error)}){hint}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Check within seconds that the address accepts connections: Ray retries for minutes, then exits the process."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if address == "auto" or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise ClusterError(f"{address}: cannot be reached ({error.strerror or error})") from None


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip().rstrip(".")
