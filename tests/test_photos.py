"""Photographs of every format are decoded correctly, and everything else is rejected with a reason."""

from __future__ import annotations

import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitrine.photos import PhotoError, decode_photo

ORANGE = (240, 120, 20)


def decode(path: Path, size: int = 16, megapixels: float = 1.0) -> np.ndarray:
    return decode_photo(path, size, megapixels)


def color_of(photo: np.ndarray) -> np.ndarray:
    return photo.reshape(-1, 3).mean(axis=0)


@pytest.mark.parametrize(
    ("mode", "suffix", "expected"),
    [
        ("RGB", ".png", ORANGE),
        ("RGB", ".jpg", ORANGE),
        ("RGB", ".webp", ORANGE),
        ("RGB", ".bmp", ORANGE),
        ("L", ".png", (144, 144, 144)),
        ("LA", ".png", (144, 144, 144)),
        ("RGBA", ".png", ORANGE),
        ("P", ".png", ORANGE),
        ("P", ".gif", ORANGE),
        ("1", ".png", (144, 144, 144)),
        ("CMYK", ".jpg", ORANGE),
        ("CMYK", ".tiff", ORANGE),
        ("YCbCr", ".jpg", ORANGE),
        ("LAB", ".tiff", ORANGE),
    ],
)
def test_every_mode_is_decoded_to_its_colors(tmp_path: Path, mode: str, suffix: str, expected: tuple[int, ...]) -> None:
    path = tmp_path / f"photo{suffix}"
    image = Image.new("RGB", (20, 20), ORANGE)
    if mode == "LAB":
        from PIL import ImageCms

        lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        image = ImageCms.applyTransform(image, lab)
    else:
        image = image.convert(mode)
    image.save(path)
    photo = decode(path)
    assert photo.shape == (16, 16, 3)
    assert photo.dtype == np.uint8
    assert np.abs(color_of(photo) - expected).max() < 12


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_sixteen_bits_keep_their_high_bits(tmp_path: Path, mode: str) -> None:
    values = np.full((20, 20), 200 * 257, dtype=np.uint16 if mode == "I;16" else np.int32)
    path = tmp_path / ("deep.png" if mode == "I;16" else "deep.tiff")
    Image.fromarray(values).save(path)
    assert np.abs(color_of(decode(path)) - 200).max() <= 1


def test_float_images_hold_fractions(tmp_path: Path) -> None:
    Image.fromarray(np.full((20, 20), 0.5, dtype=np.float32)).save(tmp_path / "float.tiff")
    assert np.abs(color_of(decode(tmp_path / "float.tiff")) - 127.5).max() <= 1


def test_transparent_pixels_become_white(tmp_path: Path) -> None:
    Image.new("RGBA", (20, 20), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (decode(tmp_path / "clear.png") == 255).all()
    palette = Image.new("P", (20, 20), 0)
    palette.putpalette([10, 20, 30])
    palette.save(tmp_path / "clear.gif", transparency=0)
    assert (decode(tmp_path / "clear.gif") == 255).all()


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (20, 20), "black")
    image.paste("white", (0, 0, 20, 10))  # white at the top
    exif = image.getexif()
    exif[0x0112] = 6  # rotate clockwise by 90 degrees for display: white on the right
    image.save(tmp_path / "turned.png", exif=exif)
    photo = decode(tmp_path / "turned.png")
    assert photo[:, 12:].mean() > 240
    assert photo[:, :4].mean() < 15


@pytest.mark.parametrize(("mode", "orientation"), [("RGB", 1), ("RGB", 6), ("L", 1)])
def test_large_jpeg_files_decoded_at_reduced_size_look_the_same(tmp_path: Path, mode: str, orientation: int) -> None:
    y, x = np.mgrid[0:600, 0:900]
    waves = np.stack([128 + 90 * np.sin(x / 31), 128 + 90 * np.cos(y / 47), 128 + 60 * np.sin((x + y) / 23)], axis=2)
    image, exif = Image.fromarray(waves.astype(np.uint8)).convert(mode), Image.Exif()
    exif[274] = orientation
    image.save(tmp_path / "large.jpg", quality=95, exif=exif)
    with Image.open(tmp_path / "large.jpg") as opened:
        opened.load()
        opened.getexif()[274] = 1
        whole = opened.convert("RGB").rotate(-90 if orientation == 6 else 0, expand=True)
    whole.save(tmp_path / "large.png")
    reduced, expected = decode(tmp_path / "large.jpg", 64, 1.0), decode(tmp_path / "large.png", 64, 1.0)
    difference = np.abs(reduced.astype(int) - expected.astype(int))
    assert 0 < difference.max() <= 6 and difference.mean() < 1, "decoded at a quarter of the size, without a shift"


def test_the_first_frame_of_an_animation_is_used(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (20, 20), name) for name in ("red", "blue")]
    for suffix in (".gif", ".png", ".webp"):
        frames[0].save(tmp_path / f"moving{suffix}", save_all=True, append_images=frames[1:], duration=50)
        assert np.abs(color_of(decode(tmp_path / f"moving{suffix}")) - (255, 0, 0)).max() < 6, suffix


def test_an_oblong_photograph_is_cropped_to_its_center(tmp_path: Path) -> None:
    image = Image.new("RGB", (60, 20), "black")
    image.paste("white", (20, 0, 40, 20))
    image.save(tmp_path / "wide.png")
    assert (decode(tmp_path / "wide.png", 20) == 255).all()


def test_a_photograph_of_the_target_size_is_unchanged(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "same.png")
    assert np.array_equal(decode(tmp_path / "same.png"), pixels)


def test_invalid_photographs_are_rejected_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("<svg/>")
    Image.new("RGB", (64, 64), ORANGE).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    Image.new("RGB", (64, 64), ORANGE).save(tmp_path / "whole.png")
    bits = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(bits[: len(bits) // 2])
    Image.new("RGB", (2000, 1000)).save(tmp_path / "large.png")
    Image.new("RGB", (300, 4)).save(tmp_path / "thin.png")
    for name, reason in (
        ("absent.jpg", "not found"),
        ("empty.jpg", "0 bytes"),
        ("text.jpg", "not an image"),
        ("cut.jpg", "cannot be decoded"),
        ("cut.png", "cannot be decoded"),
        ("large.png", "2000 x 1000 px is larger than the limit of 1 megapixels"),
        ("thin.png", "smaller than 8 px"),
    ):
        with pytest.raises(PhotoError, match=rf"{name}.*{reason}"):
            decode(tmp_path / name)


def png_header(side: int) -> bytes:
    """Return the start of a black-and-white PNG, without pixels."""
    fields = b"IHDR" + struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    data = b"IDAT" + b"\x78"
    chunks = (struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (fields, data))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_a_decompression_bomb_is_rejected_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    for side in (10_000, 30_000, 60_000):
        path.write_bytes(png_header(side))
        with pytest.raises(PhotoError, match="larger than the limit of 50 megapixels"):
            decode(path, megapixels=50.0)


def test_a_decompression_bomb_behind_a_small_header_is_rejected(tmp_path: Path) -> None:
    for side in (30_000, 60_000):
        claimed = struct.pack("<HHHBBBBHHII", 0, 1, 1, 32, 32, 0, 0, 1, 32, len(png_header(side)), 22)
        (tmp_path / "bomb.ico").write_bytes(claimed + png_header(side))
        with pytest.raises(PhotoError, match="larger than the limit"):
            decode(tmp_path / "bomb.ico")


def test_limits_above_those_of_pillow_are_respected(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(png_header(15_000))  # Pillow's own limits are 89 (a warning) and 179 (an error) megapixels
    with pytest.raises(PhotoError, match="larger than the limit of 220 megapixels"):
        decode(path, megapixels=220.0)
    with pytest.raises(PhotoError, match="cannot be decoded"):  # only because there are no pixels
        decode(path, megapixels=230.0)


def test_decoding_in_threads_leaves_the_warning_filters_alone(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    before = list(warnings.filters)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(decode, [tmp_path / "a.png"] * 48))
    assert list(warnings.filters) == before


def test_damaged_metadata_is_ignored_without_a_warning(tmp_path: Path) -> None:
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x05\x00"  # announces five entries that do not exist
    Image.new("RGB", (20, 20), ORANGE).save(tmp_path / "a.jpg", exif=exif)
    code = (
        "import sys, warnings; from pathlib import Path; from vitrine.photos import decode_photo;"
        "decode_photo(Path(sys.argv[1]), 16, 1.0); warnings.simplefilter('default', UserWarning);"
        "decode_photo(Path(sys.argv[1]), 16, 1.0)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.jpg"], capture_output=True, text=True, check=True)
    assert done.stderr.count("Warning") == 1  # from the second call, when Pillow's warnings are no longer ignored
