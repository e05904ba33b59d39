"""Save, share and load with the mixin of huggingface_hub: `python -m examples.guides.hub_model`.

What builds the model must fit into a JSON file: give sizes to your class, and let it make the factory.
"""

from __future__ import annotations

import torch
from huggingface_hub import PyTorchModelHubMixin

from examples.guides.task import Fusion, load, loss_of
from i2moe import InteractionMoE


class HubModel(
    InteractionMoE,
    PyTorchModelHubMixin,
    library_name="i2moe",
    tags=["multimodal", "mixture-of-experts"],
    license="mit",
):
    """Interaction experts that are built from sizes and names alone.

    Args:
        feature_dims: the modalities' widths; without them, layers that wait for their size could not be loaded.
        n_outputs: number of classes.
        modality_names: names of the modalities.
    """

    def __init__(self, feature_dims: list[int], n_outputs: int, modality_names: list[str]) -> None:
        super().__init__(
            lambda: Fusion(feature_dims, n_outputs),
            len(feature_dims),
            modality_names=modality_names,
            feature_dims=feature_dims,
        )


if __name__ == "__main__":
    torch.manual_seed(0)
    model = HubModel([16, 16], 2, modality_names=["a", "b"])
    a, b, y = load(500, seed=0)[:]
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(5):
        optimizer.zero_grad()
        loss_of(model(a, b), y).backward()
        optimizer.step()

    model.save_pretrained("outputs/hub")  # config.json, model.safetensors and a model card
    again = HubModel.from_pretrained("outputs/hub")  # or "user/name" from the Hub, after model.push_to_hub("user/name")
    print("the same predictions:", torch.equal(model.eval()(a, b).prediction, again(a, b).prediction))
    print("experts:", *again.expert_names)
