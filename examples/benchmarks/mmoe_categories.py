"""Measure the categories on data with one kind of interaction: is it found, and no other?

    python -m examples.benchmarks.mmoe_categories     # about 2 minutes

Signs are shown in the first of 16 noisy features a modality. Copies are of the label, each wrong on its own samples:
redundancy and, where they disagree, the uniqueness of the one to believe, but no synergy. Beside an informative
modality the others show a sign of their own. Every classifier has two hidden layers; predictions are on five held-out
folds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from examples.common.modules import Fusion
from examples.common.statistics import mean_and_deviation
from i2moe import categorize
from i2moe.categorization import Categories, Halfway, LikeliestClass, Threshold
from i2moe.mmoe import Classification, Training, as_predictor, cross_predict

RULES: Mapping[str, Threshold] = {"default": None, "Halfway()": Halfway(), "published rule": LikeliestClass()}
N_FEATURES = 16


def copies(*accuracies: float) -> Callable[[int, torch.Generator], tuple[list[Tensor], Tensor]]:
    """Draw labels (N,) and a copy per modality that is right with its accuracy; .5 is a sign of its own."""

    def draw(n: int, generator: torch.Generator) -> tuple[list[Tensor], Tensor]:
        target = torch.randint(2, (n,), generator=generator)
        wrong = [torch.rand(n, generator=generator) > accuracy for accuracy in accuracies]
        return [(target + flip) % 2 for flip in wrong], target

    return draw


def product(n_modalities: int, accuracy: float) -> Callable[[int, torch.Generator], tuple[list[Tensor], Tensor]]:
    """Draw signs (N,) whose product is the label, wrong for a share of the samples."""

    def draw(n: int, generator: torch.Generator) -> tuple[list[Tensor], Tensor]:
        signs = torch.randint(2, (n, n_modalities), generator=generator)
        wrong = torch.rand(n, generator=generator) > accuracy
        return list(signs.unbind(1)), (signs.sum(1) + wrong) % 2

    return draw


KINDS = {
    "copies, right for 66% and 63%": (copies(0.66, 0.63), "no synergy"),
    "copies, 90% and 85%": (copies(0.9, 0.85), "no synergy"),
    "three copies, 65%": (copies(0.65, 0.65, 0.65), "no synergy"),
    "one modality, 66%": (copies(0.66, 0.5), "uniqueness/0"),
    "one modality, 95%": (copies(0.95, 0.5), "uniqueness/0"),
    "one of three, 70%": (copies(0.7, 0.5, 0.5), "uniqueness/0"),
    "xor": (product(2, 1.0), "synergy"),
    "xor, 75%": (product(2, 0.75), "synergy"),
    "xor of three": (product(3, 1.0), "synergy"),
}


def show(signs: Tensor, generator: torch.Generator) -> Tensor:
    """Show signs (N,) in the first of noisy features (N, D)."""
    features = 0.5 * torch.randn(len(signs), N_FEATURES, generator=generator)
    features[:, 0] += 2 * signs - 1
    return features


def measure(kind: str, n: int, n_epochs: int, seed: int) -> dict[str, float]:
    """Return the share of samples, by each rule, in the categories that the kind has."""
    draw, expected = KINDS[kind]
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    signs, target = draw(n, generator)
    modalities = tuple(show(sign, generator) for sign in signs)

    def held_out(*inputs: Tensor) -> Tensor:
        return cross_predict(
            lambda: as_predictor(Fusion(len(inputs) * N_FEATURES, 2, (32, 32)), Classification(2), "the classifier"),
            inputs,
            target,
            Training(n_epochs),
            n_folds=5,
            generator=generator,
        )[1]

    unimodal, multimodal = torch.stack([held_out(x) for x in modalities], dim=1), held_out(*modalities)
    return {
        name: found_as(categorize(unimodal, multimodal, target, threshold=threshold), expected)
        for name, threshold in RULES.items()
    }


def found_as(categories: Categories, expected: str) -> float:
    """Return the share of samples in the expected category."""
    k = categories.names.index(expected.removeprefix("no "))
    share = float((categories.category == k).double().mean())
    return 1 - share if expected.startswith("no ") else share


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=10, help="the classifiers overfit with 30")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| data | what is there | " + " | ".join(RULES) + " |\n" + "|---" * (len(RULES) + 2) + "|")
    for kind, (_, expected) in KINDS.items():
        runs = [measure(kind, options.samples, options.epochs, seed) for seed in range(options.seeds)]
        cells = [[100 * run[name] for run in runs] for name in RULES]
        row = [kind, expected, *(mean_and_deviation(values, ".1f") for values in cells)]
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
