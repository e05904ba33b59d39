"""InteractionReport: a model's weights, of each sample and of the data, with tests of them."""

from __future__ import annotations

import os
from typing import Self

import torch

from i2moe.interpretation.report.html import to_html, to_notebook
from i2moe.interpretation.report.measures.comparison import compare
from i2moe.interpretation.report.measures.diagnostics import Diagnostics
from i2moe.interpretation.report.measures.dropping import cost_of_dropping
from i2moe.interpretation.report.measures.pairs import pair_interactions
from i2moe.interpretation.report.measures.retraining import with_retraining
from i2moe.interpretation.report.storage import load_record, save_record
from i2moe.interpretation.report.text.samples import sample
from i2moe.interpretation.report.text.summary import summary
from i2moe.interpretation.report.text.tables import to_dict, to_pandas
from i2moe.interpretation.report.warnings.rules import report_warnings

__all__ = ["InteractionReport"]


class InteractionReport(Diagnostics):
    """What `explain` found: the record of the model's outputs, what follows from it, and ways to show and keep it.

    The arguments are those of `i2moe.interpretation.report.record.ReportRecord`, tensors with one row per sample.

    Example:
        >>> report = InteractionReport.example()
        >>> report.weights[0]
        tensor([0.8000, 0.1000, 0.0500, 0.0500])
        >>> report.correct.tolist()
        [True, True, True, False]
        >>> report.contributions.sum(1).allclose(report.prediction)
        True
    """

    warnings = report_warnings
    summary = summary
    to_dict = to_dict
    to_pandas = to_pandas
    save = save_record
    sample = sample
    compare = compare
    cost_of_dropping = cost_of_dropping
    with_retraining = with_retraining
    pair_interactions = pair_interactions
    to_html = to_html
    _repr_html_ = to_notebook

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a report from a file that `save` wrote. Nothing in the file is executed.

        Raises:
            FileNotFoundError: if there is no file.
            ValueError: if the file is damaged, of another kind or of another format.
        """
        return load_record(cls, path)

    @classmethod
    def example(cls) -> Self:
        """Return a small made-up report to try things on: four samples, an image, a text, two classes.

        Example:
            >>> InteractionReport.example().expert_names
            ('uniqueness/image', 'uniqueness/text', 'synergy', 'redundancy')
        """
        weights = torch.tensor(
            [[0.8, 0.1, 0.05, 0.05], [0.1, 0.3, 0.1, 0.5], [0.1, 0.05, 0.8, 0.05], [0.4, 0.15, 0.45, 0.0]]
        )
        margins = torch.tensor([[4.0, 1, 0, 2], [-1, -3, 0, -4], [0, 1, -5, 0], [2, -1, 3, 0]])
        expert_predictions = torch.stack([margins / 2, -margins / 2], dim=-1)
        return cls(
            task="classification",
            modality_names=("image", "text"),
            expert_names=("uniqueness/image", "uniqueness/text", "synergy", "redundancy"),
            interactions=(0, 1, "synergy", "redundancy"),
            output_names=("cat", "dog"),
            weights=weights,
            expert_predictions=expert_predictions,
            prediction=(weights.unsqueeze(-1) * expert_predictions).sum(1),
            target=torch.tensor([0, 1, 1, 1]),
            comprehensiveness=torch.tensor([[0.4, 0.0], [0.05, 0.1], [0.5, 0.4], [-0.2, 0.1]]),
            sufficiency=torch.tensor([[0.0, 0.4], [0.1, 0.05], [0.4, 0.5], [0.1, -0.2]]),
            checksums=torch.zeros(4, dtype=torch.float64),
        )
