"""Fitting: the stages in which an `MMoE` is trained, resumable and each seeded on its own."""

from i2moe.mmoe.fitting.data import TrainingData, check_categories, read_data
from i2moe.mmoe.fitting.folds import cross_predict
from i2moe.mmoe.fitting.recipe import Recipe
from i2moe.mmoe.fitting.running import OnProgress, Progress, run_stages
from i2moe.mmoe.fitting.stages import stages_of

__all__ = [
    "OnProgress",
    "Progress",
    "Recipe",
    "TrainingData",
    "check_categories",
    "cross_predict",
    "read_data",
    "run_stages",
    "stages_of",
]
