"""Runs: a data set, a fusion, methods and seeds, with everything they leave in one folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from io import StringIO
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from examples import fixtures
from examples.common.best_epoch import Progress
from examples.datasets import find as find_data
from examples.datasets._interface import MultimodalData, Source, Split
from examples.reproduce.checkpoint import file_name, save_checkpoint, write_text
from examples.reproduce.encoders import ScreenEncoder
from examples.reproduce.figures import draw
from examples.reproduce.folder import claimed
from examples.reproduce.fusions import FusionName
from examples.reproduce.identity import check_same, checksum, conditions, plain
from examples.reproduce.learner import Learner, build_learner, build_specialist
from examples.reproduce.methods import Method
from examples.reproduce.methods import find as find_method
from examples.reproduce.results import collect, read_results, summarize
from examples.reproduce.settings import Settings
from examples.reproduce.teaching import soft_targets
from examples.reproduce.training import fit, score, seed_of

__all__ = ["Job", "Options", "accelerator_of", "open_data", "reproduce", "split_of"]

_SMOKE_SAMPLES = 16
_RANDOM_START = "The encoder of images starts at random: torch's hub folder has no vgg11_bn-*.pth (ImageNet)."


@dataclass(frozen=True)
class Options:
    """Train a fusion, and what the methods make of it, and compare them.

    Args:
        root: folder of the data's files; data/<dataset> by default.
        fusion: what fuses the modalities.
        method: one or several of vanilla, shared-ensemble, ensemble, i2moe, i2moe+experts, i2moe+encoders,
            i2moe-computed, and the ablations no-interaction, latent, global-weight, two-passes, few-rows,
            synergy-redundancy, zero, mean, shuffle, same-start, no-gate-loss, released-losses.
        seeds: each starts a run of every method; where the split of the data is free, it is another one for each seed.
        split: which split of the data, for all seeds.
        smoke: see that everything works, in seconds: tiny models, few samples, files made for it unless root is given.
        output: folder of the results; outputs/<dataset>-<fusion> by default.
        baseline: the method that the others are compared with.
        fresh: begin anew where results or checkpoints are.
        cpu: leave the GPUs alone.
        mixed_precision: type of the numbers in most of the computation.
        workers: processes that read data; 0 reads in this one.
    """

    root: Path | None = None
    fusion: FusionName = "transformer"
    method: tuple[str, ...] = ("vanilla", "i2moe")
    seeds: tuple[int, ...] = (0, 1, 2)
    split: int | None = None
    smoke: bool = False
    output: Path | None = None
    baseline: str = "vanilla"
    fresh: bool = False
    cpu: bool = False
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    workers: int = 0


def reproduce(dataset: str, options: Options, settings: Settings) -> list[dict[str, Any]]:
    """Run every method with every seed, write results, table and figures, and print the table.

    What is done is not done again; what was interrupted goes on.

    Args:
        dataset: name of the data set, or `<module>:<name>` of one of your own.
        options: what to run.
        settings: the hyper-parameters, which methods change.

    Returns:
        The results in the folder, those of earlier runs included.

    Raises:
        FileNotFoundError: if files of the data are missing.
        ValueError: if there is no such data set, method or split, or the folder is in use, is damaged, or holds other
            runs.
    """
    methods = options.method
    _check_options(options)
    for name in (*methods, options.baseline):
        find_method(name)
    source = find_data(dataset)
    accelerator = accelerator_of(options)
    console = Console(quiet=not accelerator.is_main_process)
    name = f"{file_name(dataset)}-{options.fusion}"
    folder = options.output or Path("outputs", name + "-smoke" * options.smoke)
    _check_folder(folder, dataset, options)

    with _root(dataset, options) as root:
        for seed in options.seeds:
            split = options.split if options.split is not None else split_of(source, seed)
            data = open_data(source, root, split, settings, smoke=options.smoke)
            data_checksum = checksum(data)
            for method in methods:
                job = Job(dataset, options.fusion, method, seed, split, options.smoke, settings, data_checksum)
                job.run(data, folder / method / f"seed-{seed}", accelerator_of(options), console, options)
    if not accelerator.is_main_process:
        return []
    results = collect(folder)
    table = summarize(
        results, f"{dataset}, {options.fusion}: test, mean ± deviation over seeds [95% interval]", options.baseline
    )
    console.print(table)
    printed = StringIO()
    Console(file=printed, width=160).print(table)
    write_text(folder / "table.txt", printed.getvalue())
    console.print(f"Everything is in {folder}", soft_wrap=True)
    return results


@dataclass(frozen=True)
class Job:
    """One method with one seed.

    Args:
        dataset: name of the data set.
        fusion: name of the fusion.
        method: name of the method.
        seed: of everything drawn.
        split: which split of the data.
        smoke: whether this only tries the code.
        settings: the hyper-parameters, which the method changes.
        data_checksum: of all samples, whatever folder they came from.
    """

    dataset: str
    fusion: FusionName
    method: str
    seed: int
    split: int
    smoke: bool
    settings: Settings
    data_checksum: str

    def run(
        self, data: MultimodalData, folder: Path, accelerator: Accelerator, console: Console, options: Options
    ) -> None:
        """Train, and leave model, history, figures and result in a folder, unless they are there.

        Args:
            data: the data.
            folder: where to, and where a checkpoint may be.
            accelerator: the device, the precision and the other processes.
            console: where to say what happens.
            options: whether to begin anew, and how many processes read data.
        """
        method = find_method(self.method)
        job = replace(self, settings=method.settings(self.settings))
        learner = job._build(data, method)
        starts = sorted({module.start for module in learner.modules() if isinstance(module, ScreenEncoder)})
        identity = plain({**asdict(job), "image_encoders": starts, **conditions(accelerator)})
        name = f"{self.method}, seed {self.seed}"
        with claimed(folder, identity, accelerator, fresh=options.fresh) as done:
            if done:
                console.print(f"{name}: done before", highlight=False)
                return
            going_on = "goes on after its checkpoint" if any(folder.glob("*.pt")) else "begins"
            console.print(f"{name}: {going_on}", highlight=False)
            if "random" in starts:
                console.print(_RANDOM_START)

            def train(learner: Learner, seed: int, title: str, checkpoint: Path, **arguments: Any) -> Progress:
                n_steps = job.settings.epochs * -(-len(data.train) // job.settings.batch_size)
                with _bar(title, n_steps, console) as after_step:
                    return fit(
                        learner,
                        data,
                        learner.settings,
                        seed=seed,
                        checkpoint=checkpoint,
                        identity=identity,
                        workers=options.workers,
                        after_step=after_step,
                        **arguments,
                    )

            def specialist(modality: int | None, number: int) -> Learner:
                seed = seed_of(self.seed, number + 1)
                torch.manual_seed(seed_of(seed))
                learner = build_specialist(self.dataset, data, self.fusion, modality, job.settings)
                of = "all" if modality is None else data.modality_names[modality]
                title = f"{name}: teacher {number + 1} of {job.settings.teachers}, {of}"
                checkpoint = folder / f"teacher-{number}-{'all' if modality is None else modality}-checkpoint.pt"
                train(learner, seed, title, checkpoint, accelerator=accelerator_of(options))
                return learner

            soft = None
            if job.settings.computed and job.settings.teachers:
                n_teachers = job.settings.teachers
                soft = soft_targets(specialist, n_teachers, data.train, data.task, folder, identity, accelerator)
            progress = train(learner, self.seed, name, folder / "checkpoint.pt", accelerator=accelerator, soft=soft)
            parts = ("validation", "test")
            scores = {part: score(learner, data, part, data.metrics, accelerator, options.workers) for part in parts}
            if accelerator.is_main_process:
                write_text(folder / "history.json", json.dumps(progress.history))
                save_checkpoint(folder / "model.pt", learner.state_dict())
                draw(learner, data, progress.history, folder)
                write_text(folder / "result.json", json.dumps({**identity, **scores, **_facts(learner, progress)}))
                for unneeded in (folder / "checkpoint.pt", *folder.glob("teacher-*.pt")):
                    unneeded.unlink(missing_ok=True)
            metric, value = next(iter(scores["test"].items()))
            console.print(
                f"{name}: test {metric} {value:.3f}, epoch {progress.best_epoch} of {progress.epoch}", highlight=False
            )

    def _build(self, data: MultimodalData, method: Method) -> Learner:
        torch.manual_seed(seed_of(self.seed))
        return build_learner(self.dataset, data, self.fusion, method, self.settings)


def _check_options(options: Options) -> None:
    for name, values in (("method", options.method), ("seeds", options.seeds)):
        if not values or len(set(values)) < len(values):
            raise ValueError(f"--{name} must name at least one, each once, however it is {values}")
    if options.workers < 0:
        raise ValueError(f"--workers must be at least 0, however it is {options.workers}")


def _check_folder(folder: Path, dataset: str, options: Options) -> None:
    """Refuse to put runs of several data sets, fusions or smoke tests into one table."""
    replaced = {folder / method / f"seed-{seed}" for method, seed in product(options.method, options.seeds)}
    wanted = {"dataset": dataset, "fusion": options.fusion, "smoke": options.smoke}
    for run_folder, result in read_results(folder, but=replaced if options.fresh else set()).items():
        check_same(result, wanted, run_folder)


def accelerator_of(options: Options) -> Accelerator:
    """Return the device, the precision and the processes that the options and the launcher ask for."""
    return Accelerator(cpu=options.cpu, mixed_precision=options.mixed_precision)


def open_data(source: Source, root: Path | None, split: int, settings: Settings, *, smoke: bool) -> MultimodalData:
    """Open a data set as the settings want it.

    Args:
        source: the data set.
        root: folder of its files.
        split: which way to split the samples.
        settings: say whether samples that lack a modality are left out.
        smoke: keep few samples.
    """
    data = source.open(root, split)
    data = data.complete() if settings.complete else data
    if not smoke:
        return data
    return replace(data, train=_few(data.train), validation=_few(data.validation), test=_few(data.test))


def _few(split: Split) -> Split:
    """Keep some samples from the whole length of a split."""
    return split.select(torch.linspace(0, len(split) - 1, min(len(split), _SMOKE_SAMPLES)).long())


def split_of(source: Source, seed: int) -> int:
    """Return the split that a seed is trained on."""
    return seed if source.n_splits is None else seed % source.n_splits


def _facts(learner: Learner, progress: Progress) -> dict[str, Any]:
    return {
        "epochs": progress.epoch,
        "best_epoch": progress.best_epoch,
        "n_parameters": sum(parameter.numel() for parameter in learner.parameters()),
    }


@contextmanager
def _root(dataset: str, options: Options) -> Iterator[Path | None]:
    if options.root is not None or not options.smoke or dataset not in fixtures.NAMES:
        yield options.root
        return
    with TemporaryDirectory() as folder:
        fixtures.find(dataset)(Path(folder))
        yield Path(folder)


@contextmanager
def _bar(title: str, n_steps: int, console: Console) -> Iterator[Any]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Bar(*columns, console=console, transient=True, disable=console.quiet or not sys.stdout.isatty()) as bars:
        bar = bars.add_task(title, total=n_steps)
        yield lambda: bars.advance(bar)
