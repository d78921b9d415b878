"""Every engine builds the same index of many photographs, even if it was killed and resumed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from filelock import FileLock
from PIL import Image
from pyarrow import fs
from serving import free_port
from typer.testing import CliRunner

from vitrine.cli import app
from vitrine.inference.predictor import Predictor
from vitrine.inference.systems import System, save_systems
from vitrine.labels import LabelSpace
from vitrine.learning.model import create_model, save_model
from vitrine.photos import Decoding
from vitrine.retrieval.index import Index, MatchRule
from vitrine.retrieval.sharded import ShardedIndex
from vitrine.scale.storage import STORAGE_FAULT

SPACE = LabelSpace({"class": ("travel_bag", "water_bottle"), "color": ("blue", "green", "red")})
BROKEN = ("photos/07.png", "photos/41.png")
NUM_PHOTOS = 60
OPTIONS = ("--model", "small", "--shard-photos", "8")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a project with one small system and sixty photographs, two of them invalid."""
    root = tmp_path_factory.mktemp("project")
    for name, text in {"params.yaml": "serving:\n  backend: auto\n", "data/synonyms.yaml": "sack: bag\n"}.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    torch.manual_seed(0)
    save_model(create_model("test_vit", "none", SPACE, Decoding(24, 50.0), 32, 0.0, 0.0), root / "models/small", {})
    thresholds = dict.fromkeys(SPACE, 0.0)
    system = System(dict.fromkeys(SPACE, ("small",)), dict.fromkeys(SPACE, 1.0), thresholds)
    save_systems(root / "models/systems.json", {"small": system})
    draw(root / "photos", NUM_PHOTOS)
    for path in BROKEN:
        (root / path).write_text("no photograph")
    return root


def draw(folder: Path, num: int) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(num):
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(folder / f"{number:02d}.png")


@pytest.fixture(autouse=True)
def inside(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)


def build(*arguments: str | Path, model_options: tuple[str, ...] = OPTIONS) -> tuple[int, str]:
    arguments = ("index", "build", *map(str, arguments), *model_options)
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def build_apart(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vitrine.cli", "index", "build", *map(str, arguments), *OPTIONS]
    environment = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def with_killers(project: Path, folder: Path) -> Path:
    """Copy the photographs; replace one by a file that kills its decoder, and add another such file."""
    shutil.copytree(project / "photos", folder)
    for name, signal in (("12.png", "SIGSEGV"), ("60.png", "SIGKILL")):
        (folder / name).write_text(f"kills its decoder with {signal}")
    return folder


def tables(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "parquet").iterdir())}


def indexed(out: Path) -> list[str]:
    return [path for shard in ShardedIndex.load(out / "index").shards for path in shard.image_paths.tolist()]


@pytest.fixture(scope="module")
def local(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output of the local engine."""
    out = tmp_path_factory.mktemp("local") / "out"
    with contextlib.chdir(project):
        code, text = build("photos", out)
    assert code == 1, "photographs were skipped"
    assert all(f"Skipped {path}: is not an image that can be read\n" in text for path in BROKEN)
    assert re.search(rf"^Indexed 58 photographs in {out}/index, skipped 2 files, in \d+ s\.$", text, re.MULTILINE)
    return out


def test_shards_contain_the_predictions_of_the_predictor(project: Path, local: Path) -> None:
    table = pq.read_table([local / "parquet" / name for name in tables(local)])
    paths = [f"photos/{number:02d}.png" for number in range(NUM_PHOTOS)]
    assert table["path"].to_pylist() == paths == table["item"].to_pylist()
    assert table.column_names == ["path", "item", "probs.class", "probs.color", "embedding", "error"]
    valid = [path for path in paths if path not in BROKEN]
    found = Predictor.load("small").predict_files([Path(path) for path in valid])
    rows = table.filter(table["error"].is_null())
    for task in SPACE:
        np.testing.assert_allclose(np.array(rows[f"probs.{task}"].to_pylist()), found.probs[task], atol=1e-6)
    unit = found.embeddings / np.linalg.norm(found.embeddings, axis=1, keepdims=True)
    np.testing.assert_allclose(np.array(rows["embedding"].to_pylist(), dtype=np.float32), unit, atol=1e-3)
    wrong = table.filter(table["error"].is_valid()).to_pylist()
    nothing = {"probs.class": None, "probs.color": None, "embedding": None, "error": "is not an image that can be read"}
    assert wrong == [{"path": path, "item": path, **nothing} for path in BROKEN]
    index, whole = ShardedIndex.load(local / "index"), Index.build("small", found, valid, {"sack": ["bag"]})
    assert indexed(local) == valid and index.rule == MatchRule()
    hits = [[hit.image_path for hit in each.search("blue sack", top_k=5).hits] for each in (index, whole)]
    assert hits[0] == hits[1]


def test_finished_shards_are_kept(project: Path, local: Path, tmp_path: Path) -> None:
    out, before = tmp_path / "out", tables(local)
    build("photos", out)
    assert tables(out) == before, "the same photographs give the same bytes"
    times = {path: path.stat().st_mtime_ns for path in (out / "parquet").iterdir()}
    (out / "parquet/.00000000-0123456789abcdef0123-0123456789abcdef.parquet").write_text("left by a killed run")
    cut, *others = times
    cut.write_bytes(cut.read_bytes()[:-100])
    code, text = build("photos", out)
    assert code == 1 and "Indexed 58 photographs (52 finished before)" in text, "a truncated shard is made again"
    assert tables(out) == before and all(path.stat().st_mtime_ns == times[path] for path in others)
    damaged = bytearray(cut.read_bytes())
    damaged[len(damaged) // 3] ^= 1
    cut.write_bytes(damaged)
    build("photos", out)
    assert tables(out) == before, "a damaged shard is made again"
    (tmp_path / "some.csv").write_text("".join(f"{line}\n" for line in ("path", *(project / path for path in BROKEN))))
    code, text = build(tmp_path / "some.csv", out)
    assert code == 1 and "Indexed 0 photographs" in text
    (tmp_path / "some.csv").write_text(f"path,item\n{project / 'photos/03.png'},A\n{project / 'photos/01.png'},A\n")
    code, text = build(tmp_path / "some.csv", out, "-q")
    assert (code, text) == (0, "") and indexed(out) == ["photos/03.png", "photos/01.png"]
    assert len(tables(out)) == 1 and set(ShardedIndex.load(out / "index").shards[0].instance_ids.tolist()) == {"A"}


def test_errors_are_one_line(project: Path, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, text = build("gone", tmp_path / "out")
    assert code == 2 and text.startswith("ERROR: gone: not found")
    assert build("photos", tmp_path / "out", "--engine", "spark")[0] == 2
    code, text = build("photos", tmp_path / "out", "--workers", "2")
    assert (code, text) == (2, "ERROR: --address and --workers require --engine ray\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("x")
    code, text = build("photos", tmp_path / "mine")
    assert code == 2 and "contains other files (thesis.txt). Choose a new or empty folder" in text
    with FileLock(local / ".lock"):
        code, text = build("photos", local)
    assert code == 2 and "another process is building this index. Try again when it is done" in text
    monkeypatch.setitem(sys.modules, "ray", None)
    code, text = build("photos", tmp_path / "out", "--engine", "ray")
    assert (code, text) == (2, "ERROR: ray is not installed. Install the extra: pip install -e '.[scale]'\n")
    assert not (tmp_path / "out").exists()


def test_object_storage_gives_the_same_index(project: Path, local: Path, tmp_path: Path) -> None:
    storage = fsspec.filesystem("memory")
    for path in (project / "photos").iterdir():
        storage.pipe(f"/shop/{path.name}", path.read_bytes())
    code, text = build("memory://shop", tmp_path / "out")
    assert code == 1 and "Skipped memory://shop/07.png: is not an image that can be read\n" in text
    expected = [path.replace("photos", "memory://shop") for path in indexed(local)]
    assert indexed(tmp_path / "out") == expected
    arrays = [ShardedIndex.load(folder / "index").shards[0] for folder in (local, tmp_path / "out")]
    assert np.array_equal(arrays[0].probs, arrays[1].probs)
    assert np.array_equal(arrays[0].embeddings, arrays[1].embeddings)


@pytest.mark.usefixtures("deadly")
def test_photographs_that_kill_their_decoder_are_error_rows(project: Path, local: Path, tmp_path: Path) -> None:
    photos = with_killers(project, tmp_path / "photos")
    code, text = build(photos, tmp_path / "out")
    assert code == 1 and "Indexed 57 photographs" in text and "skipped 4 files" in text
    assert f"Skipped {photos}/12.png: its decoder died (SIGSEGV)\n" in text
    assert f"Skipped {photos}/60.png: its decoder died (SIGKILL)\n" in text
    names = [Path(path).name for path in indexed(tmp_path / "out")]
    assert names == [Path(path).name for path in indexed(local) if not path.endswith("12.png")]
    found, known = (ShardedIndex.load(folder / "index").shards[0].probs for folder in (tmp_path / "out", local))
    np.testing.assert_allclose(found, np.delete(known, 11, axis=1), atol=1e-6)
    storage = fsspec.filesystem("memory")
    for path in photos.iterdir():
        storage.pipe(f"/deadly/{path.name}", path.read_bytes())
    code, text = build("memory://deadly", tmp_path / "stored")
    assert code == 1 and "Skipped memory://deadly/12.png: its decoder died (SIGSEGV)\n" in text
    assert "Indexed 57 photographs" in text


@pytest.mark.slow
@pytest.mark.usefixtures("deadly")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_ray_gives_the_same_error_rows(project: Path, tmp_path: Path, workers: str) -> None:
    photos = with_killers(project, tmp_path / "photos")
    build(photos, tmp_path / "local")
    arguments = photos, tmp_path / "out", "--engine", "ray", "--workers", workers
    ended = build_apart(*arguments, RAY_worker_niceness="0")
    assert ended.returncode == 1 and "Indexed 57 photographs" in ended.stdout, ended.stderr
    assert f"Skipped {photos}/12.png: its decoder died (SIGSEGV)\n" in ended.stderr
    assert tables(tmp_path / "out") == tables(tmp_path / "local")


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_ray_gives_the_same_bytes_as_the_local_engine(local: Path, tmp_path: Path, workers: str) -> None:
    ended = build_apart("photos", tmp_path / "out", "--engine", "ray", "--workers", workers)
    assert ended.returncode == 1 and "Indexed 58 photographs" in ended.stdout, ended.stderr
    assert tables(tmp_path / "out") == tables(local)
    manifests = [(folder / "index/shards.json").read_bytes() for folder in (local, tmp_path / "out")]
    assert manifests[0] == manifests[1]


@pytest.mark.slow
def test_a_killed_job_resumes_and_indexes_every_photograph_once(tmp_path: Path) -> None:
    draw(tmp_path / "many", 400)
    command = [sys.executable, "-m", "vitrine.cli", "index", "build", str(tmp_path / "many"), str(tmp_path / "out")]
    command += ["--engine", "ray", "--workers", "2", "--model", "small", "--shard-photos", "4"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list((tmp_path / "out").glob("parquet/[0-9]*"))) < 3:
        time.sleep(0.005)
    process.kill()
    process.wait()
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("parquet/[0-9]*")}
    assert 3 <= len(finished) < 100, "it was killed on the way"
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0 and "(" in ended.stdout, ended.stderr
    assert indexed(tmp_path / "out") == [str(path) for path in sorted((tmp_path / "many").iterdir())]
    assert all(path.stat().st_mtime_ns == when for path, when in finished.items()), "finished shards were kept"


@pytest.mark.slow
def test_an_unreachable_cluster_is_one_error(tmp_path: Path) -> None:
    ended = build_apart("photos", tmp_path / "out", "--engine", "ray", "--address", "127.0.0.1:9")
    assert ended.returncode == 2 and "ERROR: 127.0.0.1:9: cannot be reached (" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
@pytest.mark.enable_socket
def test_a_running_cluster_gives_the_same_bytes(local: Path, tmp_path: Path) -> None:
    port, client_port = free_port(), free_port()
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=1"]
    command += [f"--port={port}", f"--ray-client-server-port={client_port}", "--include-dashboard=false"]
    command += ["--node-ip-address=127.0.0.1", "--object-store-memory=100000000", "--disable-usage-stats"]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    cluster = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(client_port, cluster)
        address = f"ray://127.0.0.1:{client_port}"
        for _ in range(3):  # Ray allows 30 s for a client server to start, which may not suffice on a busy machine
            ended = build_apart("photos", tmp_path / "out", "--engine", "ray", "--address", address, **environment)
            if "Starting Ray client server failed" not in ended.stderr:
                break
    finally:
        cluster.terminate()
        cluster.wait(60)
    assert ended.returncode == 1 and "Indexed 58 photographs" in ended.stdout, ended.stderr
    assert tables(tmp_path / "out") == tables(local)


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    while True:
        with contextlib.suppress(ConnectionError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        assert process.poll() is None
        time.sleep(0.05)


@pytest.fixture
def s3(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[fs.S3FileSystem]:
    """Start a local S3 server, named by the environment, with the photographs in the bucket `shop`."""
    port = free_port()
    settings = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "key"}
    settings |= {"AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "1"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    code = f"from moto.server import main; main(['--host', '127.0.0.1', '--port', '{port}'])"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(port, process)
        storage = fs.S3FileSystem(endpoint_override=f"127.0.0.1:{port}", scheme="http", allow_bucket_creation=True)
        storage.create_dir("shop")
        fs.copy_files(str(project / "photos"), "shop/photos", destination_filesystem=storage)
        yield storage
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.enable_socket
def test_a_bucket_gives_the_same_index(s3: fs.S3FileSystem, local: Path, tmp_path: Path) -> None:
    ended = build_apart("s3://shop/photos", tmp_path / "out", "--engine", "ray", "--workers", "2")
    assert ended.returncode == 1 and "Indexed 58 photographs" in ended.stdout, ended.stderr
    assert indexed(tmp_path / "out") == [path.replace("photos", "s3://shop/photos") for path in indexed(local)]
    probs = [ShardedIndex.load(folder / "index").shards[0].probs for folder in (local, tmp_path / "out")]
    assert np.array_equal(probs[0], probs[1])
    code, text = build("s3://shop/photos", tmp_path / "here")
    assert code == 1 and tables(tmp_path / "here") == tables(tmp_path / "out")
    with s3.open_output_stream("shop/list.csv") as file:
        file.write(b"path,item\nphotos/02.png,A\nphotos/gone.png,B\n")
    code, text = build("s3://shop/list.csv", tmp_path / "listed")
    assert code == 1 and "Skipped s3://shop/photos/gone.png: not found\n" in text
    assert indexed(tmp_path / "listed") == ["s3://shop/photos/02.png"]
    code, text = build("s3://nowhere/photos", tmp_path / "none")
    assert code == 2 and "NO_SUCH_BUCKET" in text


@pytest.mark.enable_socket
def test_storage_that_never_answers_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        start = time.monotonic()
        code, text = build("s3://shop/photos", tmp_path / "out", "--timeout", "1")
    assert code == 2 and text.startswith(f"ERROR: s3://shop/photos: {STORAGE_FAULT} ("), text
    assert time.monotonic() - start < 20 and not (tmp_path / "out").exists()


def test_photographs_that_storage_failed_to_return_are_retried_in_the_next_run(
    project: Path, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = fsspec.filesystem("memory")
    for path in (project / "photos").iterdir():
        storage.pipe(f"/shop/{path.name}", path.read_bytes())
    opened = type(storage)._open

    def open_most(self: object, path: str, *args: object, **kwargs: object) -> object:
        if path.endswith("/12.png"):
            raise TimeoutError("too slow")
        return opened(self, path, *args, **kwargs)

    monkeypatch.setattr("vitrine.scale.storage.PAUSE_SECONDS", 0)
    monkeypatch.setattr(type(storage), "_open", open_most)
    code, text = build("memory://shop", tmp_path / "out")
    assert code == 1 and f"Skipped memory://shop/12.png: {STORAGE_FAULT} (too slow)\n" in text
    assert len(indexed(tmp_path / "out")) == 57
    monkeypatch.undo()
    monkeypatch.chdir(project)
    code, text = build("memory://shop", tmp_path / "out")
    assert code == 1 and "Indexed 58 photographs (52 finished before)" in text
