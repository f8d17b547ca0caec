"""What the tests of networks share."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.config import CONF
from bench.models import Output

OWN = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
"""The model configurations of networks that are not timm's."""
BETWEEN = ("vgg13", "vgg13_bn", "vgg16", "vgg16_bn")
"""In depth, of VGG-11 and VGG-19, whose code they share."""


def on_meta(make: Callable[..., nn.Module], *args, **arguments) -> nn.Module:
    """The network without memory for its weights, in evaluation."""
    with torch.device("meta"):
        return make(*args, **arguments).eval()


def empty(image_size: int, in_channels: int = 3) -> Tensor:
    """Two images without memory for their pixels."""
    return torch.empty(2, in_channels, image_size, image_size, device="meta")


def of_type(net: nn.Module, *types: type[nn.Module]) -> list[nn.Module]:
    """The network's layers of these types."""
    return [layer for layer in net.modules() if isinstance(layer, types)]


def check_shapes_both_ways(net: nn.Module, image_size: int, heads: int) -> None:
    """A network of 10 classes on the meta device: logits in evaluation and training, a gradient a parameter."""
    assert net.eval()(empty(image_size)).logits.shape == (2, 10)
    output = net.train()(empty(image_size))
    assert [logits.shape for logits in (output.logits, *output.aux)] == [(2, 10)] * (1 + heads)
    sum(logits.sum() for logits in (output.logits, *output.aux)).backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in net.parameters())


def check_both_ways(net: nn.Module, image_size: int, heads: int) -> None:
    """A network of 10 classes forward and backward in training, forward in evaluation.

    Gradients are finite and reach the first layer; in evaluation the heads are gone, and an image's logits do not
    depend on the rest of the batch.
    """
    images, labels = torch.randn(2, 3, image_size, image_size), torch.tensor([1, 7])
    output = net.train()(images)
    assert isinstance(output, Output)
    assert [logits.shape for logits in (output.logits, *output.aux)] == [(2, 10)] * (1 + heads)
    sum(F.cross_entropy(logits, labels) for logits in (output.logits, *output.aux)).backward()
    for which, parameter in net.named_parameters():
        assert parameter.grad is not None, which
        assert parameter.grad.isfinite().all(), which
    assert next(net.parameters()).grad.abs().sum() > 0
    with torch.no_grad():
        output, alone = net.eval()(images), net(images[:1])
    assert isinstance(output, Output)
    assert (output.logits.shape, output.aux) == ((2, 10), ())
    assert output.logits.isfinite().all()
    torch.testing.assert_close(output.logits[:1], alone.logits, rtol=1e-3, atol=1e-3)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
