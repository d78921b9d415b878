"""Export a system for phones and small boards: an ExecuTorch program whose products XNNPACK computes."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from vitrine.artifacts import write_json
from vitrine.inference.export import ExportedSystem, ExportError, describe, load_networks
from vitrine.inference.novelty import Novelty
from vitrine.inference.package import new_folder
from vitrine.inference.runtimes import DESCRIPTION, checkpoint_digest
from vitrine.inference.systems import load_systems

PRODUCTS = ("addmm", "baddbmm", "bmm", "conv", "linear", "matmul", "mm", "scaled_dot_product")
"""Operators whose FLOPs are counted, by a part of their names."""


def package_executorch(out: Path, system: str, models: Path = Path("models")) -> list[Path]:
    """Write model.pte and export.json atomically into a new folder, and return its files.

    The program takes one photograph, uint8 (1, height, width, channels), and returns the outputs of the ONNX file: per
    task (1, labels) in the order of the label space, then (1, features), then novelty (1,).

    Raises:
        ArtifactError: the folder holds files, there is no such system, or a file is missing.
        ExportError: ExecuTorch is not installed, cannot express the system, or leaves products to slow kernels.
    """
    try:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower
    except ModuleNotFoundError as error:
        raise ExportError(f"{error.name} is not installed. Install the extra: pip install -e '.[device]'") from None
    systems, networks = load_systems(models / "systems.json"), load_networks(system, models)
    novelty = Novelty.load(models, system, checkpoint_digest(system, models))
    graph = ExportedSystem(system, systems, networks, novelty.detector if novelty else None).cpu().eval()
    graph.to(memory_format=torch.contiguous_format)  # ExecuTorch's passes fail on channels last
    side = next(iter(networks.values())).model.spec.preprocessing.decoding.photo_size_px
    photo = torch.zeros(1, side, side, 3, dtype=torch.uint8)
    with new_folder(out) as folder:
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program = torch.export.export(graph, (photo,))
                lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
                left = undelegated_ops(lowered.exported_program().graph_module)
                content = lowered.to_executorch().buffer
        except Exception as error:  # its passes raise exceptions of any type
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ExportError(f"{system}: cannot be expressed in ExecuTorch ({first})") from error
        if left:
            raise ExportError(f"{system}: XNNPACK does not support these operators: {', '.join(left)}")
        (folder / "model.pte").write_bytes(content)
        write_json(folder / DESCRIPTION, describe(system, models, networks, novelty))
    return sorted(out.iterdir())


def undelegated_ops(graph: torch.fx.GraphModule) -> list[str]:
    """List the matrix products and convolutions of a lowered graph that were not delegated to a backend."""
    names = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    return sorted({name for name in names if any(product in name for product in PRODUCTS)})
