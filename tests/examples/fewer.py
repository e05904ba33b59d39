"""A fraction of the smartwatch data: enough to see that an example runs from end to end."""

from __future__ import annotations

from dataclasses import fields, replace

from examples.datasets.watch import WatchData, Windows, load_watch

__all__ = ["every_sixth", "load_few"]


def every_sixth(windows: Windows) -> Windows:
    """Keep windows of every person and exercise."""
    return Windows(**{field.name: getattr(windows, field.name)[::6] for field in fields(windows)})


def load_few(fold: int = 0) -> WatchData:
    """Load a fold, and every sixth of its windows."""
    data = load_watch(fold)
    train, validation, test = (every_sixth(windows) for windows in (data.train, data.validation, data.test))
    return replace(data, train=train, validation=validation, test=test)
