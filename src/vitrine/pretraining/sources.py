"""The public repositories of the photographs, as set in params."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vitrine.params import Section

Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Source(Section):
    """A public repository with photographs.

    Attributes:
        leave_out: subfolders of `folders` to exclude
        files_sha256: hash of the files' SHA-256 lines, sorted by path
        tar_sha256: hash of the tar of the scaled photographs in a local folder
    """

    repository: Annotated[str, Field(pattern="^[^/]+/[^/]+$")]
    commit: Annotated[str, Field(pattern="^[0-9a-f]{40}$")]
    folders: Annotated[list[str], Field(min_length=1)]
    leave_out: list[str]
    license: str
    photos: Annotated[int, Field(ge=1)]
    files_sha256: Hash
    tar_sha256: Hash


class FetchParams(Section):
    """Where photographs come from and how they are scaled. A file in several sources belongs to the first."""

    host: str
    image_size_px: Annotated[int, Field(ge=16, le=1024)]
    jpeg_quality: Annotated[int, Field(ge=1, le=95)]
    sources: Annotated[dict[str, Source], Field(min_length=1)]
