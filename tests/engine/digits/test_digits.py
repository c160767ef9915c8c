"""The demo model's images, its training and the checkpoint that ships."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from foveate.digits import train
from foveate.digits.evaluate import Accuracy, evaluate
from foveate.digits.muon import orthogonalise
from foveate.images import cluttered_digits as images
from foveate.model.vit import load_vit

SHA256_OF_8 = "190dbbee8474053d2c8fdce1e919208badf78860fa169a2fbafa3a4317b25903"
LABELS_OF_8 = [6, 5, 5, 5, 3, 8, 6, 5]

MODEL = Path(__file__).parents[3] / "model_repository" / "digits"


def test_the_first_360_of_the_permutation_are_held_out():
    trained, held_out = images.split()
    np.testing.assert_array_equal(held_out, np.random.RandomState(0).permutation(1797)[:360])
    assert len(trained) == 1437
    np.testing.assert_array_equal(np.sort(np.concatenate([trained, held_out])), np.arange(1797))


def test_no_held_out_digit_image_is_a_train_image():
    trained = {image.tobytes() for image in images.train_digits().images}
    assert not any(image.tobytes() in trained for image in images.test_digits().images)


def test_held_out_images_use_no_train_digit(monkeypatch):
    def forbidden():
        raise AssertionError("a held-out image was made from train digits")

    monkeypatch.setattr(images, "train_digits", forbidden)
    images.test_set(1)


def test_calibration_images_use_no_held_out_digit(monkeypatch):
    def forbidden():
        raise AssertionError("a calibration image was made from held-out digits")

    monkeypatch.setattr(images, "test_digits", forbidden)
    images.calibration_set(1)


def test_held_out_images_are_the_same_bytes_everywhere():
    pixels, labels = images.test_set(8)
    assert labels.tolist() == LABELS_OF_8
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == SHA256_OF_8


@pytest.mark.parametrize("make", [images.test_set, images.calibration_set])
def test_sets_are_uint8_images_with_int64_labels(make):
    pixels, labels = make(5)
    assert (pixels.shape, pixels.dtype) == ((5, 96, 96, 3), np.uint8)
    assert (labels.shape, labels.dtype) == ((5,), np.int64)
    assert set(labels.tolist()) <= set(range(10))


def test_a_smaller_set_is_a_prefix_of_a_larger():
    small, large = images.test_set(20), images.test_set(70)
    np.testing.assert_array_equal(small[0], large[0][:20])
    np.testing.assert_array_equal(small[1], large[1][:20])


def test_seeds_make_different_images():
    first, _ = images.compose(images.train_digits(), 2, seed=1)
    second, _ = images.compose(images.train_digits(), 2, seed=2)
    assert (first != second).any(axis=(1, 2, 3)).all()


def test_ink_marks_the_patches_that_the_digit_brightens():
    digits = images.train_digits()
    black = np.zeros((32, 96, 96, 3), np.uint8)
    scenes = images.make_scenes(digits, 32, 0, black, shuffle=False)
    brightness = scenes.pixels.reshape(32, 12, 8, 12, 8, 3).mean((2, 4, 5)).reshape(32, 144)
    assert brightness[scenes.ink > 0.3].min() > brightness[scenes.ink == 0].max()


def test_windows_hold_most_of_the_digit():
    phase = train.PHASES[0]
    digits = images.train_digits()
    black = np.zeros((64, 96, 96, 3), np.uint8)
    ink = images.make_scenes(digits, 64, 0, black, heights=(28, phase.tallest)).ink
    positions = train.choose_patches(ink, phase, np.random.default_rng(0))
    assert positions.shape == (64, phase.patches)
    assert np.take_along_axis(ink, positions, 1).sum() > 0.9 * ink.sum()


def test_random_subsets_have_distinct_patches_and_favour_ink():
    phase = train.PHASES[2]
    ink = np.zeros((200, 144), np.float32)
    ink[:, :20] = 0.5
    positions = train.choose_patches(ink, phase, np.random.default_rng(0))
    assert (np.diff(positions, axis=1) > 0).all()
    assert (positions < 20).sum(1).mean() > 2 * 20 * phase.patches / 144


def test_schedule_keeps_its_proportions_at_any_length():
    for steps in (10, train.STEPS, 2 * train.STEPS + 1):
        phases, progress = zip(*train.schedule(steps), strict=True)
        assert len(phases) == steps
        assert list(progress) == sorted(progress)
        assert 0 == progress[0] <= progress[-1] < 1
    assert train.learning_rate(0.2) == 1
    assert train.learning_rate(1) == pytest.approx(0.01)


def test_orthogonalise_evens_out_singular_values():
    matrices = torch.randn(3, 64, 16, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert values.min() > 0.5
    assert values.max() < 1.5


def test_training_repeats_itself(monkeypatch):
    monkeypatch.setattr(train, "POOL", 32)
    first, second = (train.train(steps=3, seed=7).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_training_refuses_a_seed_that_could_reach_the_held_out_stream():
    with pytest.raises(ValueError, match="seed"):
        train.train(steps=1, seed=1_000_000)


def test_interval_is_wilsons():
    low, high = Accuracy(correct=95, total=100).interval
    assert (low, high) == (pytest.approx(0.8882, abs=1e-4), pytest.approx(0.9785, abs=1e-4))


def test_labels_are_the_ten_digits():
    assert (MODEL / "labels.txt").read_text().split() == [str(digit) for digit in range(10)]


def test_shipped_checkpoint_is_small_and_right():
    path = MODEL / "1" / "model.safetensors"
    assert path.stat().st_size <= 3_000_000
    assert evaluate(load_vit(path)).top1 >= 0.97
