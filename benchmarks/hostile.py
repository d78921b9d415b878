"""Test a server with hundreds of hostile uploads and queries, generated from a seed.

Run it in a project after `make repro`. It starts its own server and sends every upload to three routes. Each response
must be 2xx or 4xx with JSON, or 503 with Retry-After. The log must contain only requests, the server must not write or
leave any files but Gradio's uploads, call another host or start a process, and must respond as before afterwards. It
has its own temporary and home folders, so that files written there are detected. Prints a list of faults; the exit
code is 1 if there are any.

    python benchmarks/hostile.py [--uploads 200] [--queries 500] [--seed 0]
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import random
import socket
import struct
import sys
import tempfile
import threading
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import quote, urlsplit

import numpy as np
import psutil
from PIL import Image

from vitrine.data.catalog import DataParams
from vitrine.params import read_section

sys.path.insert(0, "tests")
from serving import Server, running

BOUNDARY = "hostile-boundary"
UPLOAD_ROUTES = {"/api/predict": "photos", "/api/search": "like", "/gradio_api/upload": "files"}


@dataclass(frozen=True)
class Upload:
    """A file uploaded by a form; `raw` replaces it with a whole body of the given content type."""

    kind: str
    name: str
    content: bytes
    content_type: str = "image/png"
    header: bytes = b""
    raw: tuple[str, bytes] | None = None

    def body(self, field_name: str) -> tuple[str, bytes]:
        """Return the content type and body of the request."""
        if self.raw:
            return self.raw
        name = self.name.encode("utf-8", "surrogateescape")
        head = b'--%s\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\n' % (
            BOUNDARY.encode(),
            field_name.encode(),
            name,
        )
        head += b"Content-Type: %s\r\n%s\r\n" % (self.content_type.encode(), self.header)
        return FORM, head + self.content + f"\r\n--{BOUNDARY}--\r\n".encode()


FORM = f"multipart/form-data; boundary={BOUNDARY}"


# -- files ---------------------------------------------------------------------------------------------------------


def noise(rng: random.Random, mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    channels = {"L": 1, "RGB": 3, "RGBA": 4, "CMYK": 4}[mode]
    pixels = np.frombuffer(rng.randbytes(size[0] * size[1] * channels), np.uint8)
    return Image.fromarray(pixels.reshape(size[1], size[0], channels).squeeze(), mode if channels == 4 else None)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    (image.convert("CMYK") if options.pop("cmyk", False) else image).save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *extra: bytes, data: bytes = b"", depth: int = 8, color: int = 2) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def tiff(*entries: tuple[int, int, int, int], next_ifd: int = 0) -> bytes:
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + struct.pack("<I", next_ifd)


def segments(marker: int, start: bytes, size: int, num: int) -> bytes:
    """Return JPEG segments of the maximum size, or larger than their header says."""
    return b"".join(
        bytes([0xFF, marker]) + struct.pack(">H", 65_535) + (start + bytes(size))[:65_533] for _ in range(num)
    )


def archive(rng: random.Random) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("../../escaped.png", bytes(1_000_000))
    return file.getvalue() + rng.randbytes(8)


def files(rng: random.Random) -> Iterator[Upload]:
    """Yield files that are not photographs, or unusual photographs, with ordinary names."""
    photo = noise(rng)
    jpeg, plain = encoded(photo, "JPEG"), encoded(photo, "PNG")
    frames = [noise(rng) for _ in range(12)]
    kinds = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")
    for kind in kinds:
        whole, suffix = encoded(photo, kind), kind.lower()
        yield Upload(f"{kind} cut", f"cut.{suffix}", whole[: rng.randrange(1, len(whole))])
        broken = bytearray(whole)
        for _ in range(20):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        yield Upload(f"{kind} with wrong bytes", f"broken.{suffix}", bytes(broken))
        yield Upload(f"{kind} renamed", f"renamed.{rng.choice(kinds).lower()}", whole)
        yield Upload(f"{kind} header, then noise", f"noise.{suffix}", whole[:30] + rng.randbytes(3000))
        yield Upload(f"{kind} with a non-image name", f"photo.{rng.choice(('exe', 'php', 'svg', 'py', ''))}", whole)
    yield Upload("no bytes", "empty.png", b"")
    yield Upload("zero bytes", "zeros.jpg", bytes(rng.randrange(1, 100_000)))
    yield Upload("noise", "noise.webp", rng.randbytes(5000))
    yield Upload("bomb of pixels", "bomb.png", png(30_000, 30_000, data=bytes(10_000), depth=1, color=0))
    yield Upload("largest size", "bomb.png", png(2**31 - 1, 2**31 - 1))
    yield Upload("no size", "flat.png", png(0, 0))
    yield Upload("thin", "thin.png", encoded(noise(rng, "L", (8, 6000)), "PNG"))
    yield Upload("tiny", "tiny.png", encoded(noise(rng, "RGB", (2, 2)), "PNG"))
    profile = zlib.compress(bytes(40_000_000))
    yield Upload("bomb in a color profile", "icc.png", png(16, 16, chunk(b"iCCP", b"x\0\0" + profile), data=bytes(784)))
    yield Upload("bomb in text", "text.png", png(16, 16, chunk(b"zTXt", b"x\0\0" + profile), data=bytes(784)))
    yield Upload("bomb in pixels' data", "data.png", png(16, 16, data=bytes(40_000_000)))
    yield Upload("chunk longer than the file", "chunk.png", plain[:33] + struct.pack(">I", 2**31 - 1) + b"IDATx")
    yield Upload(
        "giant EXIF", "exif.jpg", jpeg[:2] + segments(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", 66_000, 20) + jpeg[2:]
    )
    yield Upload("giant ICC", "icc.jpg", jpeg[:2] + segments(0xE2, b"ICC_PROFILE\0\x01\xff", 66_000, 100) + jpeg[2:])
    yield Upload("giant comment", "comment.jpg", jpeg[:2] + segments(0xFE, b"<script>", 66_000, 50) + jpeg[2:])
    yield Upload("EXIF rotation out of range", "turned.jpg", encoded(photo, "JPEG", exif=exif(rng)))
    sizes = [(256, 3, 1, 2**16 - 1), (257, 3, 1, 2**16 - 1), (277, 3, 1, 3), (273, 4, 1, 2**31), (279, 4, 1, 2**31)]
    yield Upload("TIFF with strips outside", "strips.tiff", tiff(*sizes))
    yield Upload("circular TIFF", "circle.tif", tiff((256, 3, 1, 16), (257, 3, 1, 16), next_ifd=8))
    yield Upload("TIFF with 65535 entries", "entries.tif", b"II*\0" + struct.pack("<IH", 8, 65_535) + bytes(1000))
    yield Upload("GIF of many frames", "many.gif", encoded(frames[0], "GIF", save_all=True, append_images=frames * 20))
    yield Upload("animated WebP", "moving.webp", encoded(frames[0], "WEBP", save_all=True, append_images=frames))
    yield Upload("16 bits", "deep.png", png(16, 16, data=bytes(16 * (1 + 16 * 6)), depth=16))
    yield Upload("16 bits gray", "gray.png", encoded(Image.fromarray(np.full((30, 30), 40_000, np.uint16)), "PNG"))
    yield Upload(
        "NaN floats",
        "nan.tiff",
        encoded(Image.fromarray(np.full((30, 30), np.nan, np.float32)), "TIFF"),
    )
    yield Upload("CMYK", "print.jpg", encoded(photo, "JPEG", cmyk=True))
    yield Upload("transparent", "glass.png", encoded(noise(rng, "RGBA"), "PNG"))
    yield Upload("JPEG, ZIP and HTML in one", "all.jpg", jpeg + archive(rng) + b"<script>alert(1)</script>")
    yield Upload("GIF and JavaScript in one", "script.gif", b"GIF89a/*" + rng.randbytes(30) + b"*/=1;alert(1)")
    yield Upload("SVG", "drawing.svg", SVG, "image/svg+xml")
    yield Upload("SVG as PNG", "drawing.png", SVG)
    yield Upload("HTML", "page.html", b"<html><script>alert(1)</script></html>", "text/html")
    yield Upload("HTML as JPEG", "page.jpg", b"<html><script>alert(1)</script></html>", "image/jpeg")
    yield Upload("PostScript as JPEG", "print.jpg", POSTSCRIPT, "image/jpeg")
    yield Upload(
        "PDF as PNG", "paper.png", b"%PDF-1.7\n1 0 obj<</Type/Catalog/OpenAction<</S/URI/URI(http://evil.example)>>>>"
    )
    yield Upload("ZIP as PNG", "archive.png", archive(rng), "application/zip")
    yield Upload("address", "address.png", b"http://169.254.169.254/latest/meta-data/", "message/external-body")
    yield Upload("pickle", "model.png", b"cos\nsystem\n(S'touch hostile'\ntR.")
    yield Upload("program", "program.png", b"\x7fELF" + rng.randbytes(500))
    yield Upload("20 MB and more", "large.png", plain + bytes(20 * 1024 * 1024))


SVG = b"""<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]>
<svg xmlns="http://www.w3.org/2000/svg"><image href="http://evil.example/x.png"/><text>&x;</text></svg>"""
POSTSCRIPT = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n%%EndComments\n(hostile) (w) file closefile\nshowpage\n%%EOF\n"
)


def exif(rng: random.Random) -> bytes:
    found = Image.Exif()
    found[0x0112] = rng.randrange(9, 60_000)
    found[0x010E] = "\x00\u202e<script>" * 50
    return found.tobytes()


def names(rng: random.Random) -> Iterator[Upload]:
    """Yield a valid photograph with names that escape the folder or confuse parsers."""
    content = encoded(noise(rng), "PNG")
    for name in (
        "../../../../../../tmp/hostile.png", "..\\..\\hostile.png", "/etc/hostile.png", "C:\\hostile.png",
        "~/hostile.png",
        "a" * 5000 + ".png", "." * 300 + "png", "hostile.png\0.php", "hostile\0.png", ".png", "", " ", "..", "con.png",
        "\u202egnp.exe", "\U0001f9f8.png", "e\u0301" * 200 + ".png", "$(touch hostile).png", "`id`.png",
        "; rm -rf hostile.png",
        "{{7*7}}.png", "<img src=x onerror=alert(1)>.png", "' OR 1=1 --.png", "%2e%2e%2fhostile.png", "hostile.png/",
        'quote\\".png', "\udcff\udcfe.png", "line\\r\\nSet-Cookie: x.png", "http://evil.example/x.png",
        "file:///etc/passwd.png",
    ):  # fmt: skip
        yield Upload(f"name {name[:20]!r}", name, content)


def bodies(rng: random.Random) -> Iterator[Upload]:
    """Yield bodies that are not forms, or broken forms."""
    content = encoded(noise(rng), "PNG")
    part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="photos"; filename="a.png"\r\n\r\n'.encode() + content
    end = f"\r\n--{BOUNDARY}--\r\n".encode()
    other = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="x"\r\n\r\n'.encode()
    for kind, content_type, body in (
        ("photograph without a form", "image/png", content),
        ("JSON", "application/json", json.dumps({"path": "/etc/passwd"}).encode()),
        ("JSON, deep", "application/json", b"[" * 100_000),
        ("URL-encoded fields", "application/x-www-form-urlencoded", b"a=b&" * 100_000),
        ("no boundary", "multipart/form-data", part + end),
        ("empty boundary", "multipart/form-data; boundary=", part + end),
        ("another boundary", "multipart/form-data; boundary=other", part + end),
        ("boundary of 5000 letters", f"multipart/form-data; boundary={'b' * 5000}", part + end),
        ("unknown charset", f"{FORM}; charset=\xff-8", part + end),
        ("text in UTF-16", f"{FORM}; charset=utf-16", part + end),
        ("no end", FORM, part),
        ("only the end", FORM, end),
        ("no body", FORM, b""),
        ("no name", FORM, part.replace(b'name="photos"; ', b"") + end),
        ("no disposition", FORM, f"--{BOUNDARY}\r\n\r\n".encode() + content + end),
        ("form within the form", FORM, part.replace(b"\r\n\r\n",
        f"\r\nContent-Type: {FORM}\r\n\r\n".encode()) + part + end),
        ("2000 fields", FORM, (other + b"1\r\n") * 2000 + end),
        ("field of 5 MB", FORM, other + bytes(5_000_000) + end),
        ("40 files", FORM, (part + b"\r\n") * 40 + end),
        ("file in a field of another name", FORM, part.replace(b"photos", b"hostile") + end),
        ("header of 1 MB", FORM, part.replace(b"\r\n\r\n", b"\r\nX-Long: " + b"x" * 1_000_000 + b"\r\n\r\n") + end),
        ("20000 headers", FORM, part.replace(b"\r\n\r\n", b"\r\nX: y" * 20_000 + b"\r\n\r\n") + end),
        ("header without a colon", FORM, part.replace(b"\r\n\r\n", b"\r\nnothing\r\n\r\n") + end),
        ("compressed", FORM, gzip.compress(part + end)),
        ("noise", FORM, rng.randbytes(10_000)),
    ):  # fmt: skip
        yield Upload(f"body: {kind}", "", b"", raw=(content_type, body))


def uploads(num: int, seed: int) -> list[Upload]:
    """Return uploads of every kind in random order, with repeated kinds if `num` exceeds their number."""
    rng, collected = random.Random(seed), []
    while len(collected) < num:
        collected += [each for kind in (files, names, bodies) for each in kind(rng)]
    rng.shuffle(collected)
    return collected[:num]


# -- queries -------------------------------------------------------------------------------------------------------

WORDS = (
    "\x00", "\x1b[31mred", "\r\nSet-Cookie: a=b", "\u202etxet\u202c", "\ufeff", "\ufffd\ufffe", "\U0001f9f8" * 50,
    "e\u0301" * 300,
    "Ω≈ç√", "بحث أحمر", "красная бутылка", "青い瓶", "i\u0307", "ß" * 400, "(a+)+$" + "a" * 40, "(" * 200, "[^]" * 50,
    "\\" * 99,
    ".*" * 100, "blue " * 2000, "not " * 500, "a" * 20_000, "-" * 300, '"' * 77, "color:" * 60, "color:blue color:",
    ":::", "x:y:z",
    "' OR 1=1 --", "'; DROP TABLE photos; --", "1 UNION SELECT *", "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "{{7*7}}", "${7*7}", "#{7*7}", "<%= 7*7 %>", "{0.__class__}", "%s%n%x", "$(id)", "`id`", "| ls", "../../etc/passwd",
    "file:///etc/passwd", "http://169.254.169.254/", "nan", "inf", "1e999", "-0", "None", "null", "[]", "{}", "true",
    "\t\n\v\f",
)  # fmt: skip
CHOICES = (
    "",
    "..",
    "../ensemble",
    "ensemble/../deit",
    "compare",
    "nobody",
    "\x00",
    "<b>",
    "a" * 9000,
    "ENSEMBLE",
    "ensemble ",
)
NUMBERS = ("0", "-1", "1001", "1e9", "nan", "inf", "0x10", "9" * 5000, "", " ", "٣", "1.5", "[]", "1;2")
PARTS = (
    "..", "%2e%2e", "%252e%252e", "%c0%ae%c0%ae", "..%2f..%2f..%2fetc%2fpasswd", "..%5c..%5c", "%00", "%2f", "etc",
    "passwd", "0",
    "-1", "99999999", "1e3", "9" * 400, "deit", "ensemble", "scores.csv", "curves.png%00.csv", "params.yaml",
    "%0d%0aX:%20y", ".",
    "%f0%9f%a7%b8", "~root", "C:%5c", "%3Cscript%3E", "$%7B7*7%7D", ";x=y", "%ff%fe",
)  # fmt: skip


PAGE_ROUTES = ("photo", "plot", "hit", "review", "page")


def queries(num: int, seed: int) -> list[str]:
    """Return paths with query strings."""
    rng, collected = random.Random(seed), []
    for number in range(num):
        if number % 4 == 3:
            parts = "/".join(rng.choice(PARTS) for _ in range(rng.randrange(1, 5)))
            collected.append(f"/{rng.choice(PAGE_ROUTES)}/{parts}")
            continue
        words = WORDS[number % len(WORDS)] if number % 2 else "".join(rng.sample(WORDS, 2))
        text = f"/api/search?q={quote(words)}"
        if rng.random() < 0.3:
            text += f"&model={quote(rng.choice(CHOICES))}"
        if rng.random() < 0.3:
            text += f"&top_k={quote(rng.choice(NUMBERS))}"
        if rng.random() < 0.1:
            text += f"&by_item={quote(rng.choice(WORDS))}&{quote(rng.choice(WORDS))}=1"
        collected.append(text)
    return collected


# -- checks -------------------------------------------------------------------------------------------------------


@dataclass
class Answers:
    """Counts of response statuses, and faults.

    Attributes:
        secret: path that no response may contain, except Gradio's own, which tell the page where an upload is
    """

    secret: str
    statuses: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def ask(
        self, server: Server, description: str, method: str, path: str, content_type: str = "", body: bytes = b""
    ) -> None:
        """Send a request and check its response."""
        route = "/".join(path.split("?")[0].split("/")[:3]) if path.startswith("/api") else f"/{path.split('/')[1]}"
        try:
            status, headers, text = request(server, method, path, content_type, body)
        except (OSError, HTTPException) as error:
            self.faults.append(f"{description}: no response ({error!r})")
            return
        self.statuses[f"{route} {status}"] += 1
        if self.secret.encode() in text and route != "/gradio_api":
            self.faults.append(f"{description}: reveals the upload folder")
        if not (status // 100 in (2, 4) or (status == 503 and headers["Retry-After"])):
            self.faults.append(f"{description}: status {status}: {text[:200]!r}")
        if status != 200 or headers.get_content_type() not in ("image/webp", "image/png"):
            try:
                json.loads(text)
            except ValueError:
                self.faults.append(f"{description}: status {status}, not JSON: {text[:200]!r}")


def request(
    server: Server, method: str, path: str, content_type: str = "", body: bytes = b""
) -> tuple[int, Message, bytes]:
    """Return the status, headers and body of a response."""
    address = urlsplit(server.url)
    with closing(HTTPConnection(str(address.hostname), address.port, timeout=60)) as connection:
        connection.request(method, path, body, {"Content-Type": content_type.encode("latin-1")})
        response = connection.getresponse()
        return response.status, response.headers, response.read()


def broken_requests(server: Server) -> None:
    """Send requests with a wrong length or an early end; it does not matter whether they get a response."""
    address = urlsplit(server.url)
    for length, body in (("1000", b"--x"), ("999999999999", b""), ("-1", b"x"), ("5, 6", b"12345"), ("1e3", b"x")):
        with socket.create_connection((str(address.hostname), address.port), timeout=10) as opened:
            head = f"POST /api/predict HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: {FORM}\r\n"
            opened.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode() + body)


def files_below(folder: Path, without: Path | None = None) -> dict[Path, tuple[int, int]]:
    """Return the files below a folder with sizes and times, without following links."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and (without is None or without not in path.parents):
            state = path.stat()
            found[path] = (state.st_size, state.st_mtime_ns)
    return found


@contextmanager
def watched(process: psutil.Process, faults: list[str]) -> Iterator[None]:
    """Check the connections and children of the server twenty times a second."""
    done, seen = threading.Event(), set()

    def poll() -> None:
        while not done.wait(0.05):
            for connection in process.net_connections("inet"):
                if connection.raddr and connection.raddr.ip not in ("127.0.0.1", "::1"):
                    seen.add(f"calls another host: {connection.raddr.ip}")
            seen.update(f"starts a process: {child.name()}" for child in process.children(recursive=True))

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        faults += sorted(seen)


def attack(project: Path, num_uploads: int, num_queries: int, seed: int) -> Answers:
    """Start a server in a project, send all uploads and queries, and return response statuses and faults."""
    data = read_section("data", DataParams, project / "params.yaml")
    photo = next(path for path in sorted((project / data.path / "images").iterdir()) if path.suffix in (".jpg", ".png"))
    good = Upload("", photo.name, photo.read_bytes()).body("photos")
    with tempfile.TemporaryDirectory() as text:
        found, fresh, kept = Answers(text), Path(text), Path(text) / "uploads"
        for name in ("TMPDIR", "HOME"):
            (fresh / name).mkdir()
        environment = {"TMPDIR": str(fresh / "TMPDIR"), "HOME": str(fresh / "HOME"), "GRADIO_TEMP_DIR": str(kept)}
        with running(project, "/healthz", **environment) as server:
            before = request(server, "POST", "/api/predict", *good)
            known = files_below(project), files_below(fresh, kept)
            with watched(psutil.Process(server.process.pid), found.faults):
                for upload in uploads(num_uploads, seed):
                    for route, name in UPLOAD_ROUTES.items():
                        found.ask(server, f"{route} {upload.kind}", "POST", route, *upload.body(name))
                for query in queries(num_queries, seed):
                    found.ask(server, query[:120], "GET", query)
                broken_requests(server)
                time.sleep(0.5)
            after = request(server, "POST", "/api/predict", *good)
            if before[0] != 200 or (before[0], before[2]) != (after[0], after[2]):
                found.faults.append(f"the response to a photograph is now {after}, not {before}")
            for old, new in zip(known, (files_below(project), files_below(fresh, kept)), strict=True):
                found.faults += [f"written: {path}" for path in sorted(new) if old.get(path) != new[path]]
                found.faults += [f"deleted: {path}" for path in sorted(old) if path not in new]
            found.faults += [
                f"in the log: {line[:2000]}" for line in unexpected(server.log.read_text(encoding="utf-8"), server.url)
            ]
    return found


def unexpected(log: str, url: str) -> list[str]:
    """Return the lines of a log except the address and requests that succeeded or were refused."""
    lines = []
    for line in log.splitlines():
        try:
            fine = line == url or json.loads(line)["level"] in ("info", "warning")
        except (ValueError, KeyError, TypeError):
            fine = False
        lines += [] if fine else [line]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uploads", type=int, default=200)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    found = attack(Path.cwd(), arguments.uploads, arguments.queries, arguments.seed)
    for status, num in sorted(found.statuses.items()):
        print(f"{num:5} {status}")
    print(f"{len(found.faults)} faults")
    for fault in found.faults:
        print(f"FAULT {fault}")
    sys.exit(bool(found.faults))


if __name__ == "__main__":
    main()
