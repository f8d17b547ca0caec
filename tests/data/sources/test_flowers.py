"""The Oxford Flowers data sets: protocols, labels, downloads; the real Flowers-102 where there is a copy."""

import hashlib
import io
import shutil
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from scipy.io import savemat
from torchvision.datasets import Flowers102
from torchvision.datasets.utils import extract_archive

from bench.data import sources
from bench.data.decode import Decoder
from bench.data.sources import flowers
from bench.data.statistics import pixel_statistics

pytestmark = pytest.mark.filterwarnings("ignore:Python 3.14 will:DeprecationWarning")  # torchvision unpacks a tar

LABELS = [3, 1, 1, 2, 102, 3, 3, 1, 2, 2]  # of image_00001 and so on, from 1
SETS = {"trnid": [9, 2, 6], "valid": [1, 4], "tstid": [10, 3, 5, 8, 7]}
RNG = np.random.default_rng(0)
SPLITS17 = [RNG.permutation(1360) + 1 for _ in range(3)]


def pack(file: Path, count: int, digits: int) -> None:
    """An archive of ``count`` grey JPEG files jpg/image_<number>.jpg; the grey is the number modulo 251."""
    with tarfile.open(file, "w:gz", compresslevel=1) as archive:
        for i in range(1, count + 1):
            content = io.BytesIO()
            Image.new("L", (8, 8), i % 251).save(content, "jpeg", quality=100)
            member = tarfile.TarInfo(f"jpg/image_{i:0{digits}d}.jpg")
            member.size = len(content.getvalue())
            archive.addfile(member, io.BytesIO(content.getvalue()))


def md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def served(tmp_path_factory, serve):
    """A site that has the files of both data sets, few and small ones."""
    folder = tmp_path_factory.mktemp("site")
    pack(folder / "102flowers.tgz", 10, 5)
    pack(folder / "17flowers.tgz", 1360, 4)
    savemat(folder / "imagelabels.mat", {"labels": np.array([LABELS], dtype=np.uint8)})
    savemat(folder / "setid.mat", {key: np.array([numbers], dtype=np.uint16) for key, numbers in SETS.items()})
    parts = {}
    for number, order in enumerate(SPLITS17, 1):
        for key, part in zip(("trn", "val", "tst"), np.split(order, [680, 1020]), strict=True):
            parts[f"{key}{number}"] = part.astype(np.uint16)[None]
    savemat(folder / "datasplits.mat", parts)
    return serve(folder)


@pytest.fixture
def site(served, monkeypatch):
    """The site, which both data sets take for the authors'."""
    monkeypatch.setenv("no_proxy", "*")
    known = {key: (name, md5(served.folder / name)) for key, (name, _) in Flowers102._file_dict.items()}
    monkeypatch.setattr(Flowers102, "_file_dict", known)
    monkeypatch.setattr(Flowers102, "_download_url_prefix", served.url)
    monkeypatch.setattr(flowers, "FLOWERS17", served.url)
    monkeypatch.setattr(flowers, "FLOWERS17_FILES", {n: md5(served.folder / n) for n in flowers.FLOWERS17_FILES})
    served.asked.clear()
    return served


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "made" / "on" / "demand"


PARTS = {
    "official": ([2, 6, 9], [1, 4], [3, 5, 7, 8, 10]),
    "trainval": ([1, 2, 4, 6, 9], [], [3, 5, 7, 8, 10]),
    "paddle": ([3, 5, 7, 8, 10], [1, 4], [2, 6, 9]),
}


@pytest.mark.parametrize("split", PARTS)
def test_flowers102_is_downloaded_once_and_divided_by_the_protocol(split, site, root, decoder, check):
    for download in (True, True, False):
        dataset = sources.flowers102(decoder(8, 1), str(root), split, download)
    assert site.asked == ["102flowers.tgz", "imagelabels.mat", "setid.mat"]
    check(dataset, 8, 1)
    assert (len(dataset.classes), dataset.classes[0], dataset.classes[101]) == (102, "pink primrose", "blackberry lily")
    assert dataset.ids.tolist() == [f"image_{i:05d}" for i in range(1, 11)]
    assert dataset.labels.tolist() == [label - 1 for label in LABELS]
    assert np.abs(dataset.pixels[:, 0, 0, 0].astype(int) - range(1, 11)).max() <= 1
    for part, expected in zip((dataset.train, dataset.val, dataset.test), PARTS[split], strict=True):
        assert (part + 1).tolist() == expected


def test_flowers102_that_is_missing_damaged_or_nowhere_is_told(site, root, decoder, monkeypatch):
    with pytest.raises(FileNotFoundError, match="Flowers-102 not found, and data.source.download is false"):
        sources.flowers102(decoder(), str(root), download=False)
    assert not root.exists()
    sources.flowers102(decoder(8), str(root))
    (root / "flowers-102" / "setid.mat").write_bytes(b"damaged")
    with pytest.raises(FileNotFoundError, match="Flowers-102 not found, and data.source.download is false"):
        sources.flowers102(decoder(8), str(root), download=False)
    monkeypatch.setattr(Flowers102, "_download_url_prefix", f"{site.url}nowhere/")
    with pytest.raises(FileNotFoundError, match="Flowers-102 not found and cannot be downloaded .*404"):
        sources.flowers102(decoder(8), str(root))


@pytest.mark.parametrize(("source", "split"), [("flowers102", "Official"), ("flowers17", 0), ("flowers17", 1.0)])
def test_another_split_is_refused_before_anything_is_fetched(source, split, site, root, decoder):
    with pytest.raises(ValueError, match=rf"data\.source\.split={split}: must be one of "):
        getattr(sources, source)(decoder(), str(root), split)
    assert site.asked == []


def test_a_broken_flower_raises_naming_it_or_is_left_out_with_its_label(site, root, decoder):
    sources.flowers102(decoder(8), str(root))
    file = root / "flowers-102/jpg/image_00002.jpg"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"flowers-102/jpg/image_00002\.jpg: not a readable image"):
        sources.flowers102(decoder(8), str(root))
    dataset = sources.flowers102(decoder(8, on_error="skip"), str(root))
    assert dataset.skipped == (str(file),)
    assert dataset.labels.tolist() == [label - 1 for label in LABELS]
    assert dataset.ids[dataset.lost].tolist() == ["image_00002"]
    assert dataset.ids[dataset.train].tolist() == ["image_00006", "image_00009"]


@pytest.mark.parametrize("split", [1, 2, 3])
def test_flowers17_is_downloaded_once_and_divided_by_the_split(split, site, root, decoder, check):
    for download in (True, True, False):
        dataset = sources.flowers17(decoder(8, 1), str(root), split, download)
    assert sorted(site.asked) == ["17flowers.tgz", "datasplits.mat"]
    check(dataset, 8, 1)
    assert (len(dataset.classes), dataset.classes[0], dataset.classes[16]) == (17, "daffodil", "pansy")
    assert dataset.labels.tolist() == [i // 80 for i in range(1360)]
    assert dataset.ids.tolist() == [f"image_{i:04d}" for i in range(1, 1361)]
    assert np.abs(dataset.pixels[:, 0, 0, 0].astype(int) - np.arange(1, 1361) % 251).max() <= 1
    parts = np.split(SPLITS17[split - 1], [680, 1020])
    for part, expected in zip((dataset.train, dataset.val, dataset.test), parts, strict=True):
        assert (part + 1).tolist() == sorted(expected)


@pytest.mark.parametrize("name", ["17flowers.tgz", "datasplits.mat"])
def test_flowers17_with_another_checksum_counts_as_missing(name, site, root, decoder, monkeypatch):
    monkeypatch.setitem(flowers.FLOWERS17_FILES, name, "0" * 32)
    with pytest.raises(FileNotFoundError, match="Flowers-17 not found and cannot be downloaded"):
        sources.flowers17(decoder(8), str(root))
    with pytest.raises(FileNotFoundError, match=f"{name} is missing or has the wrong checksum"):
        sources.flowers17(decoder(8), str(root), download=False)
    assert not (root / "flowers-17/jpg").exists()


def test_flowers17_from_files_that_were_put_there(site, root, decoder):
    with pytest.raises(FileNotFoundError, match=r"data\.source\.download is false .*datasplits\.mat is missing"):
        sources.flowers17(decoder(8), str(root), download=False)
    shutil.copytree(site.folder, root / "flowers-17")
    assert len(sources.flowers17(decoder(8), str(root), download=False).labels) == 1360
    assert site.asked == []


def test_a_half_unpacked_flowers17_does_not_count(site, root, decoder, monkeypatch):
    def interrupted(_, to):
        (Path(to) / "jpg").mkdir()
        (Path(to) / "jpg" / "image_0001.jpg").touch()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("torchvision.datasets.utils.extract_archive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sources.flowers17(decoder(8), str(root))
    left = {path.name for path in (root / "flowers-17").iterdir() if path.suffix != ".lock"}
    assert left == {"17flowers.tgz", "datasplits.mat"}
    assert len(sources.flowers17(decoder(8), str(root)).labels) == 1360
    assert sorted(site.asked) == ["17flowers.tgz", "datasplits.mat"]


def test_two_may_unpack_flowers17_at_once(site, root, decoder, monkeypatch):
    shutil.copytree(site.folder, root / "flowers-17")
    unpacked = []

    def slowly(archive, to):
        unpacked.append(to)
        extract_archive(archive, to)
        time.sleep(0.2)

    monkeypatch.setattr("torchvision.datasets.utils.extract_archive", slowly)
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(sources.flowers17, decoder(8), str(root), download=False) for _ in range(2)]
    assert [len(run.result().labels) for run in runs] == [1360, 1360]
    assert len(unpacked) == 1


@pytest.fixture(scope="module")
def real102(real, tmp_path_factory):
    """The real Flowers-102 at 64 pixels by all protocols, decoded once; and its folder."""
    root, decoder = real("flowers-102"), Decoder(tmp_path_factory.mktemp("cache"), 64, 3)
    return root, {split: sources.flowers102(decoder, root, split, download=False) for split in PARTS}


@pytest.mark.data
@pytest.mark.slow
def test_the_real_flowers102_has_the_published_sizes_and_parts(real102, check, fingerprint, golden):
    sizes = {"official": (1020, 1020, 6149), "trainval": (2040, 0, 6149), "paddle": (6149, 1020, 1020)}
    for split, dataset in real102[1].items():
        check(dataset, 64, 3)
        parts = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
        assert tuple(map(len, parts.values())) == sizes[split]
        assert {name: fingerprint(dataset.ids[part]) for name, part in parts.items()} == golden["flowers102"][split]
        total = np.bincount(dataset.labels)
        assert (len(total), total.min(), total.max(), total.sum()) == (102, 40, 258, 8189)
    official = real102[1]["official"]
    for part in (official.train, official.val):
        assert np.bincount(official.labels[part]).tolist() == [10] * 102


@pytest.mark.data
@pytest.mark.slow
def test_the_real_flowers102_is_what_torchvision_gives(real102):
    root, dataset = real102[0], real102[1]["official"]
    where = {one: i for i, one in enumerate(dataset.ids.tolist())}
    train = Flowers102(root, split="train")
    pixels = np.stack([np.asarray(ImageOps.fit(image, (64, 64), Image.Resampling.BILINEAR)) for image, _ in train])
    mean, std = pixel_statistics(dataset.pixels, dataset.train)
    assert mean / 255 == pytest.approx(pixels.mean(axis=(0, 1, 2)) / 255, abs=5e-4)
    assert std / 255 == pytest.approx(pixels.std(axis=(0, 1, 2)) / 255, abs=5e-4)
    for split in ("train", "val", "test"):
        theirs = Flowers102(root, split=split)
        mine = [where[file.stem] for file in theirs._image_files]
        assert sorted(mine) == getattr(dataset, split).tolist()
        assert dataset.labels[mine].tolist() == theirs._labels
        for i in range(0, len(theirs), len(theirs) // 20):
            expected = np.asarray(ImageOps.fit(theirs[i][0], (64, 64), Image.Resampling.BILINEAR))
            assert np.abs(dataset.pixels[mine[i]].astype(int) - expected).max() <= 1
