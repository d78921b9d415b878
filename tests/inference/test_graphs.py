"""Backbones rearranged for export give the same features as those of timm."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from vitrine.inference.graphs import EvenTokens, rearrange_backbone


def backbone(name: str, **size: int) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **size)
    for parameter in model.parameters():  # timm's class token starts near zero, some scales at zero
        parameter.data += 0.02 * torch.randn_like(parameter)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "side", "size"),
    [
        ("mobilevit_xxs", 128, {}),
        ("mobilevit_xxs", 80, {}),  # the last maps are 5 x 5, not divisible into patches of 2 x 2
        ("test_vit", 32, {"img_size": 32}),  # 5 tokens
        ("test_vit", 48, {"img_size": 48}),  # 10 tokens
        ("test_efficientnet", 64, {}),
    ],
)
def test_features_are_the_same(name: str, side: int, size: dict[str, int]) -> None:
    model, images = backbone(name, **size), torch.randn(3, 3, side, side)
    with torch.inference_mode():
        expected, found = model(images), rearrange_backbone(copy.deepcopy(model))(images)
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_only_an_odd_number_of_tokens_is_padded() -> None:
    lengths: list[int] = []
    for side in (32, 48):
        model = rearrange_backbone(backbone("test_vit", img_size=side))
        inner = model.backbone if isinstance(model, EvenTokens) else model
        inner.blocks[0].register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
        model(torch.zeros(1, 3, side, side))
    assert lengths == [6, 10]


def test_no_token_attends_to_the_added_one() -> None:
    model = rearrange_backbone(backbone("test_vit", img_size=32))
    assert isinstance(model, EvenTokens)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        expected = model(images)
        model.backbone.norm_pre[1].value = 7.0  # the initial value of the added token
        torch.testing.assert_close(model(images), expected, rtol=0, atol=0)
