"""Put a finished backbone into weights/, with a card: python pretrain/bundle.py ARM.

Reads   pretrain/backbones/ARM.safetensors, pretrain/backbones/ARM.json, pretrain/probe.csv
Writes  weights/NAME.safetensors, weights/NAME.json
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from vitrine.artifacts import ArtifactError, read_csv, read_json, read_tensors, write_json, write_tensors
from vitrine.params import exit_on

TARGETS = {
    "deit_tiny_patch16_224": Path("weights/deit_tiny.safetensors"),
    "mobilevit_xxs": Path("weights/mobilevit_xxs.safetensors"),
}

LICENCE = (
    "The licence of this project. Trained from random weights on pictures that this project renders or draws itself; "
    "no third-party image, weight or code went into it."
)


def main(arm: str) -> None:
    exit_on(ArtifactError)
    source = Path("pretrain/backbones") / f"{arm}.safetensors"
    made, probe = read_json(source.with_suffix(".json")), read_csv(Path("pretrain/probe.csv"))
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    scores = {
        row["task"]: {key: round(float(row[key]), 4) for key in ("accuracy", "accuracy_ci_low", "accuracy_ci_high")}
        for row in probe[(probe["backbone"] == arm) & (probe["photographs"] == "team13")].to_dict("records")
    }
    if not scores:
        raise ArtifactError(f"pretrain/probe.csv: has no rows of {arm}. Run: python pretrain/probe.py")
    target = TARGETS[made["arm"]["architecture"]]
    write_tensors(target, read_tensors(source), {"format": "pt"})
    write_json(
        target.with_suffix(".json"),
        {
            **made,
            "commit": commit,
            "licence": LICENCE,
            "precision": "float16",
            "linear_probe_on_team13_train_and_val": scores,
        },
    )


if __name__ == "__main__":
    main(sys.argv[1])
