"""CMU-MOSI: how positive is what somebody says in a video clip, from text, vision and audio?

2,199 clips of 50 steps each: word vectors, facial features and acoustic features, aligned by word. The target is a
sentiment in [-3, 3]. The split is the official one. Clips whose text is all zero are dropped, as everybody does.

The file is a pickle. It is read by an unpickler that knows numpy arrays and nothing else, so that no code in it runs.

Source: Zadeh et al., MOSI: Multimodal Corpus of Sentiment Intensity, arXiv 1606.06259; features of MultiBench (Liang et
al., NeurIPS 2021).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from examples.datasets._files import load_pickle, reading, require_files
from examples.datasets._interface import Expected, MultimodalData, Source, Split

__all__ = ["SOURCE", "load_mosi"]

_MODALITIES = {"text": (50, 300), "vision": (50, 20), "audio": (50, 5)}
_FILE = "mosi_data.pkl"
_WHERE = (
    "Get mosi_data.pkl from the MultiBench project (github.com/pliang279/MultiBench, affect data); "
    "CMU-MOSI itself comes from the CMU MultiComp Lab."
)


def load_mosi(root: Path) -> MultimodalData:
    """Load the clips: text (50, 300), vision (50, 20), audio (50, 5) and the sentiment (1,).

    Args:
        root: folder with `mosi_data.pkl`.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if it does not have the official form.
    """
    (path,) = require_files(root, [_FILE], _WHERE)
    form = "a dict train/valid/test of dicts " + ", ".join(f"{n} (n, {t}, {d})" for n, (t, d) in _MODALITIES.items())
    with reading(path, f"{form}, labels (n, 1, 1)", _WHERE), path.open("rb") as file:
        content = load_pickle(file)
        train, validation, test = (_as_split(content[name]) for name in ("train", "valid", "test"))
    return MultimodalData(
        train,
        validation,
        test,
        modality_names=tuple(_MODALITIES),
        output_names=("sentiment",),
        task="regression",
        metrics=("loss", "sign_accuracy", "mae", "correlation"),
    )


def _as_split(clips: dict[str, Any]) -> Split:
    n_clips = len(clips["labels"])
    modalities = {name: _as_tensor(clips[name], (n_clips, *shape)) for name, shape in _MODALITIES.items()}
    labels = _as_tensor(clips["labels"], (n_clips, 1, 1)).squeeze(-1)
    spoken = modalities["text"].ne(0).flatten(1).any(1)  # (N,)
    return Split([x[spoken] for x in modalities.values()], labels[spoken])


def _as_tensor(array: Any, shape: tuple[int, ...]) -> Tensor:
    """Return a float32 tensor; some acoustic features are NaN or infinite in the file and become 0."""
    if array.shape != shape:
        raise ValueError(f"an array of shape {array.shape} was found in place of {shape}")
    return torch.from_numpy(np.nan_to_num(array.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0))


SOURCE = Source(
    load=lambda root, split: load_mosi(root),
    where=_WHERE,
    expected=Expected(2199, None, tuple(_MODALITIES.values()), 1),
    root=Path("data/mosi"),
)
