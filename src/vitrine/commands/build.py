"""`vitrine index build`: index a folder, a table or a bucket, on this machine or on a cluster."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitrine.commands.index import pipeline_rule
from vitrine.commands.session import Model, Quiet, Verbose, counted, fail, load_predictor, say, session, skip

if TYPE_CHECKING:
    from vitrine.scale.engines import Shard


class Engine(StrEnum):
    """Where predictions are computed."""

    local = "local"
    ray = "ray"


def index_build(
    source: Annotated[str, typer.Argument(help="A folder, a table (.csv, .parquet) with a column path, or a URI.")],
    out: Annotated[Path, typer.Argument(help="A new or empty folder, or one that this command wrote.")],
    model: Model = "ensemble",
    engine: Annotated[Engine, typer.Option(help="Where to predict: in this process, or in Ray actors.")] = Engine.local,
    address: Annotated[
        str | None, typer.Option(help="A Ray cluster, such as ray://HOST:10001. Default: start one on this machine.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Ray actors to start. Default: one per processor.")] = None,
    shard_photos: Annotated[int, typer.Option(min=1, help="Photographs per Parquet file.")] = 512,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for a response from object storage.")] = 20.0,
    _quiet: Quiet = False,
    _verbose: Verbose = False,
) -> None:
    """Index many photographs: Parquet files in OUT/parquet, their index in OUT/index. Needs the extra [scale].

    The result does not depend on the engine or the number of workers. If interrupted, run the command again to resume.
    Unreadable photographs become rows with an error and are reported on standard error; the exit code is then 1.
    """
    if engine is Engine.local and (address or workers):
        raise fail(ValueError("--address and --workers require --engine ray"))
    start = time.perf_counter()
    try:
        if engine is Engine.ray and find_spec("ray") is None:
            raise ModuleNotFoundError(name="ray")
        from vitrine.scale.build import INDEX, build
        from vitrine.scale.engines import Copy, predict_here
        from vitrine.scale.ray_engine import predict_with_ray
        from vitrine.scale.sources import read_source
        from vitrine.scale.storage import Access
    except ModuleNotFoundError as error:
        raise fail(ValueError(f"{error.name} is not installed. Install the extra: pip install -e '.[scale]'")) from None
    from vitrine.retrieval.queries import read_synonyms

    access, place = Access(timeout), session().from_here(out)
    photos, num_repeated = read_source(source if "://" in source else str(session().from_here(source)), access)
    if num_repeated:
        say(f"Ignored {counted(num_repeated, 'row')} of {source} with a repeated path.")
    predictor = load_predictor(model)

    def predict(shards: Sequence[Shard]) -> Iterator[tuple[str, bytes]]:
        quiet = session().quiet or not sys.stderr.isatty()
        if engine is Engine.ray:
            copy = Copy.of(predictor, Path("models"), Path("exports"))
            yield from predict_with_ray(shards, copy, access, workers=workers, address=address, quiet=quiet)
            return
        from tqdm import tqdm

        sizes = {shard.name: len(shard.photos) for shard in shards}
        with tqdm(total=sum(sizes.values()), unit="photo", disable=quiet) as bar:
            for name, parquet in predict_here(shards, predictor, access):
                yield name, parquet
                bar.update(sizes[name])

    synonyms = read_synonyms(Path("data/synonyms.yaml"))
    rule = pipeline_rule(predictor.name, predictor.label_space)
    built = build(photos, place, predictor, predict, synonyms, rule, shard_photos)
    for path, fault in built.faults:
        skip(path if "://" in path or os.path.isabs(path) else session().to_here(Path(path)), fault)
    if not session().quiet:
        reused = f" ({built.num_reused} finished before)" if built.num_reused else ""
        typer.echo(
            f"Indexed {counted(built.num_indexed, 'photograph')}{reused} in {out / INDEX}, "
            f"skipped {counted(len(built.faults), 'file')}, in {time.perf_counter() - start:.0f} s."
        )
    if built.faults:
        raise typer.Exit(1)
