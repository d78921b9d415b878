"""Frames have the right times and are upright and distinct; invalid clips are refused with one sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")

from clips import encode, encode_sound, pictures
from PIL import Image, ImageOps
from scipy.ndimage import gaussian_filter

from vitrine.data import video
from vitrine.data.video import VideoError, drop_frames, is_clip, read_clip, sharpness

SIDE = 64


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "libx264"), ("a.mov", "mpeg4"), ("a.webm", "libvpx-vp9"), ("a.avi", "mpeg4")]
)
def test_frames_are_at_the_centers_of_equal_parts(tmp_path: Path, name: str, codec: str) -> None:
    frames = pictures(40)
    clip = read_clip(encode(tmp_path / name, frames, codec=codec), SIDE, 50.0, 8)
    assert clip.duration == pytest.approx(4.0, abs=0.01)
    assert clip.seconds.tolist() == pytest.approx([0.2, 0.7, 1.2, 1.7, 2.2, 2.7, 3.2, 3.7], abs=0.01)
    apart = np.abs(clip.photos[:, None].astype(float) - frames[None]).mean(axis=(2, 3, 4))
    assert apart.argmin(axis=1).tolist() == [2, 7, 12, 17, 22, 27, 32, 37]
    assert clip.dropped == (None,) * 8 and clip.kept.tolist() == list(range(8))


def test_seeking_and_decoding_in_sequence_give_the_same_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = pictures(120)
    often, never = (encode(tmp_path / f"{gap}.mp4", frames, codec="mpeg4", gop=gap) for gap in (5, 500))
    frame_numbers = [7, 22, 37, 52, 67, 82, 97, 112]
    for seek in (0.1, 1.0, 1e9):
        monkeypatch.setattr(video, "SEEK_SECONDS", seek)
        for path in (often, never):
            clip = read_clip(path, SIDE, 50.0, 8)
            apart = np.abs(clip.photos[:, None].astype(float) - frames[None]).mean(axis=(2, 3, 4))
            assert apart.argmin(axis=1).tolist() == frame_numbers, (seek, path)


def test_a_long_clip_is_not_decoded_completely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.stack([np.roll(pictures(1)[0], k // 8, axis=1) for k in range(480)])  # 48 s
    often, rarely = (encode(tmp_path / f"{gap}.mp4", frames, codec="mpeg4", gop=gap) for gap in (5, 500))
    megapixels = SIDE * SIDE / 1e6
    monkeypatch.setattr(video, "MAX_DECODED_MEGAPIXELS", 40 * megapixels)
    assert len(read_clip(often, SIDE, 50.0, 4).seconds) == 4
    with pytest.raises(VideoError, match="takes too long to decode; shorten it, lower its resolution, or"):
        read_clip(rarely, SIDE, 50.0, 4)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_clips_are_turned_upright(tmp_path: Path, degrees: int) -> None:
    wide = pictures(7)[:, :32]
    clip = read_clip(encode(tmp_path / "a.mp4", wide, degrees=degrees), SIDE, 50.0, 1)
    upright = Image.fromarray(np.ascontiguousarray(np.rot90(wide[3], degrees // 90)))
    expected = np.asarray(ImageOps.fit(upright, (SIDE, SIDE), Image.Resampling.BICUBIC), dtype=float)
    assert np.abs(expected - clip.photos[0]).mean() < 15
    assert np.abs(np.rot90(expected, 2) - clip.photos[0]).mean() > 40


def test_a_clip_with_fewer_frames_gives_all_of_them(tmp_path: Path) -> None:
    clip = read_clip(encode(tmp_path / "a.mp4", pictures(3)), SIDE, 50.0, 16)
    assert clip.seconds.tolist() == pytest.approx([0.0, 0.1, 0.2], abs=0.01)


def test_blurred_and_duplicate_frames_are_dropped_but_never_all() -> None:
    frames = pictures(12)
    frames[3] = gaussian_filter(frames[3], (5, 5, 0))
    frames[4] = gaussian_filter(frames[4], (5, 5, 0))
    noise = np.random.default_rng(1).integers(-3, 4, frames[6:9].shape)
    frames[7:9] = np.clip(frames[6].astype(int) + noise[1:], 0, 255).astype(np.uint8)
    frames[11] = frames[0]
    reasons = drop_frames(frames)
    assert reasons == (
        None,
        None,
        None,
        "blurred",
        "blurred",
        None,
        None,
        "duplicate",
        "duplicate",
        None,
        None,
        "duplicate",
    )
    assert drop_frames(np.full((5, 32, 32, 3), 90, np.uint8)) == (None, *["duplicate"] * 4)
    assert drop_frames(frames[3:4]) == (None,)


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    photo = np.zeros((5, 5, 3), np.uint8)
    photo[2, 2] = 90
    laplacian = np.zeros(25)
    laplacian[[7, 11, 13, 17]], laplacian[12] = 90, -360
    assert sharpness(photo) == pytest.approx(laplacian.var())


# -- invalid clips ---------------------------------------------------------------------------------------------------


def test_invalid_clips_are_refused_with_a_sentence(tmp_path: Path) -> None:
    whole = encode(tmp_path / "whole.mp4", pictures(40)).read_bytes()
    (tmp_path / "text.mp4").write_bytes(b"no video at all" * 40)
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "header.mp4").write_bytes(whole[:600])
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) // 2])
    # A playlist would make FFmpeg open the files that it names.
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nfile://{tmp_path}/whole.mp4\n#EXT-X-ENDLIST\n"
    (tmp_path / "playlist.mp4").write_text(playlist)
    encode_sound(tmp_path / "sound.mp4")
    encode(tmp_path / "tiny.avi", pictures(3, 16)[:, :, :4], codec="mpeg4")
    for name, message in {
        "absent": "not found",
        "empty": r"is empty \(0 bytes\)",
        "text": "is not a video that can be read",
        "header": "is not a video that can be read, or is truncated",
        "half": r"ends after \d\.\d of 4\.0 s",
        "playlist": "is not a video that can be read",
        "sound": "contains sound but no video",
    }.items():
        with pytest.raises(VideoError, match=rf"{name}\.mp4: {message}"):
            read_clip(tmp_path / f"{name}.mp4", SIDE, 50.0)
    with pytest.raises(VideoError, match=r"tiny\.avi: 4 x 16 px is smaller than 8 px"):
        read_clip(tmp_path / "tiny.avi", SIDE, 50.0)
    with pytest.raises(VideoError, match=r"64 x 64 px is larger than the limit of 0\.001 megapixels"):
        read_clip(tmp_path / "whole.mp4", SIDE, 0.001)


def test_a_clip_without_frames_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "_frames_at", lambda *_: iter(()))
    with pytest.raises(VideoError, match=r"a\.mp4: contains no frames"):
        read_clip(encode(tmp_path / "a.mp4", pictures(4)), SIDE, 50.0)


def test_a_clip_that_is_too_long_is_refused(tmp_path: Path) -> None:
    path = encode(tmp_path / "film.mp4", pictures(1, 16).repeat(700, axis=0), rate=1)
    with pytest.raises(VideoError, match=r"700 s is longer than the limit of 600 s; trim it"):
        read_clip(path, SIDE, 50.0)


def test_without_pyav_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode(tmp_path / "a.mp4", pictures(2))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(VideoError, match=r"pip install 'vitrine\[video\]'"):
        read_clip(path, SIDE, 50.0)


def test_clips_are_recognized_by_their_suffix() -> None:
    assert is_clip("a.MP4") and is_clip(Path("b/c.webm")) and not is_clip("a.jpg") and not is_clip("mp4")
