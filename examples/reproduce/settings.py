"""Settings of a run, and their presets for each data set and fusion (presets.toml)."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from examples.common.recipe import TEACHERS

__all__ = ["Settings", "preset", "smoke"]


@dataclass(frozen=True)
class Settings:
    """The settings of a run; each data set and fusion has its own presets.

    Args:
        hidden_dim: width D of the embeddings and of the fusion.
        n_tokens: tokens (patches) of each modality.
        n_layers: layers of the fusion.
        n_heads: heads of each attention.
        dropout: dropout of the fusion and of MLP encoders.
        encoder_dim: width of what a deep encoder returns before it is cut into patches.
        encoder_layers: layers of the encoders that can be deeper.
        normalize: layer normalization after each encoder, which gives embeddings the scale of the noise.
        n_experts: routed experts of a layer (switchgate, moepp).
        n_active: routed experts a token (moepp).
        routing: whether the tokens of a batch or of a sample compete for routed experts (switchgate, moepp).
        tau: temperature of the gates (interpretcc).
        threshold: where a gate opens (interpretcc).
        rank: rank of the weight tensor (lrtf).
        interaction_weight: factor lambda of the interaction loss.
        gate_weight: factor of the fusion's own loss.
        experts_weight: factor of the experts' own task losses.
        computed: compute the weights from the model's own predictions; the loss is then that of the experts and of
            each modality alone, in place of all others but the fusion's own. Of more than two modalities some are
            dropped in training.
        teachers: models of the same kind that are trained first, and whose predictions the model learns; 0 for
            none. With less patience than the model.
        members: members of each expert, all experts sharing the weights of one fusion (and, with `own_encoders`, of one
            set of encoders); 0 for experts apart. The fusion must route tokens by sample.
        average: test a moving average of the parameters.
        temperature: of the reweighter.
        reweighter_dim: width of the reweighter.
        reweighter_layers: hidden layers of the reweighter.
        reweighter_dropout: dropout of the reweighter.
        global_weight: one learned weight an expert instead of one a sample.
        perturbation: what replaces a modality.
        per_step: modalities replaced a step; None for all.
        fraction: share of a batch that gets perturbed views.
        compare: what the interaction losses compare.
        released_losses: the released code's losses for regression.
        fill: what fills a missing modality where there are experts; a fusion alone sees the data set's zeros.
        experts: which experts there are; "uniqueness" means those of all modalities.
        same_start: let all experts start as copies of one.
        own_encoders: let each expert (or member of an ensemble) encode for itself; what is replaced is then the input.
        lr: learning rate of Adam.
        weight_decay: of AdamW.
        clip_norm: largest norm of the gradient.
        batch_size: samples a step, over all processes.
        epochs: most epochs.
        patience: epochs without a better validation score before training stops; None for no early stop.
        criterion: loss of a regression.
        class_weights: weights of the classes in the loss.
        complete: leave out samples that lack a modality.
    """

    hidden_dim: int = 128
    n_tokens: int = 1
    n_layers: int = 2
    n_heads: int = 4
    dropout: float = 0.1
    encoder_dim: int = 256
    encoder_layers: int = 1
    normalize: bool = False
    n_experts: int = 8
    n_active: int = 2
    routing: Literal["batch", "sample"] = "batch"
    tau: float = 1.0
    threshold: float = 0.5
    rank: int = 8

    interaction_weight: float = 0.1
    gate_weight: float = 0.01
    experts_weight: float = 0.0
    computed: bool = False
    teachers: int = TEACHERS
    members: int = 0
    average: bool = False
    temperature: float = 1.0
    reweighter_dim: int = 256
    reweighter_layers: int = 2
    reweighter_dropout: float = 0.5
    global_weight: bool = False
    perturbation: Literal["gaussian", "zero", "mean", "shuffle", "none"] = "gaussian"
    per_step: int | None = None
    fraction: float = 1.0
    compare: Literal["prediction", "latent"] = "prediction"
    released_losses: bool = False
    fill: Literal["learned", "mean", "zero", "shuffle"] = "learned"
    experts: tuple[str, ...] = ()
    same_start: bool = False
    own_encoders: bool = False

    lr: float = 1e-4
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    batch_size: int = 32
    epochs: int = 20
    patience: int | None = None
    criterion: Literal["smooth_l1", "mse"] = "smooth_l1"
    class_weights: tuple[float, ...] = ()
    complete: bool = False

    def __post_init__(self) -> None:
        for name in ("lr", "batch_size", "epochs", "hidden_dim", "n_tokens", "n_layers", "n_heads", "temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, however it is {getattr(self, name)}")
        if self.teachers < 0:
            raise ValueError(f"teachers must be at least 0, however it is {self.teachers}")


def preset(dataset: str, fusion: str) -> Settings:
    """Return the settings of a data set and a fusion, those of the paper where it has them.

    Example:
        >>> preset("mimic", "transformer").interaction_weight, preset("mimic", "transformer").class_weights
        (0.01, (0.25, 0.75))
    """
    dataset = dataset.partition("/")[0]
    table = _table()
    chosen: dict[str, Any] = {}
    if dataset in table["columns"]:
        column = table["columns"].index(dataset)
        chosen |= {name: values[column] for name, values in table["paper"].get(fusion, {}).items()}
    if dataset in table["laptop"]["datasets"]:
        chosen |= {name: value for name, value in table["laptop"].items() if name != "datasets"}
    own = table["dataset"].get(dataset, {})
    chosen |= {name: value for name, value in own.items() if not isinstance(value, dict)}
    chosen |= own.get(fusion, {})
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in chosen.items()
    }
    return Settings(**values)


def smoke(settings: Settings) -> Settings:
    """Return settings that run in seconds, to see that everything works."""
    small = {"hidden_dim": 16, "encoder_dim": 64, "n_tokens": 2, "n_layers": 1, "encoder_layers": 1, "n_experts": 4}
    limits = small | {"batch_size": 16, "reweighter_dim": 16, "reweighter_layers": 1, "epochs": 2, "teachers": 1}
    return replace(settings, **{name: min(limit, getattr(settings, name)) for name, limit in limits.items()})


@cache
def _table() -> dict[str, Any]:
    table = tomllib.loads(Path(__file__).with_name("presets.toml").read_text())
    known = {field.name for field in fields(Settings)}
    named = {name for rows in table["paper"].values() for name in rows}
    assert named <= known, f"presets.toml has {named - known}"
    return table
