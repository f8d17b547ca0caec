"""Later networks from the literature, as implemented in timm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bench.models.layers import SMALL_BELOW, FitTo, Output, geometry
from bench.rules import PROBABILITY, SWITCH, check_argument

SMALLEST = {"inception_v3": 75, "inception_v4": 75, "inception_resnet_v2": 75}
"""Minimum pixels for the unpadded convolutions of these networks, which have no small form."""

AUX_SMALLEST = {"inception_v3": 107}
"""Minimum pixels for the auxiliary head's 5×5 pooling, for timm's networks with such a head."""


class TimmNet(nn.Module):
    """A timm network: (N, in_channels, S, S) → ``Output(logits, aux)``, each (N, num_classes).

    ``architecture`` is timm's name. Those with a configuration:

    - ``inception_v3``: Szegedy et al., "Rethinking the Inception architecture", CVPR 2016
    - ``inception_v4``, ``inception_resnet_v2``: Szegedy et al., "Inception-v4, Inception-ResNet and the impact of
      residual connections on learning", AAAI 2017
    - ``legacy_xception``: Chollet, "Xception: deep learning with depthwise separable convolutions", CVPR 2017
    - ``nasnetalarge``: Zoph et al., "Learning transferable architectures", CVPR 2018: NASNet-A (6 @ 4032)
    - ``resnet18``, ``resnet50``: He et al., "Deep residual learning for image recognition", CVPR 2016
    - ``wide_resnet50_2``: Zagoruyko, Komodakis, "Wide residual networks", BMVC 2016
    - ``resnext50_32x4d``: Xie et al., "Aggregated residual transformations", CVPR 2017
    - ``densenet121``: Huang et al., "Densely connected convolutional networks", CVPR 2017
    - ``mobilenetv1_100``: Howard et al., "MobileNets", 2017; ``mobilenetv2_100``: Sandler et al., CVPR 2018

    Geometries: ``paper`` is timm's network. ``small`` has a 3×3/1 first convolution in place of 7×7/2 or 3×3/2, and
    no max pooling after it; the three Inception networks have no small form.

    Deviations: timm's, including the stride of ResNet's bottlenecks in the 3×3 convolution, auxiliary heads for
    Inception v3 only, and no drop path in NASNet-A. Initialisation is timm's. Inception v3's head pools to 5×5,
    as on the paper's 17×17 maps, from maps of any size.

    Args:
        dropout: before the classifier.
        aux_heads: logits of the auxiliary heads in training, for networks that have them.

    Raises:
        ImportError: timm is not installed.
        ValueError: timm has no such network, it has no auxiliary heads, ``image_size`` is too small for it, or another
            argument is not allowed.
    """

    def __init__(
        self,
        architecture: str,
        num_classes: int = 1000,
        in_channels: int = 3,
        image_size: int = 224,
        dropout: float = 0.0,
        aux_heads: bool = False,
    ):
        super().__init__()
        check_argument("dropout", dropout, PROBABILITY)
        check_argument("aux_heads", aux_heads, SWITCH)
        try:
            import timm  # an extra that the other networks do not need
        except ImportError as error:
            raise ImportError("needs timm: pip install timm, or 'convbench[timm]'") from error
        if not timm.is_model(architecture):
            raise ValueError(f"architecture={architecture}: must be one of timm.list_models()")
        if aux_heads and architecture not in AUX_SMALLEST:
            raise ValueError(f"aux_heads=true: {architecture} has none; only {', '.join(AUX_SMALLEST)}")
        smallest = SMALLEST.get(architecture, 0)
        if image_size < smallest:
            raise ValueError(f"image_size={image_size}: {architecture} needs at least {smallest} pixels")
        if aux_heads and image_size < AUX_SMALLEST[architecture]:
            needed = f"at least {AUX_SMALLEST[architecture]} pixels; or aux_heads=false"
            raise ValueError(f"image_size={image_size}: the auxiliary head needs {needed}")
        options: dict[str, Any] = {"aux_logits": True} if aux_heads else {}
        self.net: Any = timm.create_model(
            architecture, num_classes=num_classes, in_chans=in_channels, drop_rate=dropout, **options
        )
        if geometry(image_size) == "small" and not smallest:
            try:
                small_stem(self.net)
            except ValueError as error:
                raise ValueError(f"image_size={image_size}: {architecture} has no small form ({error})") from error
        self.aux_heads = nn.ModuleDict()
        if aux_heads:
            self.aux_heads["6e"] = take_aux_head(self.net)

    def forward(self, x: Tensor) -> Output:
        if not (self.training and self.aux_heads):
            return Output(self.net(x))
        x = self.net.forward_preaux(x)
        aux = self.aux_heads["6e"](x)
        return Output(self.net.forward_head(self.net.forward_postaux(x)), (aux,))


def take_aux_head(net: Any) -> nn.Module:
    """Remove the auxiliary head from timm's Inception v3 and let it pool maps of any size to 5×5."""
    head = net.AuxLogits
    net.AuxLogits, net.aux_logits = None, False
    head.conv0 = nn.Sequential(head.conv0, FitTo(5))
    return head


def small_stem(net: Any) -> None:
    """Give a timm network a 3×3/1 first convolution, and remove the max pooling of its stem: the first one beside that
    convolution, or beside a module that it is in. Pooling within later blocks stays.

    Its weights are the centre of the original ones, times the ratio of the kernels' sides: they are distributed as if
    timm had initialised them, since its variances are all proportional to the inverse of a kernel's size.

    Raises:
        ValueError: the first convolution is not 3×3/2 or 7×7/2.
    """
    name = net.default_cfg.get("first_conv")
    first = net.get_submodule(name) if isinstance(name, str) else None
    if type(first) is not nn.Conv2d or (first.kernel_size, first.stride) not in (((3, 3), (2, 2)), ((7, 7), (2, 2))):
        raise ValueError(f"below {SMALL_BELOW} pixels the first convolution must be a plain 3×3/2 or 7×7/2")
    side = first.kernel_size[0]
    small = nn.Conv2d(first.in_channels, first.out_channels, 3, padding=1, bias=first.bias is not None)
    with torch.no_grad():
        edge = (side - 3) // 2
        small.weight.copy_(first.weight[..., edge : edge + 3, edge : edge + 3] * (side / 3))
    net.set_submodule(name, small)
    while name:
        name = name.rpartition(".")[0]
        for child, module in net.get_submodule(name).named_children():
            if isinstance(module, nn.MaxPool2d):
                net.set_submodule(f"{name}.{child}" if name else child, nn.Identity())
                return
