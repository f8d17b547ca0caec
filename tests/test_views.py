"""Test-time views."""

import pytest
import torch
from torchvision.transforms import TenCrop
from torchvision.transforms.functional import resize

from bench.views import CROPS, centre, places, scaled, sides, square, squares, views


def image(height, width, dtype=torch.uint8):
    return torch.randint(0, 256, (2, height, width, 3), generator=torch.Generator().manual_seed(0)).to(dtype)


def coordinates(height, width):
    """An image whose values are the row and the column of each pixel: (1, height, width, 2)."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns], dim=2)[None].float()


def mirrored(view):
    """Whether columns of :func:`coordinates` fall from left to right."""
    return bool(view[0, 0, 0, 1] > view[0, 0, -1, 1])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("crops", CROPS)
def test_all_views_are_of_the_networks_size_in_the_range_of_pixels(dtype, crops):
    made = list(views(image(40, 60, dtype), 32, crops))
    assert len(made) == crops
    assert {(view.shape, view.dtype) for view in made} == {((2, 32, 32, 3), torch.float32)}
    assert min(view.min() for view in made) >= 0
    assert max(view.max() for view in made) <= 255


@pytest.mark.parametrize("crops", [0, 3, 50, 150])
def test_other_numbers_are_refused(crops):
    with pytest.raises(ValueError, match=f"crops={crops}: must be one of 1, 2, 5, 10, 144"):
        next(views(image(32, 32), 32, crops))


def test_an_image_of_the_right_size_is_not_touched():
    given = image(32, 32)
    one, other = views(given, 32, 2)
    assert torch.equal(one, given.float())
    assert torch.equal(other, given.float().flip(2))


def test_one_crop_is_the_middle_of_the_scaled_image():
    (view,) = views(coordinates(224, 300), 224, 1)
    assert view[0, 0, 0].tolist() == [0, 38]  # (300 − 224) / 2
    assert view[0, -1, -1].tolist() == [223, 261]
    assert scaled(image(448, 600), 224).shape == (2, 224, 300, 3)
    assert scaled(image(400, 300), 256).shape == (2, 341, 256, 3)


@pytest.mark.parametrize("crops", [2, 10, 144])
def test_half_of_the_views_are_the_other_half_mirrored(crops):
    made = list(views(image(50, 40), 32, crops))
    for one, other in zip(made[::2], made[1::2], strict=True):
        assert torch.equal(one.flip(2), other)


@pytest.mark.parametrize("shape", [(256, 256), (300, 500), (500, 300)])
def test_ten_crops_are_those_of_torchvision(shape):
    given = image(*shape)
    theirs = TenCrop(224)(square(given, 256).permute(0, 3, 1, 2))
    ours = list(views(given, 224, 10))
    assert len(ours) == len(theirs) == 10
    for crop in theirs:
        assert sum(torch.equal(crop.permute(0, 2, 3, 1), view) for view in ours) == 1
    for one, other in zip(views(given, 224, 5), ours[::2], strict=True):
        assert torch.equal(one, other)


def test_the_boxes_are_the_published_ones():
    assert sides(224) == [256, 288, 320, 352]
    assert sides(32) == [37, 41, 46, 50]
    assert squares(256, 341) == [(0, 0), (0, 42), (0, 85)]
    assert squares(341, 256) == [(0, 0), (42, 0), (85, 0)]
    assert squares(257, 256) == [(0, 0), (0, 0), (1, 0)]
    assert places(256, 224) == [(0, 0), (0, 32), (32, 0), (32, 32), (16, 16)]
    assert places(352, 224) == [(0, 0), (0, 128), (128, 0), (128, 128), (64, 64)]


@pytest.mark.parametrize("portrait", [False, True])
def test_the_144_crops_of_the_smallest_scale_are_where_the_paper_has_them(portrait):
    given = coordinates(341, 256) if portrait else coordinates(256, 341)
    made = list(views(given, 224, 144))
    assert len(made) == 4 * 3 * 6 * 2
    ours = made[: 3 * 6 * 2]  # of 256 pixels: the image is not scaled
    found = [tuple(view[0, 0, 0].int().tolist()) for view in ours if (view[0, -1, -1] == view[0, 0, 0] + 223).all()]
    along = [0, 32, 0, 32, 16], [42, 74, 42, 74, 58], [85, 117, 85, 117, 101]  # left, centre, right
    across = [0, 0, 32, 32, 16]
    wanted = [(a, b) for row in along for a, b in zip(across, row, strict=True)]
    if portrait:
        along = [0, 0, 32, 32, 16], [42, 42, 74, 74, 58], [85, 85, 117, 117, 101]
        wanted = [(a, b) for row in along for a, b in zip(row, [0, 32, 0, 32, 16], strict=True)]
    assert found == wanted
    assert sum(mirrored(view) for view in ours) == 18
    whole = [view for view in ours if not mirrored(view)][5::6]
    begins = [view[0].amin(dim=(0, 1)).tolist()[not portrait] for view in whole]
    ends = [view[0].amax(dim=(0, 1)).tolist()[not portrait] for view in whole]
    assert begins == pytest.approx([0, 42, 85], abs=0.5)  # all 256 pixels, in 224
    assert ends == pytest.approx([255, 297, 340], abs=0.5)


@pytest.mark.parametrize(("height", "width"), [(60, 90), (90, 60), (75, 75), (75, 76), (500, 506)])
def test_the_144_crops_are_those_of_every_scale(height, width):
    given, wanted = image(height, width), []
    for side in (37, 41, 46, 50):
        whole = scaled(given, side)
        assert min(whole.shape[1:3]) == side
        assert max(whole.shape[1:3]) == round(side * max(height, width) / min(height, width))
        parts = [whole[:, :side, :side], centre(whole, side), whole[:, -side:, -side:]]
        for part in parts if height != width else parts[:1]:
            for view in (
                part[:, :32, :32], part[:, :32, -32:], part[:, -32:, :32], part[:, -32:, -32:], centre(part, 32),
                scaled(part, 32),
            ):  # fmt: skip
                wanted += [view, view.flip(2)]
    made = list(views(given, 32, 144))
    assert len(made) == (48 if height == width else 144)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(made, wanted, strict=True))


@pytest.mark.parametrize("shape", [(70, 50), (50, 70), (20, 32)])
def test_images_are_scaled_as_by_torchvision_with_antialiasing(shape):
    given = image(*shape, torch.float32)
    theirs = resize(given.permute(0, 3, 1, 2), [30], antialias=True).permute(0, 2, 3, 1)
    torch.testing.assert_close(scaled(given, 30), theirs)
