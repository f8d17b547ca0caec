"""Networks of torchvision, and ours that take their weights."""

import torch
import torchvision
from torch import nn

from bench.models.alexnet import AlexNet
from bench.models.googlenet import GoogLeNet
from bench.models.vgg import VGG

TWINS = {
    "alexnet": lambda **kw: AlexNet(image_size=224, towers=1, **kw),
    **{f"vgg{depth}": lambda depth=depth, **kw: VGG(depth, **kw) for depth in (11, 13, 16, 19)},
    **{f"vgg{depth}_bn": lambda depth=depth, **kw: VGG(depth, batch_norm=True, **kw) for depth in (11, 13, 16, 19)},
    "googlenet": lambda **kw: GoogLeNet(batch_norm=True, torchvision=True, **kw),
}


def randomly(make) -> nn.Module:
    """A network with random weights that tell layers apart, statistics of batch norm among them.

    Not initialised before, which takes a network of 140 million parameters seconds.
    """
    with torch.device("meta"):
        net = make()
    net = net.to_empty(device="cpu")
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2)
            elif value.ndim > 1:
                value.uniform_(-1, 1).mul_((6 / value[0].numel()) ** 0.5)  # Kaiming
            elif value.is_floating_point():
                value.uniform_(-0.2, 0.2).add_(1 if name.endswith("weight") else 0)
    return net


def torchvisions(name: str, **arguments) -> nn.Module:
    """torchvision's network with random weights."""
    if name == "googlenet":
        arguments["init_weights"] = False
    return randomly(lambda: torchvision.models.get_model(name, **arguments))


def empty(name: str) -> nn.Module:
    """Our network with weights of zero."""
    with torch.device("meta"):
        net = TWINS[name]()
    net = net.to_empty(device="cpu")
    for value in net.state_dict().values():
        value.zero_()
    return net


def images(n: int, size: int) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))
