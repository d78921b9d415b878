"""Check the backbones in weights/ against their pinned hashes and write their cards.

Reads   pretrain/params.yaml, weights/NAME.safetensors
Writes  weights/NAME.json: what the file is, its SHA-256, and where it comes from

The backbones were trained in three rounds at earlier commits, each with the renderer of its day. Those renders
and the 32-bit backbones are gone, so this pipeline cannot make the files again: it takes them as they are.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

from pydantic import Field

from vitrine.artifacts import ArtifactError, read_tensors, write_json
from vitrine.errors import exit_on_error
from vitrine.params import Section, read_section

LAST_FULL_RECORD = "e2da345"
"""The last commit whose cards hold the params and the scores of every round."""

TRAINED_ON = (
    "renders of this project and their labels: class (the ten classes of data/sample), color, material, condition; "
    "from random weights, without third-party pictures or weights"
)


class Pin(Section):
    """One imported file and the commits at which each round of its training was bundled, first to last."""

    architecture: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    pictures_seen: Annotated[int, Field(ge=1)]
    round_commits: Annotated[list[Annotated[str, Field(pattern="^[0-9a-f]{40}$")]], Field(min_length=1)]


class ImportParams(Section):
    """All imported files; a field's name is the file's."""

    deit_tiny: Pin
    mobilevit_xxs: Pin


def card(path: Path, pin: Pin) -> dict[str, object]:
    """Describe an imported file.

    Raises:
        ArtifactError: it is missing, or not the file that was pinned.
    """
    precisions = sorted({str(tensor.dtype) for tensor in read_tensors(path).values()})
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != pin.sha256:
        raise ArtifactError(
            f"{path}: its SHA-256 is {found}, but pretrain/params.yaml pins {pin.sha256}. Restore it with "
            f"`git checkout {path}`, or, if it was replaced on purpose, update its section there"
        )
    return {
        "architecture": pin.architecture,
        "sha256": found,
        "size_bytes": path.stat().st_size,
        "precisions": precisions,
        "origin": (
            f"imported; made by {len(pin.round_commits)} rounds of training, bundled at the commits below, on renders "
            "that are gone; cannot be rebuilt by this pipeline"
        ),
        "round_commits": pin.round_commits,
        "full_record": f"git show {LAST_FULL_RECORD}:{path.with_suffix('.json').as_posix()}",
        "trained_on": TRAINED_ON,
        "pictures_seen": pin.pictures_seen,
        "license": "that of this project",
    }


def main() -> None:
    exit_on_error()
    params = read_section("import_weights", ImportParams, Path("pretrain/params.yaml"))
    pins = {Path("weights") / f"{name}.safetensors": getattr(params, name) for name in ImportParams.model_fields}
    cards = {path.with_suffix(".json"): card(path, pin) for path, pin in pins.items()}
    for path, document in cards.items():
        write_json(path, document)


if __name__ == "__main__":
    main()
