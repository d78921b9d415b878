"""Indexes in Qdrant: `vitrine index push`, and the options of the commands that search there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from vitrine.commands.index import index_app, index_folder
from vitrine.commands.session import IndexFolder, Model, ProjectError, Quiet, Verbose, counted, fail, session

if TYPE_CHECKING:
    from vitrine.retrieval.qdrant import QdrantIndex

Qdrant = Annotated[
    str | None, typer.Option(metavar="URL", help="Search in this Qdrant server, such as http://127.0.0.1:6333.")
]
Collection = Annotated[str | None, typer.Option(help="Name of the collection. Default: vitrine_MODEL.")]

Approximate = Annotated[
    bool,
    typer.Option(
        "--approximate", help="In Qdrant, use approximate (HNSW) similarity search, which may miss photographs."
    ),
]


def not_installed(error: ModuleNotFoundError) -> typer.Exit:
    return fail(ValueError(f"{error.name} is not installed. Install the extra: pip install -e '.[qdrant]'"))


def open_collections(
    url: str | None, collection: str | None, approximate: bool, systems: Iterable[str]
) -> list[QdrantIndex]:
    """Open the given collection, or that of each system; none without a server.

    Raises:
        ProjectError: an option needs a server, and none is given.
        QdrantError: the server does not respond, or a collection is missing or not an index.
    """
    if url is None:
        if collection is not None or approximate:
            raise ProjectError("--collection and --approximate require a server; add --qdrant URL")
        return []
    try:
        from vitrine.retrieval.qdrant import QdrantIndex, connect
    except ModuleNotFoundError as error:
        raise not_installed(error) from None
    client = connect(url)
    names = [collection] if collection else map(collection_of, systems)
    return [QdrantIndex(client, name, exact=not approximate) for name in names]


def collection_of(system: str) -> str:
    """Return the default name of a system's collection."""
    return f"vitrine_{system}"


@index_app.command("push")
def index_push(
    to: Annotated[str, typer.Option(metavar="URL", help="The server, such as http://127.0.0.1:6333.")],
    model: Model = "ensemble",
    folder: IndexFolder = None,
    collection: Collection = None,
    _quiet: Quiet = False,
    _verbose: Verbose = False,
) -> None:
    """Write an index to a Qdrant collection; only differences are sent. Needs the extra [qdrant].

    The collection then contains exactly the photographs of the index. Run the command again to resume an interrupted
    push. A collection of another system, or with other labels, is rejected.
    """
    from tqdm import tqdm

    from vitrine.retrieval.backend import load_index

    try:
        from vitrine.retrieval.qdrant import connect
        from vitrine.retrieval.qdrant_push import push
    except ModuleNotFoundError as error:
        raise not_installed(error) from None
    index = load_index(index_folder(folder, model))
    name = collection or collection_of(index.name)
    client = connect(to)
    with tqdm(total=len(index), unit="photo", disable=session().quiet or None) as bar:
        pushed = push(client, name, index, bar.update)
    if not session().quiet:
        typer.echo(
            f"{name}: {counted(len(index), 'photograph')}; {pushed.num_written} written, {pushed.num_kept} unchanged, "
            f"{pushed.num_removed} removed."
        )
