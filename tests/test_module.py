import lightning as L
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bench import callbacks
from bench.data.loader import Batch
from bench.models import Output
from bench.module import FLUSH_SAMPLES, Classifier, EpochMetrics


class Table(nn.Module):
    """Looks the logits up: image (B, 1, 1, 1) holds the row of ``weight`` to return."""

    def __init__(self, logits, aux=()):
        super().__init__()
        self.weight = nn.Parameter(logits)
        self.aux_heads = nn.ParameterList(aux)

    def forward(self, x):
        rows = x.flatten().long()
        aux = tuple(head[rows] for head in self.aux_heads) if self.training else ()
        return Output(self.weight[rows], aux)


class Loader(list):
    """Batches as they are."""


def batches(labels, size):
    rows = torch.arange(len(labels)).float()[:, None, None, None]
    return Loader(Batch(r, y) for r, y in zip(rows.split(size), labels.split(size), strict=True))


def classifier(model, num_classes=10, **kwargs):
    def optimizer(groups):
        return torch.optim.SGD(groups, lr=0.0)

    def scheduler(optimizer, total_steps):
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)

    return Classifier(model, num_classes, optimizer, scheduler, **kwargs)


def trainer(max_epochs=1, **kwargs):
    quietly = dict(logger=False, enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False)
    return L.Trainer(accelerator="cpu", max_epochs=max_epochs, **quietly, **kwargs)


def expected(logits, labels):
    ranked = logits.argsort(dim=1, descending=True)
    hits = ranked == labels[:, None]
    return {
        "top1": hits[:, 0].float().mean().item(),
        "top5": hits[:, :5].any(dim=1).float().mean().item(),
        "loss": F.cross_entropy(logits, labels).item(),
    }


@pytest.mark.parametrize(("n", "size"), [(7, 3), (10, 5), (5, 8), (FLUSH_SAMPLES + 17, 100), (1, 1)])
def test_ragged_batches_count_every_sample_once(n, size):
    torch.manual_seed(n)
    logits, labels = torch.randn(n, 10), torch.randint(10, (n,))
    module = classifier(Table(logits))
    loader = batches(labels, size)
    with callbacks.quiet():
        tester = trainer()
        (tested,) = tester.test(module, loader, verbose=False)
        (validated,) = trainer().validate(module, loader, verbose=False)
        fitter = trainer(num_sanity_val_steps=0, log_every_n_steps=1)
        fitter.fit(module, loader, loader)
    want = expected(logits, labels)
    assert {name: tested[f"test/{name}"] for name in want} == pytest.approx(want, abs=1e-5)
    assert {name: validated[f"val/{name}"] for name in want} == pytest.approx(want, abs=1e-5)
    fitted = {name: float(fitter.callback_metrics[f"train/{name}"]) for name in want}
    assert fitted == pytest.approx(want, abs=1e-5)
    assert torch.equal(torch.cat(module.test_logits), logits)


def test_the_sanity_check_does_not_count():
    torch.manual_seed(0)
    logits, labels = torch.randn(50, 10), torch.randint(10, (50,))
    seen = []

    class Watch(L.Callback):
        def on_validation_end(self, trainer, pl_module):
            if not trainer.sanity_checking:
                seen.append(float(trainer.callback_metrics["val/top1"]))
            else:
                assert "val/top1" not in trainer.callback_metrics

    with callbacks.quiet():
        fitter = trainer(num_sanity_val_steps=2, callbacks=[Watch()], log_every_n_steps=1)
        fitter.fit(classifier(Table(logits)), batches(labels, 10), batches(labels, 8))
    assert seen == pytest.approx([expected(logits, labels)["top1"]])


def test_the_loss_weighs_auxiliary_heads_and_smooths_labels():
    torch.manual_seed(1)
    labels = torch.randint(10, (6,))
    main, first, second = (torch.randn(6, 10) for _ in range(3))
    module = classifier(Table(main, [first, second]), aux_weight=0.3, label_smoothing=0.1)
    module.train()
    loss = module.training_step(batches(labels, 6)[0], 0)
    smooth = [F.cross_entropy(logits, labels, label_smoothing=0.1) for logits in (main, first, second)]
    assert loss.item() == pytest.approx((smooth[0] + 0.3 * smooth[1] + 0.3 * smooth[2]).item(), abs=1e-6)


def test_mixed_labels_share_the_loss_and_the_larger_share_counts():
    main, aux = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    one, other = torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([3, 3, 1, 0, 0, 2])
    share = torch.tensor([0.9, 0.3, 0.5, 1.0, 0.2, 0.6])
    targets = share[:, None] * F.one_hot(one, 4) + (1 - share[:, None]) * F.one_hot(other, 4)
    labels = torch.where(share >= 0.5, one, other)
    module = classifier(Table(main, [aux]), num_classes=4, aux_weight=0.3)
    rows = torch.arange(6).float()[:, None, None, None]
    loss = module.train().training_step(Batch(rows, labels, targets), 0)

    def mixed(logits):
        pair = [F.cross_entropy(logits, y, reduction="none") for y in (one, other)]
        return (share * pair[0] + (1 - share) * pair[1]).mean()

    torch.testing.assert_close(loss, mixed(main) + 0.3 * mixed(aux))
    top1 = (main.argmax(1) == labels).float().mean().item()
    assert module.train_metrics.compute()["top1"] == pytest.approx(top1)


def test_each_auxiliary_head_has_its_own_top1():
    torch.manual_seed(2)
    labels = torch.randint(10, (20,))
    right, wrong = F.one_hot(labels, 10).float(), F.one_hot((labels + 1) % 10, 10).float()
    with callbacks.quiet():
        fitter = trainer(log_every_n_steps=1)
        fitter.fit(classifier(Table(torch.randn(20, 10), [right, wrong])), batches(labels, 6), batches(labels, 6))
    assert float(fitter.callback_metrics["train/aux1_top1"]) == 1.0
    assert float(fitter.callback_metrics["train/aux2_top1"]) == 0.0


def test_top5_of_fewer_than_five_classes_is_top_of_all():
    metrics = EpochMetrics(3)
    metrics.update(torch.randn(8, 3), torch.randint(3, (8,)))
    assert metrics.compute()["top5"] == 1.0


def test_metrics_start_anew_every_epoch():
    labels = torch.randint(10, (20,), generator=torch.Generator().manual_seed(0))
    right = F.one_hot(labels, 10).float()

    class Turning(Loader):
        """The right labels in the first epoch, wrong ones in the second."""

        def __iter__(self):
            return iter(batches((labels + fitter.current_epoch) % 10, 6))

    with callbacks.quiet():
        fitter = trainer(2, log_every_n_steps=1, num_sanity_val_steps=0)
        loader = Turning(batches(labels, 6))
        fitter.fit(classifier(Table(right, [right])), loader, loader)
    found = {name: float(fitter.callback_metrics[name]) for name in ("train/top1", "train/aux1_top1", "val/top1")}
    assert found == {"train/top1": 0.0, "train/aux1_top1": 0.0, "val/top1": 0.0}


@pytest.mark.parametrize("norm", [0.5, None])
def test_gradients_are_clipped_to_the_norm(norm):
    model = nn.Linear(4, 3)
    module = classifier(model, 3, clip_norm=norm)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    module.on_before_optimizer_step(None)
    total = torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item()
    assert total == pytest.approx(norm if norm is not None else 7 * 15**0.5, rel=1e-4)
