"""The truth of each generator, read back from the features that it draws."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from itertools import product

import pytest
import torch
from torch import Tensor

from examples.datasets import synthetic
from examples.datasets.known import KnownInteractions
from examples.datasets.mixtures import Cue, Mixture, Region, levels, warp
from examples.datasets.synthetic import GENERATORS, decompose, decompose_by_type, generate, table
from i2moe.pid import estimate_pid

N = 4000
MIXTURES = {name: found for name, found in GENERATORS.items() if isinstance(found, Mixture)}
PLAIN = {name: found for name, found in MIXTURES.items() if found.render is not warp}


@cache
def drawn(name: str) -> KnownInteractions:
    """N samples of a generator, drawn once for all tests that only look at them."""
    return generate(name, N, 0)


def seen_symbols(data: KnownInteractions, n_classes: int) -> Tensor:
    """(n, M), what each modality says, read from its features."""
    if n_classes == 2:
        return torch.stack([(features[:, 0] > 0).long() for features in data.modalities], dim=1)
    return torch.stack([features[:, :n_classes].argmax(1) for features in data.modalities], dim=1)


def seen_types(features: Tensor, mixture: Mixture) -> Tensor:
    """(n,), the type that one modality shows, read from its features."""
    begin = 1 if mixture.n_classes == 2 else mixture.n_classes
    n_types = len(mixture.shares)
    if isinstance(mixture.shows_type, Cue):
        return features[:, begin : begin + n_types].argmax(1)
    angle = torch.atan2(features[:, begin + 1], features[:, begin]) % (2 * math.pi)
    return torch.bucketize(angle / (2 * math.pi), mixture.shares.cumsum(0))


def answers(data: KnownInteractions, n_classes: int) -> Tensor:
    """(n,), the class, or the slice that a number lies in."""
    if data.n_classes is not None:
        return data.target
    return ((data.target / math.sqrt(12) + 0.5) * n_classes).long()


def agreement(symbols: Tensor, answer: Tensor) -> float:
    """Share of the samples for which a prediction is right."""
    return float((symbols == answer).float().mean())


def best_from(symbol: Tensor, answer: Tensor) -> float:
    """Accuracy of the best guess of two answers from a symbol of two."""
    right = agreement(symbol, answer)
    return max(right, 1 - right)


def near(probability: float, n: int) -> object:
    """Within five standard deviations of n coin flips, and what the noise of the features hides."""
    return pytest.approx(probability, abs=5 * math.sqrt(probability * (1 - probability) / n) + 0.005)


@pytest.mark.parametrize("name", PLAIN)
def test_each_type_is_what_it_is_called(name: str) -> None:
    """Uniqueness i: modality i knows, others do not. Synergy: only the sum does. Redundancy: all do."""
    mixture, data = PLAIN[name], drawn(name)
    symbols, answer = seen_symbols(data, mixture.n_classes), answers(data, mixture.n_classes)
    right, chance = 1 - mixture.label_noise, 1 / mixture.n_classes
    n_modalities = mixture.n_modalities

    for interaction in data.interaction.bincount().nonzero().flatten().tolist():
        rows = data.interaction == interaction
        n = int(rows.sum())
        for j in range(n_modalities):
            knows = interaction in (j, n_modalities + 1)
            assert agreement(symbols[rows, j], answer[rows]) == near(right if knows else chance, n)
        total = symbols[rows].sum(1) % mixture.n_classes
        if interaction == n_modalities:
            assert agreement(total, answer[rows]) == near(right, n)


@pytest.mark.parametrize("n_modalities", [2, 3, 4])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_synergy_needs_every_modality(n_modalities: int, n_classes: int) -> None:
    """Any M - 1 symbols together leave the answer uniform: exactly, in the table of the latents."""
    only_synergy = tuple(float(index == n_modalities) for index in range(n_modalities + 2))
    mixture = Mixture(n_modalities=n_modalities, n_classes=n_classes, mix=only_synergy, shown_by=())
    joint = mixture.joint()
    for j in range(n_modalities):
        without = joint.sum(j)
        torch.testing.assert_close(without, without.mean(-1, keepdim=True).expand_as(without))


@pytest.mark.parametrize("name", PLAIN)
def test_modalities_show_the_type_where_they_claim_to(name: str) -> None:
    mixture, data = PLAIN[name], drawn(name)
    for features, shows in zip(data.modalities, data.shows_type, strict=True):
        seen = agreement(seen_types(features, mixture), data.interaction)
        if shows:
            assert seen > (0.9 if name.startswith("half-cue") else 0.999)
        else:
            assert seen == near(1 / len(mixture.shares), N)


def test_one_cue_is_seen_by_the_first_modality_only() -> None:
    assert generate("one-cue", 10, 0).shows_type == (True, False)


@pytest.mark.parametrize("name", GENERATORS)
def test_every_generator_draws_samples_of_one_form(name: str) -> None:
    data = generate(name, 50, 0)
    n_types = len(data.modalities) + 2
    assert all(features.dtype == torch.float32 for features in data.modalities)
    assert all(features.ndim == 2 and len(features) == 50 for features in data.modalities)
    assert data.target.shape == data.interaction.shape == (50,)
    assert data.interaction.dtype == torch.long
    assert data.target.is_floating_point() == (data.n_classes is None)
    assert len(data.mix) == len(data.type_names) == n_types
    assert len(data.shows_type) == len(data.modalities)
    assert float(data.mix.sum()) == pytest.approx(1)
    assert int(data.interaction.min()) >= 0
    assert int(data.interaction.max()) < n_types


@pytest.mark.parametrize("name", GENERATORS)
def test_the_mix_is_kept(name: str) -> None:
    data = drawn(name)
    for interaction, share in enumerate(data.mix.tolist()):
        found = float((data.interaction == interaction).float().mean())
        assert found == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / N))


@pytest.mark.parametrize("name", GENERATORS)
def test_classes_are_balanced(name: str) -> None:
    data = drawn(name)
    if data.n_classes is None:
        assert float(data.target.mean()) == pytest.approx(0, abs=0.08)
        assert float(data.target.var()) == pytest.approx(1, abs=0.08)
        return
    assert len(data.target.bincount()) == data.n_classes
    for count in data.target.bincount().tolist():
        assert count / N == near(1 / data.n_classes, N)


@pytest.mark.parametrize("name", GENERATORS)
def test_a_seed_decides_everything_and_nothing_else_does(name: str) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first, second = generate(name, 40, 0), generate(name, 40, 0)
    assert torch.equal(before, torch.random.get_rng_state())

    for one, two in zip(first.modalities, second.modalities, strict=True):
        assert torch.equal(one, two)
    assert torch.equal(first.target, second.target)
    assert torch.equal(first.interaction, second.interaction)
    assert not torch.equal(first.modalities[0], generate(name, 40, 1).modalities[0])


def test_an_unknown_generator_is_refused() -> None:
    with pytest.raises(ValueError, match="must be a generator, however: 'xor'; there are two-modalities, "):
        generate("xor", 10, 0)


@pytest.mark.parametrize("mix", [(0.5, 0.5), (0.5, 0.5, 0.5, 0.5)])
def test_a_mix_that_does_not_sum_to_one_is_refused(mix: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="M \\+ 2 shares that sum to 1, however: "):
        Mixture(mix=mix)


def test_label_noise_replaces_its_share_of_the_answers() -> None:
    noisy = Mixture(n_classes=4, label_noise=0.1)
    with_noise, without = noisy(N, 0), replace(noisy, label_noise=0.0)(N, 0)
    assert torch.equal(with_noise.interaction, without.interaction)
    changed = with_noise.target != without.target
    assert float(changed.float().mean()) == near(0.1, N)
    shift = (with_noise.target - without.target)[changed] % 4
    for step in (1, 2, 3):
        assert float((shift == step).float().mean()) == near(1 / 3, int(changed.sum()))


def test_a_region_has_the_shares_of_the_mix() -> None:
    mix = (0.1, 0.15, 0.15, 0.6)
    mixture = Mixture(mix=mix, shows_type=Region())
    data = mixture(N, 0)
    point = [features[:, 1:3] for features in data.modalities]
    assert torch.equal(point[0], point[1])
    assert float(point[0].norm(dim=1).max()) <= 3
    assert agreement(seen_types(data.modalities[0], mixture), data.interaction) > 0.999


def test_a_warp_changes_looks_only() -> None:
    plain, warped = generate("two-modalities", N, 0), generate("warped", N, 0)
    assert torch.equal(plain.target, warped.target)
    assert torch.equal(plain.interaction, warped.interaction)
    for j in range(2):
        torch.testing.assert_close(warped.modalities[j], warp(plain.modalities[j], j))


@pytest.mark.parametrize("modality", [0, 1])
def test_a_warp_can_be_undone(modality: int) -> None:
    features = generate("two-modalities", 100, 0).modalities[modality]
    left, right = warp(features, modality).chunk(2, dim=1)
    left = left - torch.sin(2 * right)
    right = right - torch.sin(2 * left)
    # The rest is a rotation: its matrix is its image of the unit vectors, its inverse the transpose.
    left_1, right_1 = warp(torch.eye(16), modality).chunk(2, dim=1)
    left_1 = left_1 - torch.sin(2 * right_1)
    spread = torch.cat((left_1, right_1 - torch.sin(2 * left_1)), dim=1)
    torch.testing.assert_close(spread @ spread.T, torch.eye(16))
    torch.testing.assert_close(torch.cat((left, right), dim=1) @ spread.T, features)


@pytest.mark.parametrize("modality", [0, 1])
def test_a_warp_leaves_no_feature_with_a_meaning(modality: int) -> None:
    plain = generate("two-modalities", N, 0).modalities[modality]
    warped = generate("warped", N, 0).modalities[modality]
    sign = (plain[:, 0] > 0).long()

    def best(features: Tensor) -> float:
        return max(best_from((column > column.median()).long(), sign) for column in features.T)

    assert best(plain) > 0.97
    assert best(warped) < 0.8


def test_levels_leave_the_noise_they_say() -> None:
    answer = torch.arange(4).repeat(5000)
    target = levels(answer, 4, torch.Generator().manual_seed(0))
    within = torch.stack([target[answer == level].var() for level in range(4)]).mean()
    assert float(within) == pytest.approx(1 / 4**2, rel=0.05)
    assert float(target.var()) == pytest.approx(1, rel=0.05)


# Decompositions


@pytest.mark.parametrize("name", MIXTURES)
def test_the_table_is_that_of_the_samples(name: str) -> None:
    mixture = MIXTURES[name]
    joint = mixture.joint()
    assert float(joint.sum()) == pytest.approx(1)
    if name not in PLAIN:
        return

    data = drawn(name)
    answer, symbols = answers(data, mixture.n_classes), seen_symbols(data, mixture.n_classes)
    states = symbols + mixture.n_classes * data.interaction[:, None] * torch.tensor(data.shows_type)
    probability = joint[(*states.T, answer)]
    assert float((probability > 0).float().mean()) > 0.998  # what is drawn is possible, but for rare noise
    assert float(probability.mean()) == pytest.approx(float((joint**2).sum()), rel=0.1)


@pytest.mark.parametrize("name", MIXTURES)
def test_type_by_type_the_terms_are_the_mix(name: str) -> None:
    mixture = MIXTURES[name]
    noise = mixture.label_noise
    entropy = -sum(p * math.log2(p) for p in (noise, 1 - noise) if p > 0)
    information = math.log2(mixture.n_classes) - entropy
    torch.testing.assert_close(
        decompose_by_type(mixture), mixture.shares * information, atol=1e-5, rtol=0, check_dtype=False
    )


def test_a_pure_set_is_pure_as_a_whole() -> None:
    names = ("only-uniqueness-0", "only-uniqueness-1", "only-synergy", "only-redundancy")
    found = torch.stack([decompose(MIXTURES[name].joint()) for name in names])
    torch.testing.assert_close(found, torch.eye(4), atol=1e-5, rtol=0, check_dtype=False)


def test_a_mixture_is_none_of_its_types_as_a_whole() -> None:
    """Both modalities know the target half of the time, so neither has anything unique: R = S = 1/2."""
    found = decompose(MIXTURES["two-modalities"].joint()).tolist()
    assert found == pytest.approx([0, 0, 0.5, 0.5], abs=1e-5)


def test_a_cue_in_one_modality_makes_synergy_and_uniqueness() -> None:
    """I(X0; Y) = 1/2; modality 1 is right in 3 of 4: I(X1; Y) = 1 - h(1/4), all redundant."""
    entropy = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    found = decompose(MIXTURES["one-cue"].joint()).tolist()
    assert found == pytest.approx([entropy - 0.5, 0, 0.5, 1 - entropy], abs=1e-5)


def test_clusters_find_the_exact_terms_where_clusters_are_clear() -> None:
    """One symbol per modality and no cue: two clusters each, if the other features are left out."""
    mixture = replace(MIXTURES["only-synergy"], shown_by=())
    data = mixture(N, 0)
    first, second = (features[:, :1] for features in data.modalities)
    found = estimate_pid(first, second, data.target, n_clusters=(2,)).pids[0]
    assert found.synergy == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("name", "largest"), [("liang-uniqueness-0", 1), ("liang-uniqueness-1", 2), ("liang-redundancy", 0)]
)
def test_latents_are_found_to_be_what_they_are_called(name: str, largest: int) -> None:
    data = generate(name, 1500, 0)
    first, second = data.modalities
    terms = list(estimate_pid(first, second, data.target, n_clusters=(4,)).pids[0].to_dict().values())
    assert terms[largest] > 0.25
    assert sum(terms) - terms[largest] < 0.1


def test_a_sum_of_latents_is_part_redundancy() -> None:
    data = generate("liang-synergy", 1500, 0)
    first, second = data.modalities
    found = estimate_pid(first, second, data.target, n_clusters=(4,)).pids[0]
    assert found.synergy > 0.08
    assert found.redundancy > 0.05
    assert max(found.uniqueness_1, found.uniqueness_2) < 0.05
    assert data.shows_type == (False, False)


def test_the_table_has_a_line_for_every_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    some = {name: GENERATORS[name] for name in ("two-modalities", "three-modalities", "liang-synergy")}
    monkeypatch.setattr(synthetic, "GENERATORS", some)
    lines = table(n=1000).splitlines()
    assert [line.split()[0] for line in lines[3:]] == list(some)
    assert [line.endswith("exact") for line in lines[3:]] == [True, True, False]


@pytest.mark.parametrize("shown_by", [None, (1,)])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_posteriors_are_bayes_rule_over_all_states(n_classes: int, shown_by: tuple[int, ...] | None) -> None:
    """Sum over each type and each tuple of symbols what it makes of the features, one sample at a time."""
    mix = (0.1, 0.2, 0.3, 0.25, 0.15)
    mixture = Mixture(n_modalities=3, n_classes=n_classes, mix=mix, shows_type=Cue(size=1.0), shown_by=shown_by)
    n = 12
    data = mixture(n, 0)
    assert data.exact is not None
    signs = 2.0 * (2 * torch.eye(n_classes) - 1)
    codes = signs[:, 1:] if n_classes == 2 else signs
    begin = codes.shape[1]

    def likelihood(sample: int, modality: int, symbol: int, interaction: int) -> float:
        features = data.modalities[modality][sample]
        squares = float((features[:begin] - codes[symbol]).square().sum())
        if shown_by is None or modality in shown_by:
            squares += float((features[begin : begin + 5] - torch.eye(5)[interaction]).square().sum())
        return math.exp(-squares / (2 * 0.5**2))

    for sample in range(n):
        for seen in ([0], [1], [2], [0, 1, 2]):
            found = torch.zeros(n_classes, dtype=torch.float64)
            for interaction, symbols in product(range(5), product(range(n_classes), repeat=3)):
                if interaction == 4 and len(set(symbols)) > 1:
                    continue
                prior = mix[interaction] * (1 / n_classes if interaction == 4 else 1 / n_classes**3)
                answer = [*symbols, sum(symbols) % n_classes, symbols[0]][interaction]
                found[answer] += prior * math.prod(likelihood(sample, j, symbols[j], interaction) for j in seen)
            exact = data.exact.joint[sample] if len(seen) == 3 else data.exact.alone[sample, seen[0]]
            torch.testing.assert_close(exact, (found / found.sum()).float(), atol=1e-4, rtol=1e-3)


def test_posteriors_of_numbers_are_their_means() -> None:
    """The mean squared error of the best prediction is the variance within a slice."""
    data = drawn("regression")
    assert data.exact is not None
    error = (data.exact.joint.squeeze(1) - data.target).square().mean()
    assert float(error) == pytest.approx(1 / 16, rel=0.05)
    assert data.exact.prior.tolist() == pytest.approx([0.0], abs=1e-6)
    assert float((data.exact.shares.argmax(1) == data.interaction).float().mean()) > 0.99
