"""Save, share and load with the mixin of huggingface_hub: `python -m examples.guides.hub_model`.

What builds the model must fit into a JSON file: give sizes to your class, and let it make the factory.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin

from examples.guides.task import Fusion, load
from i2moe import ComputedReweighter, InteractionMoE, InteractionSupervision


class HubModel(
    InteractionMoE,
    PyTorchModelHubMixin,
    library_name="i2moe",
    tags=["multimodal", "mixture-of-experts"],
    license="mit",
):
    """Interaction experts that are built from sizes and names alone.

    Args:
        feature_dims: the modalities' widths.
        n_outputs: number of classes.
        modality_names: names of the modalities.
    """

    def __init__(self, feature_dims: list[int], n_outputs: int, modality_names: list[str]) -> None:
        super().__init__(
            lambda: Fusion(feature_dims, n_outputs),
            len(feature_dims),
            modality_names=modality_names,
            reweighter=ComputedReweighter(n_outputs=n_outputs),
            members=4,
        )


if __name__ == "__main__":
    torch.manual_seed(0)
    model = HubModel([16, 16], 2, modality_names=["a", "b"])
    a, b, y = load(500, seed=0)[:]
    supervise = InteractionSupervision(F.cross_entropy)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(5):
        optimizer.zero_grad()
        supervise(model(a, b), y).backward()
        optimizer.step()

    model.save_pretrained("outputs/hub")  # config.json, model.safetensors and a model card
    again = HubModel.from_pretrained("outputs/hub")  # or "user/name" from the Hub, after model.push_to_hub("user/name")
    print("the same predictions:", torch.equal(model.eval()(a, b).prediction, again(a, b).prediction))
    print("experts:", *again.expert_names)
