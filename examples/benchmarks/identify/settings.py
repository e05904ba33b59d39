"""What is run, and with which settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from examples.common.recipe import TEACHERS

__all__ = ["Settings", "Training"]


@dataclass(frozen=True)
class Training:
    """How networks are trained, the same for all methods.

    Args:
        epochs: passes over the training data; networks that stop early may keep an earlier one.
        batch_size: samples a step.
        learning_rate: of Adam.
        hidden_dim: width of the networks' two hidden layers.
        convolutional: whether images are embedded by convolutions; otherwise networks get their pixels.
        teachers: networks of each modality and of all that the model with computed weights learns from; 0 for the
            targets alone.
    """

    epochs: int = 16
    batch_size: int = 256
    learning_rate: float = 1.5e-3
    hidden_dim: int = 128
    convolutional: bool = False
    teachers: int = TEACHERS


@dataclass(frozen=True)
class Settings(Training):
    """What to run.

    Args:
        data: names out of `examples.datasets.problems.PROBLEMS`, with or without a change as in
            "dense-gates/times-10", or of groups of them: known, harder, literature, invariance.
        method: names of methods: paper, computed, fitted, replaced, pointwise, lsmi, intershap, ceiling, informed,
            told, rules, exact.
        seeds: number of seeds; each draws its own training data and its own start.
        first_seed: the first of them; another one also draws another test set.
        n_train: training samples.
        n_validation: validation samples.
        n_test: test samples.
        processes: runs at a time, one thread each.
        json: file for all scores; none if not given.
        figure: file for a figure of the share of samples named; none if not given.
    """

    data: tuple[str, ...] = ("known",)
    method: tuple[str, ...] = ("paper", "computed")
    seeds: int = 5
    first_seed: int = 0
    n_train: int = 8000
    n_validation: int = 2000
    n_test: int = 4000
    processes: int = 2
    json: Path | None = None
    figure: Path | None = None
