"""Estimators in the manner of scikit-learn: from arrays to predictions and interaction weights, without a loop.

Needs the extra `sklearn` (`pip install "i2moe[sklearn]"`).
"""

try:
    import sklearn as sklearn
except ImportError as error:
    raise ImportError(
        "i2moe.estimators must have scikit-learn, however it cannot be imported; pip install 'i2moe[sklearn]'"
    ) from error

from i2moe.estimators.classifier import InteractionClassifier
from i2moe.estimators.inputs import Modalities
from i2moe.estimators.regressor import InteractionRegressor

__all__ = ["InteractionClassifier", "InteractionRegressor", "Modalities"]
