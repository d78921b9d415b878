"""Sources are listed in an order that depends only on names, and invalid sources are clear errors."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pandas as pd
import pytest

from vitrine.scale.sources import SourceError, read_source
from vitrine.scale.storage import Access, StorageError, attempt

ACCESS = Access(timeout_seconds=1, attempts=2)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "project/photos/b").mkdir(parents=True)
    for name in ("c.jpg", "a.jpg", "b/z.png", ".hidden", "b/.thumbs"):
        (tmp_path / "project/photos" / name).write_bytes(b"x")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def paths(source: str) -> list[str]:
    return [photo.path for photo in read_source(source, ACCESS)[0]]


def test_a_folder_is_listed_recursively_by_name(here: Path) -> None:
    expected = ["photos/a.jpg", "photos/b/z.png", "photos/c.jpg"]
    assert paths("photos") == paths("photos/") == paths((here / "photos").as_uri()) == expected
    photos, num_repeated = read_source("photos", ACCESS)
    assert num_repeated == 0 and photos[0].item == photos[0].path and photos[0].location == str(here / "photos/a.jpg")
    assert photos[0].stamp != "" and photos[0].fault is None
    (here.parent / "outside").mkdir()
    (here.parent / "outside/x.jpg").write_bytes(b"x")
    assert paths("../outside") == [str(here.parent / "outside/x.jpg")], "names outside of the project are absolute"


def test_names_that_are_not_valid_utf8_are_faults(here: Path) -> None:
    Path(os.fsdecode(b"photos/\xff.jpg")).write_bytes(b"x")
    photo = read_source("photos", ACCESS)[0][-1]
    assert photo.path == "photos/\\xff.jpg" and photo.fault == "its name is not valid UTF-8; rename it"


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_table_keeps_its_order_and_names_items(here: Path, ending: str) -> None:
    rows = [("c.jpg", "007"), ("a.jpg", "1"), (str(here / "photos/b/z.png"), ""), ("c.jpg", "007"), ("gone.jpg", "1")]
    table = pd.DataFrame(rows, columns=["path", "item"])
    name = f"photos/list.{ending}"
    if ending == "csv":
        table.to_csv(name, index=False)
    else:
        table.to_parquet(name)
    photos, num_repeated = read_source(name, ACCESS)
    assert [(photo.path, photo.item) for photo in photos] == [
        ("photos/c.jpg", "007"), ("photos/a.jpg", "1"), ("photos/b/z.png", "photos/b/z.png"), ("photos/gone.jpg", "1")
    ]  # fmt: skip
    assert num_repeated == 1


def test_invalid_tables_have_clear_errors() -> None:
    def fault(text: str, name: str = "list.csv") -> str:
        Path(name).write_text(text, encoding="utf-8")
        with pytest.raises(SourceError) as caught:
            read_source(name, ACCESS)
        return str(caught.value)

    assert fault("file,item\na.jpg,1\n") == "list.csv: has no path column. Its columns are: file, item"
    assert fault("path\n") == "list.csv: lists no photographs"
    assert fault("path,item\na.jpg,1\n,2\n") == "list.csv: rows without a path: 2"
    assert fault("path,item\na.jpg,1\na.jpg,2\n") == "list.csv: paths that belong to more than one item: a.jpg"
    assert fault("").startswith("list.csv: cannot be read as a table (")
    assert fault("no table", "list.parquet").startswith("list.parquet: cannot be read as a table (")


def test_other_sources_are_refused(here: Path) -> None:
    (here / "empty").mkdir()
    for source, fault in (
        ("gone", "gone: not found"),
        ("gone.csv", "gone.csv: not found"),
        ("photos/a.jpg", "photos/a.jpg: neither a folder nor a table (.csv, .parquet). Choose one, or a URI"),
        ("empty", "empty: contains no photographs"),
        ("memory://nothing", "memory://nothing: not found"),
    ):
        with pytest.raises(SourceError) as caught:
            read_source(source, ACCESS)
        assert str(caught.value) == fault
    with pytest.raises(StorageError, match="nosuch://x: storage of this kind is not available"):
        read_source("nosuch://x", ACCESS)


def test_object_storage_is_listed_and_may_hold_tables() -> None:
    storage = fsspec.filesystem("memory")
    for name in ("c.jpg", "a.jpg", "b/z.png", ".hidden", "list.csv"):
        storage.pipe(f"/listing/{name}", b"path\nc.jpg\nb/z.png\n")
    assert paths("memory://listing/list.csv") == ["memory://listing/c.jpg", "memory://listing/b/z.png"]
    storage.rm("/listing/list.csv")
    assert paths("memory://listing") == ["memory://listing/a.jpg", "memory://listing/b/z.png", "memory://listing/c.jpg"]


def test_attempts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitrine.scale.storage.PAUSE_SECONDS", 0)
    calls: list[int] = []

    def silent() -> None:
        calls.append(1)
        raise TimeoutError("too slow")

    with pytest.raises(StorageError, match=r"^the storage cannot be read \(too slow\)$"):
        attempt(silent, ACCESS)
    assert len(calls) == 2

    def once() -> str:
        calls.append(1)
        if len(calls) == 3:
            raise ConnectionResetError
        return "read"

    assert attempt(once, ACCESS) == "read"
