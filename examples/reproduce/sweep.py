"""Look for better settings by the validation split; the test split is not touched."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from types import MappingProxyType
from typing import Any

import optuna
import torch
from accelerate import Accelerator
from optuna.storages.journal import JournalFileBackend
from rich.console import Console

from examples.datasets import find as find_data
from examples.datasets._interface import MultimodalData
from examples.reproduce.checkpoint import file_name, write_text
from examples.reproduce.fusions import FusionName
from examples.reproduce.identity import check_same, checksum, conditions, plain
from examples.reproduce.learner import build_learner
from examples.reproduce.methods import find as find_method
from examples.reproduce.metrics import is_better
from examples.reproduce.run import open_data, split_of
from examples.reproduce.settings import Settings, smoke
from examples.reproduce.training import fit, seed_of

__all__ = ["SPACE", "SweepOptions", "flags", "sweep"]

SPACE: Mapping[str, Callable[[optuna.Trial, str], Any]] = MappingProxyType(
    {
        "lr": lambda trial, name: trial.suggest_float(name, 3e-4, 1e-2, log=True),
        "weight_decay": lambda trial, name: trial.suggest_categorical(name, [0.0, 0.01, 0.1]),
        "dropout": lambda trial, name: trial.suggest_float(name, 0.0, 0.5),
        "interaction_weight": lambda trial, name: trial.suggest_categorical(name, [0.0, 0.005, 0.02, 0.1, 0.5]),
        "experts_weight": lambda trial, name: trial.suggest_categorical(name, [0.0, 0.3, 1.0, 3.0]),
        "temperature": lambda trial, name: trial.suggest_float(name, 0.5, 8.0, log=True),
        "perturbation": lambda trial, name: trial.suggest_categorical(name, ["gaussian", "zero", "mean", "shuffle"]),
    }
)
"""How each setting is drawn."""


@dataclass(frozen=True)
class SweepOptions:
    """Look for better settings by the validation split, the mean over the seeds; an interrupted sweep goes on.

    Args:
        root: folder of the data's files; data/<dataset> by default.
        fusion: what fuses the modalities.
        method: whose settings.
        seeds: runs of each trial.
        trials: number of settings to try, those of earlier sweeps into the same folder included.
        over: which settings vary.
        smoke: tiny models and few samples.
        output: folder of the trials; outputs/sweep-<dataset>-<fusion>-<method> by default.
        cpu: leave the GPUs alone.
        workers: processes that read data.
    """

    root: Path | None = None
    fusion: FusionName = "transformer"
    method: str = "i2moe"
    seeds: tuple[int, ...] = (0, 1)
    trials: int = 20
    over: tuple[str, ...] = tuple(SPACE)
    smoke: bool = False
    output: Path | None = None
    cpu: bool = False
    workers: int = 0


def sweep(dataset: str, options: SweepOptions, settings: Settings) -> dict[str, Any]:
    """Try settings, print the best ones as options, and return them.

    Args:
        dataset: name of the data set.
        options: how to search.
        settings: what does not vary, and the first trial.

    Raises:
        FileNotFoundError: if files of the data are missing.
        ValueError: if there is no such data set, method or setting, or the folder holds another sweep.
    """
    method = find_method(options.method)
    unknown = [name for name in options.over if name not in SPACE]
    if unknown:
        raise ValueError(f"settings to vary must be some of {', '.join(SPACE)}, however they include {unknown}")
    settings = smoke(settings) if options.smoke else settings
    source = find_data(dataset)
    parts = [
        open_data(source, options.root, split_of(source, seed), settings, smoke=options.smoke) for seed in options.seeds
    ]

    def objective(trial: optuna.Trial) -> float:
        drawn = replace(settings, **{name: SPACE[name](trial, name) for name in options.over})
        chosen = method.settings(drawn)
        scores = []
        for seed, data in zip(options.seeds, parts, strict=True):
            torch.manual_seed(seed_of(seed))
            learner = build_learner(dataset, data, options.fusion, method, chosen)
            accelerator = Accelerator(cpu=options.cpu)
            progress = fit(learner, data, chosen, seed=seed, accelerator=accelerator, workers=options.workers)
            scores.append(float("nan") if progress.best_score is None else progress.best_score)
        return mean(scores)

    folder = options.output or Path("outputs", f"sweep-{file_name(dataset)}-{options.fusion}-{options.method}")
    study = _study(folder, parts[0])
    identity = {
        "dataset": dataset,
        **{name: getattr(options, name) for name in ("fusion", "method", "seeds", "over", "smoke")},
        "settings": {name: value for name, value in asdict(settings).items() if name not in options.over},
        "data_checksums": [checksum(data) for data in parts],
        **conditions(Accelerator(cpu=options.cpu)),
    }
    _claim(study, plain(identity), folder)
    if not study.trials:
        study.enqueue_trial({name: value for name, value in asdict(settings).items() if name in options.over})
    study.optimize(objective, n_trials=max(options.trials - len(_done(study)), 0))

    best = study.best_trial
    trials = [{"validation": trial.value, **trial.params} for trial in _done(study)]
    write_text(folder / "trials.jsonl", "".join(json.dumps(trial) + "\n" for trial in trials))
    console = Console()
    console.print(f"validation {parts[0].metrics[0]}: {trials[0]['validation']:.4f} at first, {best.value:.4f} with")
    console.print(flags(best.params), soft_wrap=True)
    return dict(best.params)


def flags(settings: Mapping[str, Any]) -> str:
    """Return settings as options of the command line.

    Example:
        >>> flags({"lr": 0.00123456, "perturbation": "zero"})
        '--lr 0.00123 --perturbation zero'
    """
    texts = {name: f"{value:.3g}" if isinstance(value, float) else str(value) for name, value in settings.items()}
    return " ".join(f"--{name.replace('_', '-')} {text}" for name, text in texts.items())


def _study(folder: Path, data: MultimodalData) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    backend = JournalFileBackend(str(folder / "journal.log"))
    higher_is_better = is_better(data.metrics[0], 1.0, 0.0)
    return optuna.create_study(
        study_name="sweep",
        storage=optuna.storages.JournalStorage(backend),
        sampler=optuna.samplers.TPESampler(seed=0),
        direction="maximize" if higher_is_better else "minimize",
        load_if_exists=True,
    )


def _claim(study: optuna.Study, identity: dict[str, Any], folder: Path) -> None:
    """Make a new study this sweep's, and refuse to go on from another sweep's."""
    if study.trials:
        check_same(study.user_attrs.get("identity", {}), identity, folder, cure="choose another --output")
    else:
        study.set_user_attr("identity", identity)


def _done(study: optuna.Study) -> Sequence[optuna.trial.FrozenTrial]:
    return study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
