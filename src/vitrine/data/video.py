"""Frames of a video clip: evenly spaced, upright, without blurred frames and duplicates. Needs PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from vitrine.photos import MIN_SIDE_PX, PhotoError

CLIP_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")

NUM_FRAMES = 16
MAX_FRAMES = 64
MAX_SECONDS = 600.0
"""Longest duration of a clip; a longer one shows more than one item."""

MAX_DECODED_MEGAPIXELS = 10_000.0
"""Limit per clip: five minutes of 1080p if at most a tenth of it must be decoded. Clips that need more are rejected."""

SEEK_SECONDS = 1.0
"""Frames at most this far ahead are reached by decoding on, as seeking goes back to the previous key frame."""

MIN_SHARPNESS = 0.25
"""Fraction of a clip's median; frames below are blurred. On val clips, this finds only shaken frames, 95 % of them."""

DUPLICATE_BITS = 4
"""Like `split.near_duplicate_bits`: frames are duplicates if at most this many of 64 perceptual hash bits differ."""

BLURRED, DUPLICATE = "blurred", "duplicate"

# Otherwise, a playlist that is named like a clip could make FFmpeg open other files and URLs.
OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": "avi,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2",
}


class VideoError(PhotoError):
    """A file is missing or is not a usable clip."""


@dataclass(frozen=True)
class Clip:
    """Frames of a clip in chronological order.

    Attributes:
        duration: in seconds
        dropped: why each frame is dropped, `blurred` or `duplicate`; None if it is kept

    Shape:
        seconds: (frames,), since the start; photos: (frames, size_px, size_px, channels)
    """

    duration: float
    seconds: NDArray[np.float64]
    photos: NDArray[np.uint8]
    dropped: tuple[str | None, ...]

    @property
    def kept(self) -> NDArray[np.int64]:
        """Rows of the frames that are kept; never empty."""
        return np.flatnonzero([reason is None for reason in self.dropped])


def is_clip(path: Path | str) -> bool:
    """Return whether a file has the suffix of a clip."""
    return Path(path).suffix.lower() in CLIP_SUFFIXES


def read_clip(path: Path, size_px: int, max_megapixels: float, num_frames: int = NUM_FRAMES) -> Clip:
    """Read frames at the centers of equal parts of a clip, and flag blurred frames and duplicates.

    Frames are rotated upright, then cropped and scaled as in `decode_photo`. A clip with fewer frames returns all of
    them. Other frames are decoded only if they lie between a key frame and a frame to read.

    Raises:
        VideoError: the file is missing, empty, truncated, not a video, without frames, too large or too long; or PyAV
            is not installed.
    """
    duration, seconds, photos = read_frames(path, size_px, max_megapixels, num_frames)
    return Clip(duration, seconds, photos, drop_frames(photos))


def read_frames(
    path: Path, size_px: int, max_megapixels: float, num_frames: int
) -> tuple[float, NDArray[np.float64], NDArray[np.uint8]]:
    """Read frames as `read_clip` does; return the duration, the frames' times in seconds, and the frames."""
    if not path.is_file():
        raise VideoError(f"{path}: not found")
    if path.stat().st_size == 0:
        raise VideoError(f"{path}: is empty (0 bytes)")
    try:
        import av
    except ModuleNotFoundError:
        raise VideoError(f"{path}: clips need PyAV. Install the extra: pip install 'vitrine[video]'") from None
    try:
        with av.open(f"file:{path}", options=OPTIONS, metadata_errors="replace") as container:
            stream = _video_stream(path, container)
            _check_size(path, stream.width, stream.height, max_megapixels)
            duration = _duration(container, stream)
            if duration > MAX_SECONDS:
                raise VideoError(f"{path}: {duration:.0f} s is longer than the limit of {MAX_SECONDS:.0f} s; trim it")
            stream.thread_type = "AUTO"
            start = float((stream.start_time or 0) * stream.time_base)
            parts = (np.arange(num_frames) + 0.5) / num_frames
            photos: dict[float, NDArray[np.uint8]] = {}
            for frame in _frames_at(path, container, stream, (start + duration * parts).tolist()):
                _check_size(path, frame.width, frame.height, max_megapixels)
                if round(frame.time - start, 3) not in photos:
                    photos[round(frame.time - start, 3)] = _square(frame, size_px)
    except VideoError:
        raise
    except Exception as error:  # demuxers and decoders raise exceptions of many types
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise VideoError(f"{path}: is not a video that can be read, or is truncated ({reason})") from error
    if not photos:
        raise VideoError(f"{path}: contains no frames")
    seconds, part = np.array(list(photos)), duration / num_frames
    if duration - seconds[-1] > 2 * part + 0.25:
        raise VideoError(f"{path}: ends after {seconds[-1]:.1f} of {duration:.1f} s; copy or record it again")
    return duration, seconds, np.stack(list(photos.values()))


def _video_stream(path: Path, container: Any) -> Any:
    from av.stream import Disposition

    # The cover art of an audio file is a video stream, too.
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        has_sound = bool(container.streams.audio)
        raise VideoError(f"{path}: contains {'sound' if has_sound else 'streams'} but no video")
    return streams[0]


def _check_size(path: Path, width: int, height: int, max_megapixels: float) -> None:
    if width * height > max_megapixels * 1e6:
        raise VideoError(f"{path}: {width} x {height} px is larger than the limit of {max_megapixels:g} megapixels")
    if min(width, height) < MIN_SIDE_PX:
        raise VideoError(f"{path}: {width} x {height} px is smaller than {MIN_SIDE_PX} px")


def _duration(container: Any, stream: Any) -> float:
    """Return the duration of a stream in seconds, from its packets (without decoding) if no header has it."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if container.duration:
        return float(container.duration / 1_000_000)
    ends = [packet.pts + (packet.duration or 0) for packet in container.demux(stream) if packet.pts is not None]
    container.seek(0)
    return float((max(ends, default=0) - (stream.start_time or 0)) * stream.time_base)


def _frames_at(path: Path, container: Any, stream: Any, targets: list[float]) -> Iterator[Any]:
    """Yield the frame that is shown at each target time, in ascending seconds; past the end, repeat the last frame.

    Raises:
        VideoError: too much would have to be decoded, or frames have no timestamps.
    """
    length = float(1 / stream.average_rate) if stream.average_rate else 0.0
    decoded, may_seek = 0.0, True
    frames, frame = container.decode(stream), None
    for target in targets:
        position = 0.0 if frame is None else frame.time
        is_far = may_seek and target - position > SEEK_SECONDS
        if is_far:
            container.seek(int(target / stream.time_base), stream=stream)
            frames = container.decode(stream)
        while is_far or frame is None or frame.time + _length(frame, length) <= target:
            following = next(frames, None)
            if following is None:
                break
            if following.time is None:
                raise VideoError(f"{path}: its frames have no timestamps; convert it to MP4")
            if is_far:  # if key frames are so rare that seeking goes back, only decode from here on
                may_seek, is_far = frame is None or following.time > frame.time, False
            frame = following
            decoded += frame.width * frame.height / 1e6
            if decoded > MAX_DECODED_MEGAPIXELS:
                advice = "shorten it, lower its resolution, or encode it with more key frames"
                raise VideoError(f"{path}: takes too long to decode; {advice}")
        if frame is None:
            return
        yield frame


def _length(frame: Any, otherwise: float) -> float:
    """Return how long a frame is shown, in seconds."""
    return float(frame.duration * frame.time_base) if frame.duration else otherwise


def _square(frame: Any, size_px: int) -> NDArray[np.uint8]:
    """Rotate a frame upright, then crop and scale it like a photograph. Shape: (size_px, size_px, channels)."""
    upright = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4)
    image = ImageOps.fit(Image.fromarray(np.ascontiguousarray(upright)), (size_px, size_px), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.uint8)


def sharpness(photo: NDArray[np.uint8]) -> float:
    """Return the variance of the Laplacian of the brightness, at the networks' input size.

    Shape:
        photo: (height, width, channels)
    Source:
        Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy: a comparative study (2000).
    """
    from scipy.ndimage import laplace

    return float(laplace(photo.mean(axis=2), mode="nearest").var())


def drop_frames(photos: NDArray[np.uint8]) -> tuple[str | None, ...]:
    """Flag frames that are much less sharp than the clip's median, and duplicates among the others.

    The sharper half is never flagged as blurred, so at least one frame is kept.

    Shape:
        photos: (frames, height, width, channels)
    """
    from vitrine.data.splits import perceptual_hash

    sharp = np.array([sharpness(photo) for photo in photos])
    reasons: list[str | None] = [BLURRED if value < MIN_SHARPNESS * np.median(sharp) else None for value in sharp]
    seen: list[NDArray[np.bool_]] = []
    for row, photo in enumerate(photos):
        if reasons[row] is None:
            bits = perceptual_hash(photo)
            if any(np.count_nonzero(bits != other) <= DUPLICATE_BITS for other in seen):
                reasons[row] = DUPLICATE
            else:
                seen.append(bits)
    return tuple(reasons)
