"""What a cheaper step and a cheaper prediction cost in accuracy, on data whose interactions are known.

    python -m examples.benchmarks.cheaper

Three modalities; for each sample one of five interactions decides, and its true name is known. Trained by the paper's
objective with fewer perturbed rows or modalities; then the model trained on all rows is pruned in several ways.
Training is timed in CPU seconds, which other programs on the machine disturb least.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean

import torch
from torch import Tensor, nn

from examples.benchmarks.identify.experts import train_experts
from examples.benchmarks.identify.networks import accuracy
from examples.benchmarks.identify.settings import Training
from examples.datasets.known import KnownInteractions
from examples.datasets.synthetic import generate
from i2moe import InteractionMoE
from i2moe.moe.pruning import TopExperts, prune
from i2moe.perturbations import Gaussian

__all__ = ["Options", "main"]

CHEAPER: dict[str, Callable[[], Gaussian]] = {
    "all": Gaussian,
    "fraction 0.5": lambda: Gaussian(fraction=0.5),
    "fraction 0.25": lambda: Gaussian(fraction=0.25),
    "fraction 0.1": lambda: Gaussian(fraction=0.1),
    "per_step 2": lambda: Gaussian(per_step=2),
    "fraction 0.25, per_step 2": lambda: Gaussian(fraction=0.25, per_step=2),
}


@dataclass(frozen=True)
class Options:
    """What to run.

    Args:
        generator: name of the data.
        seeds: number of seeds.
        epochs: passes over the training data.
        n_train: training samples.
    """

    generator: str = "three-modalities"
    seeds: int = 3
    epochs: int = 16
    n_train: int = 8000


def main(options: Options) -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    training = Training(epochs=options.epochs)
    test = generate(options.generator, 4000, 1_000_000)
    n_steps = options.epochs * -(-options.n_train // training.batch_size)
    rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in CHEAPER}
    pruned: dict[str, list[tuple[float, float]]] = {}
    for seed in range(options.seeds):
        data = generate(options.generator, options.n_train, seed)
        for name, perturbation in CHEAPER.items():
            start = time.process_time()
            model = train_experts(data, seed, training, perturbation()).experts
            milliseconds = 1000 * (time.process_time() - start) / n_steps
            rows[name].append((milliseconds, *evaluate(model, test)))
            if name == "all":
                for how, smaller in smaller_models(model, data).items():
                    pruned.setdefault(how, []).append(evaluate(smaller, test))

    print(f"{'perturbed':<28}{'ms a step':>10}{'accuracy %':>12}{'interaction accuracy %':>24}")
    for name, found in rows.items():
        milliseconds, right, interaction_accuracy = (mean(values) for values in zip(*found, strict=True))
        print(f"{name:<28}{milliseconds:>10.2f}{100 * right:>12.2f}{100 * interaction_accuracy:>24.1f}")
    print(f"\n{'experts in evaluation':<38}{'accuracy %':>12}")
    for how, evaluated in pruned.items():
        print(f"{how:<38}{100 * mean(right for right, _ in evaluated):>12.2f}")


def evaluate(model: nn.Module, test: KnownInteractions) -> tuple[float, float]:
    """Accuracy, and the share of samples whose largest weight names their interaction."""
    model.eval()
    with torch.no_grad():
        out = model(*test.modalities)
    interaction_accuracy = (
        float((out.weights.argmax(1) == test.interaction).float().mean()) if len(out.weights.T) > 1 else 1.0
    )
    return accuracy(out.prediction, test.target), interaction_accuracy


def smaller_models(model: InteractionMoE, data: KnownInteractions) -> dict[str, nn.Module]:
    """A model with ever fewer experts: the highest-weighted on the training data, and those of each sample."""
    model.eval()
    with torch.no_grad():
        weights: Tensor = model(*data.modalities).weights
    by_weight = [model.expert_names[e] for e in weights.mean(0).argsort(descending=True)]
    sizes = range(len(by_weight), 0, -1)
    return {f"the {n} highest-weighted of the data": prune(model, by_weight[:n]) for n in sizes} | {
        f"the {k} highest-weighted of each sample": TopExperts(model, k) for k in sizes
    }


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Options))
