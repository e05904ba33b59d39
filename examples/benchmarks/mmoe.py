"""Measure MMoE: categories, router, experts against baseline, I2MoE and a larger baseline.

    python -m examples.benchmarks.mmoe categories             # rules compared on it: about 5 minutes
    python -m examples.benchmarks.mmoe known                  # data of known interactions: about 10 minutes
    python -m examples.benchmarks.mmoe watch                  # smartwatch data: about 10 minutes
    python -m examples.benchmarks.mmoe support2 --epochs 10   # hospital data, needs SurvSet: about 5 minutes
    python -m examples.benchmarks.mmoe kinds                  # kinds of experts: about 2 minutes

Every model is trained for as many epochs on the same samples. At prediction an MMoE is four experts and a router (for
two modalities), an I2MoE four experts of the same size and a reweighter like the router; "wide" is one fusion module
widened until it has as many parameters.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from statistics import mean

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.benchmarks._stand_in import stand_in_server
from examples.common.modules import Fusion
from examples.common.statistics import mean_and_deviation
from examples.datasets.synthetic import generate
from examples.datasets.watch import MODALITY_NAMES, load_watch
from examples.mmoe_watch import SignalFusion, SignalRouter
from i2moe import InteractionMoE, MMoE, Reweighter, categorize
from i2moe.categorization import Categories, Halfway, LikeliestClass, Threshold
from i2moe.mmoe import Recipe, Training
from i2moe.mmoe.prompting import ChatEndpoint, FewShotExpert

GENERATORS = ("two-modalities", "three-modalities", "four-classes", "imbalanced", "label-noise", "region", "one-cue")
THRESHOLDS: Mapping[str, Threshold] = {"calibrated": None, "halfway": Halfway()}
Modalities = tuple[Tensor, ...]


@dataclass(frozen=True)
class Problem:
    """Samples to train and to test on, and the modules to do it with.

    Args:
        train: M modalities (N, ...) and classes (N,).
        test: the same.
        n_classes: C.
        unimodal: builds a classifier of each modality.
        fusion: builds a fusion module of a width.
        router: builds a router.
        groups: (N,), training samples that belong together.
        kinds: the true interactions of training and test samples, where they are known.
    """

    train: tuple[Modalities, Tensor]
    test: tuple[Modalities, Tensor]
    n_classes: int
    unimodal: Sequence[Callable[[], nn.Module]]
    fusion: Callable[[int], nn.Module]
    router: Callable[[], nn.Module]
    groups: Tensor | None = None
    kinds: tuple[Tensor, Tensor] | None = None


# --- What is measured -------------------------------------------------------------------------------------------------


def compare(problem: Problem, recipe: Recipe, seed: int) -> dict[str, float]:
    """Fit all models once and return their accuracies on the test samples, and what the categories are worth."""
    (modalities, target), (test, truth) = problem.train, problem.test
    model = build(problem)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # rare categories are part of the table
        model.fit(modalities, target, recipe, groups=problem.groups, seed=seed)
    assert model.categories is not None
    known = None if problem.kinds is None else named(problem.kinds[1], model)
    report = model.report(test, truth, categories=known)
    found = {
        "baseline": report.overall.baseline,
        "wide": accuracy(train_wide(problem, model, recipe.training, seed), problem.test),
        "MMoE": report.overall.mixture,
        "oracle": report.overall.oracle,
        "router": report.overall.router,
        "always": max(row.n_samples for row in report.rows) / len(truth),
    }
    for name, taught in (("I2MoE", None), ("I2MoE taught", model.categories)):
        joint = train_i2moe(problem, recipe.training, seed, taught)
        found[name] = accuracy(lambda *x, joint=joint: joint(*x).prediction, problem.test)
        if problem.kinds is not None:
            with torch.no_grad():
                found[f"{name} weight"] = share(joint(*test).weights.argmax(-1) == problem.kinds[1])
    return found


def categories(problem: Problem, recipe: Recipe, seed: int) -> dict[str, float]:
    """Return the share of training samples whose true interaction each rule names, on held-out folds and on none."""
    found: dict[str, float] = {}
    assert problem.kinds is not None
    truth = problem.kinds[0]

    def by_every_rule(unimodal: Tensor, multimodal: Tensor, target: Tensor) -> Categories:
        for name, threshold in THRESHOLDS.items():
            by_rule = categorize(unimodal, multimodal, target, threshold=threshold)
            found[name] = share(by_rule.category == truth)
        return by_rule

    model = build(problem, categorizer=by_every_rule)
    untrained = replace(recipe, fine_tuning=Training(0), routing=Training(0), min_samples=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model.fit(*problem.train, untrained, seed=seed)
    return found | {"published rule": share(by_class(model, problem).category == truth)}


def build(
    problem: Problem,
    experts: Callable[[str], object] | None = None,
    categorizer: Callable[[Tensor, Tensor, Tensor], Categories] | None = None,
) -> MMoE:
    """Build an MMoE for a problem."""
    return MMoE(
        lambda: problem.fusion(64),
        len(problem.train[0]),
        problem.n_classes,
        unimodal=problem.unimodal,
        experts=experts,
        router=problem.router,
        categorizer=categorizer,
    )


def by_class(model: MMoE, problem: Problem) -> Categories:
    """Categorize the training samples by the published rule: likeliest classes, in-sample predictions."""
    modalities, target = problem.train
    multimodal = F.one_hot(target, problem.n_classes)
    return categorize(model.predict_unimodal(modalities), multimodal, target, threshold=LikeliestClass())


def train_i2moe(problem: Problem, training: Training, seed: int, taught: Categories | None) -> InteractionMoE:
    """Train an I2MoE end to end; where categories are given, its weights learn them too."""
    (modalities, target), generator = problem.train, torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = InteractionMoE(lambda: problem.fusion(64), len(modalities), reweighter=problem.router())
    model(*(x[:2] for x in modalities))  # sizes lazy layers
    optimizer = torch.optim.AdamW(model.parameters(), training.learning_rate, weight_decay=training.weight_decay)
    for _ in range(training.n_epochs):
        for rows in torch.randperm(len(target), generator=generator).split(training.batch_size):
            out = model(*(x[rows] for x in modalities))
            loss = F.cross_entropy(out.prediction, target[rows]) + 0.1 * out.interaction_loss
            if taught is not None:
                loss = loss + F.nll_loss(out.weights.clamp(min=1e-12).log(), taught.category[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def train_wide(problem: Problem, model: MMoE, training: Training, seed: int) -> nn.Module:
    """Train one fusion module with as many parameters as the MMoE's experts and router."""
    (modalities, target), generator = problem.train, torch.Generator().manual_seed(seed)
    aim = sum(count(part) for part in (*model.experts, model.router) if isinstance(part, nn.Module))
    width = 64
    while count(sized(problem.fusion(width), modalities)) < aim:
        width += 4
    torch.manual_seed(seed)
    wide = sized(problem.fusion(width), modalities)
    optimizer = torch.optim.AdamW(wide.parameters(), training.learning_rate, weight_decay=training.weight_decay)
    for _ in range(training.n_epochs):
        for rows in torch.randperm(len(target), generator=generator).split(training.batch_size):
            optimizer.zero_grad()
            F.cross_entropy(wide(*(x[rows] for x in modalities)), target[rows]).backward()
            optimizer.step()
    return wide.eval()


def sized(module: nn.Module, modalities: Modalities) -> nn.Module:
    """Let lazy layers find their sizes."""
    with torch.no_grad():
        module(*(x[:2] for x in modalities))
    return module


def accuracy(model: Callable[..., Tensor], data: tuple[Modalities, Tensor]) -> float:
    """Return the share of right classes."""
    with torch.no_grad():
        return share(model(*data[0]).argmax(-1) == data[1])


def share(right: Tensor) -> float:
    """Return the share of True."""
    return float(right.double().mean())


def count(module: nn.Module) -> int:
    """Count parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def named(kinds: Tensor, model: MMoE) -> Categories:
    """Turn known interactions (B,) into categories."""
    never = torch.zeros(len(kinds), dtype=torch.bool)
    return Categories(kinds, torch.zeros(len(kinds), len(model.expert_names)), model.expert_names, never, never, None)


# --- Problems ---------------------------------------------------------------------------------------------------------


def known_problem(name: str, n_samples: int, seed: int) -> Problem:
    """Draw data of known interactions."""
    train, test = generate(name, n_samples, 2 * seed), generate(name, 4000, 2 * seed + 1)
    assert train.n_classes is not None
    return _tabular(
        (train.modalities, train.target),
        (test.modalities, test.target),
        train.n_classes,
        kinds=(train.interaction, test.interaction),
    )


def support2_problem(seed: int) -> Problem:
    """Load the hospital data, in the split of a seed."""
    data = import_module("examples.datasets.support2").load_support2(seed)
    parts = [(tuple(part.modalities), part.targets) for part in (data.train, data.test)]
    return _tabular(parts[0], parts[1], 2)


def watch_problem(fold: int) -> Problem:
    """Load the smartwatch data, testing on two subjects; folds of categories keep subjects together."""
    data = load_watch(fold)
    return Problem(
        (data.train.modalities, data.train.labels),
        (data.test.modalities, data.test.labels),
        len(data.class_names),
        [lambda: SignalFusion(1)] * 2,
        lambda width: SignalFusion(2, width),
        SignalRouter,
        groups=data.train.subjects,
    )


def _tabular(
    train: tuple[Modalities, Tensor],
    test: tuple[Modalities, Tensor],
    n_classes: int,
    kinds: tuple[Tensor, Tensor] | None = None,
) -> Problem:
    dims = [x.shape[1] for x in train[0]]
    return Problem(
        train,
        test,
        n_classes,
        [partial(Fusion, dim, n_classes, (32, 32)) for dim in dims],
        lambda width: Fusion(sum(dims), n_classes, (width, width)),
        lambda: Reweighter(len(dims) + 2, dims, hidden_dim=64, dropout=0.1),
        kinds=kinds,
    )


# --- Tables -----------------------------------------------------------------------------------------------------------


def kinds_of_experts(problem: Problem, recipe: Recipe, seed: int, n_asked: int) -> dict[str, dict[str, float]]:
    """Compare experts fine-tuned, trained from scratch, and prompted, with the same categories and router."""
    modalities, truth = tuple(x[:n_asked] for x in problem.test[0]), problem.test[1][:n_asked]
    assert problem.kinds is not None
    labels = [f"class {c}" for c in range(problem.n_classes)]
    template = "\n".join(f"modality {i}: {{{i}}}" for i in range(len(modalities)))
    found = {}
    with stand_in_server() as url:
        ask = ChatEndpoint("nearest example", url, key_variable=None, n_concurrent=2, prices=(1.0, 1.0))
        kinds: Mapping[str, Callable[[str], object] | None] = {
            "fine-tuned": None,
            "from scratch": lambda name: problem.fusion(64),
            "prompted (stand-in)": lambda name: FewShotExpert(ask, template, labels, 32),
        }
        for name, experts in kinds.items():
            model = build(problem, experts).fit(*problem.train, recipe, seed=seed)
            report = model.report(modalities, truth, categories=named(problem.kinds[1][:n_asked], model))
            found[name] = {"baseline": report.overall.baseline} | {row.name: row.oracle for row in report.rows}
            found[name] |= {"oracle": report.overall.oracle, "MMoE": report.overall.mixture}
            found[name]["requests"] = float(ask.usage.n_requests)
    return found


def table(rows: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Format mean +- standard deviation over seeds as a Markdown table."""
    columns = list(next(iter(rows.values()))[0])
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, runs in rows.items():
        values = [[run[column] for run in runs] for column in columns]
        lines.append(f"| {name} | " + " | ".join(_plus_minus(value) for value in values) + " |")
    return "\n".join(lines)


def _plus_minus(values: Sequence[float]) -> str:
    return f"{mean(values):.0f}" if values[0] > 1 else mean_and_deviation([100 * value for value in values], ".1f")


def main() -> None:
    """Print the table asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("table", choices=("categories", "known", "watch", "support2", "kinds"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=2000, help="training samples of known interactions")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--generators", nargs="+", default=GENERATORS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    training = Training(options.epochs)
    recipe = Recipe(training, Training(options.epochs // 2, learning_rate=3e-4), training, n_folds=3)

    def run(problem: Callable[[int], Problem], name: str) -> list[dict[str, float]]:
        found = []
        for seed in range(options.seeds):
            found.append(compare(problem(seed), recipe, seed))
            print(name, seed, found[-1], file=sys.stderr, flush=True)
        return found

    if options.table == "categories":
        draws = {name: partial(known_problem, name, options.samples) for name in options.generators}
        rows = {
            name: [categories(draw(seed), recipe, seed) for seed in range(options.seeds)]
            for name, draw in draws.items()
        }
    elif options.table == "known":
        rows = {name: run(partial(known_problem, name, options.samples), name) for name in options.generators}
    elif options.table == "watch":
        rows = {" + ".join(MODALITY_NAMES): run(watch_problem, "fold")}
    elif options.table == "support2":
        rows = {"support2": run(support2_problem, "split")}
    else:
        problems = [known_problem("two-modalities", options.samples, seed) for seed in range(options.seeds)]
        runs = [kinds_of_experts(problem, recipe, seed, n_asked=200) for seed, problem in enumerate(problems)]
        rows = {kind: [run[kind] for run in runs] for kind in runs[0]}
    print(table(rows))


if __name__ == "__main__":
    main()
