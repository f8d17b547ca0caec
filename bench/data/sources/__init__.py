"""Where images come from: one function a data set, all with the same result, a :class:`bench.data.dataset.Dataset`.

Each takes the decoder first and its own settings after it; a file of ``conf/data`` names the function.
"""

from bench.data.sources.cifar import cifar10, cifar100
from bench.data.sources.digits import digits
from bench.data.sources.flowers import flowers17, flowers102
from bench.data.sources.folder import folder

__all__ = ["cifar10", "cifar100", "digits", "flowers17", "flowers102", "folder"]
