"""What the tests of the sources share."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from bench.data.dataset import Dataset
from bench.data.decode import Decoder


@pytest.fixture
def decoder(tmp_path) -> Callable[..., Decoder]:
    """Makes decoders whose cache is the test's own."""

    def make(side: int = 32, channels: int = 3, on_error: str = "raise") -> Decoder:
        return Decoder(tmp_path / "cache", side, channels, on_error)

    return make


@pytest.fixture
def check() -> Callable[[Dataset, int, int], None]:
    """Asserts what every data set promises."""

    def check(dataset: Dataset, side: int, channels: int) -> None:
        n = len(dataset.labels)
        assert dataset.pixels.shape == (n, side, side, channels)
        assert dataset.pixels.dtype == np.uint8
        assert dataset.labels.dtype == np.int64
        assert set(dataset.labels) <= set(range(len(dataset.classes)))
        assert len(set(dataset.ids)) == len(dataset.ids) == n
        assert sorted([*dataset.train, *dataset.val, *dataset.test]) == list(range(n))

    return check


@pytest.fixture(scope="session")
def fingerprint() -> Callable[[np.ndarray], str]:
    """The hash of ids that ``golden/splits.json`` holds."""
    return lambda ids: hashlib.sha256("\n".join(ids).encode()).hexdigest()


@pytest.fixture(scope="session")
def golden() -> dict:
    """Published splits."""
    return json.loads((Path(__file__).parents[2] / "golden/splits.json").read_text())


@pytest.fixture(scope="session")
def real() -> Callable[[str], str]:
    """Folder of the real images, if it holds the folder asked for; otherwise the test is skipped."""

    def find(name: str) -> str:
        root = os.environ.get("BENCH_DATA")
        if not root or not (Path(root) / name).is_dir():
            pytest.skip(f"BENCH_DATA names no folder that holds {name}/")
        return root

    return find


class Site(ThreadingHTTPServer):
    """Serves a folder on this machine; ``asked``: names of the files that were fetched."""

    def __init__(self, folder: Path):
        self.asked: list[str] = []

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                if self.headers["Method"] == "HEAD":  # torchvision's way to follow redirections
                    return self.do_HEAD()
                self.server.asked.append(self.path.rpartition("/")[-1])
                return super().do_GET()

        super().__init__(("127.0.0.1", 0), partial(Handler, directory=folder))
        self.folder, self.url = folder, f"http://127.0.0.1:{self.server_port}/"


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[[Path], Site]]:
    """Starts sites, which end with the module's tests."""
    with ExitStack() as stack:

        def start(folder: Path) -> Site:
            server = stack.enter_context(Site(folder))
            Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
            stack.callback(server.shutdown)
            return server

        yield start
