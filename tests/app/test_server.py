"""The page's programming interface answers, and hostile files, names and queries are answered politely."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlparse
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image
from serving import serving

pytest.importorskip("gradio")
pytestmark = [pytest.mark.enable_socket, pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(shop_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(shop_folder, tmp_path_factory.mktemp("served") / "shop")


@pytest.fixture(scope="module")
def page(folder: Path) -> Iterator[str]:
    with serving(folder) as url:
        yield url


@pytest.fixture(scope="module")
def client(page: str) -> Iterator[Any]:
    from gradio_client import Client

    opened = Client(page, verbose=False, analytics_enabled=False, httpx_kwargs={"timeout": 60})
    yield opened
    opened.close()


JSON = {"Content-Type": "application/json"}


def predict(client: Any, file: Path, model: str = "ensemble") -> Any:
    from gradio_client import handle_file

    return client.predict(photo=handle_file(str(file)), model=model, api_name="/predict")


def status(url: str, data: bytes | None = None, **headers: str) -> tuple[int, bytes, Any]:
    try:
        with urlopen(Request(url, data=data, headers=headers), timeout=60) as answer:
            return answer.status, answer.read(), answer.headers
    except HTTPError as error:
        with error:
            return error.code, error.read(), error.headers


def test_predictions_are_those_of_the_package(client: Any, folder: Path) -> None:
    from vitrine.inference.predictor import Predictor

    photo = folder / "data/made_up/images/000.png"
    predictor = Predictor.load("ensemble", folder / "models")
    expected = predictor.to_records(predictor.predict_files([photo]))[0]["tasks"]
    answers = predict(client, photo)["answers"]
    assert [answer["model"] for answer in answers] == ["ensemble"]
    for task, said in answers[0]["tasks"].items():
        assert said["certainty"] == expected[task]["certainty"]
        assert [e["label"] for e in said["labels"]] == [e["label"] for e in expected[task]["labels"]]
        assert np.allclose(
            [e["probability"] for e in said["labels"]], [e["probability"] for e in expected[task]["labels"]], atol=1e-3
        )
    assert {answer["model"] for answer in predict(client, photo, "compare")["answers"]} == {"deit", "mobilevit"}


def test_searches_are_those_of_the_index(client: Any, folder: Path) -> None:
    from vitrine.retrieval.index import Index

    found = client.predict(words="red bottle", model="deit", top_k=4, api_name="/search")
    expected = Index.load(folder / "index/deit").search("red bottle", top_k=4)
    assert [hit["image_path"] for hit in found["hits"]] == [hit.image_path for hit in expected.hits]
    assert found["hits"][0]["matches"][0]["label"] == "red"
    assert client.predict(words="zebra", model="deit", top_k=4, api_name="/search")["unknown_words"] == ["zebra"]


def test_plain_http_is_enough(page: str) -> None:
    call = f"{page}/gradio_api/call/search"
    code, body, _ = status(
        call, json.dumps({"data": ["blue", "deit", 2]}).encode(), **{"Content-Type": "application/json"}
    )
    assert code == 200
    _, events, _ = status(f"{call}/{json.loads(body)['event_id']}")
    data = next(line for line in events.decode().splitlines() if line.startswith("data: "))
    assert len(json.loads(data[6:])[0]["hits"]) == 2


def bomb() -> bytes:
    """A PNG of 30000 x 30000 pixels in a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10_000)))
        + chunk(b"IEND", b"")
    )


def truncated() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file, "JPEG")
    return file.getvalue()[:400]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("bomb.png", bomb(), "900|megapixels"),
        ("cut.jpg", truncated(), "cannot be decoded"),
        ("page.png", b"<html><script>alert(1)</script></html>", "not an image"),
        ("drawing.svg", b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', "only photographs"),
        ("photo.py", b"import os", "only photographs"),
        ("empty.png", b"", "empty"),
        ("tiny.png", None, "smaller than"),
    ],
)
def test_what_is_no_photograph_gets_a_sentence(
    client: Any, tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    import re

    file = tmp_path / name
    if content is None:
        Image.new("RGB", (2, 2)).save(file)
    else:
        file.write_bytes(content)
    answer = predict(client, file)
    assert list(answer) == ["error"] and re.search(said, answer["error"]), answer
    assert str(tmp_path) not in answer["error"] and "/gradio/" not in answer["error"]


def test_uploads_beyond_the_limit_are_refused(page: str) -> None:
    boundary = "x"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'.encode()
    body = head + bytes(21 * 1024 * 1024) + f"\r\n--{boundary}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    code, _, _ = status(f"{page}/gradio_api/upload", body, **headers)
    assert code in (400, 413)


@pytest.mark.parametrize(
    "words", ["", "\x00", "<script>alert(1)</script>", "../" * 200, "blue " * 5000, "\U0001f9f8", "' OR 1=1 --"]
)
def test_any_query_is_answered(client: Any, words: str) -> None:
    assert isinstance(client.predict(words=words, model="deit", top_k=1e9, api_name="/search")["hits"], list)


def test_only_photographs_of_the_gallery_are_served(page: str, folder: Path) -> None:
    code, body, headers = status(f"{page}/photo/deit/0")
    assert (code, headers["Content-Type"]) == (200, "image/webp")
    assert Image.open(io.BytesIO(body)).size == (320, 320)
    for path in ("/photo/deit/99", "/photo/deit/-1", "/photo/nobody/0", "/plot/scores.csv", "/plot/..%2Fparams.yaml"):
        assert status(page + path)[0] == 404, path
    for file in ("params.yaml", "models/systems.json", "data/made_up/labels.csv", "data/made_up/images/000.png"):
        for route in ("/gradio_api/file=", "/file=", "/static/", "/photo/deit/"):
            assert status(f"{page}{route}{folder / file}")[0] in (403, 404, 422), route + file
    assert status(f"{page}/../params.yaml")[0] in (400, 404)


def test_a_file_on_the_server_cannot_be_named_as_a_photograph(page: str, folder: Path) -> None:
    for path in (str(folder / "data/made_up/images/000.png"), f"{page}/photo/deit/0"):
        data = json.dumps({"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}, "deit"]}).encode()
        code, body, _ = status(f"{page}/gradio_api/call/predict", data, **JSON)
        assert code == 200
        _, events, _ = status(f"{page}/gradio_api/call/predict/{json.loads(body)['event_id']}")
        assert b"answers" not in events and b"event: error" in events


def test_other_names_of_this_machine_are_refused(page: str) -> None:
    address = urlparse(page)
    with closing(HTTPConnection(str(address.hostname), address.port)) as connection:
        connection.request("GET", "/", headers={"Host": "evil.example"})
        assert connection.getresponse().status == 400


def test_pages_may_not_talk_to_other_hosts(page: str) -> None:
    _, body, headers = status(page)
    assert headers["Content-Security-Policy"].startswith("default-src 'self'")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert b"googleapis" not in body


def test_an_index_fits_its_models(folder: Path) -> None:
    from vitrine.app.state import AppState

    state = AppState(folder, may_correct=True)
    state.warm_up()
    assert state.warning == ""


def test_visitors_are_forgotten_before_memory_fills(folder: Path) -> None:
    from vitrine.app.server import MAX_SESSIONS, create_app

    app = asyncio.run(create_app(folder, "127.0.0.1"))
    (mounted,) = (route.app for route in app.routes if hasattr(getattr(route, "app", None), "state_holder"))
    for number in range(MAX_SESSIONS + 50):
        mounted.state_holder[f"visitor {number}"]
    assert len(mounted.state_holder.session_data) <= MAX_SESSIONS + 1


def test_the_page_does_not_wait_for_pytorch() -> None:
    code = "import sys, vitrine.app.server; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_index_of_another_model_is_named(folder: Path, tmp_path: Path) -> None:
    from vitrine.app.state import AppState

    other = shutil.copytree(folder, tmp_path / "shop")
    shutil.copy(other / "models/deit/model.safetensors", other / "models/mobilevit/model.safetensors")
    state = AppState(other, may_correct=True)
    state.warm_up()
    assert "was made by another model" in state.warning and "dvc repro" in state.warning


def test_labels_are_corrected_only_where_the_page_is_local(folder: Path) -> None:
    from vitrine.app.state import AppState
    from vitrine.artifacts import ArtifactError

    with pytest.raises(ArtifactError, match="only where"):
        AppState(folder, may_correct=False).correct("deit/1", "color", "red")
    for picked in ("deit/999", "deit/-1", "../x/1", "deit", "nobody/1"):
        with pytest.raises(ArtifactError, match="no such photograph"):
            AppState(folder, may_correct=True).correct(picked, "color", "red")


def test_several_photographs_of_an_item_are_answered_together(folder: Path) -> None:
    from vitrine.app.state import MAX_PHOTOS, AppState
    from vitrine.photos import PhotoError

    state = AppState(folder, may_correct=True)
    files = [str(folder / f"data/made_up/images/00{number}.png") for number in range(3)]
    fused, *_ = state.predict(files, ["deit"])
    singles = [state.predict([file], ["deit"])[0].answer["tasks"]["color"]["labels"] for file in files]
    mean = np.mean([np.log([e["probability"] for e in sorted(s, key=lambda e: e["label"])]) for s in singles], axis=0)
    expected = np.exp(mean) / np.exp(mean).sum()
    said = [e["probability"] for e in sorted(fused.answer["tasks"]["color"]["labels"], key=lambda e: e["label"])]
    assert np.allclose(said, expected, atol=1e-3)
    with pytest.raises(PhotoError, match="at most"):
        state.predict(files[:1] * (MAX_PHOTOS + 1), ["deit"])
