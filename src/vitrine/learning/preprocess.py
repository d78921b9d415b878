"""Convert stored photographs to network inputs: the evaluation transform and the batched training augmentation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor
from torch.nn import functional

from vitrine.params import Section
from vitrine.photos import Decoding

Fraction = Annotated[float, Field(ge=0, le=1)]
Strength = Annotated[float, Field(ge=0, lt=1)]

ASPECT_RATIO_LIMIT = 4 / 3
"""Largest ratio of a crop's longer to its shorter side: the limit of torchvision's RandomResizedCrop."""

LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in a gray value. Source: torchvision.transforms.functional.rgb_to_grayscale."""


@dataclass(frozen=True)
class Preprocessing:
    """What a backbone expects of its input; taken from timm and saved with every checkpoint."""

    decoding: Decoding
    image_size_px: int
    crop_fraction: float
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def from_timm(cls, data_config: Mapping[str, Any], decoding: Decoding, image_size_px: int) -> Preprocessing:
        """Take crop, interpolation, mean and std from `timm.data.resolve_model_data_config`."""
        return cls(
            decoding,
            image_size_px,
            float(data_config["crop_pct"]),
            "bilinear" if data_config["interpolation"] == "bilinear" else "bicubic",
            _rgb(data_config["mean"]),
            _rgb(data_config["std"]),
        )

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Preprocessing:
        mean, std = _rgb(document["mean"]), _rgb(document["std"])
        return cls(**{**document, "decoding": Decoding(**document["decoding"]), "mean": mean, "std": std})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def eval_transform(self, photos: NDArray[np.uint8], device: torch.device) -> Tensor:
        """Crop the center, resize and normalize: timm's evaluation transform, for a whole batch.

        Shape:
            photos: (batch, height, width, channels), square
            returns: (batch, channels, image_size_px, image_size_px), float32, channels last in memory
        """
        pixels = to_pixels(photos, device)
        side = pixels.shape[-1]
        crop = min(side, max(1, round(side * self.crop_fraction)))
        start = (side - crop) // 2
        pixels = pixels[:, :, start : start + crop, start : start + crop]
        size = (self.image_size_px, self.image_size_px)
        resized = functional.interpolate(pixels, size, mode=self.interpolation, antialias=True, align_corners=False)
        return self.normalize(resized.clamp(0, 1)).contiguous(memory_format=torch.channels_last)

    def normalize(self, pixels: Tensor) -> Tensor:
        """Standardize pixels in [0, 1] with the backbone's mean and std. Shape: (batch, channels, height, width)."""
        mean, std = self._statistics(pixels.device)
        return (pixels - mean) / std

    def denormalize(self, inputs: Tensor) -> Tensor:
        """Undo `normalize`. Shape: (batch, channels, height, width)."""
        mean, std = self._statistics(inputs.device)
        return inputs * std + mean

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        mean, std = torch.tensor(self.mean, device=device), torch.tensor(self.std, device=device)
        return mean.view(1, 3, 1, 1), std.view(1, 3, 1, 1)


def _rgb(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)


def to_pixels(photos: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Scale bytes to [0, 1]. Shape: (batch, height, width, channels) -> (batch, channels, height, width)."""
    return torch.from_numpy(np.array(photos)).to(device).permute(0, 3, 1, 2).contiguous().float().div_(255)


def resize_images(images: Tensor, side_px: int) -> Tensor:
    """Resize square images smoothly. Shape: (batch, channels, height, width) -> (batch, channels, side_px, side_px)."""
    side = images.shape[-1]
    if side == side_px:
        return images
    return functional.interpolate(images, (side_px, side_px), mode="bilinear", antialias=side_px < side)


def shrink_photos(photos: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    """Downscale photographs larger than `side_px` with antialiasing, so that augmentation does not alias.

    Shape:
        (photos, height, width, channels), square
    """
    if photos.shape[1] <= side_px:
        return np.asarray(photos)
    shrunk = np.empty((len(photos), side_px, side_px, 3), dtype=np.uint8)
    for start in range(0, len(photos), 64):
        pixels = to_pixels(photos[start : start + 64], torch.device("cpu"))
        smaller = functional.interpolate(pixels, (side_px, side_px), mode="bicubic", antialias=True).clamp(0, 1)
        shrunk[start : start + 64] = smaller.mul(255).round().byte().permute(0, 2, 3, 1).numpy()
    return shrunk


class AugmentationParams(Section):
    """Strength of the augmentation of training photographs."""

    crop_area_min: Annotated[float, Field(gt=0, le=1)]
    flip_probability: Fraction
    rotation_degrees: Annotated[float, Field(ge=0, le=180)]
    translation_fraction: Strength
    brightness: Strength
    contrast: Strength
    saturation: Strength
    hue_fraction: Annotated[float, Field(ge=0, le=0.5)]
    erase_probability: Fraction
    erase_area_min: Annotated[float, Field(gt=0, le=1)]
    erase_area_max: Annotated[float, Field(gt=0, le=1)]

    @field_validator("erase_area_max")
    @classmethod
    def _not_below_the_min(cls, value: float, info: ValidationInfo) -> float:
        minimum = info.data.get("erase_area_min", value)
        if value < minimum:
            raise ValueError(f"at least erase_area_min, {minimum:g}")
        return value


class Augmentation:
    """Random crop, flip, rotation, shift, color and erasing, drawn per photograph and applied to whole batches.

    To keep it cheap, color is changed at the stored size, and all geometry is a single resampling to the network's
    input size.
    """

    def __init__(self, params: AugmentationParams, preprocessing: Preprocessing) -> None:
        self.params = params
        self.preprocessing = preprocessing

    def __call__(
        self, photos: NDArray[np.uint8], generator: torch.Generator, device: torch.device, share: slice = slice(None)
    ) -> Tensor:
        """Return augmented, normalized inputs; every random number comes from `generator` (on the CPU).

        Args:
            share: which photographs to return; random numbers are drawn for all, so that each is augmented as it
                would be in the whole batch.
        Shape:
            photos: (batch, height, width, channels), square
            returns: (share, channels, image_size_px, image_size_px), float32, channels last in memory
        """
        batch, side = len(photos), self.preprocessing.image_size_px
        matrix, contrast = (drawn[share] for drawn in self._color(batch, generator))
        geometry = self._geometry(batch, generator)[share].to(device)
        erased = self._erased(batch, side, generator)[share].to(device)

        pixels = self.preprocessing.normalize(change_color(to_pixels(photos[share], device), matrix, contrast))
        grid = functional.affine_grid(geometry, [len(pixels), 3, side, side], align_corners=False)
        inputs = functional.grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        inputs.masked_fill_(erased, 0.0)
        return inputs.contiguous(memory_format=torch.channels_last)

    def _color(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        def factor(strength: float) -> Tensor:
            return 1 + strength * (2 * torch.rand(batch, generator=generator) - 1)

        brightness, contrast = factor(self.params.brightness), factor(self.params.contrast)
        saturation = factor(self.params.saturation)
        hue_radians = 2 * math.pi * self.params.hue_fraction * (2 * torch.rand(batch, generator=generator) - 1)
        return color_matrix(brightness, saturation, hue_radians), contrast

    def _geometry(self, batch: int, generator: torch.Generator) -> Tensor:
        """Draw the maps from output to source coordinates, both in [-1, 1]. Shape: (batch, 2, 3)."""
        draw = torch.rand(8, batch, generator=generator)
        area = self.params.crop_area_min + (1 - self.params.crop_area_min) * draw[0]
        # A large crop leaves less room for its aspect ratio, which is drawn from what fits into the square.
        limit = torch.minimum(torch.tensor(math.log(ASPECT_RATIO_LIMIT)), -area.log())
        ratio = torch.exp(limit * (2 * draw[1] - 1))
        width, height = (area * ratio).sqrt(), (area / ratio).sqrt()
        center = torch.stack([(1 - width) * (2 * draw[2] - 1), (1 - height) * (2 * draw[3] - 1)], dim=1)
        mirror = torch.where(draw[4] < self.params.flip_probability, -1.0, 1.0)
        angle = math.radians(self.params.rotation_degrees) * (2 * draw[5] - 1)
        shift = 2 * self.params.translation_fraction * (2 * draw[6:8].T - 1)
        cosine, sine = angle.cos(), angle.sin()
        linear = torch.stack(
            [
                torch.stack([width * mirror * cosine, -width * mirror * sine], dim=1),
                torch.stack([height * sine, height * cosine], dim=1),
            ],
            dim=1,
        )
        offset = center - torch.einsum("bij,bj->bi", linear, shift)
        return torch.cat([linear, offset.unsqueeze(2)], dim=2)

    def _erased(self, batch: int, side: int, generator: torch.Generator) -> Tensor:
        """Draw the rectangles to erase. Shape: (batch, 1, side, side), boolean."""
        draw = torch.rand(5, batch, generator=generator)
        area = self.params.erase_area_min + (self.params.erase_area_max - self.params.erase_area_min) * draw[0]
        ratio = torch.exp(math.log(1 / 0.3) * (2 * draw[1] - 1))  # torchvision's RandomErasing: 0.3 to 3.3
        height, width = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
        top, left = (1 - height) * draw[2], (1 - width) * draw[3]
        centers = (torch.arange(side) + 0.5) / side
        rows = (centers >= top[:, None]) & (centers < (top + height)[:, None])
        columns = (centers >= left[:, None]) & (centers < (left + width)[:, None])
        chosen = draw[4] < self.params.erase_probability
        return (rows[:, :, None] & columns[:, None, :] & chosen[:, None, None]).unsqueeze(1)


def color_matrix(brightness: Tensor, saturation: Tensor, hue_radians: Tensor) -> Tensor:
    """Compose brightness, saturation and a hue rotation into one matrix per photograph.

    Saturation blends a pixel with its gray value; hue rotates about the gray axis (1, 1, 1).

    Shape:
        all three: (batch,); returns: (batch, 3, 3)
    Source:
        torchvision.transforms.functional (brightness, saturation); Rodrigues' rotation formula (hue).
    """
    identity = torch.eye(3)
    gray = torch.tensor(LUMA).expand(3, 3)
    saturate = saturation[:, None, None] * identity + (1 - saturation)[:, None, None] * gray
    axis = torch.full((3,), 1 / math.sqrt(3))
    cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)
    cosine, sine = hue_radians.cos()[:, None, None], hue_radians.sin()[:, None, None]
    rotation = cosine * identity + sine * cross + (1 - cosine) * torch.outer(axis, axis)
    return rotation @ saturate * brightness[:, None, None]


def change_color(pixels: Tensor, matrix: Tensor, contrast: Tensor) -> Tensor:
    """Scale the contrast about each photograph's mean gray, apply its color matrix, and clip to [0, 1].

    Shape:
        pixels: (batch, channels, height, width); matrix: (batch, 3, 3); contrast: (batch,)
    """
    batch = len(pixels)
    flat = pixels.flatten(2)
    luma = torch.tensor(LUMA, device=pixels.device)
    mean_gray = (flat.mean(dim=2) @ luma).view(batch, 1, 1)
    contrast = contrast.to(pixels.device).view(batch, 1, 1)
    matrix = matrix.to(pixels.device)
    offset = matrix.sum(dim=2, keepdim=True) * (1 - contrast) * mean_gray
    return torch.baddbmm(offset.expand(batch, 3, flat.shape[2]), matrix * contrast, flat).clamp_(0, 1).view_as(pixels)
