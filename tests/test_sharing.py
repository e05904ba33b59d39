"""Shared weights: each member equals a module of its own, whose weights carry its factors."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.checkpoint import checkpoint as recomputed

from i2moe import BackboneOutput, InteractionMoE
from i2moe.backbones import FusionTransformer
from i2moe.moe.experts.sharing import share
from tests.backbones.zoo import BACKBONES
from tests.backbones.zoo import Case as Backbone
from tests.zoo import ZOO, Case, call

pytestmark = pytest.mark.usefixtures("double")

K, B = 3, 4


class Tokens(nn.Module):
    """Embed, normalize, attend."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(9, 8), nn.LayerNorm(8)
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.norm(self.embed(ids))
        attended, _ = self.attention(x, key=x, value=x, need_weights=False)
        output: Tensor = self.head(torch.tanh(attended).mean(1))
        return output


class Cross(nn.Module):
    """Attention whose keys and values are of other widths."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, kdim=5, vdim=6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.attention(x, x[..., :5], x[..., 2:])[0].mean(1)
        return output


class Recurrent(nn.Module):
    def __init__(self, layer: nn.RNNBase, width: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.layer(x)[0].mean(1))
        return output


class Placed(nn.Module):
    """A layer that sees one row for all samples."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.of_places = nn.Linear(8, 4), nn.Linear(2, 4)
        self.places = nn.Parameter(torch.randn(1, 6, 2))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = torch.tanh(self.body(x) + self.of_places(self.places)).flatten(1)
        return output


class Tied(nn.Module):
    """One layer twice, and two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(8, 8), nn.Linear(8, 8), nn.ModuleList([nn.Linear(8, 8)])
        self.second.weight = self.first.weight
        self.again = nn.ModuleList([self.third[0]])

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.again[0](torch.tanh(self.third[0](torch.tanh(self.second(torch.tanh(self.first(x)))))))
        return output


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(8, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 3, bias=False)), (8,)),
    # Of the next ones the rows of a member are so many that the weights carry its factors.
    "linear on tokens": (
        lambda: nn.Sequential(nn.Linear(8, 6, bias=False), nn.Flatten(), nn.Tanh(), nn.Linear(30, 3)),
        (5, 8),
    ),
    "conv1d, many": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 3, stride=2, bias=False), nn.Tanh(), nn.Flatten(), nn.Linear(196, 3, bias=False)
        ),
        (2, 99),
    ),
    "conv2d, many": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 6, 3, groups=2, padding=1, padding_mode="circular"), nn.Flatten(), nn.Linear(1536, 3)
        ),
        (4, 16, 16),
    ),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(8, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(12, 3)), (8, 5)),
    "conv2d": (lambda: nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.Flatten(), nn.Linear(54, 3)), (4, 5, 5)),
    "embedding and attention": (Tokens, (5,)),
    "attention of other widths": (Cross, (5, 8)),
    "gru": (lambda: Recurrent(nn.GRU(8, 5, num_layers=2, batch_first=True), 5), (5, 8)),
    "lstm": (lambda: Recurrent(nn.LSTM(8, 6, proj_size=4, bidirectional=True, batch_first=True), 8), (5, 8)),
    "transformer": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), 2, enable_nested_tensor=False
        ),
        (5, 8),
    ),
    "one row for all": (Placed, (6, 8)),
    "tied": (Tied, (8,)),
}


def draw(shape: tuple[int, ...], name: str) -> Tensor:
    rows = (K * B, *shape)
    return torch.randint(9, rows) if name.startswith("embedding") else torch.randn(rows)


def shuffled(network: nn.Module) -> nn.Module:
    """Give all parameters, factors included, values of no symmetry."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def member_alone(network: nn.Module, member: int) -> nn.Module:
    """Write a member's factors into the weights, where they multiply columns (r) and rows (s)."""
    twin = copy.deepcopy(network)
    for path, layer in list(twin.named_modules()):
        factors = getattr(layer, "member_factors", None)
        if factors is None:
            continue
        layer._forward_hooks.clear()
        layer._forward_pre_hooks.clear()
        layer._forward_pre_hooks_with_kwargs.clear()
        layer.__dict__.pop("forward", None)
        s, b = factors.outputs[member].detach(), factors.bias[member].detach()
        r = None if factors.inputs is None else factors.inputs[member].detach()
        del layer.member_factors
        _write(twin, path, layer, r, s, b)
    return twin


def _write(twin: nn.Module, path: str, layer: nn.Module, r: Tensor | None, s: Tensor, b: Tensor) -> None:
    if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
        assert r is not None
        n_groups = getattr(layer, "groups", 1)
        ones = (1,) * (layer.weight.ndim - 2)
        columns = r.reshape(n_groups, 1, -1).expand(-1, len(s) // n_groups, -1).reshape(len(s), -1, *ones)
        bias = torch.zeros(()) if layer.bias is None else layer.bias.detach()
        layer.weight = nn.Parameter(layer.weight.detach() * columns * s.reshape(-1, 1, *ones))
        layer.bias = nn.Parameter(s * bias + b)
    elif isinstance(layer, nn.Embedding):
        layer.weight = nn.Parameter(layer.weight.detach() * s + b)
    elif isinstance(layer, nn.MultiheadAttention):
        if r is not None:
            layer.in_proj_weight = nn.Parameter(layer.in_proj_weight.detach() * r)
        layer.out_proj.weight = nn.Parameter(layer.out_proj.weight.detach() * s.unsqueeze(1))
        layer.out_proj.bias = nn.Parameter(layer.out_proj.bias.detach() * s + b)
    else:
        assert isinstance(layer, nn.RNNBase)
        for name in ("weight_ih_l0", "weight_ih_l0_reverse"):
            if hasattr(layer, name):
                setattr(layer, name, nn.Parameter(getattr(layer, name).detach() * r))
        layer.register_forward_hook(lambda _, args, output: (output[0] * s + b, *output[1:]))


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_member_is_a_module_whose_weights_carry_its_factors(name: str, training: bool) -> None:
    build, shape = NETWORKS[name]
    network = build()
    members = share(network, K)
    shuffled(network).train(training)
    x = draw(shape, name)
    # Without gradient, attention and transformer layers in evaluation would take a path past their parts.
    with torch.set_grad_enabled(training), members.running(K, n_rows=K * B):
        found = network(x)
    for k, rows in enumerate(x.chunk(K)):
        torch.testing.assert_close(found.chunk(K)[k], member_alone(network, k)(rows), rtol=0, atol=1e-9)
    with torch.no_grad(), members.running(2, n_rows=2 * B):
        torch.testing.assert_close(network(x[: 2 * B]), found[: 2 * B], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["linear on tokens", "conv2d", "embedding and attention", "lstm", "transformer"])
@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_rows_of_one_member_reach_no_other(name: str) -> None:
    build, shape = NETWORKS[name]
    network = build()
    members = share(network, K)
    shuffled(network)
    x = draw(shape, name)
    other = torch.cat((x[:B], draw(shape, name)[B : 2 * B], x[2 * B :]))
    with members.running(K, n_rows=K * B):
        found, changed = network(x).chunk(K), network(other).chunk(K)
        # A gradient of one member reaches its own factors alone.
        found[1].sum().backward()
    assert torch.equal(found[0], changed[0])
    assert torch.equal(found[2], changed[2])
    assert not torch.equal(found[1], changed[1])
    for path, parameter in network.named_parameters():
        if "member_factors" in path:
            assert parameter.grad is not None
            assert not parameter.grad[[0, 2]].any()


def test_members_start_different_by_signs_alone_and_experts_alike() -> None:
    network = nn.Linear(50, 4)
    share(network, K, n_experts=2)
    factors = network.member_factors
    assert isinstance(factors, nn.Module)
    assert isinstance(factors.inputs, Tensor)
    assert torch.equal(factors.inputs.abs(), torch.ones(2 * K, 50))
    assert factors.inputs[:K].unique(dim=0).shape == (K, 50)
    assert torch.equal(factors.inputs[:K], factors.inputs[K:])
    assert isinstance(factors.outputs, Tensor)
    assert torch.equal(factors.outputs, torch.ones(2 * K, 4))


def test_a_layer_under_two_names_is_shared_once() -> None:
    network = Tied()
    share(network, K)
    assert len(network.third[0]._forward_hooks) == 1
    assert len([name for name, _ in network.named_parameters(remove_duplicate=True) if "factors" in name]) == 9


# --- Inside a model ---


@pytest.mark.parametrize("case", [case for case in ZOO if not case.random and case.atol < 1e-6], ids=lambda c: c.name)
@pytest.mark.parametrize("perturbation", [None, "shuffle"], ids=["tied", "apart"])
def test_every_backbone_is_shared_or_refused(case: Case, perturbation: str | None) -> None:
    """Expert e is the mean of its members' predictions, each alone, buffers untouched by the marginals.

    Without perturbed views the experts have the same members.
    """
    modalities = case.modalities()

    def make() -> InteractionMoE:
        torch.manual_seed(1)
        return InteractionMoE(
            case.make(),
            len(case.names),
            modality_names=case.names,
            reweighter="computed",
            members=2,
            perturbation=perturbation,
        )

    refusal = REFUSALS.get(case.name) or case.refusals.get("auto")
    if refusal is not None and case.name != "experts of different width":
        with pytest.raises(refusal[0], match=refusal[1]):
            call(make(), case, modalities)
        return
    if case.scalar:
        with pytest.raises(ValueError, match="at least two classes"):
            call(make(), case, modalities)
        return
    model = make().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "member_factors" in name:  # else the experts are alike
                parameter.add_(torch.randn_like(parameter) / 4)
        out = call(model, case, modalities)
        each = []
        for k in range(sum(model.experts.members.counts)):
            twin = copy.deepcopy(model)
            with torch.no_grad():
                for name, parameter in twin.named_parameters():
                    if "member_factors" in name:
                        parameter.copy_(parameter[k].expand_as(parameter).clone())
            each.append(call(twin, case, modalities).member_predictions[:, 0, 0])
    assert out.member_predictions is not None
    found, expected = out.member_predictions.flatten(1, 2), torch.stack(each, dim=1)
    assert found.shape[1] == expected.shape[1] * (1 if perturbation else len(model.expert_names))
    expected = expected.repeat(1, found.shape[1] // expected.shape[1], *(1,) * (found.ndim - 2))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(out.expert_predictions, out.member_predictions.mean(2))
    assert out.member_marginals is not None
    torch.testing.assert_close(out.marginals, out.member_marginals.mean(2))


NOT_INDEPENDENT = (ValueError, r"independently of each other, however layer '.*' \(.*(Norm1d|CentersBatch)\) does not")
NO_LAYER = (ValueError, "must have a linear, convolution, .* to share")
REFUSALS = {
    "batch norm": NOT_INDEPENDENT,
    "cumulative batch norm": NOT_INDEPENDENT,
    "batch norm without running statistics": NOT_INDEPENDENT,
    "lazy batch norm": NOT_INDEPENDENT,
    "batch norm shared by the experts": NOT_INDEPENDENT,
    "mixes samples": NOT_INDEPENDENT,
    "lazy linear": (ValueError, r"must know its sizes, however layer 'body.1' \(LazyLinear\)"),
    "decides row by row": (ValueError, "layer 'left' got shape"),
    "no parameters": NO_LAYER,
    "returns its input": NO_LAYER,
    "einops": NO_LAYER,
    "parameter containers": NO_LAYER,
}


class Moving(nn.Module):
    """Counts passes in a buffer on which its output depends."""

    n_calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(5, 3)
        self.register_buffer("n_calls", torch.zeros(()))

    def forward(self, x: Tensor, y: Tensor) -> BackboneOutput:
        self.n_calls += 1
        prediction = self.body(torch.cat((x, y), -1)) * self.n_calls.clone()
        return BackboneOutput(prediction, aux_loss=prediction.square().mean(), latent=prediction)


def test_marginals_and_recomputation_leave_buffers_alone() -> None:
    gradients = []
    for checkpoint in (False, True):
        torch.manual_seed(3)
        model = InteractionMoE(Moving, 2, reweighter="computed", members=2, checkpoint=checkpoint)
        out = model(torch.ones(B, 3), torch.ones(B, 2))
        (out.expert_predictions.sum() + out.marginals.sum() + out.aux_loss).backward()
        assert dict(model.named_buffers())["experts.backbone.n_calls"] == 1
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    torch.testing.assert_close(*gradients)


def test_the_paper_s_objective_trains_members_too() -> None:
    model = InteractionMoE(ZOO[0].make(), 2, feature_dims=(3, 5), members=2, perturbation="shuffle")
    out = model(torch.randn(B, 3), torch.randn(B, 5))
    assert out.views is not None
    assert out.views.shape == (B, 4, 3, 3)
    torch.testing.assert_close(out.views[:, :, 0], out.expert_predictions)
    assert out.interaction_loss is not None
    (out.prediction.sum() + out.interaction_loss).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("case", BACKBONES, ids=str)
def test_the_library_s_backbones(case: Backbone) -> None:
    def make() -> InteractionMoE:
        return InteractionMoE(case.make, len(case.shapes), reweighter="computed", members=2)

    if case.mixes:
        with pytest.raises(ValueError, match=r"independently of each other, however layer 'layers.0.\w+' \(.*Layer\)"):
            make()
        return
    model, modalities = make().eval(), case.batch()
    out = model(*modalities)
    assert out.member_predictions is not None
    assert out.member_predictions.shape == (6, len(case.shapes) + 2, 2, 3)
    # Each sample's prediction is its own.
    alone = model(*[x[2:3] for x in modalities])
    torch.testing.assert_close(alone.member_predictions[0], out.member_predictions[2], rtol=0, atol=1e-6)


def test_five_experts_of_a_transformer_cost_little_more_than_one_backbone() -> None:
    def build() -> nn.Module:
        return FusionTransformer((64, 64, 64), 3, n_tokens=4, hidden_dim=128, n_heads=4)

    backbone = sum(parameter.numel() for parameter in build().parameters())
    model = InteractionMoE(build, 3, reweighter="computed", members=4)
    assert backbone < sum(parameter.numel() for parameter in model.parameters()) <= 1.3 * backbone


def test_a_single_member_is_the_backbone_itself() -> None:
    torch.manual_seed(1)
    backbone = ZOO[0].make()()
    torch.manual_seed(1)
    model = InteractionMoE(ZOO[0].make(), 2, reweighter="computed", members=1)
    assert dict(model.experts.backbone.named_parameters()).keys() == dict(backbone.named_parameters()).keys()
    modalities = torch.randn(B, 3), torch.randn(B, 5)
    torch.testing.assert_close(model(*modalities).prediction, backbone(*modalities))
    InteractionMoE(lambda: model.experts.backbone, 2, reweighter="computed", members=1)  # none is in another's way


# --- Refusals ---


def transposed(x: Tensor) -> Tensor:
    return x.transpose(0, 1)


def test_parameters_of_several_members_do_not_fit_a_single_one() -> None:
    one, four = (
        InteractionMoE(lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 3)), 2, reweighter="computed", members=n)
        for n in (1, 4)
    )
    with pytest.raises(RuntimeError, match=r"Unexpected key.* \".*member_factors"):
        one.load_state_dict(four.state_dict())


class Applied(nn.Module):
    def __init__(self, before: Callable[[Tensor], Any], layer: nn.Module) -> None:
        super().__init__()
        self.before, self.layer = before, layer

    def forward(self, x: Tensor) -> Any:
        return self.layer(self.before(x))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), r"layer '1' \(BatchNorm1d\) does not"),
        (lambda: nn.Sequential(nn.GRU(3, 3)), r"layer '0' \(GRU\) has batch_first=False"),
        (lambda: nn.Sequential(nn.TransformerEncoderLayer(4, 2)), r"'0.self_attn' \(MultiheadAttention\) has batch_fi"),
        (lambda: nn.Sequential(nn.LazyConv1d(3, 1)), r"layer '0' \(LazyConv1d\) waits"),
        (lambda: nn.Sequential(nn.Tanh()), "Sequential has none; use members=None"),
        (lambda: shared_before(), r"layer '' \(Linear\) has members already"),
    ],
)
def test_what_cannot_be_shared_is_refused(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        share(build(), K)


def shared_before() -> nn.Module:
    network = nn.Linear(3, 3)
    share(network, K)
    return network


@pytest.mark.parametrize(
    ("network", "found"),
    [
        (Applied(transposed, nn.Linear(5, 3)), r"shape \(2, 5\)"),
        (Applied(lambda x: pack_sequence(list(x.unsqueeze(-1))), nn.GRU(1, 3, batch_first=True)), "a PackedSequence"),
    ],
)
def test_rows_must_stay_on_the_first_axis(network: nn.Module, found: str) -> None:
    members = share(network, K)
    with (
        pytest.raises(ValueError, match=f"must keep the rows .* layer 'layer' got {found}"),
        members.running(K, n_rows=3 * K),
    ):
        network(torch.randn(5, 2) if "shape" in found else torch.randn(3 * K, 2))


class Around(nn.Module):
    """A head on an encoder that is used elsewhere too."""

    def __init__(self, encoder: nn.Module, again: bool | None = None) -> None:
        super().__init__()
        self.encoder, self.head, self.again = encoder, nn.Linear(8, 3), again

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        both = torch.cat((x, y), dim=1)
        if self.again is not None:
            both = recomputed(self.encoder, both, use_reentrant=self.again)
        else:
            both = self.encoder(both)
        output: Tensor = self.head(torch.tanh(both))
        return output


def test_a_shared_layer_does_not_run_elsewhere() -> None:
    encoder = nn.Linear(4, 8)
    model = InteractionMoE(lambda: Around(encoder), 2, reweighter="computed", members=K)
    with pytest.raises(RuntimeError, match="layer 'encoder' ran outside of it; give the model a copy"):
        encoder(torch.randn(K, 4))
    assert model(torch.randn(B, 2), torch.randn(B, 2)).prediction.shape == (B, 3)


@pytest.mark.parametrize("again", [True, False])
def test_checkpointing_within_a_backbone_is_exact_or_refused(again: bool) -> None:
    x = [torch.randn(B, 2, requires_grad=True) for _ in range(2)]

    def gradients(again: bool | None, **options: Any) -> list[Tensor | None]:
        torch.manual_seed(0)
        model = InteractionMoE(lambda: Around(nn.Linear(4, 8), again), 2, reweighter="computed", members=K, **options)
        out = model(*x)
        (out.expert_predictions.sum() + out.marginals.square().sum()).backward()
        return [parameter.grad for parameter in model.parameters()]

    for one, other in zip(gradients(again), gradients(None), strict=True):
        torch.testing.assert_close(one, other)
    with pytest.raises(RuntimeError, match=r"must leave checkpointing to the model, .* checkpoint=True"):
        gradients(again, perturbation="gaussian")


def test_threads_take_turns() -> None:
    model = InteractionMoE(lambda: Around(nn.Linear(4, 8)), 2, reweighter="computed", members=K).eval()
    batches = [(torch.randn(n, 2), torch.randn(n, 2)) for n in (3, 17, 64, 101) * 10]

    def predict(batch: tuple[Tensor, Tensor]) -> Tensor:
        with torch.no_grad():
            prediction: Tensor = model(*batch).prediction
        return prediction

    expected = list(map(predict, batches))
    with ThreadPoolExecutor(4) as pool:
        for one, other in zip(pool.map(predict, batches), expected, strict=True):
            torch.testing.assert_close(one, other)


def test_factors_that_quantization_drops_are_missed() -> None:
    model = InteractionMoE(lambda: Around(nn.Linear(4, 8)).float(), 2, reweighter="computed", members=K).float().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(RuntimeError, match="must keep the members' factors"):
        small(torch.randn(B, 2).float(), torch.randn(B, 2).float())
