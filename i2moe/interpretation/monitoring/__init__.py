"""Watching a model while it trains: the health of its weights, a metric for validation, a callback for Lightning."""

from i2moe.interpretation.monitoring.lightning import interaction_callback
from i2moe.interpretation.monitoring.metric import InteractionMetric
from i2moe.interpretation.monitoring.temperature import TemperatureSchedule
from i2moe.interpretation.monitoring.weights import WeightHealth, WeightMonitor

__all__ = ["InteractionMetric", "TemperatureSchedule", "WeightHealth", "WeightMonitor", "interaction_callback"]
