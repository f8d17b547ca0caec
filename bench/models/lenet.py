"""LeNet-5."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import Tensor, nn

from bench.models.kernels import MaxPool2x2
from bench.models.layers import Output, init_kaiming
from bench.rules import check_argument, choice

PAPER_SIZE = 32
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}
POOLS: dict[str, Callable[[], nn.Module]] = {"max": MaxPool2x2, "average": partial(nn.AvgPool2d, 2)}


def side_of_s4(image_size: int) -> int:
    """The side of S4's maps: 32 → 28 → 14 → 10 → 5.

    Raises:
        ValueError: ``image_size`` is below 20.
    """
    if image_size < 20:
        raise ValueError(f"image_size={image_size}: LeNet needs at least 20 pixels, so that C5 sees a 2×2 map")
    return ((image_size - 4) // 2 - 4) // 2


class LeNet(nn.Module):
    """LeNet-5, modern form: (N, in_channels, S, S) → ``Output(logits=(N, num_classes))``.

    LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", Proc. IEEE 86(11),
    1998, section II.B, figure 2: C1 6@5×5, S2, C3 16@5×5, S4, C5 120, F6 84, output.

    Deviations: C3 is fully connected to the maps of S2 (partially in table I); S2 and S4 take the maximum, or with
    ``pool=average`` the mean, without trainable coefficients and activation; ReLU, or plain instead of scaled tanh; a
    linear output instead of radial basis functions, trained with cross entropy; Kaiming initialisation. 61,706
    parameters at 1×32×32 and 10 classes against the paper's 60,000; ``lenet5.py`` is the network as published.

    One geometry for all sizes. Images larger than 32×32 widen the input of C5, which is implemented as a linear layer.

    Raises:
        ValueError: ``image_size`` is below 20, or ``activation`` or ``pool`` is not an allowed value.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: int = PAPER_SIZE,
        activation: Literal["relu", "tanh"] = "relu",
        pool: Literal["max", "average"] = "max",
    ):
        super().__init__()
        check_argument("activation", activation, choice(*ACTIVATIONS))
        check_argument("pool", pool, choice(*POOLS))
        act, down = ACTIVATIONS[activation], POOLS[pool]
        side = side_of_s4(image_size)
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 6, 5), act(), down(),  # C1, S2
            nn.Conv2d(6, 16, 5), act(), down(),  # C3, S4
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(16 * side * side, 120), act(),  # C5
            nn.Linear(120, 84), act(),  # F6
            nn.Linear(84, num_classes),
        )  # fmt: skip
        init_kaiming(self)

    def forward(self, x: Tensor) -> Output:
        return Output(self.classifier(self.features(x)))
