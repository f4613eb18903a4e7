"""Scenes of dead leaves: a model of the natural image, before it becomes pixels.

Discs, boxes and diamonds of power-law sizes occlude one another (Lee, Mumford and Huang, "Occlusion Models for Natural
Images", 2001) over a field whose amplitude falls with the frequency as ``1/f`` (Ruderman and Bialek, "Statistics of
Natural Images", 1994). Beyond that model the leaves are shaded and textured and have soft edges, saturation differs
between images, some images are drawn (flat colours, strokes), and some are symmetric, as animals and vehicles are.

The constants bring chroma and the gradients at three scales near those of CIFAR-10 and ImageNet, and the ranges of the
networks of ``benchmarks/procedural.py`` near those from real images.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32
from numpy.random import Generator

Scene = Float32[np.ndarray, "channels height width"]

SMALL = 32
"""Side of an image for which LEAVES holds; their number grows with the square root of the side."""

LEAVES, RADII, POWER = (10, 60), (0.02, 0.6), 1.5
"""How many; radii as parts of the shorter side, and the negative exponent of their density. Scale invariance has 3,
but of so few leaves hardly one would then be large."""

CHROMA = 0.33
"""Deviation of each colour contrast to the one before it, the first being the brightness: neighbouring channels
correlate by 0.9, as in photographs."""

SATURATION = 0.45
"""Deviation of the logarithm of chroma between images: some are nearly grey, some vivid."""

SLOPES = (1.0, 1.6)
"""Of the background's amplitude over the frequency, on logarithmic axes; sharp to hazy images."""

FIELD, TEXTURE, SHADING = 0.6, 0.2, 0.5
"""Deviations of the background, of the texture of a leaf (on average), and of its shading from centre to border."""

DRAWN, DRAWN_GAIN, STROKES, SYMMETRIC = 0.05, 1.2, 0.3, 0.4
"""Shares of the images that are drawn, with their contrast and their share of strokes, and that are symmetric."""


_DISTANCES = (lambda u, v: np.sqrt(u * u + v * v), np.maximum, np.add)
"""Of a point from the centre of a disc, box or diamond; 1 on its border."""


class _Leaf(NamedTuple):
    """Centre, semi-axes, width of the edge, half the height and width of what is covered, all in pixels; its look."""

    y: float
    x: float
    long: float
    short: float
    cos: float
    sin: float
    edge: float
    reach_y: float
    reach_x: float
    kind: int  # disc, box, diamond
    shade_y: float
    shade_x: float
    texture: float


def random_scene(random: Generator, channels: int, height: int, width: int) -> Scene:
    """Leaves over a field; a value has mean 0 and a deviation near 1."""
    drawn = random.random() < DRAWN
    count = max(1, int(random.uniform(*LEAVES) * math.sqrt(min(height, width) / SMALL)))
    background, texture = _fields(random, height, width, random.uniform(*SLOPES))
    chroma = CHROMA * math.exp(random.normal(0, SATURATION))
    colours = _colours(random, count + 2, channels, chroma) * (DRAWN_GAIN if drawn else 1)
    scene: Scene = colours[-1] + background * colours[-2] * (0.1 * FIELD if drawn else FIELD)
    for leaf, colour in zip(_leaves(random, count, height, width, drawn), colours[:-2], strict=True):
        _paint(scene, texture, leaf, colour)
    if random.random() < SYMMETRIC:
        half = width // 2
        scene[:, :, width - half :] = scene[:, :, :half][:, :, ::-1]
    return scene


def _fields(
    random: Generator, height: int, width: int, slope: float
) -> tuple[Float32[np.ndarray, "height width"], Float32[np.ndarray, "height width"]]:
    """Two independent Gaussian fields of mean 0 and deviation 1, whose amplitude is ``frequency ** -slope``."""
    noise = random.standard_normal((2, height, width), dtype=np.float32)
    spectrum = np.fft.rfft2(noise) * _frequencies(height, width) ** np.float32(-slope)
    fields = np.fft.irfft2(spectrum, (height, width)).astype(np.float32)
    first, second = fields / fields.std(axis=(1, 2), keepdims=True).clip(1e-6)
    return first, second


@lru_cache(maxsize=1)
def _frequencies(height: int, width: int) -> Float32[np.ndarray, "height half_width"]:
    """Cycles a pixel of each coefficient of ``rfft2``; infinite for the constant, which thus vanishes."""
    found: Float32[np.ndarray, "height half_width"]
    found = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)).astype(np.float32)
    found[0, 0] = np.inf
    return found


def _colours(
    random: Generator, count: int, channels: int, chroma: float
) -> Float32[np.ndarray, "count channels 1 1"]:
    """Normal colours of deviation 1 a channel, along the basis of the cosine transform over the channels.

    Its first vectors are the principal components of photographs: brightness, blue against yellow, green against
    magenta (Ruderman, Cronin and Chiao 1998), in both orders of the channels.
    """
    order = np.arange(channels)
    basis = np.cos(np.pi * order[:, None] * (order + 0.5) / channels)
    basis *= (min(chroma, 1.0) ** order / np.linalg.norm(basis, axis=1))[:, None]
    basis /= np.sqrt((basis**2).sum(axis=0))
    return (random.standard_normal((count, channels)) @ basis).astype(np.float32)[:, :, None, None]


def _leaves(random: Generator, count: int, height: int, width: int, drawn: bool) -> Iterator[_Leaf]:
    """The leaves in the order in which they are painted; those of a drawing are flat, and many are strokes."""
    side = min(height, width)
    low, high = max(RADII[0] * side, 1.0) ** (1 - POWER), (RADII[1] * side) ** (1 - POWER)
    long = (low + random.random(count) * (high - low)) ** (1 / (1 - POWER))
    aspect, kind = np.exp(random.normal(0, 0.4, count)), random.integers(0, 3, count)
    angle, edge = random.uniform(0, 2 * np.pi, count), 1 + np.exp(random.normal(0, 0.7, count))
    centre = random.random((count, 2)) * (height, width)
    shade, texture = random.normal(0, SHADING, (count, 2)), random.exponential(TEXTURE, count)
    if drawn:
        stroke = random.random(count) < STROKES
        aspect, kind = np.where(stroke, random.uniform(0.03, 0.2, count), aspect), np.where(stroke, 1, kind)
        upright = np.round(angle / (np.pi / 2)) * (np.pi / 2)
        angle = np.where(random.random(count) < 0.6, upright, angle)
        shade, texture, edge = shade * 0.1, texture * 0.1, np.ones(count)
    short = np.maximum(long * aspect, 0.5)
    cos, sin = np.cos(angle), np.sin(angle)
    along, across = np.abs(np.stack([long * sin, long * cos])), np.abs(np.stack([short * cos, short * sin]))
    reach = np.where(kind == 1, along + across, np.hypot(along, across)) + edge
    columns = (*centre.T, long, short, cos, sin, edge, *reach, kind, *(shade / long[:, None]).T, texture)
    yield from map(_Leaf, *(column.tolist() for column in columns))


def _paint(
    scene: Scene,
    texture: Float32[np.ndarray, "height width"],
    leaf: _Leaf,
    colour: Float32[np.ndarray, "channels 1 1"],
) -> None:
    """Covers the part of ``scene`` below ``leaf``, in place."""
    _, height, width = scene.shape
    top, bottom = max(0, int(leaf.y - leaf.reach_y)), min(height, int(leaf.y + leaf.reach_y) + 2)
    left, right = max(0, int(leaf.x - leaf.reach_x)), min(width, int(leaf.x + leaf.reach_x) + 2)
    ys = np.arange(top, bottom, dtype=np.float32)[:, None] - leaf.y
    xs = np.arange(left, right, dtype=np.float32) - leaf.x
    u = xs * (leaf.cos / leaf.long) + ys * (leaf.sin / leaf.long)
    v = ys * (leaf.cos / leaf.short) - xs * (leaf.sin / leaf.short)
    distance = _DISTANCES[leaf.kind](np.abs(u, out=u), np.abs(v, out=v))
    sharpness = min(leaf.long, leaf.short) / leaf.edge
    cover = np.clip((0.5 + sharpness) - distance * sharpness, 0, 1)
    look = texture[top:bottom, left:right] * leaf.texture + (xs * leaf.shade_x + ys * leaf.shade_y)
    part = scene[:, top:bottom, left:right]
    change = colour + look
    change -= part
    change *= cover
    part += change
