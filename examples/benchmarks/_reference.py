"""Runs the authors' implementation from a checkout of theirs, beside ours."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

from torch import nn

__all__ = ["Reference"]

_ABSENT = ("fmoe", "fmoe_cuda", "torchvision", "tree")
"""What the checkout imports but dense transformers do not use: CUDA libraries, image models."""


class Reference:
    """The classes of a checkout, on the CPU.

    Args:
        directory: of the checkout.

    Raises:
        FileNotFoundError: if it is none.
    """

    def __init__(self, directory: Path) -> None:
        if not (directory / "src" / "imoe" / "InteractionMoE.py").exists():
            raise FileNotFoundError(
                f"--reference must be a checkout of the authors' repository, however {directory} has no src/imoe"
            )
        with _importable(directory):
            self._model = importlib.import_module("src.imoe.InteractionMoE").InteractionMoE
            self._transformer = importlib.import_module("src.common.fusion_models.transformer").Transformer

    def model(self, backbone: nn.Module, n_modalities: int, dim: int) -> nn.Module:
        """Interaction experts around copies of a backbone called with a list."""
        model: nn.Module = self._model(n_modalities, backbone, fusion_sparse=False, hidden_dim=dim)
        return model

    def transformer(self, **sizes: Any) -> nn.Module:
        """Their fusion transformer."""
        unused = {"num_layers_pred": 1, "num_experts": 1, "num_routers": 1, "top_k": 1}
        with mock.patch.object(nn.Module, "cuda", lambda self: self):
            transformer: nn.Module = self._transformer(**unused, **sizes)
        return transformer


class _Stubs(MetaPathFinder, Loader):
    """Makes modules whose every name is an empty class."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.split(".")[0] not in _ABSENT:
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Stub(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class _Stub(ModuleType):
    def __getattr__(self, name: str) -> type[nn.Module]:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (nn.Module,), {})


@contextmanager
def _importable(directory: Path) -> Iterator[None]:
    stubs = _Stubs()
    before = list(sys.path)
    sys.path.insert(0, str(directory))
    sys.meta_path.append(stubs)  # at the end: what is installed is used
    try:
        yield
    finally:
        sys.path[:] = before
        sys.meta_path.remove(stubs)
