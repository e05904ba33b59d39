"""What supervision costs: processor time of a training step with and without it, in turns.

A turn is one step in which the supervision counts and those in which it rests.

`python -m examples.benchmarks.supervision_cost`
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2moe import InteractionMoE, InteractionSupervision

__all__ = ["Settings", "main", "measure"]


@dataclass(frozen=True)
class Settings:
    """What to run.

    Args:
        batch_size: samples a step.
        n_features: width of each modality.
        every: the supervision counts in every so many steps.
        repeats: turns of each kind, after three that do not count.
        threads: of torch.
    """

    batch_size: int = 128
    n_features: int = 64
    every: int = 3
    repeats: int = 40
    threads: int = 1


class Perceptron(nn.Module):
    """Concatenate the modalities; two hidden layers."""

    def __init__(self, n_features: int, hidden_dim: int = 128) -> None:
        super().__init__()
        layers = [nn.Linear(n_features, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, hidden_dim), nn.ReLU()]
        self.network = nn.Sequential(*layers, nn.Linear(hidden_dim, 4))

    def forward(self, *modalities: Tensor) -> Tensor:
        """Predict (B, 4) from modalities (B, D)."""
        prediction: Tensor = self.network(torch.cat(modalities, dim=-1))
        return prediction


class Transformer(nn.Module):
    """Two layers of self-attention over the tokens of all modalities."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(n_features, 4, 2 * n_features, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(n_features, 4)

    def forward(self, *modalities: Tensor) -> Tensor:
        """Predict (B, 4) from modalities (B, T, D)."""
        prediction: Tensor = self.head(self.encoder(torch.cat(modalities, dim=1)).mean(1))
        return prediction


def measure(
    factory: Callable[[], nn.Module], modalities: tuple[Tensor, ...], every: int, repeats: int
) -> tuple[float, float]:
    """Median processor seconds of a training step without and with supervision; other programs do not count."""
    target = torch.randint(4, (len(modalities[0]),))
    steps = [_stepper(factory, modalities, target, counts) for counts in (None, every)]
    seconds: list[list[float]] = [[], []]
    for _ in range(repeats + 3):
        for step, taken in zip(steps, seconds, strict=True):
            start = time.process_time()
            for _ in range(every):
                step()
            taken.append((time.process_time() - start) / every)
    return median(seconds[0][3:]), median(seconds[1][3:])


def main(settings: Settings) -> None:
    """Measure and print."""
    torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    for n_modalities in (2, 3, 4):
        vectors = tuple(torch.randn(settings.batch_size, settings.n_features) for _ in range(n_modalities))
        n_features = n_modalities * settings.n_features
        plain, supervised = measure(lambda n=n_features: Perceptron(n), vectors, settings.every, settings.repeats)  # type: ignore[misc]
        _print(f"MLP, 128 wide, {n_modalities} modalities", plain, supervised)
    tokens = tuple(torch.randn(settings.batch_size, 8, settings.n_features) for _ in range(2))
    plain, supervised = measure(
        lambda: Transformer(settings.n_features), tokens, settings.every, max(5, settings.repeats // 5)
    )
    _print("transformer, 2 layers, 2 x 8 tokens", plain, supervised)


def _stepper(
    factory: Callable[[], nn.Module], modalities: tuple[Tensor, ...], target: Tensor, every: int | None
) -> Callable[[], None]:
    widths = [modality.shape[-1] for modality in modalities]
    model = InteractionMoE(factory, len(modalities), feature_dims=widths)
    supervise = None if every is None else InteractionSupervision(widths, n_outputs=4, every=every)
    parts = nn.ModuleList([model] if supervise is None else [model, supervise])
    optimizer = torch.optim.Adam(parts.parameters())

    def step() -> None:
        out = model(*modalities)
        loss = F.cross_entropy(out.prediction, target) + 0.1 * out.interaction_loss
        if supervise is not None:
            loss = loss + supervise(out, modalities, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _print(name: str, plain: float, supervised: float) -> None:
    print(f"{name:<36} {1000 * plain:7.2f} ms  {1000 * supervised:7.2f} ms  x {supervised / plain:.2f}")


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Settings))
