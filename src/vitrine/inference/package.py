"""Copy an export into its own folder, ready for deployment."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from vitrine.artifacts import ArtifactError
from vitrine.inference.runtimes import DESCRIPTION, FILES, current_export, novelty_is_current, passed_gates


def package_export(
    out: Path,
    system: str,
    layout: str,
    precision: str,
    models: Path = Path("models"),
    exports: Path = Path("exports"),
) -> list[Path]:
    """Write an export atomically into a new folder, and return its files.

    Args:
        layout: `onnx`, or `openvino` for OpenVINO's .xml and .bin.
        precision: `fp32`, or `int8` if it passed the parity gate.

    Raises:
        ArtifactError: the folder holds files, there is no export of these models, or INT8 did not pass its gate.
    """
    check_export(system, models, exports)
    backend = "openvino" if layout == "openvino" else "onnxruntime"
    variant = f"{backend} {precision}"
    if precision != "fp32" and variant not in passed_gates(exports, system):
        raise ArtifactError(
            f"{system} in {precision} for {backend} did not pass the parity gate, or was not measured "
            "(plots/export/parity.csv). Use --precision fp32, or run: make export"
        )
    source = exports / system / FILES[variant]
    with new_folder(out) as folder:
        if source.suffix == ".xml":
            shutil.copyfile(source, folder / "model.xml")
            shutil.copyfile(source.with_suffix(".bin"), folder / "model.bin")
        elif layout == "openvino":
            import openvino

            openvino.save_model(openvino.Core().read_model(source), folder / "model.xml", compress_to_fp16=False)
        else:
            shutil.copyfile(source, folder / "model.onnx")
            shutil.copyfile(Path(__file__).with_name("predict_onnx.py"), folder / "predict_onnx.py")
        shutil.copyfile(exports / system / DESCRIPTION, folder / DESCRIPTION)
    return sorted(out.iterdir())


def check_export(system: str, models: Path, exports: Path) -> None:
    """Check that an export may be deployed: it is of exactly these models, and refuses what they refuse.

    Raises:
        ArtifactError: it is missing or outdated.
    """
    if not novelty_is_current(current_export(system, models, exports), models):
        raise ArtifactError(
            f"{exports / system}: its novelty score or threshold differs from models/novelty. Run: make export"
        )


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `out`; it becomes `out` if the block succeeds, and is deleted otherwise.

    Raises:
        ArtifactError: `out` is a file, or holds files.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ArtifactError(f"{out}: already exists. Choose a new or empty folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as temporary:
        folder = Path(temporary) / "folder"
        folder.mkdir()
        yield folder
        folder.replace(out)


def store_weights_as_float16(path: Path) -> bytes:
    """Return an exported ONNX file at half its size: weights are stored in float16 and cast to float32."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    graph, casts = model.graph, []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        # Resize matrices stay exact, and small tensors save nothing.
        if values.dtype == np.float32 and values.size >= 256 and not tensor.name.endswith("matrix"):
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.float16"))
            casts.append(onnx.helper.make_node("Cast", [f"{name}.float16"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return model.SerializeToString(deterministic=True)
