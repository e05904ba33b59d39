"""Shares: what part of the prediction is uniqueness, synergy and redundancy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from i2moe.losses import Interaction

__all__ = ["columns", "interaction_shares"]


def interaction_shares(unimodal: Tensor, joint: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
    r"""Split the prediction from all modalities into uniqueness, synergy and redundancy.

    Let $\delta_i$ be the difference between the prediction from modality i alone and the prior. Let $\delta_M$ be that
    of the prediction from all modalities. Modality i alone covers the share

    $$r_i = \operatorname{clip}_{[0, 1]} \frac{\langle \delta_i, \delta_M \rangle}{\lVert \delta_M \rVert^2},
    \qquad a_i = 6 r_i^5 - 15 r_i^4 + 10 r_i^3$$

    of $\delta_M$. It is 0 when the modality is at chance or points elsewhere, and 1 when it gives the joint prediction.
    Sorted, $a_{(1)} \ge a_{(2)} \ge \dots$, the shares sum to 1:

    $$1 = \underbrace{1 - a_{(1)}}_{\text{synergy}} + \underbrace{a_{(1)} - a_{(2)}}_{\text{uniqueness of the best}}
    + \underbrace{a_{(2)}}_{\text{redundancy}}$$

    $a$ keeps 0, 1/2 and 1 of $r$ and is flat at both ends. No prediction is exact, and errors at the ends do not
    cancel. Without $a$, a modality slightly off chance would count as redundant. One slightly off the joint prediction
    would count as synergy. The shares name the strongest interaction; they are not bits.

    Args:
        unimodal: (B, M, C), predictions from each modality alone: probabilities, or numbers.
        joint: (B, C), predictions from all modalities together.
        prior: (C,) or (B, C), the prediction from none.

    Returns:
        Two tensors: (B, M + 2), the shares, in the order uniqueness of each modality, synergy, redundancy; and (B,),
        the squared length of the way from the prior to the joint prediction. Where it is 0 nothing is known, and
        the shares are uniform.

    Example:
        >>> unimodal = torch.tensor([[[0.0, 1.0], [0.5, 0.5]]])  # modality 0 knows, modality 1 is at chance
        >>> interaction_shares(unimodal, joint=torch.tensor([[0.0, 1.0]]), prior=torch.tensor([0.5, 0.5]))
        (tensor([[1., 0., 0., 0.]]), tensor([0.5000]))
    """
    moved = torch.cat((unimodal, joint.unsqueeze(1)), dim=1) - prior.unsqueeze(-2)  # (B, M + 1, C)
    along = (moved * moved[:, -1:]).sum(-1)
    length = along[:, -1]
    # A way within the rounding of its ends is none. Relative to them, so that the unit of a regression does not matter.
    ends = (joint.square() + prior.square()).sum(-1)
    nowhere = length <= (4 * torch.finfo(length.dtype).eps) ** 2 * ends  # false for NaN, which stays NaN

    covered = (along[:, :-1] / torch.where(nowhere, 1, length).unsqueeze(-1)).clamp(0, 1)
    covered = (covered.pow(3) * ((6 * covered - 15) * covered + 10)).clamp(max=1)  # rounding can exceed 1
    first, second = covered.topk(2).values.split(1, dim=-1)
    shares = torch.cat(((covered - second).clamp(min=0), 1 - first, second), dim=-1)  # unique is what no other covers
    return torch.where(nowhere.unsqueeze(-1), 1 / shares.shape[-1], shares), length


def columns(interactions: Sequence[Interaction], n_modalities: int) -> list[int]:
    """Where each interaction is among the shares."""
    places: dict[Interaction, int] = {i: i for i in range(n_modalities)}
    places |= {"synergy": n_modalities, "redundancy": n_modalities + 1}
    unknown = [interaction for interaction in interactions if interaction not in places]
    if unknown:
        raise ValueError(
            f"interactions must be among {tuple(places)} for {n_modalities} modalities, however there are {unknown}"
        )
    return [places[interaction] for interaction in interactions]
