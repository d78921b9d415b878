"""Start weights for a transformer that nothing has trained yet."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def mimetic_init(backbone: nn.Module, generator: torch.Generator) -> None:
    """Start attention as trained transformers look: queries meet their own keys, values are subtracted.

    Source:
        Trockman and Kolter, Mimetic initialization of self-attention layers (2023), equations 4 and 5, with its
        strengths 0.7, 0.7, 0.4, 0.4 and its sinusoidal position embeddings.
    """
    for block in backbone.blocks:  # type: ignore[union-attr]
        attention = block.attn
        width, heads = attention.proj.weight.shape[0], attention.num_heads
        size = width // heads
        query, key, value = attention.qkv.weight.view(3, width, width)
        for head in range(heads):
            rows = slice(head * size, (head + 1) * size)
            left, right = _factors(0.7, 0.7, width, size, generator)
            query[rows], key[rows] = left.T, right
        left, right = _factors(0.4, -0.4, width, width, generator)
        attention.proj.weight.copy_(left)
        value.copy_(right)
    positions = backbone.pos_embed
    assert isinstance(positions, Tensor)
    grid = round((positions.shape[1] - 1) ** 0.5)
    positions[:, positions.shape[1] - grid**2 :] = _sinusoids(grid, positions.shape[2])


def _factors(noise: float, identity: float, width: int, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Factor noise * Z + identity * I, best at this rank. Shape: (width, rank), (rank, width)."""
    target = noise * torch.randn(width, width, generator=generator) / width**0.5 + identity * torch.eye(width)
    left, scales, right = torch.linalg.svd(target)
    roots = scales[:rank].sqrt()
    return left[:, :rank] * roots, roots[:, None] * right[:rank]


def _sinusoids(grid: int, width: int) -> Tensor:
    """Shape: (grid * grid, width); a half for rows, a half for columns.

    Source:
        Chen, Xie and He, An empirical study of training self-supervised vision transformers (2021), position embedding.
    """
    quarter = width // 4
    omega = 1 / 10_000 ** (torch.arange(quarter) / quarter)
    rows, columns = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    waves = [rows.flatten()[:, None] * omega, columns.flatten()[:, None] * omega]
    return torch.cat([wave for angle in waves for wave in (angle.sin(), angle.cos())], dim=1)
