"""What the benchmark runs, and how models are trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from examples.common.recipe import TEACHERS

__all__ = ["DATA", "Settings"]

DATA = ("watch", "support2", "films", "leaves", "houses", "digits", "flights")


@dataclass(frozen=True)
class Settings:
    """What to run.

    Args:
        data: names of data sets in `examples.datasets` whose modalities are vectors or signals (T, 3).
        methods: names of contenders, or of ablations; all contenders if empty.
        splits: number of splits; watch has five.
        starts: trainings of the methods with experts on each split. Two measure stability, four that of two models
            together.
        steps: most steps of training, rounded up to whole epochs.
        patience: epochs without a lower validation loss before training stops.
        batch_size: samples a step.
        teachers: networks of each modality and of all that contenders with teachers learn from; 0 for the targets
            alone.
        augment: train all contenders with noise or masked entries in one modality of half of the samples.
        noise_draws: draws of the noise at each level of the robustness protocol.
        quick: two splits, 100 steps and one draw, for a first look.
        processes: runs at a time, one thread each.
        runs: file that keeps each finished run, one JSON object a line; runs that it holds are not made again.
    """

    data: tuple[str, ...] = DATA
    methods: tuple[str, ...] = ()
    splits: int = 5
    starts: int = 2
    steps: int = 1500
    patience: int = 4
    batch_size: int = 128
    teachers: int = TEACHERS
    augment: bool = False
    noise_draws: int = 3
    quick: bool = False
    processes: int = 2
    runs: Path = Path("outputs/real_data.jsonl")
