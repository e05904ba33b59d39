"""Lightning, with named losses in every logger: `python -m examples.guides.lightning_loop`."""

from __future__ import annotations

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy

from examples.guides.task import load, make_model
from i2moe import InteractionOutput, InteractionSupervision, calibrate


class Classifier(L.LightningModule):
    """Train a mixture of interaction experts."""

    def __init__(self) -> None:
        super().__init__()
        self.model = make_model()
        self.supervise = InteractionSupervision(F.cross_entropy)  # the whole loss
        self.accuracy = MulticlassAccuracy(2, average="micro")

    def forward(self, a: Tensor, b: Tensor) -> InteractionOutput:
        """Predict; `explain(classifier, ...)` works as it does for the model."""
        out: InteractionOutput = self.model(a, b)
        return out

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        """Return the loss, and log its parts by name."""
        a, b, y = batch
        loss = self.supervise(self(a, b), y)
        self.log_dict({f"train/{name}": x for name, x in self.supervise.losses.items()})
        return loss

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        """Log accuracy and losses."""
        a, b, y = batch
        out = self(a, b)
        self.supervise(out, y)
        self.accuracy(out.prediction, y)
        self.log_dict({"val/accuracy": self.accuracy, **{f"val/{k}": x for k, x in self.supervise.losses.items()}})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.Adam(self.parameters(), lr=2e-3)


if __name__ == "__main__":
    L.seed_everything(0)
    train, validation = (DataLoader(load(1_000, seed), batch_size=64, shuffle=seed == 0) for seed in (0, 1))
    trainer = L.Trainer(max_epochs=5, log_every_n_steps=5, logger=CSVLogger("outputs/lightning"))
    classifier = Classifier()
    trainer.fit(classifier, train, validation)
    calibrate(classifier, (((a, b), y) for a, b, y in validation))  # no surer than it is right; then save it
    print(*(f"{name} {value:.3f}" for name, value in trainer.callback_metrics.items()), sep="\n")
