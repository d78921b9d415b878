"""Clips for tests, encoded by PyAV."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def pictures(num: int, side: int = 64) -> NDArray[np.uint8]:
    """Draw frames that all differ: noise in blocks of 4 px. Shape: (num, side, side, channels)."""
    blocks = np.random.default_rng(0).integers(0, 256, (num, side // 4, side // 4, 3), dtype=np.uint8)
    return np.asarray(blocks.repeat(4, axis=1).repeat(4, axis=2))


def encode(
    path: Path, frames: NDArray[np.uint8], rate: int = 10, degrees: int = 0, codec: str = "libx264", gop: int = 12
) -> Path:
    """Write frames as a clip.

    Args:
        degrees: counter-clockwise, by which players turn it.
        gop: frames from one key frame to the next, at most.
    """
    import av

    with av.open(str(path), "w", options={"movflags": "+faststart"} if path.suffix == ".mp4" else {}) as container:
        stream = container.add_stream(codec, rate=Fraction(rate))
        stream.gop_size = gop
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        if degrees:
            stream.set_display_rotation(degrees)
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def encode_sound(path: Path) -> Path:
    """Write half a second of a tone, without pictures."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        wave = (0.1 * np.sin(np.arange(22050) / 10)).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
