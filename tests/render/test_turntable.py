"""Clips of rotating items: equal arguments give equal frames, and a rendered clip can be predicted."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("av")
pytest.importorskip("mitsuba")

from typer.testing import CliRunner

from lineage import ROOT
from vitrine.cli import app
from vitrine.data.video import read_clip
from vitrine.inference.network import Network
from vitrine.inference.predictor import Predictor
from vitrine.inference.systems import System, save_systems
from vitrine.inference.video import predict_clip
from vitrine.labels import LabelSpace
from vitrine.learning.model import create_model, save_model
from vitrine.params import read_section
from vitrine.photos import Decoding
from vitrine.render.catalogue import RenderError, RenderParams, prepare
from vitrine.render.items import CLASSES, make_item
from vitrine.render.turntable import Clip, TurntableParams, _film, clip_name, clip_table, render_turntable, write_clip

PARAMS = TurntableParams(
    num_angles=6, frame_rate=5, held_frames=4, shaken_frames=2, shake_px=8.0, clutter_seed=1, fresh_items=10
)
SAMPLE = read_section("render", RenderParams, ROOT / "data/sample/params.yaml")


@pytest.fixture(scope="module")
def clip() -> Clip:
    prepare()
    return render_turntable(make_item(13, 3), PARAMS, 48, 2)


@pytest.mark.slow
def test_an_item_rotates_stops_and_is_shaken(clip: Clip) -> None:
    assert clip.frames.shape == (10, 48, 48, 3) and clip.frames.dtype == np.uint8
    assert sorted(set(clip.angles)) == [0, 60, 120, 180, 240, 300]
    assert clip.held.sum() == 4 and clip.shaken.sum() == 2 and not (clip.held & clip.shaken).any()
    assert len(set(clip.angles[clip.held])) == 1
    again = render_turntable(make_item(13, 3), PARAMS, 48, 2)
    np.testing.assert_array_equal(again.frames, clip.frames)


def test_held_and_shaken_frames_are_marked() -> None:
    rendered = np.random.default_rng(0).random((6, 16, 16, 3))
    film = _film(np.random.default_rng(1), rendered, np.arange(6.0), PARAMS)
    plain = np.round(rendered[film.angles.astype(int)] * 255)
    apart = np.abs(plain - film.frames).mean(axis=(1, 2, 3))
    assert apart[film.shaken].min() > 3 * apart[~film.shaken].max()
    assert (np.diff(film.angles) >= 0).all() and len(film.frames) == 10


@pytest.mark.slow
def test_a_rendered_clip_is_written_read_and_predicted(
    clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "item.mp4", clip.frames, 5)
    first = (tmp_path / "item.mp4").read_bytes()
    write_clip(tmp_path / "item.mp4", clip.frames, 5)
    assert (tmp_path / "item.mp4").read_bytes() == first

    space = LabelSpace({"class": CLASSES, "color": ("blue", "red")})
    torch.manual_seed(0)
    save_model(create_model("test_vit", "none", space, Decoding(48, 50.0), 32, 0.0, 0.0), tmp_path / "models/one", {})
    system = System(dict.fromkeys(space, ("one",)), dict.fromkeys(space, 1.0), dict.fromkeys(space, 0.5))
    save_systems(tmp_path / "models/systems.json", {"one": system})
    (tmp_path / "params.yaml").write_text("serving:\n  backend: torch\n")
    record = predict_clip(Predictor.load("one", backend="torch"), Path("item.mp4"), num_frames=10)

    read = read_clip(Path("item.mp4"), 48, 50.0, 10)
    frames = record["clip"]["frames"]
    assert [frame["dropped"] for frame in frames] == list(read.dropped) and len(frames) == 10
    assert "duplicate" in read.dropped  # the turntable stops
    kept = read.photos[read.kept]
    raw = Network.load(tmp_path / "models/one").predict(kept, [""] * len(kept)).probs["class"].astype(float)
    fused = np.exp(np.log(raw).mean(axis=0))
    fused /= fused.sum()
    assert record["tasks"]["class"]["labels"][0] == {
        "label": CLASSES[int(fused.argmax())], "probability": pytest.approx(fused.max(), abs=1e-3)
    }  # fmt: skip

    done = CliRunner().invoke(app, ["predict", "item.mp4", "--model", "one", "--frames", "10", "--format", "json"])
    assert done.exit_code == 0 and json.loads(done.stdout) == [record]


def test_items_of_val_and_test_are_filmed_with_their_labels_along_with_fresh_items() -> None:
    items = [make_item(SAMPLE.seed, number) for number in range(SAMPLE.num_items)]
    photos = pd.DataFrame(
        {
            "instance_id": [item.instance_id for item in items],
            "split": ["train"] * 110 + ["val"] * 4 + ["test"] * 6,
            "class": [item.class_label for item in items],
            "color": ["corrected"] * len(items),
        }
    )
    filmed, table = clip_table(photos, ["class", "color"], SAMPLE, PARAMS)
    assert [item.instance_id for item in filmed] == table["instance_id"].tolist()
    assert table["split"].tolist() == ["val"] * 4 + ["test"] * 16
    assert table["source"].tolist() == ["sample"] * 10 + ["fresh"] * 10
    assert set(table["color"][:10]) == {"corrected"} and table["color"][10] == filmed[10].color
    assert table["file"][0] == clip_name(items[110]) and table["file"].is_unique
    foreign = photos.assign(instance_id=[f"MUG_{number}" for number in range(len(photos))])
    with pytest.raises(RenderError, match="was not made from data/sample"):
        clip_table(foreign, ["class", "color"], SAMPLE, PARAMS)


@pytest.mark.slow
def test_filming_resumes_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vitrine.render import turntable

    sample = SAMPLE.model_copy(update={"image_size_px": 16, "samples_per_pixel": 1})
    params = PARAMS.model_copy(update={"num_angles": 4, "held_frames": 0, "shaken_frames": 0})
    items = [make_item(13, 1)]
    monkeypatch.setattr(turntable.os, "cpu_count", lambda: 1)
    seen = []

    def replace(source: Path, target: Path) -> None:
        if str(target).startswith(str(tmp_path / "clips")) and not seen:
            seen.append(source.stat().st_mtime_ns)
            raise OSError("killed")
        Path(source).rename(target)

    with monkeypatch.context() as patched:
        patched.setattr(turntable.os, "replace", replace)
        with pytest.raises(OSError, match="killed"):
            turntable.write_clips(items, tmp_path / "clips", tmp_path / "film", params, sample)
    found = turntable.write_clips(items, tmp_path / "clips", tmp_path / "film", params, sample)
    clip = tmp_path / "clips" / clip_name(items[0])
    assert clip.stat().st_mtime_ns == seen[0] and not (tmp_path / "film").exists()
    assert found[0]["angles"].tolist() == [0, 90, 180, 270]


def test_without_mitsuba_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vitrine.render.turntable import write_clips

    monkeypatch.setitem(sys.modules, "mitsuba", None)
    with pytest.raises(RenderError, match=r"vitrine\[render\]"):
        write_clips([], tmp_path / "clips", tmp_path / "film", PARAMS, SAMPLE)
