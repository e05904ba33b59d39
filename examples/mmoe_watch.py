"""MMoE on smartwatch data: which windows are redundant, unique or synergistic, and does it help to know?

Ten people did seven shoulder exercises wearing a smartwatch. A classifier of each sensor and one of both are trained;
from what they predict about people they were not trained on, each window is given its interaction; an expert is trained
for each interaction, and a router between them. The report, on two people nobody was trained on, says for each
interaction whether its expert beats the baseline and whether the router finds it.

    python examples/mmoe_watch.py                                # about 2 minutes
    python examples/mmoe_watch.py --epochs 2                     # seconds
    python examples/mmoe_watch.py --checkpoints outputs/mmoe     # cut it off, start it again: it goes on
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from examples.datasets.watch import CLASS_NAMES, MODALITY_NAMES, N_FOLDS, WatchData, load_watch
from examples.quickstart import Encoder
from i2moe import MMoE, Reweighter, explain
from i2moe.categorization import Halfway, Quantile, Sensitivity, sensitivity
from i2moe.mmoe import Classification, Recipe, Training, as_predictor, cross_predict
from i2moe.mmoe import Progress as Event

N_CLASSES = len(CLASS_NAMES)


class SignalFusion(nn.Module):
    """Encode the signals of each sensor, (B, 100, 3), and classify the concatenated embeddings."""

    def __init__(self, n_modalities: int, width: int = 64) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(Encoder() for _ in range(n_modalities))
        self.head = nn.Sequential(nn.LazyLinear(width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, N_CLASSES))

    def forward(self, *signals: Tensor) -> Tensor:
        """Return logits (B, C)."""
        z = [encoder(x) for encoder, x in zip(self.encoders, signals, strict=True)]
        logits: Tensor = self.head(torch.cat(z, dim=-1))
        return logits


class SignalRouter(nn.Module):
    """Encode the signals, and weigh the experts."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleList([Encoder(), Encoder()])
        self.reweighter = Reweighter(4, hidden_dim=64, n_layers=1)

    def forward(self, modalities: Sequence[Tensor]) -> Tensor:
        """Return weights (B, E)."""
        weights: Tensor = self.reweighter([encoder(x) for encoder, x in zip(self.encoders, modalities, strict=True)])
        return weights


def build() -> MMoE:
    """Build an MMoE: two factories of classifiers, one of the baseline, one of the router."""
    return MMoE(
        lambda: SignalFusion(2),
        2,
        N_CLASSES,
        unimodal=[lambda: SignalFusion(1)] * 2,
        router=SignalRouter,
        modality_names=MODALITY_NAMES,
    )


def recipe(n_epochs: int) -> Recipe:
    """Give the experts half the baseline's epochs, at a lower rate."""
    training = Training(n_epochs)
    return Recipe(training, Training(max(1, n_epochs // 2), learning_rate=3e-4), training, n_folds=3)


def fit(data: WatchData, n_epochs: int, console: Console, checkpoints: Path | None) -> MMoE:
    """Fit, and show stage by stage how far it is. Folds keep the windows of a person together."""
    columns = TextColumn("{task.description:32}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=console) as bars:
        bar = bars.add_task("")

        def show(event: Event) -> None:
            loss = "" if event.loss is None else f"  loss {event.loss:.3f}"
            bars.update(bar, total=event.n_stages, completed=event.n_done, description=f"{event.stage}{loss}")

        return build().fit(
            data.train.modalities,
            data.train.labels,
            recipe(n_epochs),
            groups=data.train.subjects,
            checkpoint_dir=checkpoints,
            progress=show,
        )


def robustness(model: MMoE, data: WatchData, n_epochs: int) -> Sensitivity:
    """Categorize the training windows with other classifiers, distances and thresholds."""
    linear = partial(make_pipeline, StandardScaler(), LogisticRegression(max_iter=500, tol=1e-2))
    classifiers: dict[str, Callable[[], object]] = {"convolutions": lambda: SignalFusion(1), "linear": linear}

    def held_out(build_module: Callable[[], object], *signals: Tensor) -> Tensor:
        return cross_predict(
            lambda: as_predictor(build_module(), Classification(N_CLASSES), "the classifier"),
            signals,
            data.train.labels,
            Training(n_epochs),
            n_folds=3,
            groups=data.train.subjects,
            generator=torch.Generator().manual_seed(0),
        )[1]

    unimodal = {
        name: torch.stack([held_out(factory, x) for x in data.train.modalities], dim=1)
        for name, factory in classifiers.items()
    }
    multimodal = held_out(lambda: SignalFusion(2), *data.train.modalities)
    return sensitivity(
        unimodal,
        multimodal,
        data.train.labels,
        distances=("l1", "l2", "cosine", "jensen_shannon"),
        thresholds=(Halfway(), Quantile(0.5)),
        modality_names=MODALITY_NAMES,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit, print the report, and how far the categories can be relied on."""
    parser = argparse.ArgumentParser(description="MMoE on smartwatch data.")
    parser.add_argument("--fold", type=int, default=0, choices=range(N_FOLDS), help="which two people to test on")
    parser.add_argument("--epochs", type=int, default=15, help="default: 15")
    parser.add_argument("--checkpoints", type=Path, help="a folder to go on from, or to start")
    parser.add_argument("--figure", type=Path, help="where to draw how the categories move")
    options = parser.parse_args(arguments)

    torch.set_num_threads(1)  # the tensors are small: more threads would wait for each other
    console = Console()
    data = load_watch(options.fold)
    model = fit(data, options.epochs, console, options.checkpoints)

    assert model.categories is not None
    counts = model.categories.count(data.train.labels, N_CLASSES)
    lines = [
        f"| {name} | " + " | ".join(map(str, row)) + " |"
        for name, row in zip(model.expert_names, counts.tolist(), strict=True)
    ]
    header = ["| training windows | " + " | ".join(CLASS_NAMES) + " |", "|---" * (N_CLASSES + 1) + "|"]
    console.print(Markdown("\n".join(header + lines)))
    console.print(Markdown(str(model.report(data.test.modalities, data.test.labels))))

    found = robustness(model, data, options.epochs)
    for factor, agreement in found.by_factor().items():
        console.print(f"{agreement:.0%} of the windows keep their category under another choice of {factor}.")
    if options.figure is not None:
        options.figure.parent.mkdir(parents=True, exist_ok=True)
        figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
        found.plot(axes)
        figure.savefig(options.figure, dpi=150)
        plt.close(figure)

    batches = [(data.test.modalities, data.test.labels)]
    console.print(explain(model.to_interaction_moe(), batches, class_names=CLASS_NAMES).summary())


if __name__ == "__main__":
    main()
