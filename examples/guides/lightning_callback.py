"""Lightning without a line in your module: `python -m examples.guides.lightning_callback`."""

from __future__ import annotations

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader

from examples.guides.task import load, make_model
from i2moe import InteractionOutput, InteractionSupervision
from i2moe.interpretation.monitoring import interaction_callback


class Classifier(L.LightningModule):
    """A module as it was before: it returns the loss of its prediction. The fusion in it now has experts."""

    def __init__(self) -> None:
        super().__init__()
        self.fusion = make_model()

    def forward(self, a: Tensor, b: Tensor) -> InteractionOutput:
        """Predict."""
        out: InteractionOutput = self.fusion(a, b)
        return out

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        """Return the loss."""
        a, b, y = batch
        return F.cross_entropy(self(a, b).prediction, y)

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        """Log the loss."""
        a, b, y = batch
        self.log("val/loss", F.cross_entropy(self(a, b).prediction, y))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.AdamW(self.parameters(), lr=4e-3)


if __name__ == "__main__":
    L.seed_everything(0)
    train, validation = (DataLoader(load(2_000, seed), batch_size=100, shuffle=seed == 0) for seed in (0, 1))
    callback = interaction_callback(InteractionSupervision(F.cross_entropy), report="report.html")
    trainer = L.Trainer(max_epochs=8, log_every_n_steps=5, logger=CSVLogger("outputs"), callbacks=[callback])
    trainer.fit(Classifier(), train, validation)
    print(callback.report.summary())
