"""`vitrine index push`, the command line and the page work with Qdrant, whose engine runs in this process."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from qdrant_engine import Server
from typer.testing import CliRunner

from vitrine.app.api import create_router
from vitrine.app.state import AppState
from vitrine.artifacts import ArtifactError
from vitrine.cli import app
from vitrine.retrieval import qdrant
from vitrine.retrieval.index import Index
from vitrine.retrieval.qdrant import QdrantIndex

URL = "http://127.0.0.1:6333"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server that `connect` reaches at any address."""
    server, connect = Server(tmp_path), qdrant.connect
    monkeypatch.setattr(qdrant, "connect", lambda url: connect(url, transport=httpx.MockTransport(server.handle)))
    return server


@pytest.fixture
def project(project_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = shutil.copytree(project_folder, tmp_path / "project")
    monkeypatch.chdir(folder)
    return folder


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_an_index_is_pushed_and_searched_from_the_command_line(project: Path, server: Server) -> None:
    code, text = run("index", "push", "--model", "deit", "--to", URL)
    assert code == 0 and "vitrine_deit: 32 photographs; 32 written, 0 unchanged, 0 removed." in text
    assert "32 unchanged" in run("index", "push", "--model", "deit", "--to", URL)[1]
    search = ("search", "bottle, not blue", "--model", "deit", "--format", "json")
    code, text = run(*search, "--qdrant", URL)
    local = json.loads(run(*search)[1])
    remote = json.loads(text)
    assert [hit["score"] for hit in remote["hits"]] == pytest.approx([hit["score"] for hit in local["hits"]], abs=1e-5)
    assert remote["hits"][0]["file"] == local["hits"][0]["file"]
    assert run("index", "push", "--index", "index/deit", "--to", URL, "--collection", "other", "-q") == (0, "")
    assert set(server.shards) == {"vitrine_deit", "other"}


def test_what_is_missing_is_reported_in_one_line(
    project: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitrine.cli._check_port", lambda host, port: None)  # tests open no sockets
    for command in (("search", "bag"), ("serve", "--port", "7861")):
        code, text = run(*command, "--qdrant", URL)
        assert code == 2 and "collection not found. Create it with: vitrine index push" in text
        code, text = run(*command, "--collection", "c")
        assert code == 2 and text == "ERROR: --collection and --approximate require a server; add --qdrant URL\n"
    server.fail_after = 0
    code, text = run("index", "push", "--to", URL)
    assert code == 2 and "the Qdrant server does not respond" in text and len(text.splitlines()) == 1
    for name in [name for name in sys.modules if name.split(".")[0] == "qdrant_client"]:
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("qdrant", "qdrant_push", "qdrant_queries"):
        monkeypatch.delitem(sys.modules, f"vitrine.retrieval.{name}", raising=False)
    for command in (("index", "push", "--to", URL), ("search", "bag", "--qdrant", URL)):
        code, text = run(*command)
        assert code == 2
        assert text == "ERROR: qdrant_client is not installed. Install the extra: pip install -e '.[qdrant]'\n"


def test_the_page_maps_hits_of_the_server_to_local_photographs(project: Path, server: Server) -> None:
    local = AppState(project, may_correct=False)
    index = local.gallery.indexes["deit"]
    assert isinstance(index, Index)
    order = np.random.default_rng(0).permutation(32)  # rows on the server differ from the local ones
    added = Index(index.name, index.label_space, {}, np.array(["new.jpg"]), np.array(["new"]),
                  index.probs[:, :1], index.embeddings[:1])  # fmt: skip
    index.take(np.arange(32) < 32).concat(added).save(project / "index_server")
    shuffled = Index(index.name, index.label_space, {}, *(
        np.asarray(each)[order] for each in (index.image_paths, index.instance_ids)
    ), np.ascontiguousarray(index.probs[:, order]), index.embeddings[order], rule=index.rule)  # fmt: skip
    shuffled.concat(added).save(project / "index_server")
    assert run("index", "push", "--index", "index_server", "--to", URL, "-q")[0] == 0
    state = AppState(project, may_correct=False, engines={"deit": QdrantIndex(qdrant.connect(URL), "vitrine_deit")})
    server.requests.clear()
    label = index.label_space.labels["color"][0]
    for words, chosen in (("bottle", {}), ("not bottle", {"color": [label]})):
        page = state.search("deit", words, chosen, None, "", 40)
        expected = local.search("deit", words, chosen, None, "", 40)
        assert {hit.row for hit in page.result.hits} == {hit.row for hit in expected.result.hits}
        assert all(index.image_path(hit.row) == hit.image_path for hit in page.result.hits)
        assert (page.facets, page.num_found) == (expected.facets, expected.num_found)
    assert len(server.requests) == 2
    assert "new.jpg" in {hit.image_path for hit in state.search_index("deit", "bottle", None, 40, False).hits}
    like = index.embedding(17)
    assert index.image_path(state.gallery.similar("deit", like, 5)[0].row)
    everything = state.search("deit", "", {}, None, "", 5)
    assert [hit.row for hit in everything.result.hits] == [0, 1, 2, 3, 4]
    server.fail_after = 0
    with pytest.raises(ArtifactError, match=r"^vitrine_deit: the Qdrant server does not respond"):
        state.search("deit", "bottle", {}, None, "", 5)


def test_the_api_reports_that_the_server_is_gone(project: Path, server: Server) -> None:
    import fastapi
    from fastapi.testclient import TestClient

    from vitrine.app.api import answer_errors

    assert run("index", "push", "--model", "deit", "--to", URL, "-q")[0] == 0
    state = AppState(project, may_correct=False, engines={"deit": QdrantIndex(qdrant.connect(URL), "vitrine_deit")})
    application = fastapi.FastAPI()
    answer_errors(application)
    application.include_router(create_router(state))
    client = TestClient(application)
    assert client.get("/api/search", params={"q": "bottle", "model": "deit"}).json()["hits"]
    server.fail_after = 0
    answer = client.get("/api/search", params={"q": "bottle", "model": "deit"})
    assert answer.status_code == 503 and "the Qdrant server does not respond" in answer.json()["error"]


def test_the_page_rejects_a_collection_with_other_labels(project: Path, server: Server) -> None:
    assert run("index", "push", "--model", "deit", "--to", URL, "-q")[0] == 0
    other = QdrantIndex(qdrant.connect(URL), "vitrine_deit")
    other.label_space = type(other.label_space)({**other.label_space.labels, "color": ("blue", "pink")})
    with pytest.raises(ArtifactError, match=r"index/deit and the collection of deit have different labels"):
        AppState(project, may_correct=False, engines={"deit": other})
    with pytest.raises(ArtifactError, match=r"index/absent: no such index, although the collection is of absent"):
        AppState(project, may_correct=False, engines={"absent": other})
