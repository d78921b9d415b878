"""The API answers like the package, limits and errors have status codes, and uploads are never kept or logged."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image
from serving import Server, free_port, running

pytest.importorskip("gradio")
pytestmark = [pytest.mark.enable_socket, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
BOUNDARY = "boundary"
JSON = "application/json"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


@pytest.fixture(scope="module")
def folder(project_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(project_folder, tmp_path_factory.mktemp("served") / "project")


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def server(folder: Path, temporary: Path) -> Iterator[Server]:
    with running(folder, "/healthz", TMPDIR=str(temporary)) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(server: Server) -> str:
    return server.url


@pytest.fixture(scope="module")
def photos(folder: Path) -> list[Path]:
    return [folder / f"data/made_up/images/00{number}.png" for number in range(3)]


def form(*files: tuple[str, str, bytes]) -> bytes:
    """Encode a form of (field, file name, content)."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'.encode() + content
        for field, name, content in files
    ]
    return b"\r\n".join([*parts, f"--{BOUNDARY}--\r\n".encode()])


def sent(paths: list[Path], field: str = "photos") -> bytes:
    return form(*((field, path.name, path.read_bytes()) for path in paths))


def status(url: str, data: bytes | None = None, **headers: str) -> tuple[int, bytes, Any]:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urlopen(Request(url, data, headers), timeout=60) as answer:
            return answer.status, answer.read(), answer.headers
    except HTTPError as error:
        with error:
            return error.code, error.read(), error.headers


def post(url: str, body: bytes, **headers: str) -> tuple[int, Any]:
    code, text, _ = status(url, body, **{"Content_Type": FORM, **headers})
    return code, json.loads(text)


def get(url: str) -> tuple[int, Any]:
    code, text, _ = status(url)
    return code, json.loads(text)


# -- answers -------------------------------------------------------------------------------------------------------


def same(record: dict[str, Any], expected: dict[str, Any]) -> None:
    assert (record["answer"], set(record)) == (expected["answer"], set(expected))
    for task, predicted in record["tasks"].items():
        wanted = expected["tasks"][task]
        assert predicted["certainty"] == wanted["certainty"]
        assert [e["label"] for e in predicted["labels"]] == [e["label"] for e in wanted["labels"]]
        probs = [[e["probability"] for e in each["labels"]] for each in (predicted, wanted)]
        assert np.allclose(*probs, atol=1e-3)


def test_predictions_match_the_package(page: str, folder: Path, photos: list[Path]) -> None:
    from vitrine.inference.predictor import Predictor, fuse

    predictor = Predictor.load("ensemble", folder / "models")
    code, response = post(f"{page}/api/predict", sent(photos[:1]))
    assert code == 200 and [answer["model"] for answer in response["answers"]] == ["ensemble"]
    same(response["answers"][0], predictor.to_records(predictor.predict_files(photos[:1]))[0])
    code, response = post(f"{page}/api/predict?model=ensemble", sent(photos))
    same(response["answers"][0], predictor.to_records(fuse(predictor.predict_files(photos), "item"))[0])
    code, response = post(f"{page}/api/predict?model=compare", sent(photos[:1]))
    assert {answer["model"] for answer in response["answers"]} == {"deit", "mobilevit"}


def test_a_clip_is_one_answer_with_its_frames(page: str, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("av")
    from clips import encode, encode_sound, pictures

    from vitrine.inference.predictor import Predictor
    from vitrine.inference.video import predict_clip

    path = encode(tmp_path / "clip.mp4", pictures(20))
    code, response = post(f"{page}/api/predict?model=deit", sent([path]))
    expected = predict_clip(Predictor.load("deit", folder / "models"), path)
    assert code == 200
    same(response["answers"][0], expected)
    assert [f["seconds"] for f in response["answers"][0]["clip"]["frames"]] == [
        f["seconds"] for f in expected["clip"]["frames"]
    ]
    assert post(f"{page}/api/search?model=deit&top_k=2", sent([path], "like"))[0] == 200

    sound, listed = encode_sound(tmp_path / "sound.mp4"), tmp_path / "list.mp4"
    listed.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nfile://{path}\n#EXT-X-ENDLIST\n")
    for sent_files, message in (
        ([sound], "Can't read this clip: it contains sound but no video"),
        ([listed], "it is not a video that can be read"),
        ([path, path], "or one clip"),
    ):
        code, response = post(f"{page}/api/predict?model=deit", sent(sent_files))
        assert code == 400 and message in response["error"] and str(tmp_path) not in response["error"]


def test_searches_match_the_index(page: str, folder: Path) -> None:
    from vitrine.retrieval.index import Index

    index = Index.load(folder / "index/deit")
    for query, options in (("top_k=4", {"top_k": 4}), ("by_item=true", {"by_item": True})):
        code, result = get(f"{page}/api/search?q=red+bottle&model=deit&{query}")
        assert (code, result) == (200, index.search("red bottle", **options).to_record("deit"))
    assert get(f"{page}/api/search?q=zebra")[1]["unknown_words"] == ["zebra"]
    assert get(f"{page}/api/search")[1]["hits"] == []


def test_a_search_by_photograph_works_with_and_without_words(page: str, folder: Path, photos: list[Path]) -> None:
    from vitrine.inference.predictor import Predictor
    from vitrine.retrieval.index import Index

    like = Predictor.load("deit", folder / "models").predict_files(photos[:1]).embeddings[0]
    index = Index.load(folder / "index/deit")
    for words in ("", "red"):
        code, result = post(f"{page}/api/search?model=deit&top_k=3&q={words}", sent(photos[:1], "like"))
        expected = index.search(words, like=like, top_k=3)
        assert code == 200 and [hit["row"] for hit in result["hits"]] == [hit.row for hit in expected.hits]


# -- limits --------------------------------------------------------------------------------------------------------


def encoded(size: tuple[int, int], kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("huge.png", encoded((9000, 9000)), "megapixels"),
        ("cut.jpg", encoded((300, 300), "BMP")[:1000], "cannot be decoded"),
        ("page.png", b"<html><script>alert(1)</script></html>", "not an image"),
        ("postscript.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n%%EndComments\n", "not an image"),
        ("icon.png", encoded((64, 64), "ICO"), "not an image"),
        ("drawing.svg", b'<svg xmlns="http://www.w3.org/2000/svg"/>', "only photographs"),
        ("photo.py", b"import os", "only photographs"),
        ("photo", encoded((64, 64)), "only photographs"),
        ("empty.png", b"", "empty"),
        ("tiny.png", encoded((2, 2)), "smaller than"),
    ],
)
@pytest.mark.parametrize(("route", "field"), [("predict", "photos"), ("search", "like")])
def test_invalid_photographs_are_rejected_with_a_message(
    page: str, temporary: Path, route: str, field: str, name: str, content: bytes, message: str
) -> None:
    code, answer = post(f"{page}/api/{route}", form((field, name, content)))
    assert code == 400 and list(answer) == ["error"] and message in answer["error"]
    assert str(temporary) not in answer["error"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (form(), "1 to 12 photographs"),
        (form(("hostile", "a.png", b"x")), "no other fields"),
        (form(*[("photos", "a.png", b"x")] * 13), "12"),
        (b'--boundary\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--boundary--', "0"),
        (b"noise", "multipart"),
    ],
)  # fmt: skip
def test_invalid_forms_are_rejected(page: str, body: bytes, message: str) -> None:
    code, answer = post(f"{page}/api/predict", body)
    assert code == 400 and message in answer["error"]


def test_other_content_types_are_rejected(page: str) -> None:
    code, answer = post(f"{page}/api/predict", b'{"path": "/etc/passwd"}', Content_Type="application/json")
    assert code == 400 and "multipart/form-data" in answer["error"]


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ("Transfer-Encoding: chunked", 411),
        ("X-Nothing: 1", 411),
        ("Content-Length: 10\r\nTransfer-Encoding: chunked", 411),
        (f"Content-Length: {13 * 20 * 1024**2}", 413),
        ("Content-Length: 99999999999999", 413),
    ],
)
@pytest.mark.parametrize("route", ["/api/predict", "/api/search", "/gradio_api/upload"])
def test_the_size_of_a_request_is_checked_before_it_is_read(page: str, route: str, headers: str, code: int) -> None:
    address = urlsplit(page)
    with socket.create_connection((str(address.hostname), address.port), timeout=30) as opened:
        opened.sendall(
            f"POST {route} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: {FORM}\r\n{headers}\r\n\r\n".encode()
        )
        assert opened.recv(100).startswith(f"HTTP/1.1 {code} ".encode())  # fmt: skip


def test_a_file_above_the_size_limit_is_rejected(page: str) -> None:
    body = form(("photos", "a.png", bytes(20 * 1024**2 + 1)))
    code, answer = post(f"{page}/api/predict", body)
    assert code == 413 and "20 MB" in answer["error"]
    code, answer = post(f"{page}/gradio_api/upload", body)
    assert code == 413 and "size" in answer["error"]


def test_unknown_models_and_invalid_numbers_are_rejected(page: str, photos: list[Path]) -> None:
    for code, answer in (
        post(f"{page}/api/predict?model=nobody", sent(photos[:1])),
        get(f"{page}/api/search?q=red&model=compare"),
        post(f"{page}/api/search?model=..", sent(photos[:1], "like")),
    ):
        assert code == 404 and "ensemble, deit, mobilevit" in answer["error"]
    for number in ("0", "1001", "-1", "nan", "1e9"):
        code, answer = get(f"{page}/api/search?q=red&top_k={number}")
        assert code == 400 and answer["error"].startswith("top_k: ")


@pytest.mark.parametrize(
    "words", ["\x00", "<script>alert(1)</script>", "../" * 200, "blue " * 5000, "\U0001f9f8", "' OR 1=1 --"]
)
def test_any_query_is_answered(page: str, words: str) -> None:
    code, result = get(f"{page}/api/search?q={quote(words)}&model=deit&top_k=1000")
    assert code == 200 and isinstance(result["hits"], list)


def test_requests_from_other_websites_are_rejected(page: str, photos: list[Path]) -> None:
    body, own = sent(photos[:1]), urlsplit(page).netloc
    for route in ("/api/predict", "/api/search", "/gradio_api/upload", "/gradio_api/run/predict"):
        for headers in (
            {"Origin": "http://evil.example"},
            {"Origin": f"http://{own.replace('127.0.0.1', 'localhost')}"},
            {"Origin": "http://127.0.0.1:1"},
            {"Origin": "null"},
            {"Origin": "http://["},
            {"Sec_Fetch_Site": "cross-site"},
        ):
            assert post(page + route, body, **headers)[0] == 403, (route, headers)
    assert post(f"{page}/api/predict", body, Origin=page, Sec_Fetch_Site="same-origin")[0] == 200
    _, _, headers = status(f"{page}/config", Origin="http://evil.example")
    assert "Access-Control-Allow-Origin" not in headers


def test_other_host_names_are_rejected(page: str) -> None:
    address = urlsplit(page)
    with closing(HTTPConnection(str(address.hostname), address.port)) as connection:
        connection.request("GET", "/", headers={"Host": "evil.example"})
        assert connection.getresponse().status == 400


def test_hostile_uploads_and_queries_change_nothing(folder: Path) -> None:
    hostile = runpy.run_path(str(ROOT / "benchmarks/hostile.py"))
    outcome = hostile["attack"](folder, num_uploads=20, num_queries=30, seed=1)
    assert outcome.faults == []
    assert sum(outcome.statuses.values()) == 3 * 20 + 30


# -- the page's own routes -----------------------------------------------------------------------------------------


def test_only_photographs_of_the_gallery_are_served(page: str, folder: Path) -> None:
    code, body, headers = status(f"{page}/photo/deit/0")
    assert (code, headers["Content-Type"]) == (200, "image/webp")
    assert Image.open(io.BytesIO(body)).size == (320, 320)
    for path in ("/photo/deit/99", "/photo/deit/-1", "/photo/nobody/0", "/plot/scores.csv", "/plot/..%2Fparams.yaml"):
        assert status(page + path)[0] == 404, path
    for file in ("params.yaml", "models/systems.json", "data/made_up/labels.csv", "data/made_up/images/000.png"):
        for route in ("/gradio_api/file=", "/file=", "/static/", "/photo/deit/"):
            assert status(f"{page}{route}{folder / file}")[0] in (400, 403, 404), route + file
    assert status(f"{page}/../params.yaml")[0] in (400, 404)


def test_a_file_on_the_server_cannot_be_named_as_a_photograph(page: str, folder: Path, photos: list[Path]) -> None:
    config = get(f"{page}/config")[1]
    fields = {each["id"]: each for each in config["components"]}
    events = [
        event
        for event in config["dependencies"]
        if event["backend_fn"] and any(fields[each]["type"] in ("image", "file") for each in event["inputs"])
    ]

    def run_event(path: str, event: Any, session: str) -> int:
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        data = [
            {"image": file, "file": [file]}.get(fields[each]["type"], fields[each]["props"].get("value"))
            for each in event["inputs"]
        ]
        call = {"data": data, "fn_index": event["id"], "session_hash": session}
        return status(f"{page}/gradio_api/run/predict", json.dumps(call).encode(), Content_Type=JSON)[0]

    (uploaded,) = post(f"{page}/gradio_api/upload", sent(photos[:1], "files"))[1]
    for event in events:
        assert run_event(uploaded, event, f"visitor{event['id']}") == 200
        for path in (str(photos[0]), f"{page}/photo/deit/0"):
            assert run_event(path, event, f"hostile{event['id']}") == 500
    assert events


def test_gradio_exposes_no_api_of_its_own(page: str) -> None:
    assert get(f"{page}/gradio_api/info")[1] == {"named_endpoints": {}, "unnamed_endpoints": {}}
    for name in ("predict", "search", "show_prediction"):
        code, _, _ = status(f"{page}/gradio_api/call/{name}", b'{"data": []}', Content_Type=JSON)
        assert code == 404
    event = json.dumps({"data": [], "fn_index": 0, "session_hash": "somebody"}).encode()
    assert status(f"{page}/gradio_api/queue/join", event, Content_Type=JSON)[0] == 404
    assert status(f"{page}/gradio_api/queue/data?session_hash=somebody")[0] == 404


def test_pages_may_not_contact_other_hosts(page: str) -> None:
    _, body, headers = status(page)
    assert headers["Content-Security-Policy"].startswith("default-src 'self'")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert b"googleapis" not in body


# -- watching ------------------------------------------------------------------------------------------------------


def test_refusals_are_answered_and_counted(folder: Path, tmp_path: Path) -> None:
    from prometheus_client import generate_latest

    from vitrine.app.state import AppState
    from vitrine.inference.novelty import FOLDER, Detector, Novelty
    from vitrine.inference.runtimes import checkpoint_digest

    project = tmp_path / "project"
    shutil.copytree(folder, project)
    state = AppState(project, may_correct=False)
    index = state.gallery.indexes["deit"]
    bank = np.stack([index.embedding(row) for row in range(len(index))])
    fitted = Novelty(Detector("neighbors", {"bank": bank}, 1), 1e-5, checkpoint_digest("deit", project / "models"))
    fitted.save(project / "models" / FOLDER, "deit")
    noise = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(noise)
    known, other = (state.predict([str(file)], ["deit"])[0].answer for file in (state.gallery.file("deit", 0), noise))
    state.close(1)
    assert known["answer"] != "None of these" == other["answer"]
    assert other["novelty"]["reason"].startswith("Looks like none of the 2 classes; nearest: ")
    counted = generate_latest(state.metrics.registry).decode()
    assert 'vitrine_refused_total{system="deit"} 1.0' in counted


def test_metrics_count_and_time_requests_and_models(page: str, photos: list[Path]) -> None:
    def samples() -> dict[tuple[str, tuple[str, ...]], float]:
        from prometheus_client.parser import text_string_to_metric_families

        families = text_string_to_metric_families(status(f"{page}/metrics")[1].decode())
        values = [sample for family in families for sample in family.samples]
        return {(each.name, tuple(value for _, value in sorted(each.labels.items()))): each.value for each in values}

    post(f"{page}/api/predict", sent(photos[:1]))
    before = samples()
    post(f"{page}/api/predict?model=compare", sent(photos[:2]))
    post(f"{page}/api/predict", form())
    get(f"{page}/api/search?q=red")
    after = samples()

    def increase(*name: Any) -> float:
        key = (name[0], tuple(name[1:]))
        return after[key] - before.get(key, 0)

    assert increase("vitrine_requests_total", "/api/predict", "200") == 1
    assert increase("vitrine_requests_total", "/api/predict", "400") == 1
    assert increase("vitrine_request_seconds_count", "/api/predict") == 2
    assert (
        increase("vitrine_predict_seconds_count", "deit") == increase("vitrine_predict_seconds_count", "mobilevit") == 1
    )
    assert increase("vitrine_search_seconds_count", "ensemble") == 1
    assert after["vitrine_predictions_waiting", ()] == after["vitrine_predictions_running", ()] == 0
    models = {key[1][-1]: key[1] for key in after if key[0] == "vitrine_model_info"}
    known = get(f"{page}/healthz")[1]["models"]
    assert models == {name: (each["backend"], each["checkpoint"], name) for name, each in known.items()}
    assert not sys.platform.startswith("linux") or after["process_resident_memory_bytes", ()] > 1e7


def test_logs_describe_requests_but_not_their_content(server: Server, photos: list[Path]) -> None:
    kept = len(server.log.read_text(encoding="utf-8"))
    post(f"{server.url}/api/predict", form(*[("photos", "secret.png", photos[0].read_bytes())] * 2))
    post(f"{server.url}/api/predict", form(("photos", "secret.png", b"secret")))
    get(f"{server.url}/api/search?q=secret")
    post(f"{server.url}/api/predict?model=secret", b"secret", Origin="http://secret.example")
    status(f"{server.url}/photo/deit/0")
    text = server.log.read_text(encoding="utf-8")[kept:]
    assert "secret" not in text and "127.0.0.1" not in text
    lines = [json.loads(line) for line in text.splitlines()]
    assert [(line["method"], line["route"], line["status"], line["photos"]) for line in lines] == [
        ("POST", "/api/predict", 200, 2),
        ("POST", "/api/predict", 400, 1),
        ("GET", "/api/search", 200, 0),
        ("POST", "/api", 403, 0),
    ]
    assert all(line["milliseconds"] > 0 and line["level"] == "info" for line in lines)


def test_errors_in_the_page_are_logged_without_user_input(server: Server) -> None:
    kept = len(server.log.read_text(encoding="utf-8"))
    for event in get(f"{server.url}/config")[1]["dependencies"]:
        if event["backend_fn"]:
            call = {"data": ["secret"] * len(event["inputs"]), "fn_index": event["id"], "session_hash": "faults"}
            status(f"{server.url}/gradio_api/run/predict", json.dumps(call).encode(), Content_Type=JSON)
    text = server.log.read_text(encoding="utf-8")[kept:]
    faults = [json.loads(line) for line in text.splitlines()]
    assert any(line["message"] == "exception in the page" and line["frames"] for line in faults)
    assert "secret" not in text


def test_no_uploads_are_kept(server: Server, temporary: Path) -> None:
    """This must be the last test that uses this server."""
    assert [path for path in temporary.rglob("*") if path.is_file() and "gradio" not in path.parts] == []
    assert not list(temporary.glob("vitrine-*"))


# -- in this process -----------------------------------------------------------------------------------------------


@pytest.fixture
def app(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An application that does not load its models at startup and keeps uploads below tmp_path."""
    from vitrine.app.server import create_app
    from vitrine.app.state import AppState

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(AppState, "warm_up", lambda self: None)
    return asyncio.run(create_app(folder, "127.0.0.1"))


async def call(app: Any, method: str, path: str, body: bytes = b"", *, whole: bool = True, **headers: str) -> Any:
    """Call an application without a server; unless `whole`, the body never ends."""
    headers = {"host": "127.0.0.1", "content-type": FORM, "content-length": str(len(body) + (not whole)), **headers}
    scope = {
        "type": "http", "http_version": "1.1", "method": method, "scheme": "http", "path": path,
        "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }  # fmt: skip
    messages = [{"type": "http.request", "body": body, "more_body": not whole}]
    if headers.get("gone"):
        messages.append({"type": "http.disconnect"})
    answer: list[Any] = []

    async def receive() -> Any:
        if not messages:
            await asyncio.sleep(60)
        return messages.pop(0)

    async def send(message: Any) -> None:
        answer.append(message)

    await app(scope, receive, send)
    text = b"".join(message.get("body", b"") for message in answer)
    return answer[0]["status"], dict(answer[0]["headers"]), json.loads(text)


def test_health_is_loading_then_ok_or_failing(app: Any) -> None:
    from vitrine import __version__

    state = app.state.page

    def health() -> tuple[int, Any]:
        code, _, response = asyncio.run(call(app, "GET", "/healthz"))
        return code, response

    systems = ["ensemble", "deit", "mobilevit"]
    loading = {"status": "loading", "version": __version__, "systems": systems, "models": {}}
    assert health() == (503, loading)
    deit = state.predictor("deit")
    assert health()[1]["models"] == {"deit": {"checkpoint": deit.checkpoint, "backend": deit.runtime.name}}
    state.loaded = True
    assert health()[0] == 200 and health()[1]["status"] == "ok"
    state.warning = "The index does not match the models."
    assert health()[0] == 503
    assert (health()[1]["status"], health()[1]["reason"]) == ("failing", state.warning)


def test_an_uncaught_exception_is_logged_with_an_id_and_answered_without_internals(
    app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitrine.app.watch import JsonLines

    def fail(*_: object) -> None:
        raise RuntimeError("secret words")

    monkeypatch.setattr(app.state.page, "search_index", fail)
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(JsonLines().format(record))  # type: ignore[method-assign]
    monkeypatch.setattr(logging.getLogger("vitrine.app"), "handlers", [handler])
    code, headers, response = asyncio.run(call(app, "GET", "/api/search"))
    assert code == 500 and set(response) == {"error", "request"} and b"x-content-type-options" in headers
    fault, request = [json.loads(line) for line in records]
    assert (fault["request"], fault["exception"], request["status"]) == (response["request"], "RuntimeError", 500)
    assert any(frame.endswith(" fail") for frame in fault["frames"])
    assert "secret" not in json.dumps([fault, response])


def test_requests_above_the_queue_limit_get_503_with_retry_after(
    app: Any, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitrine.app.api.MAX_WAITING", 2)
    slow: Future[Any] = Future()
    monkeypatch.setattr(app.state.page, "enqueue", lambda *_: slow)

    async def send_requests() -> None:
        body = sent(photos[:1])
        first = [asyncio.create_task(call(app, "POST", "/api/predict", body)) for _ in range(2)]
        await asyncio.sleep(0.2)
        code, headers, response = await call(app, "POST", "/api/predict", body)
        assert (code, headers[b"retry-after"]) == (503, b"2") and "waiting" in response["error"]
        assert len(list(tmp_path.iterdir())) == 2
        slow.set_result([])
        assert [answer[0] for answer in await asyncio.gather(*first)] == [200, 200]
        assert (await call(app, "POST", "/api/predict", body))[0] == 200

    asyncio.run(send_requests())
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("vitrine.app.api.MAX_WAITING_BYTES", 10)
    assert asyncio.run(call(app, "POST", "/api/predict", sent(photos[:1])))[0] == 503


def test_slow_and_broken_uploads_leave_no_files(
    app: Any, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitrine.app.api.UPLOAD_SECONDS", 0.2)
    body = sent(photos[:1])
    assert asyncio.run(call(app, "POST", "/api/predict", body[:-20], whole=False))[0] == 408
    assert asyncio.run(call(app, "POST", "/api/predict", body[:-20], whole=False, gone="1"))[0] == 400
    monkeypatch.setattr(app.state.page, "enqueue", lambda *_: 1 / 0)
    assert asyncio.run(call(app, "POST", "/api/predict", body))[0] == 500
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_does_not_load_is_a_server_error(app: Any, photos: list[Path], folder: Path) -> None:
    app.state.page.backend = "openvino"  # nothing was exported
    code, headers, response = asyncio.run(call(app, "POST", "/api/predict", sent(photos[:1])))
    assert code == 503 and b"retry-after" in headers and "make export" in response["error"]


def test_predictions_of_the_page_are_counted_and_wait_for_their_turn(app: Any, photos: list[Path]) -> None:
    state = app.state.page

    def value(name: str, **labels: str) -> float:
        return state.metrics.registry.get_sample_value(name, labels) or 0.0

    released, started = threading.Event(), threading.Event()
    predict = state._predict
    state._predict = lambda *arguments: (started.set(), released.wait(30), predict(*arguments))[-1]
    threads = [threading.Thread(target=state.predict, args=([str(photos[0])], ["deit"])) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert started.wait(30)
    deadline = time.monotonic() + 30
    while value("vitrine_predictions_waiting") != 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (value("vitrine_predictions_running"), value("vitrine_predictions_waiting")) == (1, 2)
    released.set()
    for thread in threads:
        thread.join()
    state.search("deit", "red", {}, None, "", 3)
    assert (value("vitrine_predictions_running"), value("vitrine_predictions_waiting")) == (0, 0)
    assert value("vitrine_predict_seconds_count", system="deit") == 3
    assert value("vitrine_search_seconds_count", system="deit") == 1


def test_other_websites_cannot_read_a_server_on_a_network(folder: Path, app: Any) -> None:
    from vitrine.app.server import create_app

    app = asyncio.run(create_app(folder, "0.0.0.0"))
    foreign = {"host": "shop.example", "origin": "http://evil.example"}
    code, headers, _ = asyncio.run(call(app, "GET", "/config", **foreign))
    assert code == 200 and b"access-control-allow-origin" not in headers


def test_the_number_of_sessions_is_bounded(app: Any) -> None:
    from vitrine.app.server import MAX_SESSIONS, mounted_apps

    (mounted,) = mounted_apps(app)
    for number in range(MAX_SESSIONS + 50):
        mounted.state_holder[f"visitor {number}"]
    assert len(mounted.state_holder.session_data) <= MAX_SESSIONS + 1


# -- the process ---------------------------------------------------------------------------------------------------


def test_a_running_prediction_is_finished_before_the_server_stops(folder: Path) -> None:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "WEBP", quality=60)
    answers: list[tuple[int, Any]] = []
    with running(folder, "/healthz") as server:
        body = form(*[("photos", "large.webp", file.getvalue())] * 12)
        asking = threading.Thread(target=lambda: answers.append(post(f"{server.url}/api/predict", body)))
        asking.start()
        deadline = time.monotonic() + 60
        while b"vitrine_predictions_running 1.0" not in status(f"{server.url}/metrics")[1]:
            assert time.monotonic() < deadline and asking.is_alive()
        with urlopen(f"{server.url}/gradio_api/heartbeat/someone") as stream:  # an open page
            server.process.terminate()
            assert server.process.wait(30) == 0
            stream.read()
        asking.join()
        log = server.log.read_text(encoding="utf-8")
    assert answers[0][0] == 200
    assert [line for line in log.splitlines()[1:] if json.loads(line)["level"] != "info"] == []


def test_a_server_stopped_while_loading_exits_cleanly(folder: Path) -> None:
    with running(folder, "/metrics") as server:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(60) == 0
        assert server.log.read_text(encoding="utf-8") == f"{server.url}\n"


def test_a_busy_port_is_an_error_before_an_address_is_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from vitrine.app.server import serve

    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        serve(folder, "127.0.0.1", taken.getsockname()[1])
    assert capsys.readouterr().out == ""


def test_the_address_is_printed_once_the_server_answers(folder: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "vitrine.cli", "serve", "--port", str(port)]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline().decode() == f"http://127.0.0.1:{port}\n"
            assert get(f"http://127.0.0.1:{port}/healthz")[0] in (200, 503)
        finally:
            process.terminate()


def test_the_page_does_not_wait_for_pytorch() -> None:
    code = "import sys, vitrine.app.server; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_examples_of_the_documentation_run(page: str, photos: list[Path], tmp_path: Path) -> None:
    section = (ROOT / "docs/page.md").read_text(encoding="utf-8").split("## From a program")[1].split("\n## ")[0]
    shutil.copy(photos[0], tmp_path / "bag.png")
    shutil.copy(photos[0], tmp_path / "bag.jpg")
    section = section.replace("http://127.0.0.1:7860", page)
    (example,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout
    commands = [line for line in section.splitlines() if line.startswith("curl ")]
    assert len(commands) == 2
    for command in commands if shutil.which("curl") else ():
        environment = {**os.environ, "NO_PROXY": "*"}
        done = subprocess.run(
            command, cwd=tmp_path, shell=True, capture_output=True, text=True, check=True, env=environment
        )
        assert "error" not in json.loads(done.stdout)


# -- the state -----------------------------------------------------------------------------------------------------


def test_an_index_fits_its_models(folder: Path) -> None:
    from vitrine.app.state import AppState

    state = AppState(folder, may_correct=True)
    state.warm_up()
    assert (state.status, state.warning) == ("ok", "")


def test_an_index_of_another_model_is_reported(folder: Path, tmp_path: Path) -> None:
    from vitrine.app.state import AppState

    other = shutil.copytree(folder, tmp_path / "project")
    shutil.copy(other / "models/deit/model.safetensors", other / "models/mobilevit/model.safetensors")
    state = AppState(other, may_correct=True)
    state.warm_up()
    assert state.status == "failing"
    assert "was built with a different model" in state.warning and "dvc repro" in state.warning


def test_any_error_while_loading_models_is_a_warning(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vitrine.app.state import AppState
    from vitrine.inference.predictor import Predictor

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Predictor, "load", fail)
    state = AppState(folder, may_correct=True)
    state.warm_up()
    assert state.status == "failing" and "MemoryError" in state.warning


def test_labels_are_corrected_only_where_the_page_is_local(folder: Path) -> None:
    from vitrine.app.state import AppState
    from vitrine.artifacts import ArtifactError

    with pytest.raises(ArtifactError, match="only when the server listens on localhost"):
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
    probs = [e["probability"] for e in sorted(fused.answer["tasks"]["color"]["labels"], key=lambda e: e["label"])]
    assert np.allclose(probs, expected, atol=1e-3)
    with pytest.raises(PhotoError, match="at most"):
        state.predict(files[:1] * (MAX_PHOTOS + 1), ["deit"])


def test_every_image_field_returns_the_file_itself_and_downloads_nothing(tmp_path: Path) -> None:
    import gradio as gr
    from gradio.data_classes import ImageData

    from vitrine.app import tabs

    field = gr.Image(label=tabs.NO_PHOTO)  # as Gradio makes one for a visitor whose page it updates
    assert field.preprocess(ImageData(path=str(tmp_path / "broken.png"))) == str(tmp_path / "broken.png")
    with pytest.raises(gr.Error, match="not its URL"):
        asyncio.run(field.async_move_resource_to_block_cache("http://127.0.0.1/a.png"))
    assert not list((Path(tabs.__file__).parent).glob("*.pyi"))
