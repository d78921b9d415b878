"""Shards give the same results as one index after every change; a killed writer leaves the old or the new one."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vitrine.artifacts import ArtifactError
from vitrine.labels import LabelSpace
from vitrine.predictions import Predictions
from vitrine.retrieval.backend import PhotoStore, SearchBackend, compact_index, load_index
from vitrine.retrieval.index import Index, MatchRule
from vitrine.retrieval.sharded import ShardedIndex
from vitrine.retrieval.shards import pack, writing

SPACE = LabelSpace({"class": ("travel_handbag", "water_bottle"), "color": ("blue", "red", "green")})
TEXTS = (
    "blue bag",
    "red or blue",
    "bag or blue",
    "not blue",
    "bottle -red",
    "green bottle",
    "bleu",
    "zebra",
    "",
    "sack",
)
FEATURES = 4


def gallery(num: int, seed: int, start: int = 0) -> Index:
    """Return an index of few distinct probabilities and of embeddings along axes, for ties and exact sums."""
    rng = np.random.default_rng(seed)
    probs = {}
    for task in SPACE:
        levels = rng.integers(1, 4, size=(num, SPACE.num_labels(task))).astype(np.float32)
        probs[task] = levels / levels.sum(axis=1, keepdims=True)
    embeddings = np.eye(FEATURES, dtype=np.float32)[rng.integers(0, FEATURES, num)]
    paths = tuple(f"{start + row:04d}.jpg" for row in range(num))
    items = [f"item-{item}" for item in rng.integers(0, max(num // 2, 1), num)]
    return Index.build("m", Predictions(SPACE, paths, probs, embeddings), items, {"sack": ["bag"]}, MatchRule(0.2))


def cut(index: Index, ends: list[int]) -> list[Index]:
    """Split an index at some rows."""
    bounds = sorted({0, len(index), *(end % len(index) for end in ends)})
    return [index.take(slice(start, end)) for start, end in pairwise(bounds)]


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name) / "index"


def assert_equal(sharded: ShardedIndex, single: Index, seed: int = 0) -> None:
    """Compare the results of all methods."""
    rng = np.random.default_rng(seed)
    like = rng.normal(size=FEATURES).astype(np.float32)
    assert len(sharded) == len(single) and list(sharded.paths()) == list(single.paths())
    only = rng.random(len(single)) < 0.5
    for text in TEXTS:
        for given_like in (None, like):
            for by_item in (False, True):
                for mask in (None, only):
                    top_k = int(rng.integers(0, 12))
                    arguments = {"like": given_like, "top_k": top_k, "by_item": by_item, "only": mask}
                    assert sharded.search(text, **arguments) == single.search(text, **arguments), (text, arguments)
        query = single.vocabulary.parse(text)
        np.testing.assert_allclose(sharded.or_scores(query), single.or_scores(query), rtol=1e-5)
    for row in {0, len(single) // 2, len(single) - 1}:
        assert sharded.image_path(row) == single.image_path(row)
        assert sharded.row_of(single.image_path(row)) == single.row_of(single.image_path(row)) == row
        np.testing.assert_array_equal(sharded.embedding(row), single.embedding(row))
        for task, probs in single.probs_of(row).items():
            np.testing.assert_array_equal(sharded.probs_of(row)[task], probs)
    for task in SPACE:
        np.testing.assert_array_equal(sharded.most_probable(task), single.most_probable(task))
    assert sharded.num_items() == single.num_items() and sharded.row_of("nowhere") is None
    with pytest.raises(IndexError):
        sharded.image_path(len(single))


NUMBERS = st.integers(1, 40)
ENDS = st.lists(st.integers(0, 10**6), max_size=5)
SEEDS = st.integers(0, 10**6)


@settings(max_examples=25, deadline=None)
@given(NUMBERS, SEEDS, ENDS)
def test_shards_give_the_results_of_one_index(num: int, seed: int, ends: list[int]) -> None:
    single = gallery(num, seed)
    with folder() as location:
        created = ShardedIndex.create(location, cut(single, ends))
        assert_equal(created, single, seed)
        assert_equal(ShardedIndex.load(location), single, seed + 1)


@settings(max_examples=10, deadline=None)
@given(st.integers(50, 3000), SEEDS, ENDS)
def test_similarity_equals_that_of_one_index_up_to_rounding(num: int, seed: int, ends: list[int]) -> None:
    rng = np.random.default_rng(seed)
    single = gallery(num, seed)
    embeddings = rng.normal(size=(num, 33)).astype(np.float32)
    single.embeddings = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    like = rng.normal(size=33)
    with folder() as location:
        sharded = ShardedIndex.create(location, cut(single, ends))
        for text in ("", "blue bag"):
            found, expected = (index.search(text, like=like, top_k=20).hits for index in (sharded, single))
            scores = [hit.score for hit in expected]
            np.testing.assert_allclose([hit.score for hit in found], scores, atol=1e-6)
            # Hits may differ only if scores are equal up to rounding.
            sure = {hit.row for hit in expected if hit.score > scores[-1] + 1e-5}
            assert sure <= {hit.row for hit in found}


@settings(max_examples=25, deadline=None)
@given(NUMBERS, SEEDS, ENDS, st.integers(1, 30), st.integers(0, 50), st.integers(1, 15))
def test_adding_and_replacing_photographs_is_the_same_as_in_one_index(
    num: int, seed: int, ends: list[int], num_more: int, start: int, shard_photos: int
) -> None:
    single, more = gallery(num, seed), gallery(num_more, seed + 1, start)
    with folder() as location:
        old = ShardedIndex.create(location, cut(single, ends))
        new = old.add(cut(more, ends), shard_photos)
        assert_equal(new, single.concat(more), seed)
        assert_equal(old, single, seed)  # open readers are not affected
        named = {path.name for path in location.iterdir()}
        assert named == {"shards.json", *new._names}
        sizes = [len(shard) for shard in new.shards[len(old.shards) :]]
        assert all(size <= shard_photos for size in sizes)


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 40), SEEDS, ENDS)
def test_removing_photographs_is_the_same_as_from_one_index(num: int, seed: int, ends: list[int]) -> None:
    single = gallery(num, seed)
    gone = set(np.random.default_rng(seed).choice(list(single.paths()), num // 2, replace=False).tolist())
    with folder() as location:
        old = ShardedIndex.create(location, cut(single, ends))
        assert_equal(old.remove(gone | {"nowhere"}), single.drop(gone), seed)
        with pytest.raises(ArtifactError, match="cannot be empty"):
            old.remove(set(single.paths()))
        assert_equal(ShardedIndex.load(location), single.drop(gone), seed)


@settings(max_examples=15, deadline=None)
@given(NUMBERS, SEEDS, ENDS, st.integers(1, 20))
def test_compaction_does_not_change_results(num: int, seed: int, ends: list[int], shard_photos: int) -> None:
    single = gallery(num, seed)
    with folder() as location:
        compact = ShardedIndex.create(location, cut(single, ends)).compact(shard_photos)
        assert_equal(compact, single, seed)
        sizes = [len(shard) for shard in compact.shards]
        assert max(sizes) <= shard_photos and len(sizes) <= 2 * -(-num // shard_photos) + len(ends)


def test_a_change_writes_only_one_shard(tmp_path: Path) -> None:
    index = ShardedIndex.create(tmp_path, cut(gallery(40, 1), [10, 20, 30]))
    before = {path: path.stat().st_ino for path in tmp_path.glob("*/*")}
    added = index.add([gallery(5, 2, start=100)], shard_photos=20)
    assert added._names[:3] == index._names[:3] and len(added._names) == 4
    removed = added.remove({"0015.jpg"})
    assert [old == new for old, new in zip(added._names, removed._names, strict=True)] == [True, False, True, True]
    replaced = removed.add([gallery(1, 3, start=25)], shard_photos=16)
    assert [old == new for old, new in zip(removed._names, replaced._names, strict=True)] == [True, True, False, False]
    compact = replaced.compact(20)
    assert [len(shard) for shard in compact.shards] == [19, 9, 16]
    assert compact.shards[1].image_paths[0] == "0020.jpg" and compact._names[2] == replaced._names[3]
    kept = {path: path.stat().st_ino for path in before if path.exists()}
    assert kept.items() <= before.items()


def test_one_index_is_compacted_to_shards_and_both_can_be_loaded(tmp_path: Path) -> None:
    single = gallery(30, 4)
    single.save(tmp_path / "m")
    (tmp_path / "m/notes.txt").write_text("mine")
    assert isinstance(load_index(tmp_path / "m"), Index)
    compact_index(tmp_path / "m", 12)
    loaded = load_index(tmp_path / "m")
    assert isinstance(loaded, ShardedIndex) and [len(shard) for shard in loaded.shards] == [12, 12, 6]
    assert_equal(loaded, single)
    assert not list((tmp_path / "m").glob("*.npy")) and (tmp_path / "m/notes.txt").exists()
    assert not (tmp_path / "m/index.json").exists()
    both: list[SearchBackend] = [loaded, single]
    stores: list[PhotoStore] = [loaded, single]
    assert len({backend.search("blue") for backend in both}) == 1 and {store.num_features for store in stores} == {4}
    assert [len(shard) for shard in compact_index(tmp_path / "m", 30).shards] == [30]


def test_incompatible_parts_are_refused_and_change_nothing(tmp_path: Path) -> None:
    one, other = gallery(9, 1), gallery(9, 2, start=100)
    other.name = "other"
    index = ShardedIndex.create(tmp_path / "s", cut(one, [5]))
    manifest = (tmp_path / "s/shards.json").read_bytes()
    for change in (
        lambda: index.add([other]),
        lambda: ShardedIndex.create(tmp_path / "s", [one, other]),
        lambda: ShardedIndex.create(tmp_path / "s", [one, one]),
        lambda: ShardedIndex.create(tmp_path / "s", []),
    ):
        with pytest.raises(ArtifactError, match=r"cannot be merged|duplicate shard|cannot be empty"):
            change()
        assert (tmp_path / "s/shards.json").read_bytes() == manifest
        assert_equal(ShardedIndex.load(tmp_path / "s"), one)
    index.add([])
    assert {path.name for path in (tmp_path / "s").iterdir()} == {"shards.json", *index._names}
    with pytest.raises(ArtifactError, match="cannot be empty"):
        ShardedIndex.create(tmp_path / "new", [])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("fault", ["gone", "no json", "array gone", "truncated", "other", "shorter"])
def test_a_damaged_shard_is_named(tmp_path: Path, fault: str) -> None:
    index = ShardedIndex.create(tmp_path, cut(gallery(9, 1), [5]))
    shard = tmp_path / index._names[1]
    array = next(shard.glob("probs-*.npy"))
    if fault == "gone":
        shutil.rmtree(shard)
    elif fault == "no json":
        (shard / "index.json").unlink()
    elif fault == "array gone":
        array.unlink()
    elif fault == "truncated":
        array.write_bytes(array.read_bytes()[:-8])
    elif fault == "other":
        np.save(array, np.zeros(3))
    else:
        gallery(2, 7).save(shard)
    with pytest.raises(ArtifactError, match=f"shard {shard.name} (is|does not match)") as caught:
        load_index(tmp_path)
    assert "dvc repro" not in str(caught.value) and "Restore the folder" in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"shards": []}', '{"shards": [{"folder": "../x", "photos": 1}]}'])
def test_an_invalid_manifest_is_refused_and_unchanged(tmp_path: Path, text: str) -> None:
    (tmp_path / "shards.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"shards\.json"):
        ShardedIndex.load(tmp_path)
    with pytest.raises(ArtifactError, match=r"shards\.json"):
        ShardedIndex.create(tmp_path, [gallery(3, 1)])
    assert [path.name for path in tmp_path.iterdir()] == ["shards.json"]
    with pytest.raises(ArtifactError, match="is a file"):
        ShardedIndex.create(tmp_path / "shards.json", [gallery(3, 1)])


def test_a_limit_of_open_files_and_a_full_disk_are_clear_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, files = ShardedIndex.create(tmp_path, cut(gallery(30, 1), list(range(30)))), set(tmp_path.rglob("*"))

    def full(path: Path, array: NDArray[Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("vitrine.retrieval.index.write_npy", full)
    with pytest.raises(OSError, match="No space left"):
        index.add([gallery(5, 2, start=100)])
    assert set(tmp_path.rglob("*")) == files
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 60, allowed[1]))
    try:
        with pytest.raises(ArtifactError, match=r"too many open files for 30 shards\. Raise the limit: ulimit -n 300"):
            load_index(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, allowed)
    assert_equal(ShardedIndex.load(tmp_path), gallery(30, 1))


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"")
    with pytest.raises(ArtifactError, match="contains other files and no index"):
        ShardedIndex.create(tmp_path, [gallery(3, 1)])
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_a_second_writer_is_refused_and_readers_are_not_blocked(tmp_path: Path) -> None:
    index = ShardedIndex.create(tmp_path, [gallery(9, 1)])
    with writing(tmp_path):
        for change in (lambda: index.add([gallery(1, 2)]), lambda: index.remove({"0001.jpg"}), index.compact):
            with pytest.raises(ArtifactError, match="another process is changing this index"):
                change()
        assert_equal(ShardedIndex.load(tmp_path), gallery(9, 1))
    assert len(index.remove({"0001.jpg"})) == 8


def test_readers_get_the_old_or_the_new_index_during_writes(tmp_path: Path) -> None:
    parts = cut(gallery(60, 1), [10, 20, 30, 40, 50])
    ShardedIndex.create(tmp_path, parts)
    extra = gallery(5, 2, start=100)
    done = threading.Event()
    faults: list[Exception] = []

    def read() -> None:
        while not done.is_set():
            try:
                index = load_index(tmp_path)
                assert len(index.search("blue", top_k=100).hits) == len(index) and len(index) in (60, 65)
            except Exception as error:
                faults.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(15):
        index = ShardedIndex.load(tmp_path)
        index.add([extra]) if len(index) == 60 else index.remove(set(extra.paths()))
        ShardedIndex.load(tmp_path).compact(25 if number % 2 else 10)
    done.set()
    reader.join()
    assert not faults


def test_parts_are_packed_into_shards() -> None:
    parts = cut(gallery(20, 1), [3, 4, 15])
    packed = list(pack(parts, 6, first=2))
    assert [len(part) for part in packed] == [2, 6, 6, 6]
    assert [path for part in packed for path in part.paths()] == list(gallery(20, 1).paths())
    assert list(pack([], 6)) == []


def killed_before(num: int, change: Callable[[], object]) -> bool:
    """Run a change in a process that is killed before moving or deleting file number `num`; return if it was killed."""
    child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)
        return os.WIFSIGNALED(status)
    left = iter(range(num))

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any, **options: Any) -> Any:
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return counting

    try:
        for name in ("replace", "rename", "unlink", "rmdir"):
            setattr(os, name, counted(getattr(os, name)))
        change()
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("name", ["create", "add", "compact"])
def test_a_kill_leaves_the_old_index_or_the_new_one(tmp_path: Path, name: str) -> None:
    old, more = gallery(20, 1), gallery(9, 2, start=15)
    new = {"create": more, "add": old.concat(more), "compact": old}[name]
    seen = set()
    for num in range(200):
        shutil.rmtree(tmp_path / "m", ignore_errors=True)
        index = ShardedIndex.create(tmp_path / "m", cut(old, [4, 8, 16]))
        manifest = (tmp_path / "m/shards.json").read_bytes()
        changes = {
            "create": partial(ShardedIndex.create, tmp_path / "m", cut(more, [4])),
            "add": partial(index.add, [more], 10),
            "compact": partial(index.compact, 15),
        }
        killed = killed_before(num, changes[name])
        is_old = (tmp_path / "m/shards.json").read_bytes() == manifest
        found = ShardedIndex.load(tmp_path / "m")
        assert list(found.paths()) == list((old if is_old else new).paths())
        assert found.search("blue", top_k=50) == (old if is_old else new).search("blue", top_k=50)
        seen.add(is_old)
        after = found.compact()  # the next writer is not blocked and cleans up
        left = {path.name for path in (tmp_path / "m").iterdir() if not path.name.startswith(".shards-")}
        assert left == {"shards.json", *after._names}
        if not killed:
            break
    assert not killed and seen == {True, False}
