"""INT8 static post-training quantization, calibrated on photographs of the training split."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitrine.artifacts import atomic_path

NUM_CALIBRATION_PHOTOS = 128

CONVOLUTIONS = ("Convolution", "GroupConvolution", "Conv")


def calibration_rows(train: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Choose training photographs to calibrate on, evenly over the table. Shape: (photos,) -> (n,)."""
    rows = np.flatnonzero(train)
    picked = np.linspace(0, len(rows) - 1, min(NUM_CALIBRATION_PHOTOS, len(rows))).round().astype(np.int64)
    return np.asarray(rows[picked], dtype=np.int64)


def quantize_openvino(folder: Path, photos: NDArray[np.uint8]) -> None:
    """Quantize folder/model.onnx with NNCF into folder/model.int8.xml and .bin, for OpenVINO.

    Weights have one scale per channel. Preprocessing, heads and the nodes after them stay in float, and in a
    transformer also normalization, GELU and softmax.

    Shape:
        photos: (photos, height, width, channels), as the export expects them
    """
    os.environ["NNCF_CI"] = "1"  # disables NNCF's telemetry
    import nncf
    import openvino

    nncf.set_log_level(logging.ERROR)
    model = openvino.Core().read_model(folder / "model.onnx")
    edges = [
        (node.get_friendly_name(), node.get_type_name(), [_name(each) for each in node.inputs()])
        for node in model.get_ordered_ops()
    ]
    backbone = backbone_nodes(edges)
    transformer = any(kind == "Softmax" for name, kind, _ in edges if name in backbone)
    quantized = nncf.quantize(
        model,
        nncf.Dataset([photos[row : row + 1] for row in range(len(photos))]),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER if transformer else None,
        subset_size=len(photos),
        ignored_scope=nncf.IgnoredScope(names=sorted(float_nodes(edges)), validate=False),
    )
    # Two files: the .xml, which is the one that is opened, is moved last.
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        openvino.save_model(quantized, Path(temporary) / "model.int8.xml", compress_to_fp16=False)
        for suffix in (".bin", ".xml"):
            os.replace(Path(temporary) / f"model.int8{suffix}", folder / f"model.int8{suffix}")


def quantize_onnx(folder: Path, photos: NDArray[np.uint8]) -> None:
    """Quantize folder/model.onnx with ONNX Runtime into folder/model.int8.onnx, with Q and DQ nodes.

    Activations are unsigned and weights signed, as VNNI instructions expect; the same parts stay in float.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[dict[str, Any]] = iter(
                {"photos": photos[i : i + 8]} for i in range(0, len(photos), 8)
            )

        def get_next(self) -> dict[str, Any] | None:
            return next(self.batches, None)

    with tempfile.TemporaryDirectory() as temporary, atomic_path(folder / "model.int8.onnx") as written:
        prepared = Path(temporary) / "prepared.onnx"
        quant_pre_process(folder / "model.onnx", prepared, skip_symbolic_shape=True)
        graph = onnx.load(prepared).graph
        edges: Edges = [(each.name, "Constant", []) for each in graph.initializer]
        producers = {output: node.name for node in graph.node for output in node.output}
        edges += [(node.name, node.op_type, [producers.get(each, each) for each in node.input]) for node in graph.node]
        quantize_static(
            prepared,
            written,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=sorted(float_nodes(edges)),
        )
        model = onnx.load(written)
        source = onnx.load(folder / "model.onnx", load_external_data=False)
        onnx.helper.set_model_props(model, {each.key: each.value for each in source.metadata_props})
        written.write_bytes(model.SerializeToString(deterministic=True))


Edges = list[tuple[str, str, list[str]]]
"""Nodes of a graph in topological order: name, kind, and the names of their inputs."""


def float_nodes(edges: Edges) -> set[str]:
    """Return the nodes that stay in float: before the first convolution, in the heads, and after them."""
    return {name for name, kind, _ in edges if kind not in ("Constant", "Parameter")} - backbone_nodes(edges)


def backbone_nodes(edges: Edges) -> set[str]:
    """Return a graph's nodes from the networks' first convolutions to their embeddings."""
    inside: set[str] = set()
    for name, kind, inputs in edges:
        if kind in CONVOLUTIONS or inside.intersection(inputs):
            inside.add(name)
    # An embedding is the input of a head's first layer, apart from its weights.
    heads = [inputs for _, _, inputs in edges if any(".heads." in each and each.endswith(".weight") for each in inputs)]
    after = {each for inputs in heads for each in inputs if ".heads." not in each}
    embeddings = {each for each in after if not _reads(edges, each, ".heads.")}
    outside: set[str] = set()
    for name, _, inputs in edges:
        if embeddings.intersection(inputs) or outside.intersection(inputs):
            outside.add(name)
    return inside - outside


def _reads(edges: Edges, name: str, text: str) -> bool:
    """Return whether a node depends on one whose name contains a text."""
    sources = {node: inputs for node, _, inputs in edges}
    waiting, seen = [name], set()
    while waiting:
        node = waiting.pop()
        if text in node:
            return True
        if node not in seen:
            seen.add(node)
            waiting += sources.get(node, [])
    return False


def _name(socket: Any) -> str:
    return str(socket.get_source_output().get_node().get_friendly_name())
