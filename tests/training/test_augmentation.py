from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autoprune.data import Normalization, Samples, load_splits
from autoprune.data.splits import ArraySplit, PartOfSplit, SamplesSplit
from autoprune.errors import UsageError
from autoprune.training.augmentation import augmented, is_augmented, suits_trivial
from autoprune.training.choices import AUGMENTATIONS

PLAIN = Normalization((0.0,) * 3, (1.0,) * 3)


def split(size: int = 32, may_mirror: bool = True) -> ArraySplit:
    pixels = np.random.default_rng(0).integers(1, 256, (6, size, size, 3), np.uint8)
    return ArraySplit(pixels, np.arange(6), PLAIN, may_mirror)


def test_standard_is_a_padded_crop_and_a_mirror_of_each_image_by_itself() -> None:
    """Every image is the original, shifted by up to 4 pixels of 32 and perhaps mirrored."""
    own = split()
    torch.manual_seed(0)
    changed = augmented(own, "standard").take(range(6)).inputs
    plain = torch.nn.functional.pad(own.take(range(6)).inputs, (4, 4, 4, 4))
    found = []
    for image, whole in zip(changed, plain, strict=True):
        places = [
            (top, left, mirrored)
            for top in range(9)
            for left in range(9)
            for mirrored, form in ((False, image), (True, image.flip(-1)))
            if torch.equal(form, whole[:, top : top + 32, left : left + 32])
        ]
        assert len(places) == 1
        found += places
    assert len(set(found)) > 3 and {mirrored for *_, mirrored in found} == {False, True}


def test_what_must_not_be_mirrored_is_not() -> None:
    own = split(size=8, may_mirror=False)
    whole = torch.nn.functional.pad(own.take([0]).inputs, (1, 1, 1, 1))[0]
    changed = augmented(own, "standard")
    for seed in range(10):
        torch.manual_seed(seed)
        image = changed.take([0]).inputs[0]
        crops = [whole[:, a : a + 8, b : b + 8] for a in range(3) for b in range(3)]
        assert any(torch.equal(image, crop) for crop in crops)
    digits = load_splits("digits").train
    assert digits.pictures is not None and not digits.pictures.may_mirror


def test_trivial_changes_more_and_none_nothing() -> None:
    own = split()
    torch.manual_seed(0)
    changed = augmented(own, "trivial").take(range(6)).inputs
    assert changed.shape == (6, 3, 32, 32) and changed.min() >= 0 and changed.max() <= 1
    assert augmented(own, "none") is own


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_trivial_is_for_grey_and_coloured_images(channels: int) -> None:
    pixels = np.full((2, 8, 8, channels), 9, np.uint8)
    own = ArraySplit(
        pixels, np.arange(2), Normalization((0.0,) * channels, (1.0,) * channels), False
    )
    assert suits_trivial(own) is (channels in (1, 3))
    if not suits_trivial(own):
        with pytest.raises(UsageError, match=f"these have {channels}: choose standard"):
            augmented(own, "trivial")
        return
    for seed in range(30):  # many of its changes
        torch.manual_seed(seed)
        assert augmented(own, "trivial").take([0, 1]).inputs.shape == (2, channels, 8, 8)


def test_part_of_a_split_is_augmented_as_the_whole() -> None:
    own = split()
    part = PartOfSplit(own, np.array([4, 2]))
    assert part.pictures == own.pictures
    torch.manual_seed(1)
    changed = augmented(part, "standard").take([1]).inputs
    torch.manual_seed(1)
    assert torch.equal(changed, augmented(own, "standard").take([2]).inputs)


def test_image_files_are_cut_out_at_random(tmp_path: Path) -> None:
    for number, size in enumerate([(300, 250), (64, 80)]):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)
        (tmp_path / "train" / "a").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "train" / "a" / f"{number}.png")
    files = load_splits(f"imagefolder:{tmp_path}", "none").train
    assert files.pictures is not None and files.pictures.is_cropped
    torch.manual_seed(0)
    first, second = (augmented(files, "standard").take([0, 1]) for _ in range(2))
    assert first.inputs.shape == (2, 3, 224, 224) and first.targets.tolist() == [0, 0]
    assert 0 <= first.inputs.min() and first.inputs.max() <= 1
    assert not torch.equal(first.inputs, second.inputs)


def test_what_autoprune_does_not_read_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    own = SamplesSplit(Samples(torch.zeros(2, 3, 4, 4), None))
    with caplog.at_level(logging.INFO):
        assert augmented(own, "standard") is own
    assert "the data's own code reads them" in caplog.text


def test_what_is_usual_depends_on_torchvision(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    own = split()
    torch.manual_seed(0)
    usual = augmented(own, "auto").take(range(6)).inputs
    torch.manual_seed(0)
    assert torch.equal(usual, augmented(own, "standard").take(range(6)).inputs)
    assert is_augmented(own, "auto") and not is_augmented(own, "none")
    monkeypatch.setitem(sys.modules, "torchvision.transforms", None)
    with caplog.at_level(logging.INFO):
        assert augmented(own, "auto") is own and not is_augmented(own, "auto")
    assert "needs torchvision" in caplog.text


@pytest.mark.parametrize("name", [one for one in AUGMENTATIONS if one not in ("auto", "none")])
def test_without_torchvision(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.transforms", None)
    with pytest.raises(UsageError, match=f"augment={name} needs torchvision"):
        augmented(split(), name)
