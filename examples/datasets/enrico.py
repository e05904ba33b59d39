"""ENRICO: which of 20 designs does the screen of a mobile app have, from its screenshot and its wireframe?

1,460 screens, of which two have corrupt wireframes and are left out. The split, 65 / 15 / 20, is one shuffle with the
seed that MultiBench uses. Images are read when they are asked for and scaled to 256 x 128, values in [0, 1].
Flips and blur change training batches only.

Source: Leiva et al., Enrico: a dataset for topic modeling of mobile UI designs, MobileHCI 2020.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from examples.datasets._files import reading, require_files
from examples.datasets._interface import Expected, Lazy, MultimodalData, Source, Split

__all__ = ["SOURCE", "augment", "load_enrico"]

_HEIGHT, _WIDTH = 256, 128
_FOLDERS = {"screenshot": ("screenshots", "jpg"), "wireframe": ("wireframes", "png")}
_CORRUPT = {"50105", "50109"}
_SHUFFLE_SEED = 42
_WHERE = "Get design_topics.csv, screenshots and wireframes from github.com/luileito/enrico."


def load_enrico(root: Path) -> MultimodalData:
    """Load the screens: screenshot (3, 256, 128), wireframe (3, 256, 128) and the design's class.

    Args:
        root: folder with `design_topics.csv`, `screenshots/<id>.jpg` and `wireframes/<id>.png`.

    Raises:
        FileNotFoundError: if files are missing; the message names every one of them.
        ValueError: if the table does not have the official form, or later if an image cannot be read.
    """
    table, *_ = require_files(root, ["design_topics.csv", *(folder for folder, _ in _FOLDERS.values())], _WHERE)
    with reading(table, "columns screen_id and topic", _WHERE), table.open(newline="") as file:
        topics = {row["screen_id"]: row["topic"] for row in csv.DictReader(file)}
    screens = [screen for screen in topics if screen not in _CORRUPT]
    names = [f"{folder}/{screen}.{ending}" for folder, ending in _FOLDERS.values() for screen in screens]
    paths = require_files(root, names, _WHERE)

    classes = sorted(set(topics.values()))
    labels = torch.tensor([classes.index(topics[screen]) for screen in screens])
    columns = [_images(paths[i * len(screens) : (i + 1) * len(screens)]) for i in range(len(_FOLDERS))]
    train, validation, test = (Split(columns, labels).select(rows) for rows in _split(len(screens)))
    return MultimodalData(
        train,
        validation,
        test,
        modality_names=tuple(_FOLDERS),
        output_names=tuple(classes),
        task="classification",
        metrics=("accuracy", "auroc", "macro_f1"),
        augment=augment,
    )


def augment(images: tuple[Tensor, ...], generator: Generator | None = None) -> tuple[Tensor, ...]:
    """Flip each screen left to right with probability 1/2 and blur it with probability 1/2, both images alike.

    NOTE[DIFF]: the published code flips and blurs the screenshots of every split; here only training batches change.

    Args:
        images: M tensors (B, 3, H, W).
        generator: source of the randomness; torch's default generator without.
    """
    n_images = len(images[0])
    flipped, blurred = torch.rand(2, n_images, generator=generator).to(images[0].device) < 0.5
    return tuple(_where(blurred, _blur(x), x) for x in (_where(flipped, image.flip(-1), image) for image in images))


def _where(chosen: Tensor, changed: Tensor, image: Tensor) -> Tensor:
    return torch.where(chosen[:, None, None, None], changed, image)


def _blur(images: Tensor) -> Tensor:
    """Blur (B, C, H, W) by the binomial kernel of width 5."""
    binomial = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=images.dtype, device=images.device) / 16
    kernel = torch.outer(binomial, binomial).expand(images.shape[1], 1, 5, 5)
    return F.conv2d(F.pad(images, (2, 2, 2, 2), mode="replicate"), kernel, groups=images.shape[1])


def _images(paths: Sequence[Path]) -> Lazy:
    return Lazy(lambda i: _read_image(paths[i]), (3, _HEIGHT, _WIDTH), torch.arange(len(paths)))


def _read_image(path: Path) -> Tensor:
    import numpy as np
    from PIL import Image

    with reading(path, "an image", _WHERE), Image.open(path) as image:
        pixels = np.array(image.convert("RGB").resize((_WIDTH, _HEIGHT), Image.Resampling.BILINEAR))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def _split(n_screens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Shuffle with Python's generator and the fixed seed, and cut at 65% and 80%."""
    order = list(range(n_screens))
    random.Random(_SHUFFLE_SEED).shuffle(order)
    first, second = int(0.65 * n_screens), int(0.80 * n_screens)
    return torch.tensor(order[:first]), torch.tensor(order[first:second]), torch.tensor(order[second:])


SOURCE = Source(
    load=lambda root, split: load_enrico(root),
    where=_WHERE,
    expected=Expected(1_458, (947, 219, 292), ((3, _HEIGHT, _WIDTH), (3, _HEIGHT, _WIDTH)), 20),
    root=Path("data/enrico"),
)
