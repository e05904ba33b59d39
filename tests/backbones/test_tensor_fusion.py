from __future__ import annotations

import pytest
import torch

from i2moe.backbones import LowRankTensorFusion
from tests.backbones import oracle


@pytest.mark.parametrize("dims", [(3, 4), (2, 3, 2), (4,), (1, 1, 1, 1)])
@pytest.mark.parametrize("rank", [1, 3])
def test_equals_the_full_weight_tensor(dims: tuple[int, ...], rank: int) -> None:
    fusion = LowRankTensorFusion(dims, 2, rank=rank, hidden_dim=3)
    vectors = [torch.randn(4, dim) for dim in dims]

    torch.testing.assert_close(fusion(*vectors).latent, oracle.low_rank_fusion(fusion, vectors))


@pytest.mark.parametrize("i", range(3))
def test_latent_is_affine_in_each_modality(i: int) -> None:
    fusion = LowRankTensorFusion((3, 4, 2), 2, rank=2, hidden_dim=5)
    vectors = [torch.randn(6, dim) for dim in (3, 4, 2)]
    other = torch.randn_like(vectors[i])

    def latent(z: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = fusion(*vectors[:i], z, *vectors[i + 1 :]).latent
        return found

    mixed = latent(0.3 * vectors[i] + 0.7 * other)
    torch.testing.assert_close(mixed, 0.3 * latent(vectors[i]) + 0.7 * latent(other))


def test_factors_are_parameters() -> None:
    fusion = LowRankTensorFusion((3, 4), 2)

    assert {"factors.0", "factors.1", "rank_weight", "bias"} <= set(fusion.state_dict())


def test_latent_starts_with_variance_near_one() -> None:
    fusion = LowRankTensorFusion((64, 64, 64), 2, rank=16, hidden_dim=512)

    latent = fusion(*(torch.randn(256, 64) for _ in range(3))).latent

    assert 0.5 < latent.std() < 2


def test_tokens_count_as_their_mean() -> None:
    fusion, tokens, vector = LowRankTensorFusion((3, 4), 2), torch.randn(5, 7, 3), torch.randn(5, 4)

    torch.testing.assert_close(fusion(tokens, vector).prediction, fusion(tokens.mean(dim=1), vector).prediction)


def test_refuses_rank_zero() -> None:
    with pytest.raises(ValueError, match="rank must be at least 1, however it is 0"):
        LowRankTensorFusion((3, 4), 2, rank=0)
