"""Files are written whole or not at all, and the same content gives the same bytes."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vitrine import artifacts
from vitrine.artifacts import ArtifactError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    artifacts.write_json(path, {"old": 1})
    with pytest.raises(RuntimeError, match="stop"), artifacts.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("stop")
    assert artifacts.read_json(path) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_new_files_follow_the_umask_without_setting_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    previous = os.umask(0o027)
    try:
        with monkeypatch.context() as patched:
            # While the umask is 0, another thread would create files that everyone can write.
            patched.setattr(os, "umask", lambda mask: pytest.fail(f"the umask was set to {mask:o}"))
            artifacts.write_text(tmp_path / "new.txt", "new")
            artifacts.write_csv(tmp_path / "new.csv", pd.DataFrame({"a": [1]}))
    finally:
        os.umask(previous)
    for name in ("new.txt", "new.csv"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640


def test_concurrent_writers_leave_one_complete_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    texts = [str(number) * 10_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(artifacts.write_text, [path] * 64, texts * 8))
    assert path.read_text(encoding="utf-8") in texts
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_sorted_and_finite(tmp_path: Path) -> None:
    artifacts.write_json(tmp_path / "a.json", {"b": 1, "a": "é"})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "a": "é",\n  "b": 1\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        artifacts.write_json(tmp_path / "b.json", {"a": float("nan")})
    assert not (tmp_path / "b.json").exists()


def test_metrics_are_rounded_numbers(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    artifacts.write_metrics(path, {"b": np.float32(0.123456), "n": np.int64(3)}, {"b": (np.float64(0.1), 0.23456)})
    assert artifacts.read_json(path) == {"b": 0.1235, "n": 3, "intervals": {"b": [0.1, 0.2346]}}
    artifacts.write_metrics(path, {"n": 1})
    assert artifacts.read_json(path) == {"n": 1}
    for wrong in (float("inf"), "0.5", [0.5], True, None):
        with pytest.raises(ArtifactError, match="b: a metric must be"):
            artifacts.write_metrics(path, {"b": wrong})
    with pytest.raises(ArtifactError, match="b: a metric must be finite"):
        artifacts.write_metrics(path, {"b": 0.5}, {"b": (float("nan"), 1.0)})


def test_tables_keep_text_as_text_and_empty_as_missing(tmp_path: Path) -> None:
    table = pd.DataFrame({"label": ["NA", "none", None, "a,b"], "score": [0.1, 1 / 3, 2.0, None]})
    artifacts.write_csv(tmp_path / "t.csv", table)
    again = artifacts.read_csv(tmp_path / "t.csv")
    assert again["label"].tolist()[:2] == ["NA", "none"]
    assert pd.isna(again["label"][2])
    assert again["score"][1] == 0.333333


def test_arrays_and_tensors_round_trip_reproducibly(tmp_path: Path) -> None:
    arrays = {"b": np.arange(6).reshape(2, 3), "a": np.array(["x", "yz"])}
    artifacts.write_npz(tmp_path / "1.npz", arrays)
    artifacts.write_npz(tmp_path / "2.npz", dict(reversed(arrays.items())))
    assert (tmp_path / "1.npz").read_bytes() == (tmp_path / "2.npz").read_bytes()
    again = artifacts.read_npz(tmp_path / "1.npz")
    assert all(np.array_equal(again[name], arrays[name]) for name in arrays)
    turned = {"t": np.arange(6, dtype=np.float32).reshape(2, 3).T, "scalar": np.array(3.0)}
    artifacts.write_tensors(tmp_path / "t.safetensors", turned)
    tensors = artifacts.read_tensors(tmp_path / "t.safetensors")
    assert all(np.array_equal(tensors[name], turned[name]) for name in turned)
    assert tensors["scalar"].shape == ()
    artifacts.write_npy(tmp_path / "p.npy", arrays["b"])
    assert np.array_equal(artifacts.read_npy(tmp_path / "p.npy"), arrays["b"])


def test_objects_are_never_pickled(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pickle|Object arrays"):
        artifacts.write_npz(tmp_path / "o.npz", {"o": np.array([{}], dtype=object)})
    assert not (tmp_path / "o.npz").exists()
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ArtifactError, match="cannot be read"):
        artifacts.read_npy(tmp_path / "o.npy")


@pytest.mark.parametrize("read", ["read_json", "read_csv", "read_npz", "read_npy", "read_tensors"])
def test_missing_and_broken_files_say_what_to_do(tmp_path: Path, read: str) -> None:
    with pytest.raises(ArtifactError, match=r"not found.*dvc repro"):
        getattr(artifacts, read)(tmp_path / "none")
    (tmp_path / "broken").write_bytes(b"\xff\x00")
    with pytest.raises(ArtifactError, match=r"cannot be read.*dvc repro"):
        getattr(artifacts, read)(tmp_path / "broken")
