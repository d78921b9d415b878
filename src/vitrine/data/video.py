"""Frames of a video clip: evenly spread, upright, without those that are blurred or repeat another. Needs PyAV."""

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
"""Of a clip: a longer one shows more than one item."""

MAX_DECODED_MEGAPIXELS = 10_000.0
"""Of one clip: five minutes of 1080p if no more than a tenth of it must be decoded. What needs more is refused."""

SEEK_SECONDS = 1.0
"""Frames that are no further away than this are reached by decoding on: seeking goes back to the last key frame."""

MIN_SHARPNESS = 0.25
"""Of the clip's median; frames with less are blurred. On val clips it finds 95 % of the shaken frames and no others."""

DUPLICATE_BITS = 4
"""As `split.near_duplicate_bits`: frames whose 64-bit perceptual hashes differ in no more bits repeat each other."""

BLURRED, DUPLICATE = "blurred", "duplicate"

# A playlist that is named like a clip would make FFmpeg open other files and addresses.
OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": "avi,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2",
}


class VideoError(PhotoError):
    """A file is missing, or is no clip that can be used."""


@dataclass(frozen=True)
class Clip:
    """Frames of a clip in the order of time.

    Attributes:
        duration: in seconds
        dropped: by frame why it does not count, `blurred` or `duplicate`; None if it does

    Shape:
        seconds: (frames,), since the beginning; photos: (frames, size_px, size_px, channels)
    """

    duration: float
    seconds: NDArray[np.float64]
    photos: NDArray[np.uint8]
    dropped: tuple[str | None, ...]

    @property
    def kept(self) -> NDArray[np.int64]:
        """Rows of the frames that count; never none."""
        return np.flatnonzero([reason is None for reason in self.dropped])


def is_clip(path: Path | str) -> bool:
    """Say whether a file is named like a clip."""
    return Path(path).suffix.lower() in CLIP_SUFFIXES


def read_clip(path: Path, size_px: int, max_megapixels: float, num_frames: int = NUM_FRAMES) -> Clip:
    """Read frames at the centers of equal parts of a clip, and find those that are blurred or repeat another.

    Frames are turned upright and cut and scaled as `decode_photo` does with photographs. A clip that has fewer frames
    gives all it has. What is not needed is not decoded, but for what lies between a key frame and a frame.

    Raises:
        VideoError: the file is missing, empty, truncated, no video, without pictures, too large or too long; or PyAV
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
                raise VideoError(f"{path}: {duration:.0f} s are longer than the limit of {MAX_SECONDS:.0f} s; cut it")
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
    except Exception as error:  # the demuxers and decoders raise whatever their formats provoke
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise VideoError(f"{path}: is not a video that can be read, or is cut off ({reason})") from error
    if not photos:
        raise VideoError(f"{path}: holds no frames")
    seconds, part = np.array(list(photos)), duration / num_frames
    if duration - seconds[-1] > 2 * part + 0.25:
        raise VideoError(f"{path}: ends after {seconds[-1]:.1f} of {duration:.1f} s; copy or record it again")
    return duration, seconds, np.stack(list(photos.values()))


def _video_stream(path: Path, container: Any) -> Any:
    from av.stream import Disposition

    # The cover of a song is a video stream, too.
    streams = [each for each in container.streams.video if not each.disposition & Disposition.attached_pic]
    if not streams:
        has_sound = bool(container.streams.audio)
        raise VideoError(f"{path}: holds {'sound' if has_sound else 'streams'} but no video")
    return streams[0]


def _check_size(path: Path, width: int, height: int, max_megapixels: float) -> None:
    if width * height > max_megapixels * 1e6:
        raise VideoError(f"{path}: {width} x {height} px is larger than the limit of {max_megapixels:g} megapixels")
    if min(width, height) < MIN_SIDE_PX:
        raise VideoError(f"{path}: {width} x {height} px is smaller than {MIN_SIDE_PX} px")


def _duration(container: Any, stream: Any) -> float:
    """Return the length of a stream in seconds; where no header says it, its packets do, which are not decoded."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if container.duration:
        return float(container.duration / 1_000_000)
    ends = [packet.pts + (packet.duration or 0) for packet in container.demux(stream) if packet.pts is not None]
    container.seek(0)
    return float((max(ends, default=0) - (stream.start_time or 0)) * stream.time_base)


def _frames_at(path: Path, container: Any, stream: Any, targets: list[float]) -> Iterator[Any]:
    """Yield the frame that is shown at each time, in seconds and in order; none beyond the last frame.

    Raises:
        VideoError: too much would have to be decoded, or frames have no times.
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
                raise VideoError(f"{path}: its frames have no times; save it as MP4")
            if is_far:  # key frames so rare that seeking goes back: what follows is reached by decoding on
                may_seek, is_far = frame is None or following.time > frame.time, False
            frame = following
            decoded += frame.width * frame.height / 1e6
            if decoded > MAX_DECODED_MEGAPIXELS:
                raise VideoError(f"{path}: takes too long to decode; save it shorter, smaller or with more key frames")
        if frame is None:
            return
        yield frame


def _length(frame: Any, otherwise: float) -> float:
    """Return for how many seconds a frame is shown."""
    return float(frame.duration * frame.time_base) if frame.duration else otherwise


def _square(frame: Any, size_px: int) -> NDArray[np.uint8]:
    """Turn a frame upright, and cut and scale it as photographs are. Shape: (size_px, size_px, channels)."""
    upright = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4)
    image = ImageOps.fit(Image.fromarray(np.ascontiguousarray(upright)), (size_px, size_px), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.uint8)


def sharpness(photo: NDArray[np.uint8]) -> float:
    """Return the variance of the Laplacian of the brightness, at the size that networks see.

    Shape:
        photo: (height, width, channels)
    Source:
        Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy: a comparative study (2000).
    """
    from scipy.ndimage import laplace

    return float(laplace(photo.mean(axis=2), mode="nearest").var())


def drop_frames(photos: NDArray[np.uint8]) -> tuple[str | None, ...]:
    """Say which frames are much less sharp than the clip's median, and which of the others repeat an earlier one.

    The sharpest half always counts, so that at least one frame does.

    Shape:
        photos: (frames, height, width, channels)
    """
    from vitrine.data.splits import perceptual_hash

    sharp = np.array([sharpness(photo) for photo in photos])
    reasons: list[str | None] = [BLURRED if each < MIN_SHARPNESS * np.median(sharp) else None for each in sharp]
    seen: list[NDArray[np.bool_]] = []
    for row, photo in enumerate(photos):
        if reasons[row] is None:
            bits = perceptual_hash(photo)
            if any(np.count_nonzero(bits != other) <= DUPLICATE_BITS for other in seen):
                reasons[row] = DUPLICATE
            else:
                seen.append(bits)
    return tuple(reasons)
