"""scikit-learn's tools through skorch: the factor of the interaction loss, chosen by cross-validation.

    python -m examples.guides.skorch_search

Patients of SUPPORT2: does one die within 180 days? Five groups of columns are the modalities. Not for clinical use.
"""

from __future__ import annotations

from typing import Any

import torch
from sklearn.model_selection import GridSearchCV
from skorch import NeuralNetClassifier
from skorch.helper import SliceDict
from torch import Tensor, nn

from examples.datasets import find
from examples.guides.task import Fusion
from i2moe import InteractionMoE


class Experts(nn.Module):
    """Return a tuple, as skorch takes several outputs, the prediction first."""

    def __init__(self, dims: dict[str, int]) -> None:
        super().__init__()
        widths = list(dims.values())
        self.model = InteractionMoE(
            lambda: Fusion(widths), len(dims), modality_names=tuple(dims), feature_dims=widths
        )

    def forward(self, **modalities: Tensor) -> tuple[Tensor, ...]:
        """Return logits (B, 2), weights (B, E) and, in training, the interaction loss."""
        out = self.model(*(modalities[name] for name in self.model.modality_names))
        return out.prediction, out.weights, *(() if out.interaction_loss is None else (out.interaction_loss,))


class InteractionClassifier(NeuralNetClassifier):
    """A classifier with one more parameter to search over."""

    def __init__(self, *args: Any, interaction_weight: float = 0.1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.interaction_weight = interaction_weight

    def get_loss(self, y_pred: tuple[Tensor, ...], y_true: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Add the interaction loss where there is one."""
        prediction, _weights, *interaction_loss = y_pred
        loss: Tensor = super().get_loss(prediction, y_true, *args, **kwargs)
        return loss + self.interaction_weight * sum(interaction_loss)


if __name__ == "__main__":
    torch.manual_seed(0)
    data = find("support2").open()
    batch = data.train[range(1_500)]
    X = SliceDict(**{name: x.numpy() for name, x in zip(data.modality_names, batch.modalities, strict=True)})
    net = InteractionClassifier(
        Experts, module__dims={name: x.shape[1] for name, x in X.items()},
        criterion=nn.CrossEntropyLoss, optimizer=torch.optim.Adam, lr=1e-3, batch_size=64, max_epochs=5, train_split=None, verbose=0,
    )
    search = GridSearchCV(net, {"interaction_weight": [0.0, 0.1, 1.0]}, scoring="roc_auc", cv=3)
    search.fit(X, batch.targets.numpy())
    for parameters, mean, std in zip(*(search.cv_results_[k] for k in ("params", "mean_test_score", "std_test_score")), strict=True):
        print(parameters, f"AUROC {mean:.3f} ± {std:.3f}")
    _, weights = search.best_estimator_.forward(X)
