"""Augmentations of whole batches, with one set of random parameters per sample and epoch; one file per kind."""

from bench.data.augment.color import ColorJitter, Lighting
from bench.data.augment.erase import Cutout
from bench.data.augment.geometry import AlternatingFlip, HorizontalFlip, RandomCrop, RandomResizedCrop
from bench.data.augment.mix import CutMix, Mixup
from bench.data.augment.transform import Draws, Mix, Stage, Transform

__all__ = [
    "AlternatingFlip",
    "ColorJitter",
    "CutMix",
    "Cutout",
    "Draws",
    "HorizontalFlip",
    "Lighting",
    "Mix",
    "Mixup",
    "RandomCrop",
    "RandomResizedCrop",
    "Stage",
    "Transform",
]
