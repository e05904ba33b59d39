"""Categorization: which kind of interaction a sample is, from predictions of single modalities and of all together.

Start with `categorize`. `fit_threshold` finds a distance for data without labels, `sensitivity` says how much the
categories depend on the distance, the threshold and the classifiers.
"""

from i2moe.categorization.calibration import Calibrated
from i2moe.categorization.categories import Categories, categorize, interaction_degrees
from i2moe.categorization.distances import (
    KL,
    L1,
    L2,
    Cosine,
    Distance,
    JensenShannon,
    TotalVariation,
    as_distance,
)
from i2moe.categorization.fitting import fit_threshold
from i2moe.categorization.sensitivity import Sensitivity, Setting, sensitivity
from i2moe.categorization.thresholds import Halfway, LikeliestClass, Quantile, Threshold

__all__ = [
    "KL",
    "L1",
    "L2",
    "Calibrated",
    "Categories",
    "Cosine",
    "Distance",
    "Halfway",
    "JensenShannon",
    "LikeliestClass",
    "Quantile",
    "Sensitivity",
    "Setting",
    "Threshold",
    "TotalVariation",
    "as_distance",
    "categorize",
    "fit_threshold",
    "interaction_degrees",
    "sensitivity",
]
