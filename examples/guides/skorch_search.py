"""scikit-learn's tools through skorch: `python -m examples.guides.skorch_search`.

The factor of the interaction loss is chosen by cross-validation on SUPPORT2: does a patient die within 180 days?
The modalities are five groups of columns. Not for clinical use.
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
        names, widths = tuple(dims), tuple(dims.values())
        self.model = InteractionMoE(lambda: Fusion(widths), len(dims), modality_names=names, feature_dims=widths)

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
    modalities, y, _available = data.train[range(1_000)]
    X = SliceDict(**{name: x.numpy() for name, x in zip(data.modality_names, modalities, strict=True)})
    dims = {name: x.shape[1] for name, x in X.items()}
    options: dict[str, Any] = {"criterion": nn.CrossEntropyLoss, "optimizer": torch.optim.Adam, "train_split": None}
    net = InteractionClassifier(Experts, module__dims=dims, lr=1e-3, batch_size=64, max_epochs=5, verbose=0, **options)
    search = GridSearchCV(net, {"interaction_weight": [0.0, 0.1, 1.0]}, scoring="roc_auc", cv=3).fit(X, y.numpy())
    print(search.cv_results_["params"], search.cv_results_["mean_test_score"].round(3))
