"""The data module: splits, statistics and loaders of a small made-up data set."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.data.augment import ColorJitter, CutMix, HorizontalFlip, Lighting, Mixup, RandomCrop, RandomResizedCrop
from bench.data.dataset import TEST as TEST_PART
from bench.data.dataset import TRAIN, Dataset, assemble
from bench.data.decode import Decoder, listing
from bench.data.module import ImageData, parts, resident
from bench.data.normalize import ChannelNormalize, PixelMeanNormalize

N, CLASSES, TEST = 150, 3, 30


def source(decoder: Decoder) -> Dataset:
    """150 images of 3 classes; test images are brighter, and lie between the training images."""
    rng = np.random.default_rng(0)
    test = np.arange(0, N, N // TEST)
    pixels = rng.integers(0, 128, (N, decoder.side, decoder.side, decoder.channels), dtype=np.uint8)
    pixels[test] += 100
    return Dataset(
        pixels=pixels,
        labels=rng.permutation(np.arange(N) % CLASSES),
        ids=np.array([f"{i}" for i in range(N)]),
        classes=("a", "b", "c"),
        train=np.setdiff1d(np.arange(N), test),
        val=np.arange(0),
        test=test,
    )


def with_own_validation(decoder: Decoder) -> Dataset:
    dataset = source(decoder)
    return dataclasses.replace(dataset, train=dataset.train[20:], val=dataset.train[:20])


def make(side=8, channels=3, **changes) -> ImageData:
    arguments = dict(
        source=source, decoder=Decoder("unused", side, channels), image_size=8, num_classes=CLASSES, val_size=24,
        batch_size=16, augment=[RandomCrop(8, 2), HorizontalFlip()], normalize=ChannelNormalize(), seed=0,
    )  # fmt: skip
    return ImageData(**arguments | changes)


def collect(loader) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels, *_ = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def normalised(data: ImageData, index: np.ndarray) -> torch.Tensor:
    seen = data.dataset.pixels[data.train].reshape(-1, data.dataset.pixels.shape[-1]).astype(np.float64)
    values = (data.dataset.pixels[index] - seen.mean(0)) / seen.std(0)
    return torch.from_numpy(values.transpose(0, 3, 1, 2)).float()


def test_sizes_of_the_parts():
    data = make()
    assert (len(data.train), len(data.val), len(data.test)) == (N - TEST - 24, 24, TEST)


def test_parts_are_disjoint_and_complete_and_test_is_the_official_one():
    data = make()
    assert np.array_equal(np.sort(np.concatenate([data.train, data.val, data.test])), np.arange(N))
    assert np.array_equal(data.test, source(Decoder("", 8, 3)).test)


def test_validation_is_stratified_and_does_not_move_with_the_seed():
    one, other = make(seed=0), make(seed=1)
    assert np.array_equal(one.val, other.val)
    assert np.array_equal(one.train, other.train)
    share = np.bincount(one.dataset.labels[one.dataset.train]) * 24 / (N - TEST)
    assert (np.abs(np.bincount(one.dataset.labels[one.val]) - share) <= 1).all()


@pytest.mark.parametrize("val_size", [0, None])
def test_without_validation_all_training_samples_are_trained_on(val_size):
    data = make(val_size=val_size)
    assert len(data.val) == len(data.val_dataloader()) == 0
    assert np.array_equal(data.train, data.dataset.train)


def test_a_source_with_validation_images_keeps_them_and_refuses_to_draw_others():
    dataset = with_own_validation(Decoder("", 8, 3))
    data = make(source=with_own_validation, val_size=None)
    assert np.array_equal(data.val, dataset.val)
    assert np.array_equal(data.train, dataset.train)
    for val_size in (0, 12):
        with pytest.raises(ValueError, match=rf"data\.val_size={val_size}: must be null, there are 20 validation"):
            parts(dataset, val_size)


def test_skipped_images_do_not_move_the_split(tmp_path):
    files = [tmp_path / f"{i}.png" for i in range(60)]
    for i, file in enumerate(files):
        Image.new("L", (8, 8), i).save(file)

    def few(decoder):
        labels, parts = np.arange(60) % 3, np.where(np.arange(60) < 45, TRAIN, TEST_PART)
        names = [str(file) for file in files]
        return assemble(decoder, "few", names, labels, parts, "abc", listing(names), lambda i: Image.open(files[i]))

    def ids(part):
        return set(data.dataset.ids[part])

    arguments = dict(source=few, channels=1, val_size=9, augment=[])
    data = make(**arguments | {"decoder": Decoder(tmp_path / "cache", 8, 1)})
    before = ids(data.train), ids(data.val)
    broken = {str(files[3]), str(files[20]), next(iter(before[1]))}
    for name in broken:
        Path(name).write_bytes(b"no image")
    data = make(**arguments | {"decoder": Decoder(tmp_path / "cache", 8, 1, "skip")})
    assert (ids(data.train), ids(data.val)) == (before[0] - broken, before[1] - broken)
    assert set(data.dataset.skipped) == broken


def test_wrong_number_of_classes_raises_naming_both():
    with pytest.raises(ValueError, match=r"num_classes=4: .* 3 classes"):
        make(num_classes=4)


@pytest.mark.parametrize("val_size", [-1, 2, N - TEST])
def test_impossible_val_size_raises_naming_it(val_size):
    with pytest.raises(ValueError, match=rf"^data\.val_size={val_size}: cannot hold out {val_size} of {N - TEST}"):
        make(val_size=val_size)


@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_are_those_of_the_training_part_alone(channels):
    data = make(channels=channels)
    normalize = data.plain.normalize
    seen = data.dataset.pixels[data.train].reshape(-1, channels)
    assert normalize.mean == pytest.approx(seen.mean(axis=0), rel=1e-12)
    assert normalize.std == pytest.approx(seen.std(axis=0), rel=1e-9)
    everything = data.dataset.pixels.reshape(-1, channels)
    assert (np.abs(everything.mean(axis=0) - normalize.mean) > 10).all()


def test_lighting_learns_from_the_training_part_alone():
    lighting, again = Lighting(), Lighting()
    data = make(augment=[lighting])
    again.fit(data.dataset.pixels[data.train], np.arange(len(data.train)))
    assert torch.equal(lighting.components, again.components)


def test_training_images_have_mean_0_and_std_1():
    images, _ = collect(make(augment=[]).train_dataloader())
    assert images.mean(dim=(0, 2, 3)).tolist() == pytest.approx([0] * 3, abs=1e-4)
    assert images.std(dim=(0, 2, 3)).tolist() == pytest.approx([1] * 3, abs=1e-3)


@pytest.mark.parametrize("part", ["val", "test"])
def test_evaluation_is_in_order_and_not_augmented(part):
    data = make(augment=[RandomCrop(8, 2), HorizontalFlip(), ColorJitter(), Mixup()])
    index = getattr(data, part)
    images, labels = collect(getattr(data, f"{part}_dataloader")())
    assert torch.equal(labels, torch.from_numpy(data.dataset.labels[index]))
    torch.testing.assert_close(images, normalised(data, index), rtol=1e-5, atol=1e-5)


def test_training_is_shuffled_by_the_seed_and_augmented():
    (one, labels), (again, _), (other, _) = (collect(make(seed=seed).train_dataloader()) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    data = make()
    assert torch.equal(labels.sort().values, torch.from_numpy(np.sort(data.dataset.labels[data.train])))
    plain, _ = collect(make(augment=[]).train_dataloader())
    assert not torch.equal(one, plain)


@pytest.mark.parametrize("normalize", [ChannelNormalize, PixelMeanNormalize])
@pytest.mark.parametrize("augment", [[], [RandomCrop(8, 0)], [RandomResizedCrop(8)]], ids=["none", "crop", "resized"])
def test_larger_stored_images_are_cropped_to_size(augment, normalize):
    data = make(side=12, augment=augment, normalize=normalize())
    assert data.dataset.pixels.shape[1:3] == (12, 12)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        assert next(iter(loader)).images.shape == (16, 3, 8, 8)


def test_evaluation_takes_the_centre_of_larger_stored_images():
    data = make(side=12)
    images, _ = collect(data.test_dataloader())
    torch.testing.assert_close(images, normalised(data, data.test)[..., 2:10, 2:10], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("augment", "said"),
    [
        ([RandomCrop(6)], "data.train_image_size=8: the augmentations make images of 6×6"),
        ([RandomCrop(8, 8)], "padding=8: reflecting 8×8 images allows at most 7"),
        ([RandomCrop(20, 2)], "size=20: images of 8×8 padded by 2 are smaller"),
        ([Mixup(), CutMix()], "Mixup and CutMix exclude each other"),
    ],
)
def test_transforms_that_do_not_fit_are_refused_at_once(augment, said):
    with pytest.raises(ValueError, match=said):
        make(augment=augment)


def test_mixed_batches_have_targets_in_training_alone():
    data = make(augment=[CutMix()])
    assert all(batch.targets.shape == (len(batch.labels), CLASSES) for batch in data.train_dataloader())
    assert all(batch.targets is None for batch in data.val_dataloader())


def test_the_test_is_in_32_bits_whatever_the_training():
    data = make(dtype=torch.bfloat16)
    loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    assert [next(iter(loader)).images.dtype for loader in loaders] == [torch.bfloat16, torch.bfloat16, torch.float32]


def test_on_the_cpu_the_stored_pixels_are_not_copied():
    data = make()
    assert data.pixels.data_ptr() == data.dataset.pixels.ctypes.data
    assert {loader.pixels.data_ptr() for loader in (data.train_dataloader(), data.test_dataloader())} == {
        data.pixels.data_ptr()
    }


CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")


@pytest.mark.parametrize(
    ("size", "device", "storage", "expected"),
    [
        (10, CPU, "auto", False), (10, CPU, "cpu", False), (10, CUDA, "cpu", False), (10, CUDA, "auto", True),
        (500, CUDA, "auto", True), (501, CUDA, "auto", False), (2000, CUDA, "cuda", True),
    ],
)  # fmt: skip
def test_images_are_kept_on_the_gpu_where_they_fit_into_half_of_what_is_free(
    monkeypatch, size, device, storage, expected
):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 4000))
    assert resident(size, device, storage) is expected


def test_storage_on_a_gpu_needs_training_there():
    with pytest.raises(ValueError, match="data.device=cuda: the network trains on cpu; choose auto or cpu"):
        make(storage="cuda")
    with pytest.raises(ValueError, match="data.device=disk: must be one of auto, cpu, cuda"):
        make(storage="disk")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("storage", ["cuda", "cpu"])
def test_on_a_gpu_training_batches_are_there(storage):
    data = make(device="cuda", storage=storage)
    batch = next(iter(data.train_dataloader()))
    assert data.pixels.device.type == storage
    assert batch.images.device == batch.labels.device == torch.empty(0, device="cuda").device


def constant(decoder: Decoder) -> Dataset:
    dataset = source(decoder)
    dataset.pixels[dataset.train] = 200
    return dataset


def test_a_constant_channel_is_only_centred():
    data = make(source=constant, augment=[])
    images, _ = collect(data.train_dataloader())
    assert images.eq(0).all()
    images, _ = collect(data.test_dataloader())
    assert 0 < images.abs().max() <= 255


def test_training_images_may_be_of_another_size_than_the_others():
    data = make(augment=[RandomResizedCrop(6)], train_image_size=6)
    sides = [collect(loader)[0].shape[-1] for loader in (data.train_dataloader(), data.val_dataloader())]
    assert sides == [6, 8]
