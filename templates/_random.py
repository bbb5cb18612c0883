"""Weights and inputs that are the same on every machine, torch version and device.

Each value is a hash of a name, a seed and an index, so it depends on no random number generator.
"""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy
import torch


def hashes(name: str, seed: int, start: int, count: int) -> numpy.ndarray:
    """`count` 64-bit hashes of (name, seed, index) from index `start`: SplitMix64."""
    state = numpy.arange(start + 1, start + count + 1, dtype=numpy.uint64)
    state = state * numpy.uint64(0x9E3779B97F4A7C15) + numpy.uint64(
        zlib.crc32(f"{name}/{seed}".encode()) << 32
    )
    state = (state ^ (state >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    hashed: numpy.ndarray = state ^ (state >> numpy.uint64(31))
    return hashed


def normals(name: str, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """About normal values (mean 0, std 1, none beyond 3.5), fp32, of `shape`.

    Each is the sum of four 16-bit uniforms, exact in floating point, so equal on every machine.
    """
    count, block = math.prod(shape), 1 << 22  # blocks bound the memory that large tensors take
    parts = [torch.empty(0)]
    for start in range(0, count, block):
        bits = hashes(name, seed, start, min(block, count - start))
        total = sum(bits.view("u2").reshape(-1, 4).T.astype("f8"))
        parts.append(torch.from_numpy(((total - 131070) / 65536 * math.sqrt(3)).astype("f4")))
    return torch.cat(parts).reshape(shape)


def token_ids(
    name: str, shape: tuple[int, ...], low: int, high: int, seed: int = 0
) -> torch.Tensor:
    """Token ids in [low, high), int64; special ids lie below `low`."""
    bits = hashes(name, seed, 0, math.prod(shape))
    return torch.from_numpy((bits % numpy.uint64(high - low)).astype("i8") + low).reshape(shape)


def numbers(values: Sequence[Any]) -> torch.Tensor:
    """These numbers: int64, or fp32 where one has a decimal point."""
    return torch.tensor(values)


def ragged_mask(lengths: tuple[int, ...], width: int) -> torch.Tensor:
    """Attention mask, int64 (rows, width): row r attends to its first `lengths[r]` positions."""
    return (torch.arange(width) < torch.tensor(lengths)[:, None]).long()


def observed_mask(lengths: tuple[int, ...], width: int) -> torch.Tensor:
    """Mask of observed values, fp32 (rows, width): row r has its first `lengths[r]` values."""
    return ragged_mask(lengths, width).float()


def ragged_pixels(sizes: Sequence[Any]) -> torch.Tensor:
    """Pixel mask, int64 (…, height, width): each image has its (height, width) in the corner."""
    heights, widths = torch.tensor(sizes).unbind(-1)
    rows = torch.arange(int(heights.max())) < heights[..., None]
    columns = torch.arange(int(widths.max())) < widths[..., None]
    return (rows[..., None] & columns[..., None, :]).long()


def boolean(mask: torch.Tensor) -> torch.Tensor:
    """`mask` as booleans, for models that invert it bit by bit."""
    return mask.bool()


def patch_positions(grids: tuple[tuple[int, int], ...]) -> torch.Tensor:
    """Column and row of each patch of an image, int64 (images, patches, 2).

    An image has a grid of (rows, columns) patches; -1 follows where others have more.
    """
    positions = torch.full((len(grids), max(map(math.prod, grids)), 2), -1)
    for image, (height, width) in zip(positions, grids, strict=True):
        image[: height * width, 0] = torch.arange(width).repeat(height)
        image[: height * width, 1] = torch.arange(height).repeat_interleave(width)
    return positions


def shifted_pairs(
    name: str, shape: tuple[int, int, int, int], shift: int, seed: int = 0
) -> torch.Tensor:
    """Images of `shape` (rows, channels, height, width), each with a second that shows it moved.

    (rows, 2, channels, height, width): down and to the right by `shift`; what leaves comes back on
    the other side.
    """
    images = normals(name, shape, seed)
    return torch.stack([images, images.roll((shift, shift), (-2, -1))], 1)


def ended(ids: torch.Tensor, token: int, lengths: tuple[int, ...]) -> torch.Tensor:
    """`ids` with the end `token` as the last of each row's `lengths` tokens."""
    ids[torch.arange(len(lengths)), torch.tensor(lengths) - 1] = token
    return ids


def zeros(shape: tuple[int, ...]) -> torch.Tensor:
    """Integer zeros."""
    return torch.zeros(shape, dtype=torch.int64)


def with_placeholders(
    ids: torch.Tensor, token: int, count: int | tuple[int, ...], starts: tuple[int, ...] = (1,)
) -> torch.Tensor:
    """`ids` with `count` placeholders for features of an image or a frame from each of `starts`.

    A count for each row, or one for all.
    """
    counts = (count,) * len(ids) if isinstance(count, int) else count
    for row, number in zip(ids, counts, strict=True):
        for start in starts:
            row[start : start + number] = token
    return ids


def ragged_tiles(tokens: int, tiles: tuple[int, ...], most: int) -> torch.Tensor:
    """Cross-attention mask, int64 (rows, tokens, 1, most): each token sees a row's first tiles."""
    return ragged_mask(tiles, most)[:, None, None].repeat(1, tokens, 1, 1)


def boxes(name: str, shape: tuple[int, int], size: float, seed: int = 0) -> torch.Tensor:
    """Boxes on a page of `size` by their corners (left, top, right, bottom), `shape` + (4,).

    They are fp32 where the size is a fraction (binary ones, so exact), else int64.
    """
    corners = token_ids(name, (*shape, 2, 2), 0, 1024, seed).sort(-2).values.flatten(-2) * size
    return corners / 1024 if isinstance(size, float) else corners // 1024


def placed_patches(
    name: str, grids: tuple[tuple[int, int], ...], values: int, seed: int = 0
) -> torch.Tensor:
    """Flat patches, fp32 (rows, patches, 2 + values): each begins with its row and column from 1.

    An image has a grid of (rows, columns) patches; zeros follow where others have more.
    """
    patches = normals(name, (len(grids), max(map(math.prod, grids)), 2 + values), seed)
    for image, (height, width) in zip(patches, grids, strict=True):
        image[: height * width, 0] = torch.arange(1, height + 1).repeat_interleave(width)
        image[: height * width, 1] = torch.arange(1, width + 1).repeat(height)
        image[height * width :] = 0
    return patches


def pooled_patches(grids: tuple[tuple[int, int], ...], window: int) -> torch.Tensor:
    """Indices of the patches that each token pools, int64 (tokens, window ** 2), -1 past an edge.

    Windows are square; each of `grids` has (rows, columns) of patches, which count on.
    """
    tokens, start = [], 0
    for height, width in grids:
        patches = torch.arange(start, start + height * width).reshape(height, width)
        edges = (0, -width % window, 0, -height % window)
        padded = torch.nn.functional.pad(patches, edges, value=-1)
        tokens.append(padded.unfold(0, window, window).unfold(1, window, window))
        start += height * width
    return torch.cat([each.reshape(-1, window**2) for each in tokens])


def set_weights(model: torch.nn.Module, seed: int) -> None:
    """Give each parameter and each constant saved buffer a value that follows from its name.

    They are larger than the usual initialisation (std 0.25, less where the fan-in is large), biases
    and norms too: at the usual one many a fault in the code would not show in the output. What
    starts as a constant (norms at 1, biases at 0) varies around it.
    """
    saved = model.state_dict().keys()
    buffers = [(name, buffer) for name, buffer in model.named_buffers() if name in saved]
    for name, tensor in [*model.named_parameters(), *buffers]:
        if not tensor.is_floating_point() or not tensor.numel() or name.endswith("probs"):
            continue  # a probability below 1 would have the model draw random numbers
        first = tensor.flatten()[0]
        constant = bool((tensor == first).all())
        if constant or tensor.requires_grad:  # else a fixed table, such as sinusoidal positions
            fan_in = tensor[0].numel() if tensor.ndim > 1 else 1
            noise = normals(name, tuple(tensor.shape), seed) * min(0.25, fan_in**-0.5)
            is_gain = name.endswith(("weight.original0", "weight_g"))  # of a weight norm
            tensor.data.copy_(noise + (1.0 if is_gain else first.item() if constant else 0.0))


def settle(model: torch.nn.Module, run: Callable[[Any], object]) -> None:
    """Scale the statistics of the batch norms of `model` to what they read in `run(a copy of it)`.

    With those of another size the signal of a deep CNN fades beside its biases, and no input would
    matter. They are not measured channel by channel, as training does: over the few pixels of a
    tiny batch what varies little would be enlarged in each layer, and its rounding with it.
    """

    def has_statistics(module: torch.nn.Module) -> bool:  # frozen norms are of classes of their own
        return getattr(module, "running_mean", None) is not None

    def scale(module: Any, read: tuple[torch.Tensor, ...]) -> None:
        hooks.pop(module).remove()  # what it reads first counts
        size = read[0].square().mean()
        module.running_mean.mul_(size.sqrt())
        module.running_var.mul_(size)

    if any(map(has_statistics, model.modules())):
        probe = copy.deepcopy(model)
        norms = filter(has_statistics, probe.modules())
        hooks = {module: module.register_forward_pre_hook(scale) for module in norms}
        with torch.no_grad():
            run(probe)
        found = {n: v for n, v in probe.state_dict().items() if ".running_" in n}
        model.load_state_dict(found, strict=False)
