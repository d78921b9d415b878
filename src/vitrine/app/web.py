"""A static web page that predicts in the browser: files for any host, which work offline after the first visit."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitrine.app.gallery import Gallery
from vitrine.artifacts import ArtifactError, read_json
from vitrine.data.catalog import DataParams
from vitrine.inference.package import check_export, new_folder, store_weights_as_float16
from vitrine.inference.runtimes import DESCRIPTION
from vitrine.labels import CLASS_TASK, display_name
from vitrine.params import read_section
from vitrine.photos import decode_photo

RUNTIME = "onnxruntime-web@1.30.0"
RUNTIME_SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
MAX_PHOTOS = 2000
THUMBNAIL_PX = 192


def package_web(out: Path, system: str, root: Path = Path()) -> list[Path]:
    """Write the page into a new folder, all or nothing, and return its files.

    Its gallery holds the photographs of index/SYSTEM, evenly sampled if there are more than MAX_PHOTOS: anyone who has
    the page has their thumbnails.

    Raises:
        ArtifactError: the folder is not empty, there is no export of the current models or no index of this system,
            or the runtime for browsers is not available.
    """
    check_export(system, root / "models", root / "exports")
    gallery = Gallery.load(root, read_section("data", DataParams, root / "params.yaml"))
    if system not in gallery.indexes:
        raise ArtifactError(f"{root / 'index'}: contains no index of {system}. Run: dvc repro")
    with new_folder(out) as folder:
        for file in sorted(Path(__file__).with_name("static").iterdir()):
            shutil.copyfile(file, folder / file.name)
        (folder / "model.onnx").write_bytes(store_weights_as_float16(root / "exports" / system / "model.onnx"))
        _write_gallery(folder, gallery, system, read_json(root / "exports" / system / DESCRIPTION))
        (folder / "vendor").mkdir()
        for name, content in fetch_runtime().items():
            (folder / "vendor" / name).write_bytes(content)
        _fill_in_worker(folder)
    return sorted(path for path in out.rglob("*") if path.is_file())


def compressed_megabytes(paths: list[Path]) -> float:
    """Return the size of files as a host sends them, compressed with gzip, in megabytes."""
    return sum(len(gzip.compress(path.read_bytes(), 9)) for path in paths) / 1e6


def _write_gallery(folder: Path, gallery: Gallery, system: str, description: dict[str, Any]) -> None:
    """Write gallery.json, gallery.bin (probabilities as bytes, embeddings as signed bytes), and thumbnails."""
    index = gallery.indexes[system]
    rows = np.unique(np.linspace(0, len(index) - 1, min(MAX_PHOTOS, len(index))).round().astype(np.int64)).tolist()
    (folder / "thumbnails").mkdir()
    photos = []
    for row in rows:
        thumbnail = f"thumbnails/{row}.webp"
        pixels = decode_photo(gallery.file(system, row), THUMBNAIL_PX, gallery.max_megapixels)
        Image.fromarray(pixels).save(folder / thumbnail, "WEBP", quality=80)
        answer = gallery.answer_of(system, row)
        caption = display_name(answer[CLASS_TASK]["labels"][0]["label"])
        photos.append({"thumbnail": thumbnail, "path": index.image_path(row), "caption": caption})
    document = {"about": description, "photos": photos}
    (folder / "gallery.json").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    probs = np.rint(255 * np.stack([np.concatenate(list(index.probs_of(row).values())) for row in rows])).astype(
        np.uint8
    )
    embeddings = np.stack([index.embedding(row) for row in rows])
    largest = np.maximum(np.abs(embeddings).max(axis=1, keepdims=True), 1e-12)
    scaled = np.rint(127 * embeddings / largest).astype(np.int8)
    (folder / "gallery.bin").write_bytes(probs.tobytes() + scaled.tobytes())


def fetch_runtime() -> dict[str, bytes]:
    """Return ONNX Runtime's files for browsers, from the npm registry.

    Raises:
        ArtifactError: npm is missing or cannot fetch it, or the file is not the pinned one.
    """
    beside = Path(sys.executable).parent  # in case the environment is not activated
    npm = shutil.which("npm") or shutil.which("npm", path=str(beside))
    if npm is None:
        raise ArtifactError(
            "npm is not installed; it fetches ONNX Runtime for browsers. Install the extra: pip install -e '.[web]'"
        )
    with tempfile.TemporaryDirectory() as temporary:
        fetched = subprocess.run([npm, "pack", RUNTIME], cwd=temporary, capture_output=True, text=True)
        archives = list(Path(temporary).glob("*.tgz"))
        if fetched.returncode or len(archives) != 1:
            reason = (fetched.stderr.strip().splitlines() or ["no message"])[-1]
            raise ArtifactError(f"npm cannot fetch {RUNTIME} ({reason}). Check the network and npm's registry")
        content = archives[0].read_bytes()
    if base64.b64encode(hashlib.sha512(content).digest()).decode() != RUNTIME_SHA512:
        raise ArtifactError(f"{RUNTIME}: its SHA-512 does not match the pinned one; it was not used")
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = {name: archive.extractfile(f"package/dist/{name}") for name in RUNTIME_FILES}
        license_file = archive.extractfile("package/LICENSE") if "package/LICENSE" in archive.getnames() else None
        files = {name: member.read() for name, member in members.items() if member is not None}
        return files | ({"LICENSE": license_file.read()} if license_file else {})


def _fill_in_worker(folder: Path) -> None:
    worker = folder / "sw.js"
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != worker)
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]
    names = ["./", *(path.relative_to(folder).as_posix() for path in files if path.name != "LICENSE")]
    text = worker.read_text(encoding="utf-8")
    filled = text.replace('VERSION = ""', f'VERSION = "vitrine-{digest}"').replace(
        "FILES = []", f"FILES = {json.dumps(names)}"
    )
    worker.write_text(filled, encoding="utf-8")
