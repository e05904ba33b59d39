"""A bar that shows how far training is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(progress: Literal["rich"] | None, n_epochs: int) -> Iterator[Callable[[float], None]]:
    """Yield what to call with the held-out loss after each epoch.

    Args:
        progress: "rich" shows a bar of rich on the terminal while training runs, None nothing.
        n_epochs: number of epochs at most.

    Raises:
        ImportError: if rich is not installed.
    """
    if progress is None:
        yield lambda loss: None
        return
    try:
        from rich.progress import Progress
    except ImportError as error:
        raise ImportError(
            "progress='rich' must have rich, however it cannot be imported; pip install 'i2moe[sklearn]'"
        ) from error
    with Progress() as bar:
        task = bar.add_task("training", total=n_epochs)
        yield lambda loss: bar.update(task, advance=1, description=f"held-out loss {loss:.4f}")
