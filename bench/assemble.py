"""From a checked configuration to the objects of a run: machine, data, module, loggers, Trainer."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra.utils
import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import DictConfig

from bench import cli, costs, loggers, machine, weights_biases
from bench.checkpoint import AtomicIO
from bench.data.augment import Mix, Transform
from bench.data.decode import Decoder
from bench.data.module import ImageData, mix_of
from bench.data.normalize import ChannelNormalize, Normalize
from bench.distributed import BatchNormSync
from bench.models import Output
from bench.models.pretrained import check_twin, freeze_backbone, imagenet_statistics, load_imagenet
from bench.module import Classifier
from bench.optim import OptimizerFactory, SchedulerFactory
from bench.record import run_id


def prepare_machine(resolved: Mapping[str, Any]) -> torch.device:
    """Set up allocator, threads, TF32 and random state; returns the device to train on.

    Raises:
        ConfigError: the requested device is not available on this machine.
    """
    machine.prepare_cpu()
    machine.release_freed_pages()
    machine.allow_tf32(resolved["trainer"]["precision"] != "32-true")
    L.seed_everything(resolved["seed"], verbose=False)
    return machine.device(resolved["trainer"]["accelerator"])


def build(cfg: DictConfig, resolved: Mapping[str, Any], device: torch.device) -> tuple[ImageData, Classifier]:
    """The data, for training on ``device``, and the module described by the configuration.

    Raises:
        ConfigError: a constructor rejects its arguments, or the data are missing.
    """
    settings = resolved["data"]
    with cli.mistakes():
        # errors of the network and of what trains it should not wait for images to be decoded
        model = make_model(cfg, resolved)
        try_sizes(model, resolved)
        optimizer, scheduler = make_optimizer(cfg)
        data = make_data(cfg, resolved, device)
        if resolved["trainer"]["channels_last"]:
            model = model.to(memory_format=torch.channels_last)
        if (mode := machine.compile_mode(resolved["trainer"]["compile"], device)) is not None:
            torch.compiler.reset()  # a function has few variants, and those of this process's earlier cells count
            model.compile(mode=mode)  # in place: parameters keep their names
        module = Classifier(
            model,
            num_classes=settings["num_classes"],
            optimizer=optimizer,
            scheduler=scheduler,
            clip_norm=resolved["trainer"]["clip_norm"],
            **resolved["loss"],
        )
    return data, module


def try_out(cfg: DictConfig, resolved: Mapping[str, Any], tried: set[str]) -> None:
    """Let the constructors of everything but the data reject their arguments, and the logger its settings, unless they
    have ``tried`` them.

    Raises:
        ConfigError: one of them does.
    """

    def new(*settings: Any) -> bool:
        key = json.dumps(settings, sort_keys=True)
        return key not in tried and not tried.add(key)  # type: ignore[func-returns-value]

    model, data = resolved["model"], resolved["data"]
    with cli.mistakes():
        if new(model, *(data[key] for key in ("num_classes", "in_channels", "image_size", "train_image_size"))):
            network = hydra.utils.instantiate(cfg.model.net)  # without pretrained weights, which may be far away
            if model.get("pretrained"):
                check_twin(network, model["twin"])
            try_sizes(network, resolved)
        if new(resolved["optimizer"], resolved["scheduler"]):
            make_optimizer(cfg)
        if new(resolved["augment"], data["decode_size"]):
            mix_of(make_augment(cfg, resolved)[0])
        if new(resolved["logger"]):
            loggers.check(resolved["logger"])
            weights_biases.log_in(resolved["logger"])


def make_model(cfg: DictConfig, resolved: Mapping[str, Any]) -> torch.nn.Module:
    """The network described by the configuration, pretrained or frozen if requested.

    Raises:
        ValueError, TypeError, ImportError, hydra's InstantiationException: the network rejects its arguments.
        ConnectionError, RuntimeError: pretrained weights cannot be downloaded, or their file is damaged.
    """
    model, settings = hydra.utils.instantiate(cfg.model.net), resolved["model"]
    if settings.get("pretrained"):
        load_imagenet(model, settings["twin"])
    if settings.get("freeze"):
        freeze_backbone(model)
    return model


def try_sizes(model: torch.nn.Module, resolved: Mapping[str, Any]) -> None:
    """Raise ValueError if the network cannot train on images of ``data.train_image_size`` or be used on images of
    ``data.image_size``, or if it does not return an ``Output`` with a logit for each class.
    """
    settings, name = resolved["data"], resolved["model"]["name"]

    def step(side: int, device: str) -> Any:
        images = torch.zeros(2, settings["in_channels"], side, side, device=device)
        with torch.random.fork_rng(devices=[]):
            return copy.deepcopy(model).to(device).train(side == settings["train_image_size"])(images)

    sizes = {settings[key]: f"data.{key}={settings[key]}" for key in ("train_image_size", "image_size")}
    for side, told in sizes.items():
        try:
            out = costs.dry_run(model, functools.partial(step, side))
        except MemoryError:
            raise
        except Exception as error:  # of anyone's network
            kind = "" if isinstance(error, RuntimeError | ValueError) else f"{type(error).__name__}: "
            raise ValueError(
                f"{told}: {name} fails on such images: {kind}{str(error).partition(chr(10))[0]}"
            ) from error
        if not isinstance(out, Output) or out.logits.shape != (2, settings["num_classes"]):
            made = f"logits {tuple(out.logits.shape)} of 2 images" if isinstance(out, Output) else type(out).__name__
            wanted = f"bench.models.Output with logits (N, {settings['num_classes']})"
            raise ValueError(f"model.net: {name} must return {wanted}, not {made}")


def make_optimizer(cfg: DictConfig) -> tuple[OptimizerFactory, SchedulerFactory]:
    """The optimizer, to be given parameters, and the schedule, to be given an optimizer and a number of steps.

    Raises:
        ValueError: one of them rejects its arguments.
        hydra's InstantiationException: likewise.
    """
    # lists and not OmegaConf's, which end up in checkpoints and would not be loaded from there
    optimizer, scheduler = (hydra.utils.instantiate(each, _convert_="all") for each in (cfg.optimizer, cfg.scheduler))
    try:
        tried = optimizer([{"params": [torch.nn.Parameter(torch.zeros(1))]}])
    except (TypeError, ValueError, RuntimeError, LookupError) as error:  # PyTorch does not name the setting
        told = " ".join(f"optimizer.{key}={value}" for key, value in cfg.optimizer.items() if not key.startswith("_"))
        raise ValueError(f"{told}: {error}") from error
    scheduler(tried, 10)
    return optimizer, scheduler


def make_data(cfg: DictConfig, resolved: Mapping[str, Any], device: torch.device) -> ImageData:
    """The data described by the configuration, in batches on ``device``.

    Raises:
        ValueError, TypeError, FileNotFoundError, hydra's InstantiationException: a constructor rejects its arguments,
            or the data are missing.
    """
    settings = resolved["data"]
    augment, normalize = make_augment(cfg, resolved)
    bf16 = machine.precision(resolved["trainer"]["precision"], device) == "bf16-mixed"
    data = ImageData(
        source=hydra.utils.instantiate(cfg.data.source),
        decoder=Decoder(
            resolved["paths"]["cache"], settings["decode_size"], settings["in_channels"], settings["on_error"]
        ),
        augment=augment,
        normalize=normalize,
        seed=resolved["seed"],
        device=device,
        storage=settings["device"],
        dtype=torch.bfloat16 if bf16 else torch.float32,
        memory_format=torch.channels_last if resolved["trainer"]["channels_last"] else torch.contiguous_format,
        batch_size=settings["batch_size"] // resolved["trainer"]["devices"],  # the processes share a batch
        **{key: settings[key] for key in ("image_size", "train_image_size", "num_classes", "val_size")},
    )
    for part, index in (("training", data.train), ("validation", data.val)):
        if 0 < len(index) < (devices := resolved["trainer"]["devices"]):
            raise ValueError(f"trainer.devices={devices}: there are only {len(index)} {part} images to share")
    return data


def make_augment(cfg: DictConfig, resolved: Mapping[str, Any]) -> tuple[list[Transform | Mix], Normalize]:
    """The augmentations and the normalisation described by the configuration.

    Raises:
        ValueError, hydra's InstantiationException: a constructor rejects its arguments, or makes something else.
    """
    augment = dict(hydra.utils.instantiate(cfg.augment))
    normalize = augment.pop("normalize", None)
    if resolved["model"].get("pretrained"):
        normalize = ChannelNormalize(*imagenet_statistics(resolved["model"]["twin"]))
    if not isinstance(normalize, Normalize):
        raise ValueError(f"augment.normalize={normalize}: is not a normalisation; write augment/normalize=channel")
    for name, transform in augment.items():
        if not isinstance(transform, Transform | Mix):
            raise ValueError(f"augment.{name}: is not an augmentation from bench.data.augment")
    crop, stored = resolved["augment"].get("random_crop"), resolved["data"]["decode_size"]
    if crop and not crop.get("padding") and crop.get("size") == stored:
        raise ValueError(f"augment.random_crop: leaves all of images stored at data.decode_size={stored}; raise it")
    return list(augment.values()), normalize


def make_logger(cfg: DictConfig, resolved: Mapping[str, Any], work: Path, sweep: str | None) -> Logger | None:
    """The configured logger; None for metrics.csv alone.

    Raises:
        ConfigError: ``loggers.check`` refuses it.
    """
    with cli.mistakes():
        loggers.check(resolved["logger"])
    info = loggers.RunInfo(
        run_id=run_id(resolved),
        group=sweep,
        tags=(resolved["model"]["name"], resolved["data"]["name"]),
        config=dict(resolved),
        workspace=work,
    )
    logger = hydra.utils.instantiate(cfg.logger)(info)
    return None if logger is None else loggers.forgiving(logger)


def make_trainer(
    resolved: Mapping[str, Any],
    device: torch.device,
    data: ImageData,
    logger: Logger | None,
    watchers: list[L.Callback],
    processes: int,
    work: Path,
) -> L.Trainer:
    """Lightning's Trainer, used only for its loop; this process is one of ``processes``; ``work``: the run's folder."""
    options = resolved["trainer"]
    sync = [BatchNormSync()] if processes > 1 and device.type == "cuda" else []  # PyTorch has none for CPUs
    return L.Trainer(
        default_root_dir=work,  # under Slurm, Lightning resumes from any hpc_ckpt_*.ckpt in it
        max_epochs=options["max_epochs"],
        accelerator="gpu" if device.type == "cuda" else device.type,
        devices=processes,
        strategy="auto" if processes == 1 else DDPStrategy(gradient_as_bucket_view=True),
        precision=machine.precision(options["precision"], device),  # type: ignore[arg-type] # Lightning's literals
        # the processes already exist, and there are no others, even if Slurm's variables say so
        plugins=[LightningEnvironment(), AtomicIO(), *sync],
        deterministic=options["deterministic"],
        callbacks=watchers,
        logger=logger or False,
        log_every_n_steps=max(1, len(data.train) // resolved["data"]["batch_size"]),  # nothing is logged more often
        use_distributed_sampler=False,  # the loader splits the epoch itself
        limit_val_batches=1.0 if len(data.val) else 0,
        check_val_every_n_epoch=options["check_val_every_n_epoch"],
        num_sanity_val_steps=options["num_sanity_val_steps"],
        enable_progress_bar=any(isinstance(watcher, ProgressBar) for watcher in watchers),
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(watcher, Checkpoint) for watcher in watchers),
    )
