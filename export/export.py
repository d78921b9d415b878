"""Export one system: python export/export.py SYSTEM.

Reads   models/, data/splits/
Writes  exports/SYSTEM/: model.onnx, INT8 for OpenVINO and for ONNX Runtime, export.json
"""

from __future__ import annotations

import sys
from pathlib import Path

from vitrine.artifacts import read_npy
from vitrine.errors import exit_on_error
from vitrine.inference.export import export_onnx
from vitrine.inference.quantize import calibration_rows, quantize_onnx, quantize_openvino
from vitrine.labels import read_photo_table


def main(system: str) -> None:
    exit_on_error()
    data, folder = Path("data/splits"), Path("exports") / system
    table, photos = read_photo_table(data / "photos.csv"), read_npy(data / "photos.npy")
    chosen = photos[calibration_rows((table["split"] == "train").to_numpy())]
    export_onnx(system, Path("models"), folder)
    quantize_openvino(folder, chosen)
    quantize_onnx(folder, chosen)


if __name__ == "__main__":
    main(sys.argv[1])
