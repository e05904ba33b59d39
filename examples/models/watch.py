"""A trained model of smartwatch exercises, to make a report without training: `load_model()`.

It is the model with computed weights of `examples/quickstart.py`, trained on the six people of the first fold.

    python -m examples.models.watch    # train it again, and write its file: about a minute
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from examples.datasets.watch import load_watch
from examples.quickstart import computed
from i2moe import InteractionSupervision
from i2moe.training import Batches, fit

__all__ = ["load_model", "train"]

FILE = Path(__file__).with_suffix(".safetensors")


def load_model() -> nn.Module:
    """Return the model, ready to predict: accelerometer and gyroscope (B, 100, 3), as `load_watch()` has them.

    Example:
        >>> from examples.datasets.watch import load_watch
        >>> test = load_watch().test
        >>> out = load_model()(*test.modalities)
        >>> bool((out.prediction.argmax(-1) == test.labels).double().mean() > 0.6)
        True
    """
    from safetensors.torch import load_file

    model = computed()
    model.load_state_dict(load_file(FILE))
    return model.eval()


def train(n_epochs: int = 8) -> nn.Module:
    """Train the model from a fixed seed, and calibrate it on two other people."""
    torch.manual_seed(0)
    data, model = load_watch(), computed()
    batches = Batches(data.train.modalities, data.train.labels, batch_size=64, seed=0)
    validation = [(data.validation.modalities, data.validation.labels)]
    fit(model, batches, validation, InteractionSupervision(F.cross_entropy), n_epochs)
    return model


if __name__ == "__main__":
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    save_file(train().state_dict(), FILE)
    print(f"{FILE.name}: {FILE.stat().st_size:,} bytes")
