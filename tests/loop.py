"""Any backbone in plain loops, one pass per expert and view: what every execution must equal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from i2moe import BackboneOutput
from i2moe.perturbations import Views
from tests.zoo import Case, call

__all__ = ["Loop", "run_loop"]


@dataclass
class Loop:
    """What the loop found.

    Args:
        predictions: (B, E, ...).
        views: (B', E, V, ...).
        aux_loss: the mean over experts, views and rows.
    """

    predictions: Tensor
    views: Tensor
    aux_loss: Tensor


def run_loop(experts: Sequence[nn.Module], case: Case, views: Views) -> Loop:
    """Run every expert on every view; the perturbed ones on a state that is put back."""
    predictions, stacks, aux_losses = [], [], []
    for expert in experts:
        real = _output(call(expert, case, views.real))
        passes, aux = [real.prediction if views.rows is None else real.prediction[views.rows]], [real]
        for perturbed in views.perturbed:
            with _state_put_back(expert):
                aux.append(_output(call(expert, case, perturbed)))
            passes.append(aux[-1].prediction)
        predictions.append(real.prediction)
        stacks.append(torch.stack(passes, dim=1))
        aux_losses.append(_mean_over_rows(aux))
    return Loop(torch.stack(predictions, dim=1), torch.stack(stacks, dim=1), torch.stack(aux_losses).mean())


def _output(returned: object) -> BackboneOutput:
    if isinstance(returned, Tensor):
        return BackboneOutput(returned)
    assert isinstance(returned, BackboneOutput)
    return returned


def _mean_over_rows(outputs: Sequence[BackboneOutput]) -> Tensor:
    total, n_rows = torch.zeros(()), 0
    for output in outputs:
        n_rows += output.prediction.shape[0]
        if output.aux_loss is not None:
            total = total + output.aux_loss * output.prediction.shape[0]
    return total / n_rows


@contextmanager
def _state_put_back(module: nn.Module) -> Iterator[None]:
    """Put back every buffer, its values included."""
    before = [
        (layer, name, buffer, None if buffer is None else buffer.clone())
        for layer in module.modules()
        for name, buffer in layer._buffers.items()
    ]
    for layer, name, _, copy in before:
        layer._buffers[name] = copy
    yield
    for layer, name, buffer, _ in before:
        layer._buffers[name] = buffer
