"""Experts: copies of a backbone, or members that share one, and how they are run."""

from i2moe.moe.experts.bank import Execution, ExpertBank, ExpertOutputs

__all__ = ["Execution", "ExpertBank", "ExpertOutputs"]
