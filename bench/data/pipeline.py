"""From stored pixels to a network's input: augmentation and normalisation, in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from bench.data.augment import Draws, Stage, Transform
from bench.data.normalize import Normalize

Step = Transform | Callable[[Tensor], Tensor]


class Pipeline:
    """Applies transforms and normalisation to batches, and crops the centre if images are still too large.

    The order: geometry, color, normalisation, erasing; with a normalisation that comes ``first``: color,
    normalisation, geometry, erasing.

    Args:
        size: side of the result.
        normalize: a fitted normalisation.
        transforms: fitted; transforms of the same stage keep their order.
    """

    def __init__(self, size: int, normalize: Normalize, transforms: Sequence[Transform] = ()):
        def of(stage: Stage) -> list[Step]:
            return [transform for transform in transforms if transform.stage == stage]

        color, erase = of(Stage.COLOR), of(Stage.ERASE)
        place = [*of(Stage.GEOMETRY), partial(center_crop, size=size)]
        self.size, self.normalize = size, normalize
        self.steps = [*color, normalize, *place, *erase] if normalize.first else [*place, *color, normalize, *erase]

    def draw(self, draws: Draws) -> list[Tensor]:
        """The transforms' parameters for an epoch, (n, k) each."""
        return [step.draw(draws) for step in self.steps if isinstance(step, Transform)]

    def __call__(self, images: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """(B, D, D, C) uint8 → (B, size, size, C) float32; ``parameters`` hold the batch's rows of each table.

        Raises:
            ValueError: the transforms make images smaller than ``size``, or cannot be applied to these images.
        """
        drawn = iter(parameters)
        for step in self.steps:
            images = step(images, next(drawn)) if isinstance(step, Transform) else step(images)
        return images


def center_crop(images: Tensor, size: int) -> Tensor:
    """The centre of larger images: (B, D, D, C) → (B, size, size, C), a view."""
    side = images.shape[1]
    if side < size:
        raise ValueError(f"data.train_image_size={size}: the augmentations make images of {side}×{side}")
    begin = (side - size) // 2
    return images[:, begin : begin + size, begin : begin + size]
