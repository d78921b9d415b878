"""Disturb `vitrine index build` in the ways that long jobs fail, and compare with an undisturbed run.

Prints each fault, what happened, and whether the result was right; the exit code is 1 if any was not. Needs the
extras scale and dev and the models; takes a few minutes.

    python benchmarks/faults.py [--model mobilevit] [--photos 240]
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
from gallery import ROOT, draw_gallery

from vitrine.retrieval.sharded import ShardedIndex

SHARD_PHOTOS = 16
MINUTES = 5

Outcome = tuple[bool, str]
"""Whether the result was right, and what happened."""


class Bench:
    """A temporary folder with photographs, and the result of an undisturbed run with the local engine."""

    def __init__(self, root: Path, model: str, num_photos: int) -> None:
        self.root, self.model = root, model
        self.photos = root / "photos"
        draw_gallery(self.photos, num_photos)
        self.names = sorted(str(path) for path in self.photos.rglob("*.jpg"))
        self.reference = root / "reference"
        ended = self.run(self.photos, self.reference)
        if ended.returncode:
            sys.exit(f"{ended.stderr}\nFAILED: the undisturbed run exited with an error")

    def start(self, source: Path | str, out: Path, *options: str, **settings: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "vitrine.cli", "--project", str(ROOT), "index", "build", str(source), str(out)]
        command += ["--model", self.model, "--shard-photos", str(SHARD_PHOTOS), *options]
        limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (int(settings.pop("limit", -1)),) * 2)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **settings}
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, preexec_fn=limit)

    def finish(self, process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
        out, error = process.communicate(timeout=60 * MINUTES)
        return subprocess.CompletedProcess(process.args, process.returncode, out, error)

    def run(self, source: Path | str, out: Path, *options: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return self.finish(self.start(source, out, *options, **settings))

    def is_right(self, out: Path) -> bool:
        """Return whether Parquet files and index equal those of the undisturbed run, with each photograph once."""
        whole = indexed(out) == self.names and tables(out) == tables(self.reference)
        return whole and read_manifest(out) == read_manifest(self.reference)


def tables(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "parquet").iterdir()}


def read_manifest(out: Path) -> bytes:
    return (out / "index/shards.json").read_bytes()


def indexed(out: Path) -> list[str]:
    return [path for shard in ShardedIndex.load(out / "index").shards for path in shard.image_paths.tolist()]


def finished(out: Path) -> int:
    return len(list(out.glob("parquet/[0-9]*.parquet")))


def wait(ready: Callable[[], bool], process: subprocess.Popen[str]) -> bool:
    """Wait until `ready` returns True or the process has ended; return whether it was ready in time."""
    while not ready():
        if process.poll() is not None:
            return False
        time.sleep(0.01)
    return process.poll() is None


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            found += [child] if "ShardPredictor" in " ".join(child.cmdline()) else []
        except psutil.Error:  # it has ended in the meantime
            continue
    return found


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["nothing"])[-1]


# -- faults -------------------------------------------------------------------------------------------------------


def worker_killed(bench: Bench, out: Path) -> Outcome:
    process = bench.start(bench.photos, out, "--engine", "ray", "--workers", "2")
    killed = wait(lambda: finished(out) >= 2, process)
    victims = workers_of(process)[:1]
    for victim in victims:
        victim.kill()
    ended = bench.finish(process)
    happened = f"killed {len(victims)} of 2 workers after {2 * SHARD_PHOTOS} photographs; {last_line(ended.stdout)}"
    return killed and len(victims) == 1 and ended.returncode == 0 and bench.is_right(out), happened


def decoder_killed(bench: Bench, out: Path) -> Outcome:
    """Two photographs kill their decoder, through tests/deadly; both engines must write the same."""
    folder = bench.root / "deadly"
    shutil.copytree(bench.photos, folder)
    names = sorted(str(path) for path in folder.rglob("*.jpg"))
    for path, name in zip(names[5:7], ("SIGSEGV", "SIGKILL"), strict=True):
        Path(path).write_text(f"kills its decoder with {name}", encoding="utf-8")
    folders = filter(None, [str(ROOT / "tests/deadly"), os.environ.get("PYTHONPATH", "")])
    deadly = {"PYTHONPATH": os.pathsep.join(folders)}
    here = bench.run(folder, out.with_name("deadly_local"), **deadly)
    ended = bench.run(folder, out, "--engine", "ray", "--workers", "2", **deadly)
    same = tables(out) == tables(out.with_name("deadly_local")) and indexed(out) == names[:5] + names[7:]
    codes = here.returncode == ended.returncode == 1
    return codes and same and "its decoder died (SIGKILL)" in ended.stderr, last_line(ended.stdout)


def driver_killed(bench: Bench, out: Path) -> Outcome:
    options = ("--engine", "ray", "--workers", "2")
    process = bench.start(bench.photos, out, *options)
    killed = wait(lambda: finished(out) >= 3, process)
    process.kill()
    process.communicate()
    num = finished(out)
    ended = bench.run(bench.photos, out, *options)
    happened = f"killed with {num} of {len(tables(bench.reference))} shards; again: {last_line(ended.stdout)}"
    return killed and "finished before" in ended.stdout and bench.is_right(out), happened


def disk_full(bench: Bench, out: Path) -> Outcome:
    size = sum(map(len, tables(bench.reference).values())) // 2
    with small_disk(out, size) as grow:
        limit = {} if grow else {"limit": str(max(map(len, tables(bench.reference).values())) - 1)}
        full = bench.run(bench.photos, out, **limit)
        num = finished(out)
        if grow:
            grow()
        ended = bench.run(bench.photos, out)
        where = "a tmpfs" if grow else "limited files"
        happened = f"{where} with {num} shards: {last_line(full.stderr)} After more room: {last_line(ended.stdout)}"
        right = full.returncode == 2 and "cannot be written" in full.stderr and "Traceback" not in full.stderr
        return right and ended.returncode == 0 and bench.is_right(out), happened


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Callable[[], object] | None]:
    """Mount a disk of a size and yield a function that enlarges it, or None if mounting is not permitted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        yield None
        return
    try:
        grow = ["mount", "-o", "remount,size=1g", str(folder)]
        yield lambda: subprocess.run(grow, check=True)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def shard_truncated(bench: Bench, out: Path) -> Outcome:
    bench.run(bench.photos, out)
    shard = sorted((out / "parquet").iterdir())[1]
    os.truncate(shard, shard.stat().st_size // 2)
    ended = bench.run(bench.photos, out)
    rebuilt = f"({len(bench.names) - SHARD_PHOTOS} finished before)" in ended.stdout
    return rebuilt and bench.is_right(out), last_line(ended.stdout)


def shard_damaged(bench: Bench, out: Path) -> Outcome:
    bench.run(bench.photos, out)
    shard = sorted((out / "parquet").iterdir())[1]
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 1
    shard.write_bytes(content)
    ended = bench.run(bench.photos, out)
    rebuilt = f"({len(bench.names) - SHARD_PHOTOS} finished before)" in ended.stdout
    return rebuilt and bench.is_right(out), last_line(ended.stdout)


def two_writers(bench: Bench, out: Path) -> Outcome:
    first = bench.start(bench.photos, out)
    wait(lambda: finished(out) >= 1, first)
    first.send_signal(signal.SIGSTOP)
    second = bench.run(bench.photos, out)
    first.send_signal(signal.SIGCONT)
    ended = bench.finish(first)
    refused = second.returncode == 2 and "another process is building this index" in second.stderr
    return refused and ended.returncode == 0 and bench.is_right(out), last_line(second.stderr)


def reader_during_rebuild(bench: Bench, out: Path) -> Outcome:
    half = bench.root / "half.csv"
    half.write_text("path\n" + "".join(f"{name}\n" for name in bench.names[::2]))
    bench.run(half, out)
    sizes, errors, done = set(), [], threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                index = ShardedIndex.load(out / "index")
                found = index.search("bag", top_k=1000)
                sizes.add(len(found.hits))
                time.sleep(0.005)
            except Exception as error:
                errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    ended = bench.run(bench.photos, out)
    time.sleep(0.2)
    done.set()
    reader.join()
    happened = f"searches found {sorted(sizes)} photographs, {len(errors)} errors {errors[:1]}"
    whole = sizes == {len(bench.names[::2]), len(bench.names)}
    return whole and not errors and ended.returncode == 0 and bench.is_right(out), happened


def storage_silent(bench: Bench, out: Path) -> Outcome:
    start = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        ended = bench.run("s3://shop/photos", out, "--timeout", "1", **s3_settings(endpoint))
    happened = f"after {time.monotonic() - start:.0f} s: {last_line(ended.stderr)}"
    return (
        ended.returncode == 2 and "the storage cannot be read" in ended.stderr and "Traceback" not in ended.stderr,
        happened,
    )


def object_silent(bench: Bench, out: Path) -> Outcome:
    listed = bench.root / "listed.csv"
    keys = [f"s3://shop/{Path(name).relative_to(bench.photos).as_posix()}" for name in bench.names[:40]]
    listed.write_text("path\n" + "".join(f"{key}\n" for key in keys))
    silent = {"/" + keys[7].removeprefix("s3://")}
    with bucket(bench.photos, silent) as endpoint:
        first = bench.run(listed, out, "--engine", "ray", "--workers", "1", "--timeout", "1", **s3_settings(endpoint))
        without = indexed(out)
        silent.clear()
        ended = bench.run(listed, out, "--timeout", "1", **s3_settings(endpoint))
    happened = f"{last_line(first.stderr)}; later: {last_line(ended.stdout)}"
    right = first.returncode == 1 and without == keys[:7] + keys[8:] and "the storage cannot be read" in first.stderr
    return right and ended.returncode == 0 and indexed(out) == keys, happened


def s3_settings(endpoint: str) -> dict[str, str]:
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    return {"AWS_ENDPOINT_URL": endpoint, **keys}


@contextmanager
def bucket(folder: Path, silent: set[str]) -> Iterator[str]:
    """Serve a folder as the bucket `shop`, but never answer for some paths."""
    done = threading.Event()

    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def translate_path(self, path: str) -> str:
            return str(folder / path.split("?")[0].removeprefix("/shop/"))

        def send_head(self) -> object:
            if self.path.split("?")[0] in silent:
                done.wait(10)
                self.close_connection = True
                return None
            return super().send_head()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            done.set()
            server.shutdown()


FAULTS: dict[str, Callable[[Bench, Path], Outcome]] = {
    "a worker is killed (kill -9)": worker_killed,
    "photographs kill their decoder": decoder_killed,
    "the driver is killed (kill -9) and run again": driver_killed,
    "the disk is full": disk_full,
    "a Parquet shard is truncated": shard_truncated,
    "a bit of a Parquet shard flips": shard_damaged,
    "two writers at once": two_writers,
    "a reader during a rebuild": reader_during_rebuild,
    "the storage accepts connections and never answers": storage_silent,
    "the storage never answers for one object": object_silent,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilevit")
    parser.add_argument("--photos", type=int, default=240)
    parser.add_argument("--only", help="inject only faults whose names contain this text")
    arguments = parser.parse_args()
    num_wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), arguments.model, arguments.photos)
        for number, (name, fault) in enumerate(FAULTS.items()):
            if arguments.only and arguments.only not in name:
                continue
            start = time.monotonic()
            right, happened = fault(bench, Path(folder) / f"out{number}")
            happened = happened.replace(f"{folder}/", "")
            print(
                f"{'right' if right else 'WRONG'}  {name} ({time.monotonic() - start:.0f} s)\n       {happened}",
                flush=True,
            )
            num_wrong += not right
    sys.exit(f"{num_wrong} results were wrong" if num_wrong else 0)


if __name__ == "__main__":
    main()
