"""Cluttered digits: one near-white handwritten digit on a dark, cluttered 96x96 background.

Every function is a pure function of its arguments: the same seed gives the same bytes on every
machine. For that, pixels are made only by elementwise IEEE operations (no BLAS, no SIMD-dependent
transcendental functions in single precision).

The handwritten digits are scikit-learn's ``load_digits``. The first 360 indices of
``numpy.random.RandomState(0).permutation(1797)`` are test digits: nothing made from them, neither
a digit to recognise nor a clutter fragment, is ever shown in training.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "SIZE",
    "Digits",
    "Scenes",
    "calibration_set",
    "compose",
    "make_backgrounds",
    "make_scenes",
    "split",
    "test_digits",
    "test_set",
    "train_digits",
]

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

SIZE = 96  # pixels, height and width of an image
PATCH = 8  # pixels, side of the cells of ``Scenes.ink``
TEST_DIGITS = 360
# Training draws its images with seeds below 10**12, so it never meets these streams.
TEST_SEED = 2**40
CALIBRATION_SEED = 2**41

_CHUNK = 32  # images made at a time, each chunk from its own stream: a set is a prefix of a larger
_WINDOW = 64  # pixels, holds the largest digit at any rotation and shear
_FRAGMENT_WINDOW = 32
_FRAGMENTS = 7
_STROKES = 4
_BACKGROUND_STREAM, _SCENE_STREAM = 0, 1


class Digits(NamedTuple):
    """Handwritten digits: images [n, 8, 8] (float32, 0..1) and labels [n] (int64)."""

    images: Floats
    labels: Ints


class Scenes(NamedTuple):
    """Composites with the share of each 8x8 patch that the digit's ink covers.

    pixels [n, 96, 96, 3] (uint8), labels [n] (int64), ink [n, 144] (float32, 0..1, raster order).
    """

    pixels: Bytes
    labels: Ints
    ink: Floats


def split() -> tuple[Ints, Ints]:
    """Indices into ``load_digits`` of the (train, test) digits."""
    order = np.random.RandomState(0).permutation(1797).astype(np.int64)
    return order[TEST_DIGITS:], order[:TEST_DIGITS]


@cache
def train_digits() -> Digits:
    """The 1,437 digits that training and calibration may use."""
    return _digits(split()[0])


@cache
def test_digits() -> Digits:
    """The 360 held-out digits."""
    return _digits(split()[1])


def test_set(count: int = 2000) -> tuple[Bytes, Ints]:  # noqa: PT028 - a set, not a test
    """The held-out set: pixels [count, 96, 96, 3] (uint8) and labels [count] (int64).

    Digits and clutter come from the 360 test digits, backgrounds from a stream of their own. All
    published quality figures use ``test_set(2000)``; a smaller set is a prefix of it.
    """
    return compose(test_digits(), count, TEST_SEED)


def calibration_set(count: int) -> tuple[Bytes, Ints]:
    """Fresh composites of train digits, for vocabularies and tuning; shaped as ``test_set``."""
    return compose(train_digits(), count, CALIBRATION_SEED)


def compose(digits: Digits, count: int, seed: int) -> tuple[Bytes, Ints]:
    """Composites of ``digits``, each on a background of its own; shaped as ``test_set``."""
    scenes = make_scenes(digits, count, seed, make_backgrounds(digits, count, seed), shuffle=False)
    return scenes.pixels, scenes.labels


def make_backgrounds(digits: Digits, count: int, seed: int) -> Bytes:
    """Cluttered backgrounds without a digit, [count, 96, 96, 3] (uint8)."""
    chunks = [
        _background_chunk(digits, np.random.default_rng([seed, _BACKGROUND_STREAM, chunk]))
        for chunk in range(-(-count // _CHUNK))
    ]
    return np.concatenate(chunks)[:count]


def make_scenes(
    digits: Digits,
    count: int,
    seed: int,
    backgrounds: Bytes,
    *,
    heights: tuple[float, float] = (28.0, 46.0),
    shuffle: bool = True,
) -> Scenes:
    """Draw one digit, its box ``heights`` pixels high, on each of ``count`` backgrounds.

    With ``shuffle`` the backgrounds are drawn at random, mirrored, transposed and their colour
    channels permuted, so that a small pool goes a long way; else image i has background i.
    """
    chunks = []
    for chunk in range(-(-count // _CHUNK)):
        rng = np.random.default_rng([seed, _SCENE_STREAM, chunk])
        if shuffle:
            canvas = _shuffled(backgrounds, rng)
        else:
            canvas = backgrounds[chunk * _CHUNK : (chunk + 1) * _CHUNK].astype(np.float32)
        chunks.append(_scene_chunk(digits, canvas, rng, heights))
    return Scenes(*(np.concatenate(parts)[:count] for parts in zip(*chunks, strict=True)))


def _digits(indices: Ints) -> Digits:
    from sklearn.datasets import load_digits  # takes its time, and other images need none of it

    data = load_digits()
    images = (data.images[indices] / 16.0).astype(np.float32)
    labels = data.target[indices].astype(np.int64)
    images.setflags(write=False)
    labels.setflags(write=False)
    return Digits(images, labels)


def _uniform(rng: np.random.Generator, low: float, high: float, *shape: int) -> Floats:
    return rng.uniform(low, high, shape).astype(np.float32)


def _scene_chunk(
    digits: Digits, canvas: Floats, rng: np.random.Generator, heights: tuple[float, float]
) -> Scenes:
    """Draw onto ``canvas`` [n, 96, 96, 3], in place."""
    n = len(canvas)  # Parameters are drawn for a whole chunk whatever n is.
    picks = rng.integers(len(digits.labels), size=_CHUNK)
    height = _uniform(rng, *heights, _CHUNK)
    alpha, origin = _place(digits.images[picks], height, 15.0, _WINDOW, rng)
    # A gain on the interpolated ink varies the stroke width.
    gain = _uniform(rng, 1.2, 2.0, _CHUNK)[:, None, None]
    alpha = np.clip((alpha - np.float32(0.08)) * gain, 0, 1)
    opacity = _uniform(rng, 0.85, 1.0, _CHUNK)[:, None, None]
    colour = _uniform(rng, 200, 255, _CHUNK, 3)
    noise = rng.standard_normal((_CHUNK, SIZE, SIZE, 3), dtype=np.float32)
    noise *= _uniform(rng, 2, 10, _CHUNK)[:, None, None, None]

    _blend(canvas, alpha * opacity, origin, colour)
    canvas += noise[:n]
    cover = np.zeros((n, SIZE, SIZE), np.float32)
    for i, (y, x) in enumerate(origin[:n]):
        cover[i, y : y + _WINDOW, x : x + _WINDOW] = alpha[i]
    cells = SIZE // PATCH
    ink = cover.reshape(n, cells, PATCH, cells, PATCH).mean((2, 4)).reshape(n, cells * cells)
    return Scenes(_to_bytes(canvas), digits.labels[picks[:n]], ink)


def _background_chunk(digits: Digits, rng: np.random.Generator) -> Bytes:
    """A dark gradient with texture, then strokes and digit fragments of any colour."""
    n = _CHUNK
    axis = np.arange(SIZE, dtype=np.float32) / np.float32(SIZE - 1)
    tilt = _uniform(rng, -1, 1, n, 2, 1, 1)
    ramp = tilt[:, 0] * axis[:, None] + tilt[:, 1] * axis
    start, stop = _uniform(rng, 0, 255, 2, n, 1, 1, 3)
    canvas = start + (stop - start) * np.clip(ramp[..., None] + np.float32(0.5), 0, 1)
    for cells, channels, most in ((5, 3, 60.0), (25, 1, 45.0)):
        texture = _enlarge(_uniform(rng, -1, 1, n, cells, cells, channels))
        canvas += texture * _uniform(rng, 0, most, n, 1, 1, 1)
    canvas = np.clip(canvas, 0, 255) * np.float32(0.55)

    for _ in range(_STROKES):
        ends = _uniform(rng, 0, SIZE, n, 2, 2)
        alpha = _segment(ends, _uniform(rng, 0.5, 1.6, n))
        present = rng.random(n) < 0.75
        alpha *= (present * _uniform(rng, 0.5, 1.0, n)).astype(np.float32)[:, None, None]
        canvas += alpha[..., None] * (_uniform(rng, 0, 255, n, 1, 1, 3) - canvas)
    shown = rng.integers(_FRAGMENTS + 1, size=n)
    for i in range(_FRAGMENTS):
        pieces = digits.images[rng.integers(len(digits.labels), size=n)].copy()
        for piece, cut in zip(pieces, rng.integers(2, 7, size=(n, 2)), strict=True):
            # Keep a corner of the digit: never a whole one, which would be a second answer.
            piece[cut[0] :] = 0
            piece[:, cut[1] :] = 0
        turns = rng.integers(4, size=n)
        pieces = np.stack([np.rot90(p, t) for p, t in zip(pieces, turns, strict=True)])
        height = _uniform(rng, 14, 24, n)
        alpha, origin = _place(pieces, height, 15.0, _FRAGMENT_WINDOW, rng)
        alpha = np.clip((alpha - np.float32(0.08)) * np.float32(1.6), 0, 1)
        alpha *= ((shown > i) * _uniform(rng, 0.6, 1.0, n)).astype(np.float32)[:, None, None]
        _blend(canvas, alpha, origin, _uniform(rng, 0, 255, n, 3))
    return _to_bytes(canvas)


def _shuffled(pool: Bytes, rng: np.random.Generator) -> Floats:
    """A chunk of backgrounds out of ``pool``: mirrored, transposed and recoloured at random."""
    out = np.empty((_CHUNK, SIZE, SIZE, 3), np.float32)
    channels = rng.permuted(np.tile(np.arange(3), (_CHUNK, 1)), axis=1)
    flips = rng.integers(2, size=(_CHUNK, 3))
    for i, pick in enumerate(rng.integers(len(pool), size=_CHUNK)):
        image = pool[pick][:, :, channels[i]]
        image = image[:: 1 - 2 * flips[i, 0], :: 1 - 2 * flips[i, 1]]
        out[i] = image.swapaxes(0, 1) if flips[i, 2] else image
    return out


def _place(
    images: Floats, height: Floats, degrees: float, window: int, rng: np.random.Generator
) -> tuple[Floats, Ints]:
    """Warp 8x8 ``images`` to boxes of random aspect, rotation, shear and position.

    Returns coverage [n, window, window] and the window's corner [n, 2] (y, x) in the image; both
    the window and the warped box lie within the image.
    """
    n = len(images)
    width = height * _uniform(rng, 0.7, 1.0, n)
    angle = rng.uniform(-degrees, degrees, n) * (np.pi / 180)
    # Rounded, so that a last-digit difference between maths libraries cannot reach a pixel.
    cos = np.round(np.cos(angle), 6).astype(np.float32)
    sin = np.round(np.sin(angle), 6).astype(np.float32)
    shear = _uniform(rng, -0.2, 0.2, n)
    # Columns: where the box's y and x half-axes end up.
    matrix = np.empty((n, 2, 2), np.float32)
    matrix[:, 0, 0] = cos + sin * shear
    matrix[:, 1, 0] = -sin + cos * shear
    matrix[:, 0, 1] = sin
    matrix[:, 1, 1] = cos
    matrix *= np.stack([height, width], 1)[:, None, :] / 2
    reach = np.minimum(np.abs(matrix).sum(2), np.float32(SIZE / 2))
    centre = reach + _uniform(rng, 0, 1, n, 2) * (SIZE - 2 * reach)
    origin = np.clip(np.rint(centre) - window // 2, 0, SIZE - window).astype(np.int64)

    a, b, c, d = (matrix[:, i, j, None, None] for i in (0, 1) for j in (0, 1))
    grid = np.arange(window, dtype=np.float32) + np.float32(0.5)
    offset = (origin - centre).astype(np.float32)
    dy = (grid + offset[:, :1])[:, :, None]
    dx = (grid + offset[:, 1:])[:, None, :]
    determinant = a * d - b * c
    # -1..1 across the box, then to coordinates of cell centres in the zero-padded 10x10 digit.
    v = (d / determinant * dy - b / determinant * dx) * 4 + np.float32(4.5)
    u = (a / determinant * dx - c / determinant * dy) * 4 + np.float32(4.5)
    return _sample(np.pad(images, ((0, 0), (1, 1), (1, 1))), v, u), origin


def _sample(images: Floats, v: Floats, u: Floats) -> Floats:
    """Bilinear samples [n, h, w] of ``images`` [n, s, s] at rows v and columns u [n, h, w]."""
    n, side, _ = images.shape
    v = np.clip(v, 0, side - 1)
    u = np.clip(u, 0, side - 1)
    top = np.minimum(v.astype(np.int32), side - 2)
    left = np.minimum(u.astype(np.int32), side - 2)
    v -= top
    u -= left
    flat = images.ravel()
    index = top * side + left + np.arange(n, dtype=np.int32)[:, None, None] * (side * side)
    near: Floats = flat[index]
    far: Floats = flat[index + side]
    near += u * (flat[index + 1] - near)
    far += u * (flat[index + (side + 1)] - far)
    near += v * (far - near)
    return near


def _enlarge(grid: Floats) -> Floats:
    """Bilinear enlargement of [n, s, s, c] to [n, 96, 96, c]."""
    side = grid.shape[1]
    at = np.arange(SIZE, dtype=np.float32) * np.float32((side - 1) / SIZE)
    low = at.astype(np.int64)
    weight = at - low.astype(np.float32)
    rows = grid[:, low] + weight[:, None, None] * (grid[:, low + 1] - grid[:, low])
    columns: Floats = rows[:, :, low]
    columns += weight[:, None] * (rows[:, :, low + 1] - columns)
    return columns


def _segment(ends: Floats, radius: Floats) -> Floats:
    """Antialiased coverage [n, 96, 96] of line segments; ends [n, 2 ends, 2 (y, x)] in pixels."""
    grid = np.arange(SIZE, dtype=np.float32) + np.float32(0.5)
    start, step = ends[:, 0], ends[:, 1] - ends[:, 0]
    y = (grid - start[:, :1])[:, :, None]
    x = (grid - start[:, 1:])[:, None, :]
    sy, sx = step[:, 0, None, None], step[:, 1, None, None]
    along = np.clip((y * sy + x * sx) / (sy * sy + sx * sx + np.float32(1e-6)), 0, 1)
    distance = np.sqrt((y - along * sy) ** 2 + (x - along * sx) ** 2)
    coverage: Floats = np.clip(radius[:, None, None] + np.float32(0.5) - distance, 0, 1)
    return coverage


def _blend(canvas: Floats, alpha: Floats, origin: Ints, colour: Floats) -> None:
    """Paint ``colour`` [n, 3] through ``alpha`` [n, w, w] at ``origin`` into ``canvas``."""
    window = alpha.shape[1]
    for image, a, (y, x), paint in zip(canvas, alpha, origin, colour, strict=False):
        view = image[y : y + window, x : x + window]
        view += a[:, :, None] * (paint - view)


def _to_bytes(canvas: Floats) -> Bytes:
    return np.rint(np.clip(canvas, 0, 255)).astype(np.uint8)
