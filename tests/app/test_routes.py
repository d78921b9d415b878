"""The routes serve what page.js requests and nothing else, and write corrections only if the page is local."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("gradio")
from starlette.testclient import TestClient

from vitrine.app.routes import OwnHead, add_page_routes
from vitrine.app.state import AppState

PAGE = (
    '<head>\n<meta property="og:title" content="Gradio" />\n<meta\n property="og:image"\n content="https://elsewhere/a.jpg"\n/>\n'
    '<meta name="twitter:card" content="x" /><meta name="viewport" content="y"></head>'
)


def client_of(folder: Path, may_correct: bool) -> TestClient:
    import fastapi
    from starlette.exceptions import HTTPException

    app = fastapi.FastAPI()
    app.add_middleware(OwnHead)
    add_page_routes(app, AppState(folder, may_correct))

    @app.exception_handler(HTTPException)
    async def refused(_: fastapi.Request, error: HTTPException) -> Any:
        return fastapi.responses.JSONResponse({"error": error.detail}, error.status_code)

    @app.get("/")
    def page() -> Any:
        return fastapi.responses.HTMLResponse(PAGE)

    return TestClient(app)


@pytest.fixture
def folder(project_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(project_folder, tmp_path / "project")


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    with client_of(folder, True) as client:
        yield client


def corrections(folder: Path) -> list[dict[str, str]]:
    with (folder / "data/corrections.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_head_is_ours_and_names_no_other_host(client: TestClient) -> None:
    text = client.get("/").text
    assert "Gradio" not in text and "https://" not in text and "twitter:" not in text
    assert 'property="og:title" content="Vitrine"' in text and 'name="viewport"' in text
    assert 'src="/page/page.js"' in text and 'href="/page/page.css"' in text


@pytest.mark.parametrize(("name", "kind"), [("page.js", "javascript"), ("page.css", "css"), ("icon.svg", "svg")])
def test_scripts_and_styles_are_served(client: TestClient, name: str, kind: str) -> None:
    answer = client.get(f"/page/{name}")
    assert answer.status_code == 200 and kind in answer.headers["content-type"] and answer.content


@pytest.mark.parametrize(
    "path",
    ["/page/state.py", "/page/..%2Fcli.py", "/hit/deit/99", "/hit/x/0", "/hit/deit/a", "/photo/deit/99/whole",
     "/photo/x/0/whole", "/plot/scores.csv", "/review/x/class", "/review/deit/size", "/report"],
)  # fmt: skip
def test_missing_resources_are_404_with_a_message(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404 and answer.json()


def test_a_photograph_is_served_square_or_whole(client: TestClient) -> None:
    sizes = [Image.open(io.BytesIO(client.get(path).content)).size for path in ("/photo/deit/0", "/photo/deit/0/whole")]
    assert sizes == [(320, 320), (32, 32)]


def test_a_panel_and_the_report_are_html(client: TestClient, folder: Path) -> None:
    assert "Similar photographs" in client.get("/hit/deit/3").text
    (folder / "report").mkdir()
    (folder / "report/index.html").write_text("<p>the report")
    assert client.get("/report").text == "<p>the report"


def test_labels_to_review_are_the_gallerys_disagreements(client: TestClient, folder: Path) -> None:
    review = client.get("/review/deit/class").json()
    expected = AppState(folder, True).gallery.disagreements("deit", "class")
    assert review["may_correct"] is True
    assert [item["place"] for item in review["items"]] == [f"deit/{each.row}" for each in expected]
    assert [item["labels"][0]["name"] for item in review["items"]] == [
        each.ranked[0][0].replace("_", " ") for each in expected
    ]


def test_a_correction_is_one_line_and_can_be_undone(client: TestClient, folder: Path) -> None:
    item = client.get("/review/deit/class").json()["items"][0]
    correction = {"place": item["place"], "task": "class", "label": item["labels"][0]["label"]}
    assert client.post("/api/corrections", json=correction).status_code == 200
    (line,) = corrections(folder)
    assert (line["task"], line["label"]) == ("class", correction["label"])
    assert item["place"] not in [each["place"] for each in client.get("/review/deit/class").json()["items"]]
    assert client.post("/api/corrections/undo", json={}).json() == {"image_path": line["image_path"]}
    assert corrections(folder) == []
    answer = client.post("/api/corrections/undo", json={})
    assert answer.status_code == 409 and answer.json()["error"] == "There is nothing to undo."


@pytest.mark.parametrize(
    "wrong",
    [{"place": "deit/99"}, {"place": "../x"}, {"task": "size"}, {"label": "<b>"}],
)
def test_invalid_corrections_are_not_written(client: TestClient, folder: Path, wrong: dict[str, str]) -> None:
    answer = client.post("/api/corrections", json={"place": "deit/0", "task": "class", "label": "soap_bar", **wrong})
    assert answer.status_code == 409 and corrections(folder) == []


def test_corrections_are_rejected_if_other_hosts_have_access(folder: Path) -> None:
    with client_of(folder, False) as client:
        correction = {"place": "deit/0", "task": "class", "label": "soap_bar"}
        answer = client.post("/api/corrections", json=correction)
        assert answer.status_code == 409 and "listens on localhost" in answer.json()["error"]
        assert client.get("/review/deit/class").json()["may_correct"] is False
        assert corrections(folder) == []
