"""Distortions of printed glyphs, batched: what stands between clean print and handwriting.

A pool of clean glyphs is rendered once; each step draws from it and distorts in tensors. All randomness comes
from the generator that is passed in. Images are grey, white strokes on black, [B, 64, 64] in [0, 1].
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional

from task_streams.probes.glyphs import IMAGE_SIZE, TRAIN_FONTS, render_glyph


@dataclass(frozen=True, slots=True)
class Distortion:
    """How strongly glyphs are distorted.

    Attributes:
        degrees: standard deviation of the rotation.
        shear: standard deviation of the slant.
        width: lowest and highest factor on the width.
        height: lowest and highest factor on the height.
        shift: largest shift, as a part of half the image side.
        elastic: highest standard deviation of the control points' displacement, same unit.
        thickness: share of glyphs whose strokes are thinned or thickened.
        coarse: share of glyphs shrunk to 8 x 8 and enlarged again, as scikit-learn's digits are.
        noise: highest standard deviation of pixel noise; a third of the glyphs have any.
        inverted: share of glyphs in black on white.
    """

    degrees: float = 9.0
    shear: float = 0.15
    width: tuple[float, float] = (0.65, 1.15)
    height: tuple[float, float] = (0.75, 1.2)
    shift: float = 0.1
    elastic: float = 0.12
    thickness: float = 0.5
    coarse: float = 0.3
    noise: float = 0.12
    inverted: float = 0.03


def glyph_pool(labels: Sequence[str], fonts: Sequence[str] = TRAIN_FONTS) -> Tensor:
    """Clean glyphs of every label in every font: [labels, fonts, 64, 64]."""
    rows = [[torch.from_numpy(np.array(render_glyph(label, font))) for font in fonts] for label in labels]
    return torch.stack([torch.stack(row) for row in rows]).float() / 255


def distort(images: Tensor, strength: Distortion, generator: Generator) -> Tensor:
    """One random distortion per image: [B, 64, 64] -> [B, 64, 64]."""
    canvas = _bend(images.unsqueeze(1), strength, generator)
    canvas = _thicken(canvas, strength, generator)
    canvas = _coarsen(canvas, strength, generator)
    return _degrade(canvas, strength, generator).squeeze(1)


def _normal(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator)


def _uniform(generator: Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _chosen(generator: Generator, share: float, batch: int) -> Tensor:
    """1 for about ``share`` of the images, 0 for the others: [B, 1, 1, 1]."""
    return (torch.rand(batch, 1, 1, 1, generator=generator) < share).float()


def _bend(canvas: Tensor, strength: Distortion, generator: Generator) -> Tensor:
    """Rotation, slant, scale, shift and a smooth random displacement."""
    batch = canvas.shape[0]
    angle = torch.deg2rad(_normal(generator, batch) * strength.degrees)
    slant = _normal(generator, batch) * strength.shear
    width, height = (1 / _uniform(generator, *limits, batch) for limits in (strength.width, strength.height))
    cos, sin = angle.cos(), angle.sin()
    rows = [cos * width, (cos * slant - sin) * height, sin * width, (sin * slant + cos) * height]
    shift = _uniform(generator, -strength.shift, strength.shift, batch, 2, 1)
    matrix = torch.cat([torch.stack(rows, dim=-1).view(batch, 2, 2), shift], dim=-1)
    grid = functional.affine_grid(matrix, list(canvas.shape), align_corners=False)
    control = _normal(generator, batch, 2, 5, 5) * _uniform(generator, 0, strength.elastic, batch, 1, 1, 1)
    bend = functional.interpolate(control, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bicubic", align_corners=True)
    return functional.grid_sample(canvas, grid + bend.permute(0, 2, 3, 1), align_corners=False)


def _thicken(canvas: Tensor, strength: Distortion, generator: Generator) -> Tensor:
    """Strokes grown or shrunk by up to two pixels on each side."""
    batch = canvas.shape[0]
    amount = _uniform(generator, -0.7, 1.0, batch, 1, 1, 1) * _chosen(generator, strength.thickness, batch)
    grown = functional.max_pool2d(canvas, 5, stride=1, padding=2)
    shrunk = -functional.max_pool2d(-canvas, 3, stride=1, padding=1)
    return canvas + amount.clamp(min=0) * (grown - canvas) + amount.clamp(max=0) * (canvas - shrunk)


def _coarsen(canvas: Tensor, strength: Distortion, generator: Generator) -> Tensor:
    """Some images through 8 x 8 pixels and back, the brightest pixel made white."""
    small = functional.adaptive_avg_pool2d(canvas, 8)
    small = small / small.amax(dim=(1, 2, 3), keepdim=True).clamp(min=0.1)
    coarse = functional.interpolate(small, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bicubic", align_corners=False)
    chosen = _chosen(generator, strength.coarse, canvas.shape[0])
    return chosen * coarse.clamp(0, 1) + (1 - chosen) * canvas


def _degrade(canvas: Tensor, strength: Distortion, generator: Generator) -> Tensor:
    """Blur, contrast, noise and, rarely, inversion."""
    batch = canvas.shape[0]
    blurred = functional.avg_pool2d(canvas, 5, stride=1, padding=2)
    canvas = torch.lerp(canvas, blurred, _chosen(generator, 0.3, batch))
    canvas = canvas * _uniform(generator, 0.7, 1.2, batch, 1, 1, 1)
    sigma = _uniform(generator, 0, strength.noise, batch, 1, 1, 1) * _chosen(generator, 1 / 3, batch)
    canvas = (canvas + sigma * _normal(generator, *canvas.shape)).clamp(0, 1)
    return (canvas - _chosen(generator, strength.inverted, batch)).abs()
