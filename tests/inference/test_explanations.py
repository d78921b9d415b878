"""Heat maps follow gradients of the label that they explain and leave the networks unchanged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vitrine.inference.explanations import (
    Explainer,
    NetworkExplainer,
    attention_maps,
    feature_layer,
    is_transformer,
    predict_systems,
    without_training,
)
from vitrine.inference.heatmaps import ExplanationError
from vitrine.inference.network import Network
from vitrine.inference.systems import System
from vitrine.labels import LabelSpace
from vitrine.learning.model import create_model
from vitrine.photos import Decoding

SPACE = LabelSpace({"class": ("cup", "hat"), "color": ("blue", "gray", "red")})


def network(architecture: str, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return Network(create_model(architecture, "none", SPACE, Decoding(24, 50.0), 32, 0.0, 0.0))


def some_photos(num: int = 3) -> Any:
    return np.random.default_rng(0).integers(0, 256, (num, 24, 24, 3), dtype=np.uint8)


CODES = {"class": np.array([0, 1, 1]), "color": np.array([2, 0, 1])}


@pytest.mark.parametrize("architecture", ["test_vit", "mobilevit_xxs", "tf_efficientnet_lite0"])
def test_maps_of_every_architecture_stay_within_its_view(architecture: str) -> None:
    explainer = NetworkExplainer(network(architecture))
    maps = explainer.heatmaps(some_photos(), CODES)
    start = (24 - explainer.view_px) // 2
    for found in maps.values():
        assert found.shape == (3, 24, 24) and found.dtype == np.float32
        assert found.min() == 0 and found.max() <= 1
        outside = found.copy()
        outside[:, start : start + explainer.view_px, start : start + explainer.view_px] = 0
        assert not outside.any()
    assert (maps["class"] != maps["color"]).any()
    one = explainer.heatmaps(some_photos()[1:2], {task: codes[1:2] for task, codes in CODES.items()})
    np.testing.assert_allclose(one["color"][0], maps["color"][1], atol=1e-4)


def test_another_label_has_another_map() -> None:
    explainer = NetworkExplainer(network("test_vit"))
    first, second = (explainer.heatmaps(some_photos(1), {"color": np.array([code])})["color"] for code in (0, 1))
    assert np.abs(first - second).max() > 0.05


def test_attention_maps_are_the_slopes_of_the_logit() -> None:
    """Compare with numerical slopes: the class token attends slightly more to a patch in the last block."""
    model = network("test_vit").model.double()
    backbone: Any = model.backbone
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = attention_maps(model, images, {"color": [2]}, num_blocks=1)["color"].flatten()
    changed: dict[str, Any] = {"head": 0, "patch": None}

    def attend_more(_: Any, __: Any, attention: Tensor) -> Tensor:
        if changed["patch"] is None:
            return attention
        more = attention.clone()
        more[0, changed["head"], 0, changed["patch"]] += 1e-5
        return more

    block = backbone.blocks[-1].attn
    handle, fused = block.attn_drop.register_forward_hook(attend_more), block.fused_attn
    block.fused_attn = False
    num_tokens = 1 + found.numel()
    with torch.inference_mode():
        start = model(images)["color"][0, 2]
        slopes = torch.zeros(block.num_heads, found.numel(), dtype=torch.float64)
        for head in range(block.num_heads):
            for patch in range(found.numel()):
                changed.update(head=head, patch=patch + backbone.num_prefix_tokens)
                slopes[head, patch] = (model(images)["color"][0, 2] - start) / 1e-5
    handle.remove()
    block.fused_attn = fused
    # Only the class token's row reaches the logit of the last block; the mean is over heads and all queries.
    expected = slopes.clamp(min=0).sum(dim=0) / (block.num_heads * num_tokens)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5 * float(expected.max()) + 1e-7)


def test_the_network_predicts_as_before_and_keeps_no_hooks() -> None:
    for architecture in ("test_vit", "mobilevit_xxs"):
        net, photos = network(architecture), some_photos()
        before = net.predict(photos, list("abc"))
        NetworkExplainer(net).heatmaps(photos, CODES)
        assert not any(module._forward_hooks for module in net.model.modules())
        np.testing.assert_array_equal(net.predict(photos, list("abc")).probs["color"], before.probs["color"])


def test_random_weights_differ_from_trained_ones_and_are_reproducible() -> None:
    trained = network("mobilevit_xxs", seed=5)
    state = torch.get_rng_state()
    first, second = without_training(trained, 13), without_training(trained, 13)
    assert torch.equal(torch.get_rng_state(), state)
    pairs = list(zip(first.model.parameters(), second.model.parameters(), trained.model.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs) and any(not torch.equal(a, c) for a, _, c in pairs)


def test_layers_are_chosen_by_the_size_of_their_maps() -> None:
    model = network("tf_efficientnet_lite0").model
    names = {id(module): name for name, module in model.backbone.named_modules()}
    assert [names[id(feature_layer(model, size))] for size in (1, 2, 4)] == ["blocks.6", "blocks.4", "blocks.2"]
    assert not is_transformer(model) and is_transformer(network("test_vit").model)
    with pytest.raises(ExplanationError, match="tf_efficientnet_lite0: has no feature maps to explain"):
        feature_layer(model, 32)


# -- systems ---------------------------------------------------------------------------------------------------------


def explainers() -> dict[str, Explainer]:
    networks = {"deit": network("test_vit"), "mobilevit": network("mobilevit_xxs", 1)}
    members = {"deit": dict.fromkeys(SPACE, ("deit",)), "mobilevit": dict.fromkeys(SPACE, ("mobilevit",)),
               "ensemble": {"class": ("deit", "mobilevit"), "color": ("mobilevit",)}}  # fmt: skip
    systems = {
        name: System(of, dict.fromkeys(SPACE, temperature), dict.fromkeys(SPACE))
        for (name, of), temperature in zip(members.items(), (0.5, 2.0, 1.5), strict=True)
    }
    return {name: Explainer(name, systems, networks) for name in systems}


def test_a_map_of_the_ensemble_is_the_mean_over_the_members_of_the_task() -> None:
    found, photos = explainers(), some_photos()
    maps = {name: each.heatmaps(photos, CODES) for name, each in found.items()}
    np.testing.assert_allclose(maps["ensemble"]["color"], maps["mobilevit"]["color"], atol=1e-6)
    mean = (maps["deit"]["class"] + maps["mobilevit"]["class"]) / 2
    mean /= mean.max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(maps["ensemble"]["class"], mean, atol=1e-6)


def test_all_ways_to_predict_agree() -> None:
    found, photos = explainers(), some_photos()
    together = predict_systems(found, photos)
    assert set(together) == {(name, task) for name in found for task in SPACE}
    for (name, task), probs in together.items():
        np.testing.assert_allclose(found[name].predict(photos).probs[task], probs, atol=1e-6)
        np.testing.assert_allclose(found[name].predict_task(photos, task), probs, atol=1e-6)


def test_the_predicted_or_the_requested_label_is_explained() -> None:
    ensemble, photos = explainers()["ensemble"], some_photos()
    first = ensemble.explain(photos, ["color"])
    probs = ensemble.predict(photos).probs["color"]
    for row, found in enumerate(first):
        assert set(found) == {"color"}
        assert found["color"].label == SPACE.labels["color"][probs[row].argmax()]
        assert found["color"].probability == pytest.approx(probs[row].max())
    requested = ensemble.explain(photos[:1], ["class", "color"], {"color": "gray"})[0]
    assert requested["color"].label == "gray" and requested["color"].probability == pytest.approx(probs[0, 1])
    with pytest.raises(ExplanationError, match=r"size: no such task\. Available: class, color"):
        ensemble.explain(photos, ["size"])
    with pytest.raises(ExplanationError, match=r"color: no such label 'pink'\. Available: blue, gray, red"):
        ensemble.explain(photos, ["color"], {"color": "pink"})
