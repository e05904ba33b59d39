"""What a report of a million samples takes: seconds of CPU time and memory.

    python -m examples.benchmarks.many_samples

A linear backbone, so that nearly all of it is the report's own: four experts with computed weights, seven classes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from examples.common.modules import Fusion
from i2moe import InteractionMoE, explain

__all__ = ["Options", "main"]

N_CLASSES, WIDTH, BATCH = 7, 8, 4096


@dataclass(frozen=True)
class Options:
    """What to run.

    Args:
        n_samples: number of samples.
    """

    n_samples: int = 1_000_000


def main(options: Options) -> None:
    """Print the time and the highest memory of the process after each part."""
    torch.set_num_threads(1)
    model = InteractionMoE(lambda: Fusion(2 * WIDTH, N_CLASSES, ()), 2, reweighter="computed", members=4).eval()
    _print("imports", 0.0)
    start = time.process_time()
    report = explain(model, batches(options.n_samples))
    kept = sum(x.element_size() * x.numel() for x in vars(report).values() if isinstance(x, Tensor))
    _print(f"explain, which keeps {kept / 1e9:.2f} GB", time.process_time() - start)
    start = time.process_time()
    report.summary()
    _print("summary", time.process_time() - start)
    start = time.process_time()
    with TemporaryDirectory() as folder:
        report.to_html(Path(folder) / "report.html")
    _print("page", time.process_time() - start)


def batches(n_samples: int) -> Iterator[tuple[tuple[Tensor, Tensor], Tensor]]:
    """Draw random samples, a batch at a time."""
    generator = torch.Generator().manual_seed(0)
    for rows in torch.arange(n_samples).split(BATCH):
        a, b = torch.randn(2, len(rows), WIDTH, generator=generator)
        yield (a, b), torch.randint(N_CLASSES, (len(rows),), generator=generator)


def _print(part: str, seconds: float) -> None:
    # Of this program: `ru_maxrss` would also count the process that started it.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(f"{part}: {seconds:.1f} s, at most {int(peak.split()[1]) / 1e6:.2f} GB")


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Options, description=__doc__))
