"""Decoding: which images are left out, and how an image is brought to size."""

import errno
import io
import os
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.data.decode import Decoder, UnreadableError, fit, naming
from bench.data.sources.folder import upright

SIDE = 8
ROOT = Path(__file__).parents[2]


def encoded(format: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file, format)
    return file.getvalue()


def broken_files() -> dict[str, bytes]:
    png, webp = encoded("png"), encoded("webp")
    length = png.index(b"IDAT") - 4
    return {
        "empty.png": b"",
        "text.png": b"this is no image",
        "truncated.png": png[: len(png) // 2],
        "scrambled.png": png[: len(png) // 2] + bytes(len(png) - len(png) // 2),
        "chunk.png": png[:length] + (1000).to_bytes(4, "big") + png[length + 4 :],
        "truncated.webp": webp[: len(webp) // 2],
    }


@pytest.mark.parametrize("things", ["png"], indirect=True)
@pytest.mark.parametrize("name", [*broken_files(), "missing.png", "folder.png"])
def test_a_broken_image_raises_naming_it_and_leaves_nothing(name, things):
    things.files[1] = file = things.files[1].with_name(name)
    if name == "folder.png":
        file.mkdir()
    elif name != "missing.png":
        file.write_bytes(broken_files()[name])
    with pytest.raises(ValueError, match="not a readable image") as caught:
        things.decode()
    assert str(caught.value).startswith(f"{file}: ")
    assert things.entries() == []
    if file.is_dir():
        file.rmdir()
    things.files[1] = file.with_suffix(".png")
    things.write(1, things.pixels[1])  # repaired
    assert np.array_equal(things.decode().pixels, things.pixels)


@pytest.mark.parametrize("things", ["png"], indirect=True)
@pytest.mark.parametrize("broken", [[0], [1, 4], [0, 1, 2, 3], [0, 1, 2, 3, 4]])
def test_broken_images_are_left_out_where_that_is_asked_for_and_told_each_time(broken, things, capsys):
    for i in broken:
        things.files[i].write_bytes(broken_files()["truncated.png"])
    kept = [i for i in range(5) if i not in broken]
    names = [str(things.files[i]) for i in broken]
    for _ in range(2):
        decoded = things.decode(on_error="skip")
        assert np.flatnonzero(decoded.readable).tolist() == kept
        assert decoded.skipped == tuple(names)
        assert np.array_equal(decoded.pixels[kept], things.pixels[kept])
        assert not decoded.pixels[broken].any()
        shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        assert f"things: skipped {len(broken)} of 5 images, which cannot be read: {shown}\n" in capsys.readouterr().out
    assert len(things.opened) == 5
    assert {file.name for file in things.entries()[0].iterdir()} == {"pixels.npy", "entry.json"}


@pytest.mark.parametrize("things", ["png"], indirect=True)
def test_what_one_run_skips_another_that_does_not_skip_refuses(things):
    things.files[2].write_bytes(b"no image")
    assert things.decode(on_error="skip").readable.tolist() == [True, True, False, True, True]
    with pytest.raises(ValueError, match=rf"{things.files[2]}: not a readable image \("):
        things.decode()
    assert things.decode(on_error="skip").readable.tolist() == [True, True, False, True, True]
    assert things.opened.count(0) == 1


@pytest.mark.parametrize("things", ["png"], indirect=True)
@pytest.mark.parametrize(
    "number", [errno.EMFILE, errno.EIO, errno.ENOTCONN, errno.ETIMEDOUT, errno.EAGAIN, errno.EACCES]
)
def test_errors_of_the_machine_are_not_laid_to_the_image(things, number):
    def failing(i):
        if i == 3:
            raise OSError(number, os.strerror(number))
        return Image.open(things.files[i])

    read, things.open = things.open, failing
    with pytest.raises(OSError, match=os.strerror(number)):
        things.decode(on_error="skip")
    assert things.entries() == []
    things.open = read
    assert things.decode(on_error="skip").readable.all()


def test_a_failure_ends_the_tasks_of_several_images_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    opened = []

    def read(i):
        opened.append(i)
        if i == 9:
            raise ValueError("no image")
        if len(opened) == 11:
            time.sleep(0.5)  # for the failure to be noticed
        return Image.new("L", (SIDE, SIDE), i)

    names = [f"{i}" for i in range(64)]  # in tasks of eight
    with pytest.raises(UnreadableError, match=r"^9: not a readable image \(no image\)"):
        Decoder(tmp_path, SIDE, 1).decode("some", names, None, read)
    assert opened[:10] == [*range(10)]
    assert len(opened) <= 11  # the next task had begun
    decoded = Decoder(tmp_path, SIDE, 1, "skip").decode("some", names, None, read)
    assert decoded.pixels[:, 0, 0, 0].tolist() == [0 if i == 9 else i for i in range(64)]
    assert decoded.skipped == ("9",)


def test_with_nothing_broken_skip_says_nothing_of_it(things, capsys):
    assert np.array_equal(things.decode(on_error="skip").pixels, things.pixels)
    assert "skipped" not in capsys.readouterr().out


def test_another_word_for_on_error_is_refused(things):
    with pytest.raises(ValueError, match=r"data\.on_error=ignore: must be one of raise, skip"):
        things.decode(on_error="ignore")
    assert not things.folder.exists()


def test_no_names_give_no_images_and_the_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Decoder("~/cache", SIDE, 3).decode("none", [], None, Image.open).pixels.shape == (0, SIDE, SIDE, 3)
    assert any(path.is_dir() for path in (tmp_path / "cache").iterdir())


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 20), (14, 8)])
def test_fit_crops_the_centre_of_the_longer_side(height, width):
    top, left = (height - 8) // 2, (width - 8) // 2
    image = noise(height, width)
    assert np.array_equal(fit(image, 8, 3), np.asarray(image)[top : top + 8, left : left + 8])


@pytest.mark.parametrize(("height", "width"), [(32, 32), (32, 48), (40, 32)])
@pytest.mark.parametrize("side", [8, 48])
def test_fit_scales_bilinearly_with_antialiasing_and_then_crops_the_centre(height, width, side):
    size = (width * side // 32, height * side // 32)
    scaled = np.asarray(noise(height, width).resize(size, Image.Resampling.BILINEAR))
    top, left = (size[1] - side) // 2, (size[0] - side) // 2
    assert np.array_equal(fit(noise(height, width), side, 3), scaled[top : top + side, left : left + side])


@pytest.mark.parametrize(("colour", "grey"), [((255, 0, 0), 76), ((0, 255, 0), 150), ((0, 0, 255), 29)])
def test_one_channel_is_luminance(colour, grey):
    assert np.array_equal(fit(Image.new("RGB", (4, 4), colour), 4, 1), np.full((4, 4, 1), grey))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_fit_takes_images_of_any_mode(mode, channels):
    fitted = fit(Image.new(mode, (9, 6)), 5, channels)
    assert fitted.shape == (5, 5, channels)
    assert fitted.dtype == np.uint8


def test_a_palette_with_transparency_gives_its_colours_and_no_warning():
    file = io.BytesIO()
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putdata([1, 0])
    picture.save(file, "png", transparency=b"\x80\xff")
    with Image.open(file) as opened:
        assert isinstance(opened.info["transparency"], bytes)
        assert fit(opened.resize((2, 2)), 2, 3)[0].tolist() == [[200, 100, 50], [10, 20, 30]]


def test_grey_images_get_three_equal_channels():
    grey = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    assert np.array_equal(fit(Image.fromarray(grey), 8, 3), np.repeat(grey[..., None], 3, axis=-1))


def test_sixteen_bit_images_are_scaled_and_not_clipped():
    deep = Image.fromarray(np.array([[0, 256], [32768, 65535]], dtype=np.uint16))
    assert fit(deep, 2, 1)[..., 0].tolist() == [[0, 1], [128, 255]]


@pytest.mark.parametrize("most", [65535, 4095])
def test_pnm_files_of_up_to_16_bits_are_scaled_and_not_clipped(tmp_path, most):
    values = np.array([[0, most // 4], [most // 2, most]], dtype=">u2")
    (tmp_path / "a.pgm").write_bytes(b"P5 2 2 %d\n" % most + values.tobytes())
    assert fit(upright(tmp_path / "a.pgm"), 2, 1)[..., 0].tolist() == [[0, 63], [127, 255]]


def tiff(file: Path, values: np.ndarray, bits: int, order: str = "II", white_is_zero=False, signed=False) -> None:
    """Write (H, W) grey values as one strip, byte by byte: Pillow writes neither 12 bits nor white as zero."""
    if bits == 12:  # packed
        strip = "".join(f"{value:012b}" for value in values.flatten().tolist())
        data = int(strip, 2).to_bytes(len(strip) // 8, "big")
    else:
        data = values.astype(f"{'<' if order == 'II' else '>'}{'i' if signed else 'u'}{bits // 8}").tobytes()
    height, width = values.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: int(not white_is_zero), 273: 8, 277: 1, 278: height}
    tags |= {279: len(data), 339: 2 if signed else 1}
    end = "<" if order == "II" else ">"
    fields = b"".join(struct.pack(f"{end}HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = order.encode() + struct.pack(f"{end}HI", 42, 8 + len(data))
    file.write_bytes(head + data + struct.pack(f"{end}H", len(tags)) + fields + bytes(4))


@pytest.mark.parametrize(
    ("bits", "order", "white_is_zero"),
    [(8, "II", False), (8, "II", True), (12, "II", False), (16, "II", False), (16, "II", True), (16, "MM", False)],
)
def test_tiff_files_are_scaled_by_their_own_depth(tmp_path, bits, order, white_is_zero):
    top = 2**bits - 1
    tiff(tmp_path / "a.tif", np.array([[0, top // 4 + 1], [top // 2 + 1, top]]), bits, order, white_is_zero)
    fitted = fit(upright(tmp_path / "a.tif"), 2, 1)[..., 0]
    assert (255 - fitted if white_is_zero else fitted).tolist() == [[0, 64], [128, 255]]


def test_signed_values_are_refused(tmp_path):
    tiff(tmp_path / "a.tif", np.array([[-5, 0], [1, 300]]), 16, signed=True)
    with pytest.raises(ValueError, match="range is not known: signed, real, or of more than 16 bits"):
        fit(upright(tmp_path / "a.tif"), 2, 1)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_values_of_32_bits_are_refused(tmp_path, dtype):
    Image.fromarray(np.arange(4, dtype=dtype).reshape(2, 2)).save(tmp_path / "a.tif")
    told = r"^a\.tif: not a readable image \(has values whose range is not known: signed, real, or of more than 16 bits"
    with pytest.raises(UnreadableError, match=told), naming("a.tif"), upright(tmp_path / "a.tif") as picture:
        fit(picture, 2, 1)
