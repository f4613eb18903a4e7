"""Procedural images: what stands in for photographs where no generator can be trained and no data is at hand."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from calibrators.data.batches import Batch
from calibrators.data.images import UNKNOWN
from calibrators.data.input_spec import InputSpec

P = dict(
    rho=0.9,
    n=(10, 60),
    power=2.0,
    rmin=0.03,
    rmax=0.6,
    tex=0.35,
    bg=1.0,
    alpha=(0.8, 1.5),
    bright=0.5,
    contrast=0.45,
    grad=0.5,
    g_share=0.3,
    g_gain=1.6,
    g_stroke=0.5,
    leafc=1.0,
    gain=1.0,
    fine=0.0,
    soft=1.0,
)


def colours(spec):
    natural = all(0.0 < m < 1.0 and 0.1 <= s <= 0.4 for m, s in zip(spec.mean, spec.std))
    n = spec.shape[0]
    mean, std = (spec.mean, spec.std) if natural else ((0.45,) * n, (0.26,) * n)
    return np.array(mean, np.float32)[:, None, None], np.array(std, np.float32)[:, None, None]


def fields(rng, count, height, width, alpha):
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    f = np.hypot(fy, fx)
    f[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((count, height, width), dtype=np.float32)) * f**-alpha
    x = np.fft.irfft2(spectrum, (height, width)).astype(np.float32)
    return x / x.std(axis=(1, 2), keepdims=True)


def mixed(rng, count, channels, rho):
    """Colours [count, C] standard normal, correlated rho."""
    return math.sqrt(rho) * rng.standard_normal((count, 1)) + math.sqrt(1 - rho) * rng.standard_normal(
        (count, channels)
    )


def scene(rng, channels, height, width):
    p = P
    graphic = rng.random() < p["g_share"]
    side = min(height, width)
    field, texture = fields(rng, 2, height, width, rng.uniform(*p["alpha"]))
    n = int(rng.integers(p["n"][0], p["n"][1] + 1))
    e = 1 - p["power"]
    lo, hi = max(p["rmin"] * side, 1.0), p["rmax"] * side
    r = (lo**e + rng.random(n) * (hi**e - lo**e)) ** (1 / e) if e else lo * (hi / lo) ** rng.random(n)
    at = rng.random((n, 2)) * (height, width)
    angle = rng.random(n) * 2 * math.pi
    kind = rng.integers(0, 3, n)
    aspect = np.exp(rng.normal(0, 0.4, n))
    soft = np.exp(rng.normal(0, 0.7, n)) * p["soft"] + 0.5
    colour = mixed(rng, n + 1, channels, p["rho"]) * p["leafc"]
    grad = rng.normal(0, p["grad"], (n, 2))
    amp = p["tex"] * rng.exponential(1.0, n)
    if graphic:
        colour *= p["g_gain"]
        amp *= 0.1
        grad *= 0.1
        soft[:] = 0.7
        stroke = rng.random(n) < p["g_stroke"]
        aspect = np.where(stroke, rng.uniform(0.03, 0.2, n), aspect)
        kind = np.where(stroke, 1, kind)
        angle = np.where(rng.random(n) < 0.6, np.round(angle / (math.pi / 2)) * (math.pi / 2), angle)
    image = np.empty((channels, height, width), np.float32)
    image[:] = colour[n].astype(np.float32)[:, None, None]
    image += field * (
        p["bg"]
        * (0.1 if graphic else 1.0)
        * mixed(rng, 1, channels, 0.95).astype(np.float32)[0][:, None, None]
    )
    cs, sn = np.cos(angle), np.sin(angle)
    for i in range(n):
        paint(
            image, texture, at[i], r[i], aspect[i], cs[i], sn[i], kind[i], soft[i], colour[i], grad[i], amp[i]
        )
    return image


def paint(image, texture, at, r, aspect, c, s, kind, soft, colour, grad, amp):
    _, height, width = image.shape
    a, b = r, max(r * aspect, 0.5)
    reach = (1.0 if kind == 0 else 1.42) if kind != 2 else 1.0
    ry = reach * math.hypot(a * s, b * c) + soft if kind != 1 else a * abs(s) + b * abs(c) + soft
    rx = reach * math.hypot(a * c, b * s) + soft if kind != 1 else a * abs(c) + b * abs(s) + soft
    y0, y1 = max(0, int(at[0] - ry)), min(height, int(at[0] + ry) + 2)
    x0, x1 = max(0, int(at[1] - rx)), min(width, int(at[1] + rx) + 2)
    if y0 >= y1 or x0 >= x1:
        return
    ys = np.arange(y0 - at[0], y1 - at[0], dtype=np.float32)[: y1 - y0, None]
    xs = np.arange(x0 - at[1], x1 - at[1], dtype=np.float32)[: x1 - x0]
    u = np.abs(xs * np.float32(c / a) + ys * np.float32(s / a))
    v = np.abs(ys * np.float32(c / b) - xs * np.float32(s / b))
    d = np.sqrt(u * u + v * v) if kind == 0 else np.maximum(u, v) if kind == 1 else u + v
    alpha = np.clip(0.5 + (1 - d) * np.float32(min(a, b) / soft), 0, 1)
    shade = (
        texture[y0:y1, x0:x1] * np.float32(amp) + xs * np.float32(grad[0] / r) + ys * np.float32(grad[1] / r)
    )
    part = image[:, y0:y1, x0:x1]
    part += alpha * (colour.astype(np.float32)[:, None, None] + shade - part)


def procedural_image(spec, seed, index):
    p = P
    rng = np.random.default_rng((seed, index))
    mean, std = colours(spec)
    x = scene(rng, *spec.shape)
    brightness = rng.normal(0, p["bright"])
    contrast = np.exp(rng.normal(-0.1, p["contrast"]))
    if p["fine"]:
        x += rng.standard_normal(x.shape[1:], dtype=np.float32) * np.float32(p["fine"] * rng.exponential())
    x = (x * np.float32(contrast * p["gain"]) + np.float32(brightness)) * std + mean
    return np.rint(np.clip(x, 0, 1) * 255) / np.float32(255)


def procedural_images(spec: InputSpec, count: int, seed: int, first: int = 0) -> Tensor:
    pix = np.stack([procedural_image(spec, seed, first + i) for i in range(count)]).astype(np.float32)
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (spec.mean, spec.std))
    return (torch.from_numpy(pix) - mean) / std


@dataclass(frozen=True)
class ProceduralBatches:
    spec: InputSpec
    num_samples: int
    batch_size: int
    seed: int = 0

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, self.num_samples, self.batch_size):
            count = min(self.batch_size, self.num_samples - start)
            yield procedural_images(self.spec, count, self.seed, start), torch.full((count,), UNKNOWN)
