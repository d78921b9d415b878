"""The evaluation transform agrees with timm; augmentation follows its params, independently for each photograph."""

from __future__ import annotations

import colorsys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional

from vitrine.learning.preprocess import (
    LUMA,
    Augmentation,
    AugmentationParams,
    Preprocessing,
    change_color,
    color_matrix,
    shrink_photos,
    to_pixels,
)
from vitrine.params import ParamsError, read_section
from vitrine.photos import Decoding

CPU = torch.device("cpu")
STILL = {
    "crop_area_min": 1.0,
    "flip_probability": 0.0,
    "rotation_degrees": 0.0,
    "translation_fraction": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "hue_fraction": 0.0,
    "erase_probability": 0.0,
    "erase_area_min": 0.1,
    "erase_area_max": 0.1,
}


def preprocessing(photo: int = 32, image: int = 32, crop: float = 1.0) -> Preprocessing:
    return Preprocessing(Decoding(photo, 50.0), image, crop, "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def augmentation(image: int = 32, **changes: float) -> Augmentation:
    return Augmentation(AugmentationParams(**{**STILL, **changes}), preprocessing(32, image))


def noise(num: int, side: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num, side, side, 3), dtype=np.uint8)


def smooth(num: int, side: int) -> np.ndarray:
    small = torch.from_numpy(noise(num, 6)).permute(0, 3, 1, 2).float()
    large = functional.interpolate(small, (side, side), mode="bicubic").clamp(0, 255)
    return large.byte().permute(0, 2, 3, 1).numpy()


def run(augment: Augmentation, photos: np.ndarray, seed: int = 0) -> torch.Tensor:
    return augment(photos, torch.Generator().manual_seed(seed), CPU)


@pytest.mark.parametrize("architecture", ["deit_tiny_patch16_224", "mobilevit_xxs"])
def test_evaluation_agrees_with_the_transform_of_timm(architecture: str) -> None:
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(architecture).to_dict())
    ours = Preprocessing.from_timm(config, 300, config["input_size"][1])
    photo = smooth(1, 300)
    expected = timm.data.create_transform(**config)(Image.fromarray(photo[0]))
    found = ours.eval_transform(photo, CPU)[0]
    assert found.shape == expected.shape
    # timm resizes bytes, then crops; we crop, then resize floats. The results differ only by rounding.
    assert (found - expected).abs().mean() < 0.02
    assert ours.mean == config["mean"] and ours.std == config["std"]


def test_the_two_backbones_are_normalized_differently() -> None:
    photo = np.zeros((1, 96, 96, 3), dtype=np.uint8)
    means = []
    for architecture in ("deit_tiny_patch16_224", "mobilevit_xxs"):
        config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(architecture).to_dict())
        means.append(Preprocessing.from_timm(config, 96, 96).eval_transform(photo, CPU).mean().item())
    assert means[0] < -1.8 and means[1] == 0.0


def test_evaluation_keeps_the_center() -> None:
    photo = np.zeros((1, 40, 40, 3), dtype=np.uint8)
    photo[:, 10:30, 10:30] = 255
    assert preprocessing(40, 20, crop=0.5).eval_transform(photo, CPU).min() == 1.0
    assert preprocessing(40, 20, crop=1.0).eval_transform(photo, CPU).mean() == pytest.approx(0.25, abs=0.01)


def test_preprocessing_survives_json() -> None:
    original = preprocessing(96, 112, 0.9)
    assert Preprocessing.from_json(original.to_json()) == original


def test_disabled_augmentation_changes_nothing() -> None:
    photos = noise(3)
    assert torch.allclose(run(augmentation(), photos), to_pixels(photos, CPU), atol=1e-5)


def test_flip_mirrors_left_and_right() -> None:
    photos = noise(3)
    assert torch.allclose(run(augmentation(flip_probability=1.0), photos), to_pixels(photos, CPU).flip(3), atol=1e-5)


def test_the_same_generator_gives_the_same_batch_and_another_does_not() -> None:
    augment = augmentation(crop_area_min=0.5, rotation_degrees=20.0, brightness=0.3, erase_probability=0.5)
    photos = noise(4)
    assert torch.equal(run(augment, photos, 1), run(augment, photos, 1))
    assert not torch.equal(run(augment, photos, 1), run(augment, photos, 2))


def test_every_photograph_is_augmented_independently() -> None:
    photos = np.repeat(noise(1), 8, axis=0)
    for change in (
        {"crop_area_min": 0.5},
        {"rotation_degrees": 20.0},
        {"translation_fraction": 0.1},
        {"brightness": 0.3},
    ):
        images = run(augmentation(**change), photos)
        assert len({image.sum().item() for image in images}) == 8, change


def test_rotations_are_drawn_within_the_angle() -> None:
    augment = augmentation(rotation_degrees=90.0)
    maps = augment._geometry(200, torch.Generator().manual_seed(0))
    angles = torch.atan2(maps[:, 1, 0], maps[:, 0, 0]).rad2deg()
    assert angles.abs().max() <= 90
    assert angles.max() > 80 and angles.min() < -80
    assert torch.allclose(torch.linalg.det(maps[:, :, :2]), torch.ones(200), atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.1, 1.0), st.integers(0, 1000))
def test_crops_stay_inside_the_photograph_and_above_the_minimum_area(area_min: float, seed: int) -> None:
    maps = augmentation(crop_area_min=area_min)._geometry(50, torch.Generator().manual_seed(seed))
    reach = maps[:, :, :2].abs().sum(dim=2) + maps[:, :, 2].abs()
    assert reach.max() <= 1 + 1e-5
    areas = torch.linalg.det(maps[:, :, :2])
    assert areas.min() >= area_min - 1e-5 and areas.max() <= 1 + 1e-5


def test_brightness_scales_and_contrast_keeps_the_mean_gray() -> None:
    pixels = torch.rand(1, 3, 8, 8, dtype=torch.float32, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.3
    one = torch.ones(1)
    brighter = change_color(pixels, color_matrix(1.2 * one, one, 0 * one), one)
    assert torch.allclose(brighter, 1.2 * pixels, atol=1e-5)
    flat = change_color(pixels, color_matrix(one, one, 0 * one), 0.5 * one)
    luma = torch.tensor(LUMA).view(3, 1, 1)
    assert (flat * luma).sum(1).mean() == pytest.approx((pixels * luma).sum(1).mean().item(), abs=1e-3)
    assert flat.std() < 0.6 * pixels.std()


def test_saturation_zero_gives_gray_and_a_hue_shift_of_a_third_swaps_the_primaries() -> None:
    one = torch.ones(1)
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    gray = change_color(red, color_matrix(one, 0 * one, 0 * one), one).flatten()
    assert torch.allclose(gray, torch.full((3,), LUMA[0]), atol=1e-4)
    turned = change_color(red, color_matrix(one, one, 2 * torch.pi / 3 * one), one).flatten()
    assert colorsys.rgb_to_hsv(*turned.tolist())[0] == pytest.approx(1 / 3, abs=1e-3)


def test_hue_zero_keeps_the_order_of_the_channels() -> None:
    photos = np.zeros((20, 32, 32, 3), dtype=np.uint8)
    photos[..., 0], photos[..., 1], photos[..., 2] = 180, 90, 30
    images = run(augmentation(brightness=0.3, contrast=0.3, saturation=0.3), photos)
    hues = [colorsys.rgb_to_hsv(*image[:, 16, 16].tolist())[0] for image in images]
    assert np.ptp(hues) < 0.03


def test_erasing_blanks_the_configured_area() -> None:
    photos = np.full((64, 32, 32, 3), 255, dtype=np.uint8)
    images = run(augmentation(erase_probability=1.0), photos)
    blank = (images == 0).all(dim=1).float().mean(dim=(1, 2))
    assert (blank > 0.02).all() and blank.mean() == pytest.approx(0.1, abs=0.02)
    assert (run(augmentation(erase_probability=0.0), photos) == 0).sum() == 0


def test_large_photographs_are_shrunk_smoothly_and_small_ones_kept() -> None:
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255
    photos = np.repeat(board[None, :, :, None], 3, axis=3).astype(np.uint8)
    shrunk = shrink_photos(photos, 16)
    assert shrunk.shape == (1, 16, 16, 3)
    assert np.abs(shrunk[:, 3:-3, 3:-3].astype(int) - 127).max() < 12  # the average, not a few sampled squares
    assert np.array_equal(shrink_photos(photos, 64), photos)


def test_the_minimum_erased_area_must_not_exceed_the_maximum(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump({"training": {**STILL, "erase_area_min": 0.2, "erase_area_max": 0.1}}))
    with pytest.raises(
        ParamsError, match=r"training\.erase_area_max: expected at least erase_area_min, 0\.2; found 0\.1"
    ):
        read_section("training", AugmentationParams, path)
