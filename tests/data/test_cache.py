"""The decoded-image cache: decoded once, whole or not at all, never written back to."""

import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from PIL import Image

from bench.data import cache

SIDE = 8


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **({"lossless": True} if path.suffix == ".webp" else {}))


@pytest.fixture(params=["png", "webp"])
def images(request, tmp_path):
    """Five 8×8 RGB images in a folder: (folder, file names, (5, 8, 8, 3) pixels)."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)
    files = [f"{'ab'[i % 2]}/{i}.{request.param}" for i in range(len(pixels))]
    for file, image in zip(files, pixels, strict=True):
        write(tmp_path / "source" / file, image)
    return tmp_path / "source", files, pixels


@pytest.fixture
def cache_dir(tmp_path):
    return tmp_path / "made" / "on" / "demand"


@pytest.fixture
def builds(monkeypatch):
    """Counts how often a set of images is decoded."""
    calls, decode = [], cache._decode
    monkeypatch.setattr(cache, "_decode", lambda *args: (calls.append(args), decode(*args)))
    return calls


def test_images_come_in_the_order_of_the_files_with_their_pixels(images, cache_dir):
    root, files, pixels = images
    assert np.array_equal(cache.decoded(root, files, SIDE, 3, cache_dir), pixels)
    assert np.array_equal(cache.decoded(root, files[::-1], SIDE, 3, cache_dir), pixels[::-1])


def test_images_are_decoded_once(images, cache_dir, builds, monkeypatch):
    root, files, _ = images
    first = cache.decoded(root, files, SIDE, 3, cache_dir)
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("opened an image again"))
    second = cache.decoded(root, files, SIDE, 3, cache_dir)
    assert len(builds) == 1
    assert isinstance(second, np.memmap)
    assert second.filename == first.filename
    assert [file.name for file in cache_dir.iterdir()] == [Path(first.filename).name]
    assert np.array_equal(first, second)


def test_a_changed_file_is_decoded_anew(images, cache_dir, builds):
    root, files, pixels = images
    old = cache.decoded(root, files, SIDE, 3, cache_dir)
    write(root / files[2], 255 - pixels[2])
    new = cache.decoded(root, files, SIDE, 3, cache_dir)
    assert len(builds) == 2
    assert np.array_equal(new[2], 255 - pixels[2])
    assert np.array_equal(old, pixels)


def test_a_file_touched_later_is_decoded_anew(images, cache_dir, builds):
    root, files, _ = images
    cache.decoded(root, files, SIDE, 3, cache_dir)
    stat = (root / files[0]).stat()
    os.utime(root / files[0], ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000_000))
    cache.decoded(root, files, SIDE, 3, cache_dir)
    assert len(builds) == 2


def test_an_added_file_is_decoded_anew(images, cache_dir, builds):
    root, files, pixels = images
    cache.decoded(root, files[:-1], SIDE, 3, cache_dir)
    assert np.array_equal(cache.decoded(root, files, SIDE, 3, cache_dir), pixels)
    assert len(builds) == 2


def test_sizes_channels_and_roots_do_not_share_a_file(images, cache_dir, tmp_path):
    root, files, _ = images
    (tmp_path / "elsewhere").mkdir()
    root_of_same_name = (tmp_path / "source").rename(tmp_path / "elsewhere" / "source")
    (tmp_path / "source").symlink_to(tmp_path / "copy")
    (tmp_path / "copy").mkdir()
    for file in files:
        (tmp_path / "copy" / file).parent.mkdir(exist_ok=True)
        (tmp_path / "copy" / file).hardlink_to(root_of_same_name / file)
    arguments = [(root_of_same_name, SIDE, 3), (root_of_same_name, 4, 3), (root_of_same_name, SIDE, 1), (root, SIDE, 3)]
    arrays = [cache.decoded(where, files, side, channels, cache_dir) for where, side, channels in arguments]
    assert len({array.filename for array in arrays}) == 4
    assert [array.shape[1:] for array in arrays] == [(8, 8, 3), (4, 4, 3), (8, 8, 1), (8, 8, 3)]


def broken_files() -> dict[str, bytes]:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file, "png")
    png = file.getvalue()
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file, "webp")
    webp = file.getvalue()
    length = png.index(b"IDAT") - 4
    return {
        "empty.png": b"",
        "text.png": b"this is no image",
        "truncated.png": png[: len(png) // 2],
        "scrambled.png": png[: len(png) // 2] + bytes(len(png) - len(png) // 2),
        "chunk.png": png[:length] + (1000).to_bytes(4, "big") + png[length + 4 :],
        "truncated.webp": webp[: len(webp) // 2],
    }


@pytest.mark.parametrize("name", broken_files())
def test_a_broken_image_raises_naming_it_and_leaves_nothing_behind(name, tmp_path, cache_dir):
    good = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    write(tmp_path / "source" / "good.png", good)
    (tmp_path / "source" / name).write_bytes(broken_files()[name])
    files = ["good.png", name]
    with pytest.raises(ValueError, match="not a readable image") as caught:
        cache.decoded(tmp_path / "source", files, SIDE, 3, cache_dir)
    assert str(tmp_path / "source" / name) in str(caught.value)
    assert list(cache_dir.iterdir()) == []
    write(tmp_path / "source" / name, good)  # repaired
    assert np.array_equal(cache.decoded(tmp_path / "source", files, SIDE, 3, cache_dir), np.stack([good, good]))


def test_a_folder_in_place_of_an_image_raises_naming_it(tmp_path, cache_dir):
    (tmp_path / "source" / "folder.png").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"folder\.png: not a readable image"):
        cache.decoded(tmp_path / "source", ["folder.png"], SIDE, 3, cache_dir)


def test_an_interrupted_build_leaves_nothing_behind(images, cache_dir, monkeypatch):
    root, files, _ = images

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cache, "_decode", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cache.decoded(root, files, SIDE, 3, cache_dir)
    assert list(cache_dir.iterdir()) == []


def test_several_builders_at_once_give_equal_arrays_and_one_file(images, cache_dir, monkeypatch):
    root, files, pixels = images
    builders = 4
    barrier, decode = Barrier(builders, timeout=10), cache._decode

    def decode_together(*args):
        barrier.wait()  # all of them have found no file
        decode(*args)

    monkeypatch.setattr(cache, "_decode", decode_together)
    monkeypatch.setattr(cache.console, "live", lambda: False)  # one process draws one bar
    with ThreadPoolExecutor(builders) as pool:
        arrays = list(pool.map(lambda _: cache.decoded(root, files, SIDE, 3, cache_dir), range(builders)))
    for array in arrays:
        assert np.array_equal(array, pixels)
    assert len({array.filename for array in arrays}) == len(list(cache_dir.iterdir())) == 1


def test_writing_into_the_array_does_not_reach_the_file(images, cache_dir):
    root, files, pixels = images
    array = cache.decoded(root, files, SIDE, 3, cache_dir)
    array[:] = 255 - array
    assert np.array_equal(array, 255 - pixels)
    assert np.array_equal(cache.decoded(root, files, SIDE, 3, cache_dir), pixels)


def test_no_files_give_no_images(tmp_path, cache_dir):
    assert cache.decoded(tmp_path, [], SIDE, 3, cache_dir).shape == (0, SIDE, SIDE, 3)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 20), (14, 8)])
def test_fit_crops_the_centre_of_the_longer_side(height, width):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    top, left = (height - 8) // 2, (width - 8) // 2
    assert np.array_equal(cache.fit(image, 8, 3), image[top : top + 8, left : left + 8])


@pytest.mark.parametrize(("height", "width"), [(32, 32), (32, 48), (40, 32)])
@pytest.mark.parametrize("side", [8, 48])
def test_fit_scales_bilinearly_with_antialiasing_and_then_crops_the_centre(height, width, side):
    image = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    size = (width * side // 32, height * side // 32)
    scaled = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    top, left = (size[1] - side) // 2, (size[0] - side) // 2
    assert np.array_equal(cache.fit(image, side, 3), scaled[top : top + side, left : left + side])


@pytest.mark.parametrize(("colour", "grey"), [((255, 0, 0), 76), ((0, 255, 0), 150), ((0, 0, 255), 29)])
def test_one_channel_is_luminance(colour, grey):
    image = np.full((4, 4, 3), colour, dtype=np.uint8)
    assert np.array_equal(cache.fit(image, 4, 1), np.full((4, 4, 1), grey))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_fit_takes_images_of_any_mode(mode, channels):
    fitted = cache.fit(Image.new(mode, (9, 6)), 5, channels)
    assert fitted.shape == (5, 5, channels)
    assert fitted.dtype == np.uint8


def test_grey_images_get_three_equal_channels():
    grey = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    assert np.array_equal(cache.fit(grey, 8, 3), np.repeat(grey[..., None], 3, axis=-1))


def test_sixteen_bit_images_are_scaled_and_not_clipped():
    deep = Image.fromarray(np.array([[0, 256], [32768, 65535]], dtype=np.uint16))
    assert cache.fit(deep, 2, 1)[..., 0].tolist() == [[0, 1], [128, 255]]
