"""Sources of images: one function per data set, each returning a :class:`bench.data.dataset.Dataset`.

Each takes the decoder first, followed by its own settings; a file in ``conf/data`` names the function.
"""

from bench.data.sources.cifar import cifar10, cifar100
from bench.data.sources.digits import digits
from bench.data.sources.flowers import flowers17, flowers102
from bench.data.sources.folder import folder

__all__ = ["cifar10", "cifar100", "digits", "flowers17", "flowers102", "folder"]
