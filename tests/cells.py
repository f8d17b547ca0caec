"""Records and predictions of networks with and without what ablations need."""

import numpy as np
from common import record_of

from bench.reporting.predictions import Predictions


def settings(model, **net):
    normed, lr = model.endswith("_bn"), 0.1 if model.endswith("_bn") else 0.01
    net = {"_target_": f"bench.{model.removesuffix('_bn')}", "batch_norm": normed, **net}
    return {
        "model": {"name": model, "net": net, "lr": {"sgd": lr}},
        "data": {"name": "digits"},
        "optimizer": {"_target_": "torch.optim.SGD", "lr": lr},
        "loss": {"aux_weight": 0.3},
    }


def cell(model, seed, val, name="", loss=None, **net):
    config = settings(model, **net) | {"seed": seed}
    config["loss"] = loss or config["loss"]
    costs = {"params": 1000 * len(model), "macs": 10**6, "fit_seconds": 10.0 + seed}
    return record_of(
        model,
        seed,
        val=val,
        test=val - 0.1,
        config=config,
        run_id=f"digits-{name or model}-s{seed}-0123456789",
        **costs,
    )


def answers(top1, seed):
    rng = np.random.default_rng(seed)
    labels = np.arange(400) % 4
    predicted = np.where(rng.random(400) < top1, labels, (labels + 1) % 4)
    logits = rng.normal(size=(400, 4)) + 5 * np.eye(4)[predicted]
    return Predictions(
        logits, logits.argmax(axis=1), labels, labels.astype(str), np.array(["ant", "bee", "cat", "dog"])
    )


def ablated():
    """NiN and GoogLeNet, two seeds, with and without batch norm and auxiliary heads; and LeNet."""
    records = []
    for seed in (0, 1):
        records += [
            cell("nin", seed, 0.80),
            cell("nin_bn", seed, 0.90),
            cell("googlenet", seed, 0.70, aux_heads=True),
            cell("googlenet", seed, 0.65, name="googlenet-off", aux_heads=False),
            cell("googlenet_bn", seed, 0.85, aux_heads=True),
            cell("lenet", seed, 0.6),
        ]
    return records
