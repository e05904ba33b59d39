"""A Hugging Face classifier with its encoders inside, before and after: `python -m examples.guides.hf_classifier`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BatchEncoding, BertConfig, BertModel, ViTConfig, ViTModel

from i2moe import InteractionMoE, InteractionSupervision, calibrate, explain

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
INPUTS = {"text": ("input_ids", "attention_mask"), "image": "pixel_values"}


class Classifier(nn.Module):
    """Before: a BERT, a ViT and a linear layer. Small and random here; yours come from `from_pretrained`."""

    def __init__(self) -> None:
        super().__init__()
        self.text = BertModel(BertConfig(vocab_size=50, max_position_embeddings=16, **SIZES))
        self.image = ViTModel(ViTConfig(image_size=8, patch_size=4, num_channels=1, **SIZES))
        self.head = nn.Linear(64, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor) -> Tensor:
        """Return logits (B, 2)."""
        read, seen = self.text(input_ids, attention_mask=attention_mask), self.image(pixel_values)
        logits: Tensor = self.head(torch.cat([read.pooler_output, seen.pooler_output], dim=-1))
        return logits


def draw(n_samples: int, seed: int) -> tuple[BatchEncoding, Tensor]:
    """Draw texts and images. Half of the texts hold a word that tells the class; else the image is bright or dark."""
    torch.manual_seed(seed)
    y, by_text = torch.randint(2, (2, n_samples))
    ids = torch.randint(10, 50, (n_samples, 12))
    ids[:, 1] = torch.where(by_text == 1, 2 + y, 4)
    mask = (torch.arange(12) < torch.randint(4, 13, (n_samples, 1))).long()
    pixels = torch.randn(n_samples, 1, 8, 8) + ((2 * y - 1) * (1 - by_text)).view(-1, 1, 1, 1)
    return BatchEncoding({"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}), y


def train(model: nn.Module, loss_of: Any, n_steps: int = 80) -> None:
    """Train as ever."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for batch, y in (draw(64, seed) for seed in range(n_steps)):
        loss_of(model(**batch), y).backward()
        optimizer.step()
        optimizer.zero_grad()


if __name__ == "__main__":
    train(before := Classifier(), F.cross_entropy)
    after = InteractionMoE(Classifier, 2, modality_names=INPUTS, reweighter="computed", members=1)
    train(after, InteractionSupervision(F.cross_entropy))
    calibrate(after, [draw(300, seed=2_000)])
    print(explain(after, [draw(500, seed=1_000)]).summary())
