"""What is sent: image sets and wishes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from foveate_loadtest.choices import Target
from foveate_loadtest.classes import Classes, parse_classes
from foveate_loadtest.errors import ScheduleError
from foveate_loadtest.image_sets import encode, labelled_images, load_images, save_images
from foveate_loadtest.wishes import Wish, draw, share_out


def test_digits_come_as_pixels_or_as_files() -> None:
    pixels, labels = load_images("digits", 3, Target.PIXELS)
    files, same = load_images("digits", 3, Target.CLASSIFY)
    assert pixels[0].shape == (96, 96, 3)
    assert files[0][:2] == b"\xff\xd8"
    assert labels.tolist() == same.tolist() == labelled_images(3)[1].tolist()


def test_an_image_set_survives_a_file(tmp_path: Path) -> None:
    pixels, labels = labelled_images(4)
    save_images(tmp_path / "set.npz", pixels, labels)
    loaded, known = load_images(str(tmp_path / "set.npz"), 3, Target.PIXELS)
    assert np.array_equal(np.stack(loaded), pixels[:3])
    assert known.tolist() == labels[:3].tolist()
    np.savez(tmp_path / "bare.npz", pixels=pixels)
    assert load_images(str(tmp_path / "bare.npz"), 4, Target.PIXELS)[1].tolist() == [-1] * 4


def test_a_folder_is_sent_as_it_is(tmp_path: Path) -> None:
    pixels, _ = labelled_images(4)
    for number, image in enumerate(pixels):
        folder = tmp_path / ("cat" if number % 2 else "dog")
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.png").write_bytes(encode(image, "PNG"))
    sent = {encode(image, "PNG"): number for number, image in enumerate(pixels)}
    # The order of the classes is the model's; without names it is the alphabet's.
    for classes, cat in ((Classes(2, ("dog", "cat")), 1), (Classes(2, ()), 0)):
        files, labels = load_images(str(tmp_path), 10, Target.CLASSIFY, classes)
        assert sorted(files) == sorted(sent)
        expected = [cat if sent[file] % 2 else 1 - cat for file in files]
        assert labels.tolist() == expected
    with pytest.raises(ScheduleError, match=r"sub-folder 'cat' of .* is not a class of the model"):
        load_images(str(tmp_path), 10, Target.CLASSIFY, Classes(2, ("dog", "cow")))
    flat, unknown = load_images(str(tmp_path / "cat"), 10, Target.CLASSIFY, Classes(2, ()))
    assert len(flat) == 2
    assert set(unknown.tolist()) == {-1}
    with pytest.raises(ScheduleError, match="classify"):
        load_images(str(tmp_path), 10, Target.PIXELS)


def test_classes_are_read_as_the_server_names_them() -> None:
    answers = ["0.7:2:hen: brown\r", "0.2:0:tench", "0.1:1:goldfish"]
    assert parse_classes(3, answers) == (3, ("tench", "goldfish", "hen: brown"))
    assert parse_classes(2, ["0.6:1", "0.4:0"]) == (2, ())
    too_few = parse_classes(3, ["0.7:2", "0.2:0:tench", "0.1:1:goldfish"])
    assert too_few == (3, ("tench", "goldfish"))


def test_a_folder_is_not_read_by_too_few_names(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    with pytest.raises(ScheduleError, match=r"2 names in labels\.txt for a head of 3 classes"):
        load_images(str(tmp_path), 10, Target.CLASSIFY, Classes(3, ("a", "b")))


@pytest.mark.parametrize("name", ["nothing", "empty", "wrong.npz"])
def test_what_cannot_be_sent_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "wrong.npz", images=np.zeros(3))
    with pytest.raises(ScheduleError, match=name):
        load_images(str(tmp_path / name), 10, Target.CLASSIFY)


def test_wishes_are_mixed_in_by_their_shares() -> None:
    wishes = share_out([Wish.parse("level=0:0.2"), Wish.parse("quality=exact:0.3")])
    assert [dict(wish.parameters) for wish in wishes] == [{}, {"level": "0"}, {"quality": "exact"}]
    counts = np.bincount(draw(wishes, 10_000, seed=3), minlength=3)
    assert counts / 10_000 == pytest.approx([0.5, 0.2, 0.3], abs=0.02)
    assert np.array_equal(draw(wishes, 50, seed=3), draw(wishes, 50, seed=3))
    assert set(draw(share_out([]), 50, seed=3)) == {0}


@pytest.mark.parametrize("text", ["level=0", "level:0.1", "colour=red:0.1", "level=0:2", ""])
def test_wishes_that_cannot_be_understood_are_named(text: str) -> None:
    with pytest.raises(ScheduleError, match=r"NAME=VALUE:SHARE"):
        Wish.parse(text)


def test_more_wishes_than_requests_are_refused() -> None:
    with pytest.raises(ScheduleError, match="at most 1"):
        share_out([Wish.parse("level=0:0.6"), Wish.parse("level=1:0.6")])
