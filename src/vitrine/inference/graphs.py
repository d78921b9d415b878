"""Rearrange backbones so that runtimes compute them faster. Features stay the same, up to rounding."""

from __future__ import annotations

from types import MethodType

import torch
from timm.models.mobilevit import MobileVitBlock
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

MASKED = -1e4
"""Added to the attention scores of a masked token; its softmax is 0."""


def rearrange_backbone(backbone: nn.Module) -> nn.Module:
    """Modify a timm backbone for export, and return it.

    MobileViT's blocks move whole pixels, and a vision transformer gets an even number of tokens; other backbones
    are unchanged.
    """
    for module in backbone.modules():
        if isinstance(module, MobileVitBlock):
            module.forward = MethodType(_mobilevit_block, module)  # type: ignore[method-assign]
    if isinstance(backbone, VisionTransformer) and _num_tokens(backbone) % 2:
        return EvenTokens(backbone)
    return backbone


class EvenTokens(nn.Module):
    """A vision transformer with one extra token that no token attends to.

    bfloat16 instructions multiply values in pairs. With the 65 tokens of DeiT at 128 px, OpenVINO multiplies attention
    and values without AMX.
    """

    mask: Tensor

    def __init__(self, backbone: VisionTransformer) -> None:
        super().__init__()
        self.num_tokens = _num_tokens(backbone)
        mask = torch.zeros(1, 1, 1, self.num_tokens + 1)  # broadcast over images, heads and queries
        mask[..., -1] = MASKED
        self.register_buffer("mask", mask)
        self.backbone = backbone
        self.backbone.norm_pre = nn.Sequential(backbone.norm_pre, nn.ZeroPad2d((0, 0, 0, 1)))

    def forward(self, images: Tensor) -> Tensor:
        """Shape: (batch, channels, height, width) -> (batch, features)."""
        tokens = self.backbone.forward_features(images, attn_mask=self.mask)
        features: Tensor = self.backbone.forward_head(tokens[:, : self.num_tokens])
        return features


def _num_tokens(backbone: VisionTransformer) -> int:
    return int(backbone.patch_embed.num_patches + backbone.num_prefix_tokens)


def _mobilevit_block(block: MobileVitBlock, maps: Tensor) -> Tensor:
    """Compute the same as timm's MobileVitBlock.

    Its transformer takes the pixels at the same position in all patches as one sequence. timm builds these sequences
    from planes, one pixel at a time. With the channels last, one permutation moves all channels of a pixel at once.

    Shape:
        maps: (batch, channels, height, width)
    """
    local = block.conv_1x1(block.conv_kxk(maps))
    batch, channels, height, width = local.shape
    rows, columns = block.patch_size
    down, across = -(-height // rows), -(-width // columns)
    whole = (down * rows, across * columns) == (height, width)
    if not whole:
        size = (down * rows, across * columns)
        local = functional.interpolate(local, size=size, mode="bilinear", align_corners=False)
    pixels = local.permute(0, 2, 3, 1).reshape(batch, down, rows, across, columns, channels)
    sequences = pixels.permute(0, 2, 4, 1, 3, 5).reshape(batch * rows * columns, down * across, channels)
    sequences = block.norm(block.transformer(sequences))
    pixels = sequences.reshape(batch, rows, columns, down, across, channels).permute(0, 3, 1, 4, 2, 5)
    out = pixels.reshape(batch, down * rows, across * columns, channels).permute(0, 3, 1, 2)
    if not whole:
        out = functional.interpolate(out, size=(height, width), mode="bilinear", align_corners=False)
    out = block.conv_proj(out)
    if block.conv_fusion is not None:
        out = block.conv_fusion(torch.cat((maps, out), dim=1))
    return out
