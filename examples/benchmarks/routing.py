"""Times the routed layers (forward and backward) against a loop over experts with boolean masks.

Both sides hold the same weights; with room for every token they return the same output, which is checked
first. Runs are interleaved, so that a busy machine slows both; medians are printed: of CPU time, which other programs
disturb least, on a GPU of wall-clock time.

    python examples/benchmarks/routing.py --threads 1
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2moe.backbones import MoEPlusPlusLayer, SwitchLayer

N_TOKENS, DIM, N_EXPERTS = 1536, 128, 16


class LoopedSwitch(nn.Module):
    """The Switch layer as a loop: each expert is a module that sees its tokens through a boolean mask."""

    def __init__(self, layer: SwitchLayer) -> None:
        super().__init__()
        self.router, self.jitter, self.n_experts = layer.router, layer.jitter, layer.n_experts
        self.experts = nn.ModuleList(
            nn.Sequential(_linear(w1), nn.GELU(), _linear(w2))
            for w1, w2 in zip(layer.w1.detach(), layer.w2.detach(), strict=True)
        )

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Route (B, T, D) tokens; no capacity."""
        rows = tokens.reshape(-1, tokens.shape[-1])
        noise = 1 + self.jitter * (2 * torch.rand_like(rows) - 1) if self.training else 1
        probabilities = self.router(rows * noise).softmax(dim=-1)
        gate, chosen = probabilities.max(dim=-1)
        output = torch.zeros_like(rows)
        for i, expert in enumerate(self.experts):
            mask = chosen == i
            output[mask] = expert(rows[mask]) * gate[mask, None]
        share = F.one_hot(chosen, self.n_experts).to(rows.dtype).mean(dim=0)
        return output.view_as(tokens), self.n_experts * (share * probabilities.mean(dim=0)).sum()


class SwiGLU(nn.Module):
    """One expert of MoE++."""

    def __init__(self, w_in: Tensor, w_out: Tensor) -> None:
        super().__init__()
        self.w_in, self.w_out = _linear(w_in), _linear(w_out)

    def forward(self, x: Tensor) -> Tensor:
        """Transform the rows."""
        gate, value = self.w_in(x).chunk(2, dim=-1)
        out: Tensor = self.w_out(F.silu(gate) * value)
        return out


class Constant(nn.Module):
    """One constant expert of MoE++."""

    def __init__(self, mix: Tensor, vector: Tensor) -> None:
        super().__init__()
        self.mix, self.vector = nn.Parameter(mix.clone()), nn.Parameter(vector.clone())

    def forward(self, x: Tensor) -> Tensor:
        """Mix the rows with the vector."""
        alpha = F.linear(x, self.mix).softmax(dim=-1)
        return alpha[:, :1] * x + alpha[:, 1:] * self.vector


class LoopedMoEPlusPlus(nn.Module):
    """The MoE++ layer as a loop over all its experts but the zero expert."""

    def __init__(self, layer: MoEPlusPlusLayer) -> None:
        super().__init__()
        self.router = nn.Sequential(layer.router_in, nn.Tanh(), layer.router_out)
        self.n_active, self.n_all, self.n_networks, self.tau = layer.n_active, layer.n_all, layer.n_experts, layer.tau
        networks = [SwiGLU(a, b) for a, b in zip(layer.w_in.detach(), layer.w_out.detach(), strict=True)]
        mixes = layer.mix.weight.detach().view(layer.n_constants, 2, -1)
        constants = [Constant(m, v) for m, v in zip(mixes, layer.constants.detach(), strict=True)]
        self.experts = nn.ModuleDict({str(i): expert for i, expert in enumerate(networks)})
        self.experts[str(layer.n_experts + 1)] = nn.Identity()
        self.experts.update({str(layer.n_experts + 2 + i): expert for i, expert in enumerate(constants)})

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Route (B, T, D) tokens; no capacity."""
        rows = tokens.reshape(-1, tokens.shape[-1])
        probabilities = self.router(rows).softmax(dim=-1)
        gate, chosen = probabilities.topk(self.n_active, dim=-1)
        output = torch.zeros_like(rows)
        for name, expert in self.experts.items():
            choice = chosen == int(name)
            mask = choice.any(dim=-1)
            output[mask] = output[mask] + expert(rows[mask]) * gate[choice][:, None]
        share = F.one_hot(chosen, self.n_all).to(rows.dtype).sum(dim=1).mean(dim=0)
        balance = torch.split(share * probabilities.mean(dim=0), [self.n_networks, self.n_all - self.n_networks])
        return output.view_as(tokens), balance[0].sum() + self.tau * balance[1].sum()


def _linear(weight: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[0], weight.shape[1], bias=False)
    linear.weight = nn.Parameter(weight.mT.clone())
    return linear


def step(call: Callable[[Tensor], tuple[Tensor, ...]], layer: nn.Module, tokens: Tensor) -> Callable[[], None]:
    """One forward and backward pass of a layer, called as itself or compiled."""

    def run() -> None:
        layer.zero_grad(set_to_none=True)
        tokens.grad = None
        output, aux_loss = call(tokens)[:2]
        torch.autograd.backward(output.square().mean() + 0.01 * aux_loss)
        if tokens.is_cuda:
            torch.cuda.synchronize()

    return run


def interleaved(
    steps: dict[str, Callable[[], None]], repeats: int, clock: Callable[[], float] = time.process_time
) -> dict[str, float]:
    """Median milliseconds of each step, taken in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 5):
        for name, run in steps.items():
            start = clock()
            run()
            if repeat >= 5:
                seconds[name].append(clock() - start)
    return {name: 1000 * statistics.median(times) for name, times in seconds.items()}


def check_same(layer: nn.Module, looped: nn.Module, tokens: Tensor) -> None:
    """Both sides compute the same function where no token is dropped."""
    torch.testing.assert_close(layer(tokens)[:2], looped(tokens), rtol=1e-4, atol=1e-5)


def layers(device: str) -> dict[str, tuple[nn.Module, nn.Module]]:
    """Each routed layer beside its loop, same weights."""
    pairs: dict[str, tuple[nn.Module, nn.Module]] = {}
    tokens = torch.randn(4, 384, DIM)
    for factor in (1.2, 1.0):
        switch = SwitchLayer(DIM, N_EXPERTS, capacity_factor=factor, eval_capacity_factor=None)
        looped = LoopedSwitch(switch)
        check_same(switch.eval(), looped.eval(), tokens)
        pairs[f"Switch, capacity {factor}"] = (switch.train().to(device), looped.train().to(device))
    plus = MoEPlusPlusLayer(DIM, N_EXPERTS, eval_capacity_factor=None)
    looped_plus = LoopedMoEPlusPlus(plus)
    check_same(plus.eval(), looped_plus, tokens)
    pairs["MoE++"] = (plus.train().to(device), looped_plus.to(device))
    return pairs


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="also time torch.compile of the layer")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    tokens = torch.randn(24, N_TOKENS // 24, DIM, device=options.device, requires_grad=True)
    print(f"{N_TOKENS} tokens x {DIM}, {N_EXPERTS} experts, forward + backward, {options.threads} threads")
    print(f"{'layer':<24}{'loop ms':>10}{'ours ms':>10}{'ratio':>8}")
    for name, (layer, looped) in layers(options.device).items():
        steps = {"loop": step(looped, looped, tokens), name: step(layer, layer, tokens)}
        if options.compile:
            steps[f"{name}, compiled"] = step(torch.compile(layer, fullgraph=True), layer, tokens)
        clock = time.process_time if options.device == "cpu" else time.perf_counter
        medians = interleaved(steps, options.repeats, clock)
        loop = medians.pop("loop")
        for label, ours in medians.items():
            print(f"{label:<24}{loop:>10.2f}{ours:>10.2f}{loop / ours:>8.2f}")


if __name__ == "__main__":
    main()
