"""The order of augmentation and normalisation, and which parameters go where."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import QUICK, SEEDS, draws
from torch import Tensor
from torchvision.transforms import functional as TF

from bench.data.augment import Cutout, Draws, HorizontalFlip, Lighting, RandomCrop, Stage, Transform
from bench.data.normalize import ChannelNormalize, Normalize, PixelMeanNormalize
from bench.data.pipeline import Pipeline, center_crop

GEOMETRY, COLOR, ERASE = Stage.GEOMETRY, Stage.COLOR, Stage.ERASE


class Named(Transform):
    """Notes its name, the side of the images and its parameters when it is called."""

    def __init__(self, name: str, stage: Stage, log: list):
        self.name, self.stage, self.log = name, stage, log

    def draw(self, draws: Draws) -> Tensor:
        return torch.tensor([[100.0 * ord(self.name) + i] for i in range(draws.n)])

    def __call__(self, images: Tensor, parameters: Tensor) -> Tensor:
        self.log.append((self.name, images.shape[1], parameters[:, 0].tolist()))
        return images


class NamedNormalize(Normalize):
    """Notes the side of the images when it is called."""

    def __init__(self, first: bool, log: list):
        self.first, self.log = first, log

    def fit(self, pixels: np.ndarray, index: np.ndarray) -> None:
        raise AssertionError("a pipeline fits nothing")

    def state(self) -> dict[str, Tensor]:
        raise AssertionError("a pipeline saves nothing")

    def restore(self, state: dict[str, Tensor]) -> None:
        raise AssertionError("a pipeline loads nothing")

    def __call__(self, images: Tensor) -> Tensor:
        self.log.append(("normalize", images.shape[1], None))
        return images.float()


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (False, [("b", 8), ("e", 8), ("a", 6), ("f", 6), ("normalize", 6), ("c", 6), ("d", 6)]),
        (True, [("a", 8), ("f", 8), ("normalize", 8), ("b", 8), ("e", 8), ("c", 6), ("d", 6)]),
    ],
)
def test_stages_are_in_order_and_transforms_of_one_stage_keep_theirs(first, expected):
    log: list = []
    stages = dict(a=COLOR, b=GEOMETRY, c=ERASE, d=ERASE, e=GEOMETRY, f=COLOR)
    transforms = [Named(name, stage, log) for name, stage in stages.items()]
    pipeline = Pipeline(6, NamedNormalize(first, log), transforms)
    tables = pipeline.draw(draws(10))
    batch = torch.tensor([7, 2, 2])
    result = pipeline(torch.zeros(3, 8, 8, 3, dtype=torch.uint8), [table[batch] for table in tables])
    assert result.shape == (3, 6, 6, 3)
    assert [(name, side) for name, side, _ in log] == expected
    for name, _, parameters in log:
        assert parameters == (None if name == "normalize" else [100 * ord(name) + i for i in (7, 2, 2)])


@QUICK
@given(stages=st.lists(st.sampled_from(Stage), max_size=8), first=st.booleans())
def test_transforms_of_one_stage_keep_their_order_whatever_stands_between(stages, first):
    log: list = []
    transforms = [Named(chr(ord("a") + i), stage, log) for i, stage in enumerate(stages)]
    pipeline = Pipeline(4, NamedNormalize(first, log), transforms)
    tables = pipeline.draw(draws(2))
    assert len(tables) == len(stages)
    pipeline(torch.zeros(2, 4, 4, 1, dtype=torch.uint8), tables)
    names = [name for name, *_ in log]
    assert len(names) == len(stages) + 1
    for stage in Stage:
        of_stage = [transform.name for transform in transforms if transform.stage == stage]
        assert [name for name in names if name in of_stage] == of_stage


def training(side: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (12, side, side, 3), dtype=np.uint8)


@QUICK
@given(side=st.integers(4, 10), seed=SEEDS)
def test_channel_normalised_images_equal_torchvisions_functions_in_turn(side, seed):
    pixels = training(side, seed)
    normalize = ChannelNormalize()
    normalize.fit(pixels, np.arange(12))
    pipeline = Pipeline(side, normalize, [Cutout(3), RandomCrop(side, 2), HorizontalFlip()])
    crops, flips, cuts = tables = pipeline.draw(draws(12, seed))
    images = torch.from_numpy(pixels)
    results = pipeline(images, tables)
    assert np.array_equal(images.numpy(), training(side, seed))
    mean, std = pixels.mean(axis=(0, 1, 2)).tolist(), pixels.std(axis=(0, 1, 2)).tolist()
    for i, result in enumerate(results):
        expected = TF.pad(images[i].permute(2, 0, 1), 2, padding_mode="reflect")
        expected = TF.crop(expected, *(crops[i] * 5).int().tolist(), side, side)
        expected = TF.hflip(expected) if flips[i] else expected
        expected = TF.normalize(expected.float(), mean, std)
        top, left = ((cuts[i] * side).int() - 1).tolist()
        expected[:, max(0, top) : top + 3, max(0, left) : left + 3] = 0
        torch.testing.assert_close(result.permute(2, 0, 1), expected, rtol=1e-4, atol=1e-4)


def test_mean_image_is_subtracted_where_pixels_stood_and_after_colour():
    pixels = training(8, seed=0)
    normalize, lighting = PixelMeanNormalize(unit_variance=False), Lighting()
    for fit in (normalize.fit, lighting.fit):
        fit(pixels, np.arange(12))
    pipeline = Pipeline(8, normalize, [HorizontalFlip(1.0), lighting])
    alphas, flips = pipeline.draw(draws(12))
    plain = pipeline(torch.from_numpy(pixels), [torch.zeros_like(alphas), flips])
    centred = (pixels - pixels.mean(axis=0))[:, :, ::-1]
    np.testing.assert_allclose(plain.numpy(), centred, atol=1e-3)
    lit = pipeline(torch.from_numpy(pixels), [alphas, flips]) - plain
    assert lit.abs().max() > 1
    np.testing.assert_allclose(lit.numpy(), lit[:, :1, :1].expand_as(lit).numpy(), atol=1e-3)


def test_parameters_are_drawn_in_the_order_of_the_steps_from_one_generator():
    pipeline = Pipeline(8, NamedNormalize(False, []), [Cutout(3), HorizontalFlip(0.5), RandomCrop(8, 2)])
    generator = torch.Generator().manual_seed(3)
    expected = [torch.rand(20, columns, generator=generator, dtype=torch.float64) for columns in (1, 2, 2)]
    flips, crops, cuts = pipeline.draw(draws(20, seed=3))
    assert torch.equal(flips, expected[0] < 0.5)
    assert torch.equal(crops, expected[1])
    assert torch.equal(cuts, expected[2])


def test_without_transforms_images_are_only_normalised():
    pixels = training(6, seed=0)
    normalize = ChannelNormalize()
    normalize.fit(pixels, np.arange(12))
    pipeline = Pipeline(6, normalize)
    assert pipeline.draw(draws(12)) == []
    expected = (pixels - pixels.mean(axis=(0, 1, 2))) / pixels.std(axis=(0, 1, 2))
    np.testing.assert_allclose(pipeline(torch.from_numpy(pixels), []).numpy(), expected, rtol=1e-4, atol=1e-4)


@QUICK
@given(size=st.integers(1, 9), margin=st.integers(0, 6), seed=SEEDS)
def test_centre_of_larger_images_equals_torchvisions(size, margin, seed):
    pixels = training(size + 2 * margin, seed)
    images = torch.from_numpy(pixels)
    expected = TF.center_crop(images.permute(0, 3, 1, 2), [size, size])
    assert torch.equal(center_crop(images, size).permute(0, 3, 1, 2), expected)
    normalize = PixelMeanNormalize(unit_variance=False)
    normalize.fit(pixels, np.arange(12))
    centred = (pixels - pixels.mean(axis=0))[:, margin : margin + size, margin : margin + size]
    np.testing.assert_allclose(Pipeline(size, normalize)(images, []).numpy(), centred, atol=1e-3)


@pytest.mark.parametrize(("side", "size", "begin"), [(5, 2, 1), (5, 4, 0), (9, 2, 3)])
def test_odd_margins_are_smaller_at_the_top_left(side, size, begin):
    numbers = torch.arange(side * side).view(1, side, side, 1)
    assert center_crop(numbers, size)[0, 0, 0, 0] == begin * side + begin


@pytest.mark.parametrize("first", [False, True])
def test_images_smaller_than_asked_for_raise_naming_both_sides(first):
    pipeline = Pipeline(8, NamedNormalize(first, []), [RandomCrop(6, 0)])
    with pytest.raises(ValueError, match=r"^data\.train_image_size=8: the augmentations make images of 6×6$"):
        pipeline(torch.zeros(3, 8, 8, 3, dtype=torch.uint8), pipeline.draw(draws(3)))
