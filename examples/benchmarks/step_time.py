"""Times a training step: one backbone, interaction experts in every mode, the bound, and the authors' code.

    python -m examples.benchmarks.step_time
    python -m examples.benchmarks.step_time --reference CHECKOUT --json step_time.json

Inputs are embeddings of the sizes of the paper's Appendix G, batch 32, in one process; every contender makes one step
in turn. A step is forward, loss, backward and Adam; what counts is CPU time with one thread, which other programs on
the machine disturb least, and the wall clock with several (`--threads 2`), of which some wait. With a checkout of the
authors' repository its step is timed too, and ours around its transformer, the same backbone on both sides ("their").

The bound is the arithmetic alone: E separate backbones, each trained on all views at once (V * B rows), no experts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import geometric_mean, quantiles
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.benchmarks._counting import count_step
from examples.benchmarks._reference import Reference
from i2moe import InteractionMoE
from i2moe.backbones import FusionTransformer
from i2moe.perturbations import Gaussian

__all__ = ["SETTINGS", "Measured", "Options", "Setting", "contenders", "main", "measure"]


@dataclass(frozen=True)
class Setting:
    """The size of a problem. Without tokens the backbone is a perceptron on vectors."""

    n_modalities: int
    dim: int
    n_outputs: int
    n_tokens: int | None = None
    n_layers: int = 2
    n_heads: int = 4
    batch_size: int = 32


SETTINGS = {
    "ADNI": Setting(4, 256, 3, n_tokens=16),
    "MIMIC": Setting(3, 128, 2, n_tokens=8, n_heads=1),
    "IMDB": Setting(2, 256, 23, n_tokens=4),
    "MOSI": Setting(3, 256, 2, n_tokens=4, n_layers=1, n_heads=1),
    "ENRICO": Setting(2, 256, 20, n_tokens=8),
    "MLP": Setting(3, 128, 4),
}


@dataclass(frozen=True)
class Options:
    """What to run.

    Args:
        settings: names of settings.
        contenders: names of contenders, all if none.
        reference: a checkout of the authors' repository.
        json: where to write the numbers.
        repeats: timed steps of each contender, after two that do not count.
        threads: of torch.
    """

    settings: tuple[str, ...] = tuple(SETTINGS)
    contenders: tuple[str, ...] = ()
    reference: Path | None = None
    json: Path | None = None
    repeats: int = 15
    threads: int = 1


@dataclass(frozen=True)
class Measured:
    """One contender's step.

    Args:
        milliseconds: median.
        spread: half the distance between the quartiles, relative to the median.
        operators: dispatched in a step.
        kernels: those that are no views.
        kept: MiB that forward keeps for backward.
        peak: the most MiB at once.
    """

    milliseconds: float
    spread: float
    operators: int
    kernels: int
    kept: float
    peak: float


class Perceptron(nn.Module):
    """Concatenate the vectors; two hidden layers."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        dim = setting.dim
        layers = [nn.Linear(setting.n_modalities * dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU()]
        self.network = nn.Sequential(*layers, nn.Linear(dim, setting.n_outputs))

    def forward(self, modalities: Sequence[Tensor]) -> Tensor:
        """Predict (B, C) from a list of M tensors (B, D)."""
        prediction: Tensor = self.network(torch.cat(tuple(modalities), dim=-1))
        return prediction


class OurTransformer(nn.Module):
    """`FusionTransformer`, called with a list."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        assert setting.n_tokens is not None
        self.fusion = FusionTransformer(
            (setting.dim,) * setting.n_modalities,
            setting.n_outputs,
            n_tokens=setting.n_tokens,
            n_layers=setting.n_layers,
            n_heads=setting.n_heads,
            dropout=0.5,
        )

    def forward(self, modalities: Sequence[Tensor]) -> Tensor:
        """Predict (B, C) from a list of M tensors (B, T, D)."""
        prediction: Tensor = self.fusion(*modalities).prediction
        return prediction


class Contender:
    """Something whose training step is measured."""

    def __init__(self, module: nn.Module, loss: Callable[[], Tensor]) -> None:
        self.loss = loss
        self.optimizer = torch.optim.Adam(module.parameters(), fused=True)

    def finish(self, loss: Tensor) -> None:
        """Backward pass and update."""
        torch.autograd.backward(loss)
        self.optimizer.step()

    def step(self) -> float:
        """Seconds of one step."""
        start = _clock()
        self.optimizer.zero_grad()
        self.finish(self.loss())
        return _clock() - start

    def count(self) -> dict[str, float]:
        """What one step asks for."""
        self.optimizer.zero_grad()
        count, kept = count_step(self.loss, self.finish)
        mebibyte = 2**20
        return {
            "operators": count.operators,
            "kernels": count.kernels,
            "kept": kept / mebibyte,
            "peak": count.peak / mebibyte,
        }


class Evaluation(Contender):
    """Something whose prediction is measured."""

    def finish(self, loss: Tensor) -> None:
        """Nothing follows a prediction."""

    def step(self) -> float:
        """Seconds of one prediction."""
        start = _clock()
        with torch.no_grad():
            self.loss()
        return _clock() - start

    def count(self) -> dict[str, float]:
        """What one prediction asks for."""
        with torch.no_grad():
            return super().count()


def contenders(setting: Setting, reference: Reference | None) -> dict[str, Callable[[], Contender]]:
    """All contenders of a setting by name; "their" names the authors' transformer in place of ours."""
    tokens = () if setting.n_tokens is None else (setting.n_tokens,)
    shape = (setting.batch_size, *tokens, setting.dim)
    modalities = [torch.randn(shape, requires_grad=True) for _ in range(setting.n_modalities)]
    target = torch.randint(setting.n_outputs, (setting.batch_size,))
    n_experts, n_views = setting.n_modalities + 2, setting.n_modalities + 1

    def alone(factory: Callable[[], nn.Module]) -> Contender:
        backbone = factory()
        return Contender(backbone, lambda: F.cross_entropy(backbone(modalities), target))

    def bound(factory: Callable[[], nn.Module]) -> Contender:
        backbones = nn.ModuleList(factory() for _ in range(n_experts))
        rows = [torch.cat([modality.detach()] * n_views).requires_grad_() for modality in modalities]
        targets = target.repeat(n_views)
        return Contender(backbones, lambda: sum_of([F.cross_entropy(each(rows), targets) for each in backbones]))

    def ours(factory: Callable[[], nn.Module], **options: Any) -> Contender:
        model = InteractionMoE(factory, len(modalities), feature_dims=[setting.dim] * len(modalities), **options)

        def loss() -> Tensor:
            out = model(modalities)
            total: Tensor = F.cross_entropy(out.prediction, target) + 0.1 * out.interaction_loss
            return total

        return Contender(model, loss)

    def theirs(factory: Callable[[], nn.Module]) -> Contender:
        assert reference is not None
        model = reference.model(factory(), len(modalities), setting.dim)

        def loss() -> Tensor:
            _, _, prediction, losses = model(modalities)
            return F.cross_entropy(prediction, target) + 0.1 * sum_of(losses) / len(losses)

        return Contender(model, loss)

    def evaluated(**options: Any) -> Contender:
        widths = [setting.dim] * len(modalities)
        model = InteractionMoE(our_backbone, len(modalities), feature_dims=widths, **options).eval()
        return Evaluation(model, lambda: model(modalities).prediction)

    def forwards() -> Contender:
        backbones = nn.ModuleList(our_backbone() for _ in range(n_experts)).eval()
        return Evaluation(backbones, lambda: sum_of([each(modalities).sum() for each in backbones]))

    def our_backbone() -> nn.Module:
        return Perceptron(setting) if setting.n_tokens is None else OurTransformer(setting)

    def their_backbone() -> nn.Module:
        if reference is None or setting.n_tokens is None:
            return Perceptron(setting)
        return reference.transformer(
            num_modalities=setting.n_modalities,
            num_patches=setting.n_tokens,
            hidden_dim=setting.dim,
            output_dim=setting.n_outputs,
            num_layers=setting.n_layers,
            num_heads=setting.n_heads,
        )

    found: dict[str, Callable[[], Contender]] = {
        "one backbone": lambda: alone(our_backbone),
        "bound": lambda: bound(our_backbone),
        "auto": lambda: ours(our_backbone),
        "sequential": lambda: ours(our_backbone, execution="sequential"),
        "vmap": lambda: ours(our_backbone, execution="vmap"),
        "checkpoint": lambda: ours(our_backbone, checkpoint=True),
        "fraction 0.25": lambda: ours(our_backbone, perturbation=Gaussian(fraction=0.25)),
        "per_step 2": lambda: ours(our_backbone, perturbation=Gaussian(per_step=2)),
        "E forwards": forwards,
        "evaluation": evaluated,
        "evaluation, vmap": lambda: evaluated(execution="vmap"),
    }
    if reference is not None:
        found |= {
            "their bound": lambda: bound(their_backbone),
            "their auto": lambda: ours(their_backbone),
            "their fraction 0.25": lambda: ours(their_backbone, perturbation=Gaussian(fraction=0.25)),
            "reference": lambda: theirs(their_backbone),
        }
    return found


def _clock() -> float:
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def sum_of(losses: Sequence[Tensor]) -> Tensor:
    """Their sum."""
    return torch.stack(list(losses)).sum()


def measure(rivals: dict[str, Contender], repeats: int) -> dict[str, Measured]:
    """Measure every contender, in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for repeat in range(repeats + 2):
        for name, rival in rivals.items():
            taken = rival.step()
            if repeat >= 2:
                seconds[name].append(taken)

    found = {}
    for name, rival in rivals.items():
        low, middle, high = quantiles(seconds[name], n=4)
        found[name] = Measured(1000 * middle, (high - low) / 2 / middle, **rival.count())  # type: ignore[arg-type]
    return found


def main(options: Options) -> None:
    """Print a table per setting, and geometric means."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    reference = None if options.reference is None else Reference(options.reference)
    found = {}
    for name in options.settings:
        makers = contenders(SETTINGS[name], reference)
        chosen = options.contenders or tuple(makers)
        found[name] = measure({rival: makers[rival]() for rival in chosen}, options.repeats)
        _print(name, found[name])
    _print_ratios(found)
    if options.json is not None:
        content = {name: {rival: asdict(one) for rival, one in rivals.items()} for name, rivals in found.items()}
        options.json.write_text(json.dumps({"threads": options.threads, "settings": content}, indent=1))


def _print(name: str, rivals: dict[str, Measured]) -> None:
    setting = SETTINGS[name]
    tokens = "vectors" if setting.n_tokens is None else f"{setting.n_tokens} tokens each"
    print(f"\n{name}: {setting.n_modalities} modalities, {tokens}, width {setting.dim}")
    print(f"{'':<22}{'ms':>9}{'+-':>6}{'/bound':>8}{'operators':>11}{'kernels':>9}{'kept MiB':>10}{'peak MiB':>10}")
    for rival, one in rivals.items():
        bound = rivals.get(_bound_of(rival))
        share = "" if bound is None else f"{one.milliseconds / bound.milliseconds:.2f}"
        print(
            f"{rival:<22}{one.milliseconds:>9.2f}{one.spread:>6.0%}{share:>8}"
            f"{one.operators:>11}{one.kernels:>9}{one.kept:>10.1f}{one.peak:>10.1f}",
            flush=True,
        )


def _bound_of(rival: str) -> str:
    if rival in ("E forwards", "evaluation", "evaluation, vmap"):
        return "E forwards"
    return "their bound" if rival.startswith("their") or rival == "reference" else "bound"


def _print_ratios(found: dict[str, dict[str, Measured]]) -> None:
    """How many times faster than the authors' code, by setting and on geometric average."""
    if not all("reference" in rivals for rivals in found.values()):
        return
    print(f"\n{'reference /':<22}" + "".join(f"{name:>9}" for name in found) + f"{'mean':>9}")
    for rival in next(iter(found.values())):
        ratios = [rivals["reference"].milliseconds / rivals[rival].milliseconds for rivals in found.values()]
        print(f"{rival:<22}" + "".join(f"{ratio:>9.2f}" for ratio in ratios) + f"{geometric_mean(ratios):>9.2f}")


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Options))
