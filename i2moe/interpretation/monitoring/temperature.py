"""A reweighter's temperature that goes down during training."""

from __future__ import annotations

from typing import Protocol

from i2moe._common.checks import check_at_least_one, check_positive

__all__ = ["TemperatureSchedule"]


class _HasTemperature(Protocol):
    temperature: float


class TemperatureSchedule:
    r"""Move a reweighter's temperature from one value to another, step by step.

    .. math:: \tau_t = \tau_0 (\tau_1 / \tau_0)^{t / T}

    High at first, all experts count and learn; falling, each sample chooses. With `torch.compile` each new temperature
    compiles the model anew: take few steps.

    Args:
        reweighter: what has a `temperature`: `model.reweighter`.
        start: the temperature at first; set at once.
        end: the temperature after `n_steps` steps, and ever after.
        n_steps: the number T of steps.

    Raises:
        ValueError: if a temperature or `n_steps` is not positive.

    Example:
        >>> from i2moe import Reweighter
        >>> reweighter = Reweighter(4, (8, 8))
        >>> schedule = TemperatureSchedule(reweighter, start=4.0, end=1.0, n_steps=2)
        >>> for epoch in range(4):
        ...     print(round(reweighter.temperature, 3))
        ...     schedule.step()
        4.0
        2.0
        1.0
        1.0
    """

    def __init__(self, reweighter: _HasTemperature, *, start: float, end: float, n_steps: int) -> None:
        check_positive(start=start, end=end)
        check_at_least_one(n_steps=n_steps)
        if not hasattr(reweighter, "temperature"):
            raise TypeError(
                f"reweighter must have a temperature, however it is a {type(reweighter).__name__}; "
                "pass model.reweighter"
            )
        self.reweighter = reweighter
        self.start = start
        self.end = end
        self.n_steps = n_steps
        self.n_taken: int = 0
        self._set()

    def step(self) -> None:
        """Take a step, after an epoch say."""
        self.n_taken += 1
        self._set()

    def state_dict(self) -> dict[str, int]:
        """Return how many steps were taken; the temperature is in no module's state."""
        return {"n_taken": self.n_taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a state."""
        self.n_taken = state["n_taken"]
        self._set()

    def _set(self) -> None:
        self.reweighter.temperature = self.start * (self.end / self.start) ** min(self.n_taken / self.n_steps, 1.0)
