"""Look at a data set's files: counts, shapes, balance and gaps beside what is expected of the official ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from examples.datasets import find
from examples.datasets._interface import Expected, MultimodalData, Split, Task

__all__ = ["Finding", "check", "compare", "describe"]


@dataclass(frozen=True)
class Finding:
    """A line of the report.

    Args:
        what: what was looked at.
        found: what the files hold.
        expected: what the official files hold; empty where that is not published.
        agrees: False if these differ.
    """

    what: str
    found: str
    expected: str = ""
    agrees: bool = True


def compare(data: MultimodalData, expected: Expected) -> list[Finding]:
    """Compare counts and shapes with the official ones.

    Args:
        data: what was loaded.
        expected: what the official files hold.

    Returns:
        A finding for the samples, each split, each modality and the outputs.
    """
    sizes = {name: len(split) for name, split in data.splits.items()}
    findings = [_finding("samples", sum(sizes.values()), expected.n_samples)]
    for name, size, official in zip(sizes, sizes.values(), expected.splits or (None,) * 3, strict=True):
        findings.append(_finding(f"samples, {name}", size, official))
    official_shapes = expected.shapes or (None,) * len(data.shapes)
    for name, shape, official_shape in zip(data.modality_names, data.shapes, official_shapes, strict=True):
        findings.append(_shape_finding(f"shape of {name}", shape, official_shape))
    return [*findings, _finding("outputs", len(data.output_names), expected.n_outputs)]


def describe(data: MultimodalData) -> list[Finding]:
    """Describe the targets and how often each modality is missing, split by split.

    Args:
        data: what was loaded.
    """
    findings = []
    for name, split in data.splits.items():
        findings.append(Finding(f"targets, {name}", _balance(split.targets, data.output_names, data.task)))
    for name, split in data.splits.items():
        findings.append(Finding(f"missing, {name}", _missing(split, data.modality_names)))
    return findings


def check(dataset: str, root: Path | None = None, split: int = 0) -> bool:
    """Print what a data set's files hold beside what is expected, and return whether it agrees.

    Args:
        dataset: name of the data set.
        root: folder of the files.
        split: which way to split the samples.

    Raises:
        FileNotFoundError: if files are missing; the message names all of them and where to get them.
        ValueError: if a file does not have the official form.
    """
    from rich.console import Console
    from rich.table import Table

    source = find(dataset)
    data = source.open(root, split)
    findings = [*compare(data, source.expected), *describe(data)]
    table = Table("what", "found", "expected", "", title=f"{dataset}: {data.task}")
    for finding in findings:
        mark = "" if not finding.expected else "ok" if finding.agrees else "differs"
        table.add_row(finding.what, finding.found, finding.expected, mark)
    Console().print(table)
    return all(finding.agrees for finding in findings)


def _finding(what: str, found: int, official: int | None) -> Finding:
    if official is None:
        return Finding(what, f"{found:,}")
    return Finding(what, f"{found:,}", f"{official:,}", found == official)


def _shape_finding(what: str, shape: Sequence[int], official: Sequence[int | None] | None) -> Finding:
    found = " x ".join(map(str, shape))
    if official is None:
        return Finding(what, found)
    fits = len(shape) == len(official) and all(
        size is None or size == own for own, size in zip(shape, official, strict=False)
    )
    return Finding(what, found, " x ".join("any" if size is None else str(size) for size in official), fits)


def _balance(targets: Tensor, names: Sequence[str], task: Task) -> str:
    if len(targets) == 0:
        return "none"
    if task == "regression":
        values = targets.double()
        return (
            f"mean {values.mean():.3f}, deviation {values.std(correction=0):.3f}, "
            f"from {values.min():.3f} to {values.max():.3f}"
        )
    positives = targets.sum(0) if task == "multilabel" else targets.bincount(minlength=len(names))
    shares = positives / len(targets)
    return ", ".join(f"{name} {share:.1%}" for name, share in zip(names, shares.tolist(), strict=True))


def _missing(split: Split, names: Sequence[str]) -> str:
    shares = 1 - split.available.double().mean(0)
    incomplete = 1 - split.available.all(1).double().mean()
    each = [f"{name} {share:.1%}" for name, share in zip(names, shares.tolist(), strict=True) if share > 0]
    return ", ".join([*each, f"any {incomplete:.1%}"]) if each else "nothing"
