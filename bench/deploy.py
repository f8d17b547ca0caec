"""Trained networks for deployment: a single module from pixels to logits, and its export to files."""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse

from bench.data.normalize import AffineNormalize, Normalize, ZcaNormalize
from bench.data.pipeline import Pipeline
from bench.errors import ConfigError
from bench.models.kernels import LocalResponseNorm, MaxPool2x2
from bench.models.layers import AUX_HEADS, FitTo
from bench.models.winograd import as_pytorchs
from bench.saved import Saved

INPUT, OUTPUT = "images", "logits"
Runner = Callable[[Tensor], Tensor]
"""Images (N, C, D, D) → logits (N, num_classes)."""


class Deployed(nn.Module):
    """A trained network that takes decoded images: (N, C, D, D) float32 in [0, 1] → logits (N, K).

    It includes the normalisation but no auxiliary heads, and batch norm is folded into the convolutions before it. D is
    the side of the network's images; with a position-dependent normalisation it is that of the images the
    normalisation was fitted to, of which the network sees the centre.
    """

    def __init__(self, saved: Saved):
        super().__init__()
        self.side = saved.decode_size if saved.normalize.first else saved.image_size
        self.crop, self.margin = saved.image_size, (self.side - saved.image_size) // 2
        self.normalize = _as_module(saved.normalize, saved.in_channels, self.side)
        self.network = folded(saved.model)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.middle(self.normalize(images)))[0]

    def middle(self, x: Tensor) -> Tensor:
        """The centre of larger images, which the network sees."""
        if self.side == self.crop:
            return x
        return x[..., self.margin : self.margin + self.crop, self.margin : self.margin + self.crop]


class Affine(nn.Module):
    """Scale and shift of values in [0, 1], per channel or per value: (N, C, D, D) → the same."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor):
        super().__init__()
        self.register_buffer("scale", 255 * scale.clone(memory_format=torch.contiguous_format))
        self.register_buffer("shift", shift.clone(memory_format=torch.contiguous_format))

    def forward(self, images: Tensor) -> Tensor:
        return images * self.scale + self.shift


class Whitening(nn.Module):
    """Global contrast normalisation and ZCA whitening of values in [0, 1]: (N, C, D, D) → the same."""

    mean: Tensor
    matrix: Tensor

    def __init__(self, zca: ZcaNormalize):
        super().__init__()
        self.contrast = zca.contrast
        state = zca.state()
        self.register_buffer("mean", state["mean"].clone())
        self.register_buffer("matrix", state["whitening"].clone())

    def forward(self, images: Tensor) -> Tensor:
        n, c, d, _ = images.shape
        values = (self.contrast(255 * images.permute(0, 2, 3, 1)) - self.mean) @ self.matrix
        return values.reshape(n, d, d, c).permute(0, 3, 1, 2)


def _as_module(normalize: Normalize, channels: int, side: int) -> nn.Module:
    if isinstance(normalize, AffineNormalize):
        state = normalize.state()
        height = side if len(state["scale"]) > channels else 1  # per value, or per channel
        return Affine(*(state[name].view(height, height, channels).permute(2, 0, 1) for name in ("scale", "shift")))
    if isinstance(normalize, ZcaNormalize):
        return Whitening(normalize)
    raise ConfigError(f"augment/normalize: {type(normalize).__name__} cannot be exported, only those of this project")


class _Tracer(fx.Tracer):
    """Does not trace into modules that depend on their input's shape."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, FitTo | LocalResponseNorm | MaxPool2x2) or super().is_leaf_module(m, module_qualified_name)


def folded(model: nn.Module) -> nn.Module:
    """A copy for evaluation, without auxiliary heads, with batch norm folded into the convolutions before it.

    Networks that cannot be traced without images, such as some of timm's, keep their batch norm, and so do timm's
    layers that combine batch norm and activation.
    """
    # contiguous weights: on export others cannot be distinguished from views of a larger tensor
    model = as_pytorchs(copy.deepcopy(model)).cpu().to(memory_format=torch.contiguous_format).eval()
    if AUX_HEADS in dict(model.named_children()):
        setattr(model, AUX_HEADS, nn.ModuleDict())
    try:
        graph = _Tracer().trace(model)
    except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError):
        return model
    return fuse(fx.GraphModule(model, graph), inplace=True, no_trace=True)


def batch_norms(model: nn.Module) -> int:
    """The number of batch norm layers, without those of auxiliary heads."""
    return sum(
        isinstance(layer, nn.modules.batchnorm._BatchNorm) and not name.startswith(f"{AUX_HEADS}.")
        for name, layer in model.named_modules()
    )


def exported(network: Deployed, channels: int) -> torch.export.ExportedProgram:
    """The ``torch.export`` program, for any number of images."""
    example = torch.zeros(2, channels, network.side, network.side)
    try:
        with torch.no_grad():
            return torch.export.export(network, (example,), dynamic_shapes={INPUT: {0: torch.export.Dim("n")}})
    except Exception as error:  # of anyone's network, such as one that decides by values
        reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        raise ConfigError(f"checkpoint: torch.export cannot express this network ({reason})") from error


def write_pt2(network: Deployed, saved: Saved, file: Path) -> Runner:
    """Write a file for ``torch.export.load``, with the class names in the extra file ``about.json``; returns the
    function that the file computes.
    """
    program = exported(network, saved.in_channels)
    torch.export.save(program, file, extra_files={"about.json": json.dumps(about(saved))})
    module = torch.export.load(file).module()
    return lambda images: module(images)


def write_onnx(network: Deployed, saved: Saved, file: Path) -> Runner:
    """Write an ONNX file with input ``images``, output ``logits`` and the class names in its metadata; returns the
    function that ONNX Runtime computes from it on the CPU.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is not installed.
    """
    import onnxruntime
    import onnxscript  # noqa: F401 - what PyTorch's exporter is written in

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # caused by the exporter itself
        program = torch.onnx.export(
            exported(network, saved.in_channels),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamo=True,
            verbose=False,
            external_data=False,
        )
    assert program is not None
    program.model.metadata_props.update({name: json.dumps(value) for name, value in about(saved).items()})
    program.save(file, external_data=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])


WRITERS: dict[str, Callable[[Deployed, Saved, Path], Runner]] = {".onnx": write_onnx, ".pt2": write_pt2}
"""By file suffix."""


def about(saved: Saved) -> dict[str, object]:
    """What a user of the file needs to know."""
    return {"run_id": saved.run_id, "classes": list(saved.classes), "values": "RGB or grey, float32 in [0, 1]"}


def deviation(run: Runner, saved: Saved, side: int, n: int = 64) -> float:
    """The largest difference between a file's logits and the module's for ``n`` images, relative to the largest logit
    if that is above 1; the module processes them as in the run's own test.
    """
    shape = (n, side, side, saved.in_channels)
    coarse = np.random.default_rng(0).integers(0, 256, (n, 4, 4, saved.in_channels), dtype=np.uint8)
    block = math.ceil(side / 4)
    tile = coarse.repeat(block, axis=1).repeat(block, axis=2)[:, :side, :side]
    noise = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    pixels = torch.from_numpy(np.where(np.arange(n)[:, None, None, None] % 2 == 0, tile, noise))
    wanted = saved.logits(Pipeline(saved.image_size, saved.normalize)(pixels, ()))
    got = run(pixels.permute(0, 3, 1, 2).float() / 255)
    return float((got - wanted).abs().max() / max(1.0, float(wanted.abs().max())))
