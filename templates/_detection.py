"""One object in each image, and the query of a detector that matches it best."""

from __future__ import annotations

from typing import Any

import torch

from templates._compare import Tensors
from templates._subject import Subject

CLASSES = (2, 4)  # of the object in each image
BOXES = ((0.5, 0.4, 0.3, 0.2), (0.3, 0.6, 0.4, 0.5))  # its centre x, centre y, width and height


def detect(subject: Subject) -> Tensors:
    """What the model gives where it learns to find these objects."""
    labels = [
        {
            "class_labels": torch.tensor([kind], device=subject.device),
            "boxes": torch.tensor([box], device=subject.device),
        }
        for kind, box in zip(CLASSES, BOXES, strict=True)
    ]
    return subject.run(subject.model, subject.inputs, labels=labels)


def overlap(box: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Intersection over union of one box with each of `boxes` (n, 4), plain and generalised.

    Boxes are (centre x, centre y, width, height). Rezatofighi et al., CVPR 2019.
    """
    low, high = box[:2] - box[2:] / 2, box[:2] + box[2:] / 2
    lows, highs = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    common = (torch.minimum(high, highs) - torch.maximum(low, lows)).clamp(min=0).prod(-1)
    hull = (torch.maximum(high, highs) - torch.minimum(low, lows)).prod(-1)
    union = box[2:].prod() + boxes[:, 2:].prod(-1) - common
    return common / union, common / union - (hull - union) / hull


def matched(
    boxes: torch.Tensor, costs: torch.Tensor, weights: tuple[Any, Any, Any]
) -> tuple[list[int], torch.Tensor, torch.Tensor, torch.Tensor]:
    """The query of each image with the least cost, its distance, and both overlaps, each (2,).

    `costs` (images, queries, classes) are those of the classes, `weights` of class, box, overlap.
    """
    queries, measures = [], []
    for row, box in enumerate(torch.tensor(BOXES, dtype=torch.float64)):
        far, (plain, general) = (boxes[row] - box).abs().sum(-1), overlap(box, boxes[row])
        cost = weights[0] * costs[row, :, CLASSES[row]] + weights[1] * far - weights[2] * general
        best = int(cost.argmin())
        queries.append(best)
        measures.append(torch.stack([far[best], plain[best], general[best]]))
    return queries, *torch.stack(measures).T


def focal_cost(logits: torch.Tensor) -> torch.Tensor:
    """What it costs to give each query each class, by the focal loss."""
    chance = logits.sigmoid()
    hit = -0.25 * (1 - chance) ** 2 * (chance + 1e-8).log()
    return hit + 0.75 * chance**2 * (1 - chance + 1e-8).log()
