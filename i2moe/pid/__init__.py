"""Partial information decomposition: how two modalities inform about a target, in bits.

The decomposition is a property of a *data set* and needs no model: an independent second opinion on what the
weights of a trained model say. Needs the extra `pid` (`pip install "i2moe[pid]"`).
"""

from i2moe.pid.decomposition import PID, against_rest, joint_distribution, pid
from i2moe.pid.estimation import PIDEstimate, estimate_pid, kmeans

__all__ = ["PID", "PIDEstimate", "against_rest", "estimate_pid", "joint_distribution", "kmeans", "pid"]
