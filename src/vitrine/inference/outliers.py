"""Compute the signals of the systems for novelty detection, also for pictures of other things."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from vitrine.inference.network import Network
from vitrine.inference.novelty import Signals
from vitrine.inference.systems import System, system_predictions
from vitrine.labels import CLASS_TASK
from vitrine.predictions import Predictions


@torch.inference_mode()
def class_logits(network: Network, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the logits of the class from a network's embeddings. Shape: (photos, features) -> (photos, classes)."""
    given = torch.from_numpy(np.array(embeddings, dtype=np.float32)).to(next(network.model.parameters()).device)
    return np.asarray(network.model.classify(given)[CLASS_TASK].float().cpu().numpy())


def system_signals(
    systems: Mapping[str, System], networks: Mapping[str, Network], found: Mapping[str, Predictions]
) -> dict[str, Signals]:
    """Return the signals of every system; an ensemble's logits are the mean over its members for the class.

    Args:
        found: calibrated predictions of every system, for the same photographs.
    """
    logits = {name: class_logits(network, found[name].embeddings) for name, network in networks.items()}
    return {
        name: Signals.of(each, np.mean([logits[member] for member in systems[name].members[CLASS_TASK]], axis=0))
        for name, each in found.items()
    }


def predict_outliers(
    systems: Mapping[str, System], networks: Mapping[str, Network], photos: NDArray[np.uint8]
) -> dict[str, Signals]:
    """Return the signals of every system for decoded pictures. Shape: (pictures, height, width, channels)."""
    names = [str(row) for row in range(len(photos))]
    raw = {name: network.predict(photos, names) for name, network in networks.items()}
    return system_signals(systems, networks, {name: system_predictions(name, systems, raw) for name in systems})
