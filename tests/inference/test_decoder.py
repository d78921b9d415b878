"""A photograph that kills its decoder is a fault like any other and does not affect the others."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from vitrine.inference import decoder as module
from vitrine.inference.decoder import Decoder, DecoderError, decode_files

SIZE = 16, 1.0


@pytest.fixture
def files(tmp_path: Path) -> Sequence[str]:
    paths = [str(tmp_path / f"{number}.png") for number in range(6)]
    for number, path in enumerate(paths):
        Image.new("RGB", (20, 20), (number * 40,) * 3).save(path)
    Path(paths[1]).write_text("no photograph", encoding="utf-8")
    return paths


def kill_with(signal: str, path: str) -> None:
    Path(path).write_text(f"kills its decoder with {signal}", encoding="utf-8")


def workers() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def test_a_worker_process_decodes_the_same(files: Sequence[str]) -> None:
    before = len(workers())
    with Decoder(*SIZE) as decoder:
        assert len(workers()) == before, "it starts when it is needed"
        found, expected = decoder.decode(files), decode_files(files, *SIZE)
        again = decoder.decode(files[2:])
    assert np.array_equal(found[0], expected[0]) and found[1:] == expected[1:]
    assert found[2] == [(files[1], "is not an image that can be read")]
    assert again[1] == files[2:] and decoder.decode([])[0].shape == (0, 16, 16, 3)
    assert not [each for each in workers() if "spawn_main" in " ".join(each.cmdline())]


@pytest.mark.usefixtures("deadly")
def test_photographs_that_kill_their_decoder_are_faults(files: Sequence[str]) -> None:
    kill_with("SIGKILL", files[0])
    kill_with("SIGSEGV", files[4])
    with Decoder(*SIZE) as decoder:
        photos, names, faults = decoder.decode(files)
    assert names == [files[2], files[3], files[5]] and photos[:, 0, 0, 0].tolist() == [80, 120, 200]
    assert faults == [
        (files[0], "its decoder died (SIGKILL)"),
        (files[1], "is not an image that can be read"),
        (files[4], "its decoder died (SIGSEGV)"),
    ]


def test_a_decoder_that_dies_by_chance_is_replaced(files: Sequence[str]) -> None:
    with Decoder(*SIZE) as decoder:
        decoder.decode(files[2:])
        (worker,) = [each for each in workers() if "spawn_main" in " ".join(each.cmdline())]
        worker.kill()
        assert decoder.decode(files[2:])[1:] == (list(files[2:]), []), "the file at which it died is no culprit"


@pytest.mark.usefixtures("deadly")
def test_deaths_in_a_row_are_one_error(files: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DEATHS", 2)
    for path in files[3:]:
        kill_with("SIGKILL", path)
    with Decoder(*SIZE) as decoder, pytest.raises(DecoderError, match=r"of 3 photographs in a row died \(SIGKILL\)"):
        decoder.decode(files)
    monkeypatch.setattr(module, "MAX_DEATHS", 3)
    with Decoder(*SIZE) as decoder:
        assert len(decoder.decode(files)[2]) == 4


def test_a_decoder_that_cannot_start_is_one_error(
    files: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import os\nos._exit(3) if os.getpid() != {os.getpid()} else None\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Decoder(*SIZE) as decoder, pytest.raises(DecoderError, match=r"cannot start \(exit code 3\)"):
        decoder.decode(files)
