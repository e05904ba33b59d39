"""Times a training step: one backbone, interaction experts in every mode, the bound, and the authors' code.

    python -m examples.benchmarks.step_time
    python -m examples.benchmarks.step_time --reference CHECKOUT --json step_time.json

Inputs are embeddings of the sizes of the paper's Appendix G, batch 32, in one process; every contender makes one step
in turn. A step is forward, loss, backward and Adam; what counts is CPU time with one thread, which other programs on
the machine disturb least, and the wall clock with several (`--threads 2`), of which some wait. With a checkout of the
authors' repository its step is timed too, and ours around its transformer, the same backbone on both sides ("their").

The bound is the arithmetic alone, without experts: of the paper's objective E separate backbones, each trained on all
views at once (V * B rows); of computed weights E backbones, of which M see the batch twice; of shared experts one
backbone on the rows of all members. A prediction's bound is one plain forward pass for each pass that is made.
"By hand" is the least that computed weights cost: the same losses and shares, written for these backbones alone.
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
from i2moe import InteractionMoE, InteractionSupervision
from i2moe.backbones import FusionTransformer
from i2moe.moe.weights import interaction_shares
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
    "MLP-128": Setting(3, 128, 4, batch_size=128),
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
        device: "cpu" or "cuda"; there the wall clock counts, with the device's work waited for.
    """

    settings: tuple[str, ...] = tuple(SETTINGS)
    contenders: tuple[str, ...] = ()
    reference: Path | None = None
    json: Path | None = None
    repeats: int = 15
    threads: int = 1
    device: str = "cpu"


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
        parameters: that are trained. Adam keeps two numbers more for each.
    """

    milliseconds: float
    spread: float
    operators: int
    kernels: int
    kept: float
    peak: float
    parameters: int


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
        self.n_parameters = sum(parameter.numel() for parameter in module.parameters())
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
            "parameters": self.n_parameters,
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
    n_passes = n_experts + setting.n_modalities  # with computed weights

    def repeated(n: int) -> tuple[list[Tensor], Tensor]:
        return [torch.cat([modality.detach()] * n).requires_grad_() for modality in modalities], target.repeat(n)

    def trained(backbone: nn.Module, rows: list[Tensor], targets: Tensor) -> Tensor:
        return F.cross_entropy(backbone(rows), targets)

    def alone(factory: Callable[[], nn.Module]) -> Contender:
        backbone = factory()
        return Contender(backbone, lambda: F.cross_entropy(backbone(modalities), target))

    def bound(factory: Callable[[], nn.Module]) -> Contender:
        backbones = nn.ModuleList(factory() for _ in range(n_experts))
        rows, targets = repeated(n_views)
        return Contender(backbones, lambda: sum_of([trained(each, rows, targets) for each in backbones]))

    def ours(factory: Callable[[], nn.Module], **options: Any) -> Contender:
        model = InteractionMoE(factory, len(modalities), feature_dims=[setting.dim] * len(modalities), **options)

        def loss() -> Tensor:
            out = model(modalities)
            total: Tensor = F.cross_entropy(out.prediction, target) + 0.1 * out.interaction_loss
            return total

        return Contender(model, loss)

    def bound_of_computed(factory: Callable[[], nn.Module]) -> Contender:
        backbones = nn.ModuleList(factory() for _ in range(n_experts))
        passes = [2 if e < setting.n_modalities else 1 for e in range(n_experts)]
        batches = {n: repeated(n) for n in passes}
        return Contender(
            backbones, lambda: sum_of([trained(each, *batches[n]) for each, n in zip(backbones, passes, strict=True)])
        )

    def bound_of_members(factory: Callable[[], nn.Module], n_members: int) -> Contender:
        backbone, (rows, targets) = factory(), repeated(n_members + setting.n_modalities)
        return Contender(backbone, lambda: trained(backbone, rows, targets))

    def computed(factory: Callable[[], nn.Module], **options: Any) -> Contender:
        model = InteractionMoE(factory, len(modalities), reweighter="computed", **options)
        supervise = InteractionSupervision(F.cross_entropy)
        return Contender(model, lambda: supervise(model(modalities), target))

    def by_hand(factory: Callable[[], nn.Module], *, own: bool) -> Contender:
        backbones = nn.ModuleList(factory() for _ in range(n_experts if own else 1))
        return Contender(backbones, lambda: step_by_hand(backbones, modalities, target))

    def theirs(factory: Callable[[], nn.Module]) -> Contender:
        assert reference is not None
        model = reference.model(factory(), len(modalities), setting.dim)

        def loss() -> Tensor:
            _, _, prediction, losses = model(modalities)
            return F.cross_entropy(prediction, target) + 0.1 * sum_of(losses) / len(losses)

        return Contender(model, loss)

    def evaluated(**options: Any) -> Contender:
        widths = None if "reweighter" in options else [setting.dim] * len(modalities)
        model = InteractionMoE(our_backbone, len(modalities), feature_dims=widths, **options).eval()
        return Evaluation(model, lambda: model(modalities).prediction)

    def evaluated_by_hand(*, own: bool) -> Contender:
        backbones = nn.ModuleList(our_backbone() for _ in range(n_experts if own else 1)).eval()
        return Evaluation(backbones, lambda: predict_by_hand(backbones, modalities)[2])

    def forwards(n: int) -> Contender:
        backbones = nn.ModuleList(our_backbone() for _ in range(n)).eval()
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
        "computed bound": lambda: bound_of_computed(our_backbone),
        "computed": lambda: computed(our_backbone),
        "members=1 bound": lambda: bound_of_members(our_backbone, 1),
        "members=1": lambda: computed(our_backbone, members=1),
        "computed by hand": lambda: by_hand(our_backbone, own=True),
        "members=1 by hand": lambda: by_hand(our_backbone, own=False),
        "members=4 bound": lambda: bound_of_members(our_backbone, 4),
        "members=4": lambda: computed(our_backbone, members=4),
        "computed, vmap": lambda: computed(our_backbone, execution="vmap"),
        "E forwards": lambda: forwards(n_experts),
        "evaluation": evaluated,
        "evaluation, vmap": lambda: evaluated(execution="vmap"),
        "E + M forwards": lambda: forwards(n_passes),
        "M + 1 forwards": lambda: forwards(setting.n_modalities + 1),
        "4 (M + 1) forwards": lambda: forwards(4 * (setting.n_modalities + 1)),
        "evaluation, computed": lambda: evaluated(reweighter="computed"),
        "evaluation, members=1": lambda: evaluated(reweighter="computed", members=1),
        "evaluation, members=4": lambda: evaluated(reweighter="computed", members=4),
        "evaluation, computed by hand": lambda: evaluated_by_hand(own=True),
        "evaluation, members=1 by hand": lambda: evaluated_by_hand(own=False),
    }
    if reference is not None:
        found |= {
            "their bound": lambda: bound(their_backbone),
            "their auto": lambda: ours(their_backbone),
            "their fraction 0.25": lambda: ours(their_backbone, perturbation=Gaussian(fraction=0.25)),
            "their backbone": lambda: alone(their_backbone),
            "their computed": lambda: computed(their_backbone),
            "their members=1": lambda: computed(their_backbone, members=1),
            "their members=4": lambda: computed(their_backbone, members=4),
            "reference": lambda: theirs(their_backbone),
        }
    return found


def step_by_hand(backbones: nn.ModuleList, modalities: Sequence[Tensor], target: Tensor) -> Tensor:
    """Return the loss of computed weights as one would write it for these backbones alone, without a check.

    Args:
        backbones: as for `predict_by_hand`.
        modalities: M tensors, one row a sample.
        target: one class a sample.
    """
    predictions, marginals, _ = predict_by_hand(backbones, modalities)
    each = [(x.flatten(0, 1), target.repeat_interleave(x.shape[1])) for x in (predictions, marginals)]
    return sum_of([F.cross_entropy(*one) for one in each])


def predict_by_hand(backbones: nn.ModuleList, modalities: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return predictions (B, E, C), marginals (B, M, C) and weights (B, E), without a check.

    Args:
        backbones: E of them, or one that all experts share.
        modalities: M tensors, one row a sample.
    """
    n_samples, n_modalities = len(modalities[0]), len(modalities)
    absent = [torch.zeros_like(x) for x in modalities]
    alone = [[*absent[:i], x, *absent[i + 1 :]] for i, x in enumerate(modalities)]
    if len(backbones) == 1:
        rows = [torch.cat(same) for same in zip(modalities, *alone, strict=True)]
        first, *others = backbones[0](rows).split(n_samples)
        predictions, marginals = first.unsqueeze(1), torch.stack(others, dim=1)
    else:
        outputs = []
        for backbone, own in zip(backbones, [*alone, None, None], strict=True):
            rows = list(modalities) if own is None else [torch.cat(same) for same in zip(modalities, own, strict=True)]
            outputs.append(backbone(rows))
        predictions = torch.stack([output[:n_samples] for output in outputs], dim=1)
        marginals = torch.stack([output[n_samples:] for output in outputs[:n_modalities]], dim=1)
    with torch.no_grad():
        joint = predictions.mean(1).softmax(1)
        weights, _ = interaction_shares(marginals.softmax(2), joint, joint.mean(0))
    return predictions, marginals, weights


def _clock() -> float:
    if torch.empty(0).is_cuda:  # by main's default device
        torch.cuda.synchronize()
        return time.perf_counter()
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
    with torch.device(options.device):
        found = _measure_settings(options, reference)
    _print_ratios(found)
    if options.json is not None:
        content = {name: {rival: asdict(one) for rival, one in rivals.items()} for name, rivals in found.items()}
        head = {"threads": options.threads, "device": options.device}
        options.json.write_text(json.dumps({**head, "settings": content}, indent=1))


def _measure_settings(options: Options, reference: Reference | None) -> dict[str, dict[str, Measured]]:
    found = {}
    for name in options.settings:
        makers = contenders(SETTINGS[name], reference)
        chosen = options.contenders or tuple(makers)
        found[name] = measure({rival: makers[rival]() for rival in chosen}, options.repeats)
        _print(name, found[name])
    return found


def _print(name: str, rivals: dict[str, Measured]) -> None:
    setting = SETTINGS[name]
    tokens = "vectors" if setting.n_tokens is None else f"{setting.n_tokens} tokens each"
    print(f"\n{name}: {setting.n_modalities} modalities, {tokens}, width {setting.dim}")
    columns = "".join(f"{column:>10}" for column in ("operators", "kernels", "kept MiB", "peak MiB", "backbones"))
    print(f"{'':<22}{'ms':>9}{'+-':>6}{'/bound':>8}{columns}")
    for rival, one in rivals.items():
        bound = rivals.get(_bound_of(rival))
        share = "" if bound is None else f"{one.milliseconds / bound.milliseconds:.2f}"
        backbone = rivals.get("their backbone" if _is_theirs(rival) and setting.n_tokens else "one backbone")
        size = "" if backbone is None else f"{one.parameters / backbone.parameters:.2f}"
        print(
            f"{rival:<22}{one.milliseconds:>9.2f}{one.spread:>6.0%}{share:>8}"
            f"{one.operators:>10}{one.kernels:>10}{one.kept:>10.1f}{one.peak:>10.1f}{size:>10}",
            flush=True,
        )


def _bound_of(rival: str) -> str:
    if rival in ("E forwards", "evaluation", "evaluation, vmap"):
        return "E forwards"
    if rival.endswith("forwards"):
        return rival
    if rival.startswith("evaluation, "):
        of_members = {"members=1": "M + 1 forwards", "members=4": "4 (M + 1) forwards"}
        return of_members.get(rival[12:].removesuffix(" by hand"), "E + M forwards")
    if rival.startswith(("computed", "members=")):
        return f"{rival.removesuffix(' bound').removesuffix(', vmap').removesuffix(' by hand')} bound"
    return "their bound" if _is_theirs(rival) else "bound"


def _is_theirs(rival: str) -> bool:
    return rival.startswith("their") or rival == "reference"


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
