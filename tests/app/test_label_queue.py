"""Labels given on the page are validated like those of `vitrine label add`, which reads them, and written at once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

pytest.importorskip("gradio")
from starlette.testclient import TestClient

from vitrine.app.label_queue import LabelQueue, add_queue_routes
from vitrine.app.state import AppState
from vitrine.data.catalog import CatalogError
from vitrine.data.labeling import QueuedPhoto, add_labels, write_queue

TASKS = ["color", "material"]
LABELS = {"class": "soap_bar", "color": "red", "material": ""}


def client_of(folder: Path, may_correct: bool = True) -> TestClient:
    import fastapi
    from starlette.exceptions import HTTPException

    app = fastapi.FastAPI()
    add_queue_routes(app, LabelQueue(AppState(folder, may_correct), folder / "queue.csv", "queue.csv"))

    @app.exception_handler(HTTPException)
    async def refused(_: fastapi.Request, error: HTTPException) -> Any:
        return fastapi.responses.JSONResponse({"error": error.detail}, error.status_code)

    return TestClient(app)


@pytest.fixture
def folder(project_folder: Path, tmp_path: Path) -> Path:
    """A project with five photographs of four items to label."""
    folder = shutil.copytree(project_folder, tmp_path / "project")
    (folder / "new").mkdir()
    for number in range(5):
        Image.new("RGB", (20, 20), (number * 40, 90, 0)).save(folder / f"new/{number}.png")
    items = ("bag", "bag", "cap", "cup", "")
    photos = [QueuedPhoto(Path(f"new/{row}.png"), item, "Possibly soap bar") for row, item in enumerate(items)]
    write_queue(folder / "queue.csv", photos, TASKS)
    return folder


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    with client_of(folder) as client:
        yield client


def rows(folder: Path) -> list[list[str]]:
    table = pd.read_csv(folder / "queue.csv", dtype=str, keep_default_na=False)
    return table[["class_label", *TASKS]].to_numpy().tolist()


def items(client: TestClient) -> dict[str, Any]:
    return {item["name"]: item for item in client.get("/queue").json()["items"]}


def post_labels(client: TestClient, name: str, **labels: str) -> tuple[int, str]:
    answer = client.post("/api/queue", json={"key": items(client)[name]["key"], "labels": labels})
    return answer.status_code, next(iter(answer.json().values()))


def test_items_come_with_all_their_photographs_and_the_available_labels(client: TestClient, folder: Path) -> None:
    shown = client.get("/queue").json()
    assert [item["name"] for item in shown["items"]] == ["bag", "cap", "cup", "new/4.png"]
    bag = shown["items"][0]
    assert [photo["name"] for photo in bag["photos"]] == ["0.png", "1.png"] and bag["labels"] == {}
    assert [task["task"] for task in shown["tasks"]] == ["class", *TASKS] and not shown["problem"]
    assert shown["tasks"][0]["labels"][0] == {"label": "soap_bar", "name": "soap bar"}
    image = client.get(f"/queue/photo/{bag['photos'][1]['key']}")
    assert Image.open(BytesIO(image.content)).size == (20, 20) and image.headers["content-type"] == "image/webp"
    assert client.get(f"/queue/photo/{bag['key']}").status_code == 404, "the key of an item, not of a photograph"


def test_the_suggestion_combines_all_photographs_of_the_item(client: TestClient, folder: Path) -> None:
    from vitrine.inference.predictor import Predictor, fuse

    answer = client.get(f"/queue/prediction/{items(client)['bag']['key']}").json()
    predictor = Predictor.load("ensemble", folder / "models")
    both = fuse(predictor.predict_files([folder / "new/0.png", folder / "new/1.png"]), "item")
    assert answer["tasks"] == predictor.to_records(both)[0]["tasks"]


def test_labels_are_written_as_label_add_reads_them(
    client: TestClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert post_labels(client, "bag", **LABELS) == (200, "bag: soap bar, red, in queue.csv.")
    assert rows(folder) == [["soap_bar", "red", ""]] * 2 + [["", "", ""]] * 3
    assert post_labels(client, "new/4.png", **LABELS)[0] == 200
    assert items(client)["bag"]["labels"] == {"class": "soap_bar", "color": "red"}
    assert post_labels(client, "bag") == (200, "bag: labels removed, in queue.csv.")
    assert rows(folder)[:2] == [["", "", ""]] * 2
    post_labels(client, "bag", **{**LABELS, "color": "blue"})
    monkeypatch.chdir(folder)
    data = AppState(folder, True).gallery.data
    added = add_labels(Path("queue.csv"), Path(data.path), data)
    assert [file.name for file in added] == ["0.png", "1.png", "4.png"]
    assert (
        "attributes,split,instance_id"
        in (folder / data.path / "labels.csv").read_text(encoding="utf-8").splitlines()[0]
    )
    code, text = post_labels(client, "bag", **LABELS)
    assert code == 409 and "new/0.png: is already in labels.csv, as images/" in text


@pytest.mark.parametrize(
    ("labels", "fault"),
    [
        ({"class": "spaceship"}, "'spaceship' is not a label of class. Write new labels into queue.csv"),
        ({"size": "red"}, "'red' is not a label of size"),
        ({"color": "red"}, "cap: an item needs a class"),
    ],
)
def test_invalid_labels_are_not_written(client: TestClient, folder: Path, labels: dict[str, str], fault: str) -> None:
    before = (folder / "queue.csv").read_bytes()
    code, text = post_labels(client, "cap", **labels)
    assert code == 409 and fault in text
    assert client.post("/api/queue", json={"key": "0" * 16, "labels": LABELS}).status_code == 409
    assert (folder / "queue.csv").read_bytes() == before


def test_masked_labels_and_conflicting_classes_are_rejected_as_in_label_add(client: TestClient, folder: Path) -> None:
    labels = folder / "data/made_up/labels.csv"
    first = pd.read_csv(labels, dtype=str).iloc[0]
    queue = folder / "queue.csv"
    queue.write_text(queue.read_text(encoding="utf-8").replace(",cap,", f",{first['instance_id']},"))
    other = "soap_bar" if first["class_label"] != "soap_bar" else "tall_bottle"
    code, text = post_labels(client, first["instance_id"], **{"class": other})
    assert code == 409 and f"is {other} here and {first['class_label']} elsewhere" in text
    text = (folder / "params.yaml").read_text(encoding="utf-8")
    (folder / "params.yaml").write_text(text.replace("masked_labels: {}", "masked_labels: {color: [red]}"))
    with client_of(folder) as masking:
        code, text = post_labels(masking, "bag", **LABELS)
    assert code == 409 and "'red' is masked by data.masked_labels" in text
    assert rows(folder) == [["", "", ""]] * 5


def test_unreadable_photographs_are_reported_and_left_out(client: TestClient, folder: Path) -> None:
    (folder / "new/0.png").write_text("no photograph")
    (folder / "new/2.png").unlink()
    shown = items(client)
    answer = client.get(f"/queue/photo/{shown['bag']['photos'][0]['key']}")
    assert answer.status_code == 404 and "is not an image that can be read" in answer.json()["error"]
    assert client.get(f"/queue/prediction/{shown['bag']['key']}").status_code == 200, (
        "the other photograph is predicted"
    )
    code, text = post_labels(client, "bag", **LABELS)
    assert code == 200 and text.endswith("Left out: new/0.png: is not an image that can be read.")
    assert rows(folder)[:2] == [["", "", ""], ["soap_bar", "red", ""]]
    assert items(client)["bag"]["labels"]["class"] == "soap_bar"
    answer = client.get(f"/queue/prediction/{shown['cap']['key']}")
    assert (answer.status_code, answer.json()["error"]) == (409, "new/2.png: not found")
    assert post_labels(client, "cap", **LABELS) == (409, "new/2.png: not found")


def test_a_queue_may_be_missing_empty_or_broken(client: TestClient, folder: Path) -> None:
    queue = folder / "queue.csv"
    header = queue.read_text(encoding="utf-8").splitlines()[0]
    for text, problem in ((f"{header}\n", ""), ("file\n", "line 1: columns missing: instance_id, class_label")):
        queue.write_text(text)
        shown = client.get("/queue").json()
        assert shown["items"] == [] and shown["problem"].startswith(problem) and bool(problem) == bool(shown["problem"])
    queue.unlink()
    assert client.get("/queue").json()["items"] == [] and client.get("/queue").json()["problem"] == ""
    answer = client.post("/api/queue", json={"key": "0" * 16, "labels": LABELS})
    assert answer.status_code == 409 and not queue.exists()


def test_a_dataset_made_by_a_pipeline_causes_a_warning(client: TestClient, folder: Path) -> None:
    (folder / "data/made_up/dvc.yaml").write_text("stages: {}")
    assert "data/made_up is generated by a pipeline" in client.get("/queue").json()["warning"]
    assert post_labels(client, "cup", **LABELS)[0] == 200, "another dataset may be chosen before they are added"
    data = AppState(folder, True).gallery.data
    with pytest.raises(CatalogError, match=r"generated by the dvc\.yaml"):
        add_labels(folder / "queue.csv", folder / data.path, data)


def test_other_hosts_see_and_label_nothing(folder: Path) -> None:
    with client_of(folder, may_correct=False) as client:
        shown = client.get("/queue").json()
        assert shown["items"] == [] and "only when the server listens on localhost" in shown["problem"]
        with client_of(folder) as here:
            bag = items(here)["bag"]
        assert client.get(f"/queue/photo/{bag['photos'][0]['key']}").status_code == 404
        assert client.get(f"/queue/prediction/{bag['key']}").status_code == 409
        before = (folder / "queue.csv").read_bytes()
        assert client.post("/api/queue", json={"key": bag["key"], "labels": LABELS}).status_code == 409
        assert (folder / "queue.csv").read_bytes() == before
