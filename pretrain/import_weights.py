"""Check the backbones in weights/ against their pinned hashes and write their cards.

Reads   pretrain/params.yaml, weights/NAME.safetensors, pretrain/records/, pretrain/curves/
Writes  weights/NAME.json: description, SHA-256, training data and its licenses, scores

Distilling a backbone takes hours, with `pretrain/distill.py` at the commit that its card names. The pipeline uses the
file as a pinned input, like the teacher.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

from pydantic import Field

from vitrine.artifacts import ArtifactError, read_csv, read_json, read_tensors, write_json
from vitrine.errors import exit_on_error
from vitrine.params import Section, read_section

Commit = Annotated[str, Field(pattern="^[0-9a-f]{40}$")]

STARTED_FROM = "weights of this project, trained in three rounds on labeled renders alone"
FIRST_RECORD = "e2da345"
"""The commit whose cards hold the params and the scores of those rounds."""


class Pin(Section):
    """One pinned file.

    Attributes:
        record: how it was distilled, as written by `distill.py`
        curve: its scores against the pictures seen, as written by `probe.py`
        commit: of the `distill.py` that made it
        round_commits: commits at which each round of its start weights was bundled, first to last
    """

    architecture: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    record: str
    curve: str
    commit: Commit
    round_commits: Annotated[list[Commit], Field(min_length=1)]


class ImportParams(Section):
    """All files; a field's name is the file's."""

    deit_tiny: Pin
    mobilevit_xxs: Pin


def card(path: Path, pin: Pin) -> dict[str, object]:
    """Describe a file.

    Raises:
        ArtifactError: it is missing, is not the pinned file, or has no record.
    """
    precisions = sorted({str(tensor.dtype) for tensor in read_tensors(path).values()})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != pin.sha256:
        raise ArtifactError(
            f"{path}: its SHA-256 is {digest}, but pretrain/params.yaml pins {pin.sha256}. Restore it with "
            f"`git checkout {path}`, or, if it was replaced on purpose, update its section there"
        )
    record, last = read_json(Path(pin.record)), read_csv(Path(pin.curve)).iloc[-1]
    first_card = f"git show {FIRST_RECORD}:{path.with_suffix('.json').as_posix()}"
    return {
        "architecture": pin.architecture,
        "sha256": digest,
        "size_bytes": path.stat().st_size,
        "precisions": precisions,
        "license": "Apache-2.0; of what it learned from, see photographs and teacher",
        "commit": pin.commit,
        "distilled": record,
        "started_from": {"what": STARTED_FROM, "round_commits": pin.round_commits, "record": first_card},
        "scores_of": "logistic regression on frozen features, Team 13's train and val, cross-validation over items",
        "scores": {key: float(value) for key, value in last.items() if key != "pictures"},
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
