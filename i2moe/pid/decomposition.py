"""The exact decomposition of a discrete joint distribution."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from i2moe.pid._checks import NEEDS_EXTRA, Values, as_tensor, check_lengths, checked_joint, checked_labels

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["PID", "SYMBOLS", "against_rest", "joint_distribution", "pid"]

SYMBOLS = ("R", "U1", "U2", "S")


@dataclass(frozen=True)
class PID:
    r"""The information of two modalities about a target, in bits.

    .. math::
        I(X_1; Y) = R + U_1, \qquad I(X_2; Y) = R + U_2, \qquad I(X_1, X_2; Y) = R + U_1 + U_2 + S

    Args:
        redundancy: R >= 0, the information in each modality alone.
        uniqueness_1: U1 >= 0, the information in modality 1 only.
        uniqueness_2: U2 >= 0, the information in modality 2 only.
        synergy: S >= 0, the information in both together only.

    Example:
        >>> print(PID(redundancy=0.25, uniqueness_1=0.5, uniqueness_2=0.0, synergy=0.25))
        R 0.250 | U1 0.500 | U2 0.000 | S 0.250 | total 1.000 bits
    """

    redundancy: float
    uniqueness_1: float
    uniqueness_2: float
    synergy: float

    @classmethod
    def mean(cls, pids: Iterable[PID], weights: Iterable[float]) -> PID:
        """Average decompositions, of the parts of a data set, say, weighed by their shares.

        Example:
            >>> PID.mean([PID(1, 0, 0, 0), PID(0, 0, 0, 1)], weights=[0.75, 0.25])
            PID(redundancy=0.75, uniqueness_1=0.0, uniqueness_2=0.0, synergy=0.25)
        """
        rows = torch.tensor([list(part.to_dict().values()) for part in pids], dtype=torch.float64)
        shares = torch.tensor(list(weights), dtype=torch.float64)
        return cls(*(shares @ rows / shares.sum()).tolist())

    @property
    def information_1(self) -> float:
        """I(X1; Y) in bits."""
        return self.redundancy + self.uniqueness_1

    @property
    def information_2(self) -> float:
        """I(X2; Y) in bits."""
        return self.redundancy + self.uniqueness_2

    @property
    def total(self) -> float:
        """I(X1, X2; Y) in bits."""
        return self.redundancy + self.uniqueness_1 + self.uniqueness_2 + self.synergy

    def to_dict(self) -> dict[str, float]:
        """The four terms by name, in bits."""
        return asdict(self)

    def __str__(self) -> str:
        terms = [f"{symbol} {bits:.3f}" for symbol, bits in zip(SYMBOLS, self.to_dict().values(), strict=True)]
        return " | ".join([*terms, f"total {self.total:.3f} bits"])


def pid(joint: Values) -> PID:
    r"""Decompose a discrete joint distribution exactly.

    Among the distributions that agree with p on each modality and the target, take the one in which the two
    together have the least information about the target:

    .. math::
        I^* = \min_{q:\; q(x_1, y) = p(x_1, y),\; q(x_2, y) = p(x_2, y)} I_q(X_1, X_2; Y)

    Then R = I(X1;Y) + I(X2;Y) - I*, U1 = I* - I(X2;Y), U2 = I* - I(X1;Y) and S = I(X1,X2;Y) - I*. The
    convex program is solved as an exponential-cone program, to about 1e-6 bits, with a variable per cell of
    the table (0.02 s for 10 x 10 x 2, 1 s for 50 x 50 x 4).

    The uniqueness of a modality depends on p(x1, y) and p(x2, y) alone. Say that modality 1 decides half of
    the samples and modality 2 the other half, and that both show which half it is. Such data has no
    uniqueness, but R = S = 1/2 bit: each modality decides half of the time. If the halves can be separated,
    decompose each on its own and average with `PID.mean`.

    There is no agreed decomposition of more than two modalities. Decompose each pair (sum the others out of
    the table), or one modality against the rest (`against_rest`).

    Args:
        joint: (n_1, n_2, n_classes), the probabilities p(x1, x2, y). For counts, divide by their sum.

    Returns:
        The four terms in bits, none negative.

    Raises:
        ImportError: if the extra `pid` is not installed.
        RuntimeError: if the solver gives up.
        TypeError: if `joint` is not numeric.
        ValueError: if `joint` is no distribution over three axes, or only one class has probability.

    Source: Bertschinger et al., "Quantifying unique information", Entropy 16 (2014), Def. 1; Liang et al.,
    "Quantifying & modeling multimodal interactions", NeurIPS 2023, Sec. 2.

    Example:
        >>> xor = torch.zeros(2, 2, 2)
        >>> for a in range(2):
        ...     for b in range(2):
        ...         xor[a, b, a ^ b] = 0.25
        >>> print(pid(xor))
        R 0.000 | U1 0.000 | U2 0.000 | S 1.000 | total 1.000 bits
    """
    p = checked_joint(joint)

    information_1 = _information(p.sum(1))
    information_2 = _information(p.sum(0))
    total = _information(p.flatten(0, 1))

    # Theory bounds I*; a solver's last digits kept inside leave no term negative and every identity exact.
    smallest = max(information_1, information_2)
    largest = min(total, information_1 + information_2)
    union = max(smallest, min(_union_information(p), largest))

    return PID(
        redundancy=max(information_1 + information_2 - union, 0.0),
        uniqueness_1=union - information_2,
        uniqueness_2=union - information_1,
        synergy=max(total - union, 0.0),
    )


def against_rest(joint: Values, modality: int) -> Tensor:
    """Merge all modalities but one: `pid` then decomposes that one (as 1) against the rest together (as 2).

    Args:
        joint: (n_1, ..., n_M, n_classes), a distribution of M >= 2 modalities and a target.
        modality: which one to set apart, from 0.

    Returns:
        (n_modality, product of the other n, n_classes).

    Raises:
        ValueError: if `joint` has no such modality, or a single one.

    Example:
        >>> parity = torch.zeros(2, 2, 2, 2)
        >>> for a, b, c in torch.cartesian_prod(*[torch.arange(2)] * 3):
        ...     parity[a, b, c, (a + b + c) % 2] = 1 / 8
        >>> print(pid(against_rest(parity, 0)))
        R 0.000 | U1 0.000 | U2 0.000 | S 1.000 | total 1.000 bits
    """
    p = as_tensor(joint, "joint")
    if p.ndim < 3 or not 0 <= modality < p.ndim - 1:
        raise ValueError(
            f"`modality` must be in 0..M-1 for a `joint` of M >= 2 modalities and a target, however: {modality} "
            f"with a joint of shape {tuple(p.shape)}; the last axis is the target."
        )
    return p.movedim(modality, 0).flatten(1, -2)


def joint_distribution(labels_1: Values, labels_2: Values, target: Values) -> Tensor:
    """Count how often values occur together and divide by the number of samples.

    Args:
        labels_1: (n,), integers from 0: the value of modality 1.
        labels_2: (n,), the same of modality 2.
        target: (n,), integers from 0.

    Returns:
        (n_1, n_2, n_classes) in float64: p(x1, x2, y), each axis as long as the largest value found plus one.

    Raises:
        TypeError: if the values are not integers.
        ValueError: if the lengths differ, or are 0, or a value is negative.

    Example:
        >>> joint_distribution([0, 0, 1, 1], [0, 1, 0, 1], [0, 1, 1, 0])[0]
        tensor([[0.2500, 0.0000],
                [0.0000, 0.2500]], dtype=torch.float64)
    """
    named = {"labels_1": labels_1, "labels_2": labels_2, "target": target}
    columns = [checked_labels(values, name) for name, values in named.items()]
    check_lengths(dict(zip(named, columns, strict=True)))

    sizes = [int(column.max()) + 1 for column in columns]
    joint = torch.zeros(sizes, dtype=torch.float64)
    one = torch.ones((), dtype=torch.float64)
    return joint.index_put_(tuple(columns), one, accumulate=True) / len(columns[0])


def _union_information(p: Tensor) -> float:
    """I* = H(Y) - max H_q(Y | X1, X2) in bits, over all q with the pairwise marginals of p (n_1, n_2, C)."""
    try:
        import clarabel  # noqa: F401
        import cvxpy as cp
    except ImportError as error:
        raise ImportError(NEEDS_EXTRA.format("cvxpy and clarabel")) from error

    pairs_1, pairs_2 = p.sum(1), p.sum(0)  # (n_1, C), (n_2, C)
    # Cells outside are 0 in every q: left in, they would rob the program of its interior.
    x1, x2, y = torch.nonzero((pairs_1[:, None] > 0) & (pairs_2[None] > 0), as_tuple=True)

    # The optimum scales with q, the solver's accuracy does not: entries of 1e-4 would end short of it.
    scale = math.sqrt(len(y))
    q = cp.Variable(len(y), nonneg=True)
    marginal_1 = _group_sums(x1, y) @ q == scale * pairs_1[pairs_1 > 0].numpy()
    marginal_2 = _group_sums(x2, y) @ q == scale * pairs_2[pairs_2 > 0].numpy()
    cells = _group_sums(x1, x2)
    negative_entropy = cp.sum(cp.rel_entr(q, cells.T @ (cells @ q)))  # sum q log q(y | x1, x2), in nats

    problem = cp.Problem(cp.Minimize(negative_entropy), [marginal_1, marginal_2])
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-7, tol_gap_rel=1e-7, tol_feas=1e-7)
    if problem.status not in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE):
        raise RuntimeError(
            f"the convex program must have an optimum, however clarabel answered {problem.status!r} for a "
            f"table of shape {tuple(p.shape)}; merge values whose probability is far below 1e-9."
        )
    return _entropy(pairs_1.sum(0)) + float(problem.value) / scale / math.log(2)


def _group_sums(first: Tensor, second: Tensor) -> csr_array:
    """A sparse 0/1 matrix (groups, cells) that sums the cells of equal (first, second), groups sorted."""
    from scipy.sparse import csr_array

    _, group = torch.unique(torch.stack((first, second)), dim=1, return_inverse=True)
    return csr_array(([1.0] * len(group), (group.numpy(), range(len(group)))))


def _information(p: Tensor) -> float:
    """I(X; Y) in bits of a table (n, C)."""
    return max(_entropy(p.sum(0)) + _entropy(p.sum(1)) - _entropy(p), 0.0)


def _entropy(p: Tensor) -> float:
    return float(torch.special.entr(p).sum()) / math.log(2)
