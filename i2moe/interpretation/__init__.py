"""Reading a trained model: which interactions drive its predictions, and whether its weights can be believed.

Start with `explain`, or with `interactions` for a model without experts. `stability` compares reports of models trained
from different seeds. Figures are in `i2moe.interpretation.plots`, the weights' health during training in
`i2moe.interpretation.monitoring`.
"""

from i2moe.interpretation.existing import interactions
from i2moe.interpretation.explain import explain
from i2moe.interpretation.report import InteractionReport
from i2moe.interpretation.stability import Stability, stability
from i2moe.interpretation.statistics import WeightStatistics

__all__ = ["InteractionReport", "Stability", "WeightStatistics", "explain", "interactions", "stability"]
