"""MMoE: an expert per category of interaction, and a router between them.

Start with `MMoE`. Its parts work on their own too: `cross_predict`, `train_router`, `focal_loss`, the aggregations.
"""

from i2moe.mmoe.fitting import Progress, Recipe, cross_predict
from i2moe.mmoe.model import MMoE
from i2moe.mmoe.parts.aggregation import (
    AGGREGATIONS,
    Aggregation,
    Cascade,
    hard,
    maximum,
    mean_logits,
    mean_probabilities,
    oracle,
    weighted,
)
from i2moe.mmoe.parts.objectives import Classification, Regression
from i2moe.mmoe.parts.predictors import Expert, Predictor, as_predictor
from i2moe.mmoe.parts.routing import category_weights, focal_loss, train_router
from i2moe.mmoe.parts.training import Training
from i2moe.mmoe.report import MMoEReport, ReportRow

__all__ = [
    "AGGREGATIONS",
    "Aggregation",
    "Cascade",
    "Classification",
    "Expert",
    "MMoE",
    "MMoEReport",
    "Predictor",
    "Progress",
    "Recipe",
    "Regression",
    "ReportRow",
    "Training",
    "as_predictor",
    "category_weights",
    "cross_predict",
    "focal_loss",
    "hard",
    "maximum",
    "mean_logits",
    "mean_probabilities",
    "oracle",
    "train_router",
    "weighted",
]
