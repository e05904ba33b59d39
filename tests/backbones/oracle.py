"""The backbones' equations in plain loops: slow, obvious, float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2moe.backbones import (
    JointTokens,
    LowRankTensorFusion,
    MoEPlusPlusLayer,
    SelfAttention,
    SwitchLayer,
    TransformerLayer,
)

__all__ = ["attention", "join", "low_rank_fusion", "moepp", "pool", "switch", "transformer_layer"]


def join(module: JointTokens, modalities: Sequence[Tensor]) -> Tensor:
    """Every token of every modality in turn, projected if its width differs, plus its position."""
    rows = []
    for b in range(modalities[0].shape[0]):
        tokens: list[Tensor] = []
        for projection, modality in zip(module.projections, modalities, strict=True):
            sample = modality[b] if modality.ndim == 3 else modality[b : b + 1]
            for token in sample:
                mapped = projection.weight @ token + projection.bias if isinstance(projection, nn.Linear) else token
                tokens.append(mapped + module.position[len(tokens)])
        rows.append(torch.stack(tokens))
    return torch.stack(rows)


def pool(tokens: Tensor, n_tokens: Sequence[int]) -> Tensor:
    means, start = [], 0
    for n in n_tokens:
        means.append(sum(tokens[:, t] for t in range(start, start + n)) / n)
        start += n
    return torch.cat(means, dim=-1)  # type: ignore[arg-type]


def attention(module: SelfAttention, tokens: Tensor) -> Tensor:
    """Head by head, query by query."""
    n_samples, n_tokens, dim = tokens.shape
    wq, wk, wv = torch.split(module.qkv.weight, dim)
    size = dim // module.n_heads
    output = torch.zeros_like(tokens)
    for b in range(n_samples):
        heads = []
        for h in range(module.n_heads):
            part = slice(h * size, (h + 1) * size)
            q, k, v = (tokens[b] @ w[part].T for w in (wq, wk, wv))
            rows = []
            for t in range(n_tokens):
                scores = torch.stack([q[t] @ k[s] / math.sqrt(size) for s in range(n_tokens)])
                shares = scores.exp() / scores.exp().sum()
                rows.append(sum(shares[s] * v[s] for s in range(n_tokens)))
            heads.append(torch.stack(rows))  # type: ignore[arg-type]
        output[b] = torch.cat(heads, dim=-1) @ module.out.weight.T + module.out.bias
    return output


def normalized(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    centered = x - x.mean(dim=-1, keepdim=True)
    scaled = centered / (centered.pow(2).mean(dim=-1, keepdim=True) + norm.eps).sqrt()
    return scaled * norm.weight + norm.bias


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def transformer_layer(layer: TransformerLayer, tokens: Tensor) -> Tensor:
    tokens = tokens + attention(layer.attention, normalized(layer.norm_attention, tokens))
    first, second = layer.mlp[0], layer.mlp[3]
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    hidden = gelu(normalized(layer.norm_mlp, tokens) @ first.weight.T + first.bias)
    return tokens + hidden @ second.weight.T + second.bias


def groups(tokens: Tensor, group: str) -> list[list[tuple[int, int]]]:
    """Which tokens (b, t) compete with which."""
    n_samples, n_tokens, _ = tokens.shape
    positions = [[(b, t) for t in range(n_tokens)] for b in range(n_samples)]
    return positions if group == "sample" else [[place for sample in positions for place in sample]]


def exact(number: float) -> Fraction:
    """The number as it is written: 1.2 is 6/5."""
    return Fraction(str(number))


def switch(layer: SwitchLayer, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Fedus et al. 2022, token by token, without jitter."""
    n = layer.n_experts
    output, losses = torch.zeros_like(tokens), []
    for group in groups(tokens, layer.group):
        factor = layer.capacity_factor if layer.training else layer.eval_capacity_factor
        capacity = len(group) if factor is None else math.ceil(exact(factor) * len(group) / n)
        taken, chosen, probabilities = [0] * n, [0] * n, []
        for b, t in group:
            x = tokens[b, t]
            p = F.softmax(layer.router.weight @ x, dim=0)
            i = int(p.argmax())
            probabilities.append(p)
            chosen[i] += 1
            if taken[i] < capacity:
                taken[i] += 1
                output[b, t] = p[i] * (gelu(x @ layer.w1[i]) @ layer.w2[i])
        mean = torch.stack(probabilities).mean(dim=0)
        losses.append(n * sum(chosen[i] / len(group) * mean[i] for i in range(n)))
    return output, torch.stack(losses).mean()  # type: ignore[arg-type]


def moepp_expert(layer: MoEPlusPlusLayer, i: int, x: Tensor) -> Tensor:
    """What expert i of Jin et al. 2024 makes of a token."""
    if i < layer.n_experts:
        gate, value = (x @ layer.w_in[i]).chunk(2)
        return (gate * torch.sigmoid(gate) * value) @ layer.w_out[i]
    if i == layer.n_experts:
        return torch.zeros_like(x)
    if i == layer.n_experts + 1:
        return x
    c = i - layer.n_experts - 2
    alpha = F.softmax(layer.mix.weight[2 * c : 2 * c + 2] @ x, dim=0)
    return alpha[0] * x + alpha[1] * layer.constants[c]


def moepp(layer: MoEPlusPlusLayer, tokens: Tensor, previous: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Jin et al. 2024, token by token: all first choices find their place before the second ones do."""
    n, k = layer.n_all, layer.n_active
    first, second = layer.router_in, layer.router_out
    scores = torch.tanh(tokens @ first.weight.T + first.bias) @ second.weight.T + second.bias
    if previous is not None:
        assert layer.residual is not None
        scores = scores + previous @ layer.residual.weight.T
    output, losses = torch.zeros_like(tokens), []
    n_others = n - layer.n_experts
    for group in groups(tokens, layer.group):
        factor = layer.capacity_factor if layer.training else layer.eval_capacity_factor
        even = k * len(group) / (exact(layer.tau) * layer.n_experts + n_others)
        limits = [
            len(group) if factor is None else min(len(group), math.ceil(exact(factor) * exact(share) * even))
            for share in [layer.tau] * layer.n_experts + [1.0] * n_others
        ]
        taken, chosen = [0] * n, [0] * n
        gates = {place: F.softmax(scores[place], dim=0) for place in group}
        ranked = {place: gates[place].argsort(descending=True).tolist() for place in group}
        for choice in range(k):
            for place in group:
                i = ranked[place][choice]
                chosen[i] += 1
                if taken[i] < limits[i]:
                    taken[i] += 1
                    output[place] = output[place] + gates[place][i] * moepp_expert(layer, i, tokens[place])
        mean = torch.stack(list(gates.values())).mean(dim=0)
        weights = [1.0] * layer.n_experts + [layer.tau] * n_others
        losses.append(sum(weights[i] * chosen[i] / len(group) * mean[i] for i in range(n)))
    return output, torch.stack(losses).mean(), scores  # type: ignore[arg-type]


def low_rank_fusion(module: LowRankTensorFusion, vectors: Sequence[Tensor]) -> Tensor:
    """Liu et al. 2018 with the full weight tensor, contracted with the full outer product: (B, H)."""
    rank, _, hidden = module.factors[0].shape
    outputs = []
    for b in range(vectors[0].shape[0]):
        outer = torch.ones(())
        for vector in vectors:
            outer = torch.tensordot(outer, torch.cat([torch.ones(1), vector[b]]), dims=0)
        row = []
        for h in range(hidden):
            weight = torch.zeros_like(outer)
            for r in range(rank):
                term = module.rank_weight[r]
                for factor in module.factors:
                    term = torch.tensordot(term, factor[r, :, h], dims=0)
                weight = weight + term
            row.append((weight * outer).sum() + module.bias[h])
        outputs.append(torch.stack(row))
    return torch.stack(outputs)
