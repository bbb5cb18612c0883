"""Inputs of tiny models: for each architecture how they follow from a configuration.

An input is a table of the registry: a "kind", which is a function of `templates/_random.py`, and
its arguments. A size may be an expression of the configuration ("config.vision_config.width // 2").
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from generator.shrink import SPECIAL_IDS_END, VOCABULARY, Tree, special_ids_end
from templates import _random

LENGTHS, WIDTH = [12, 9], 12  # two rows of text of different lengths
TARGET = 7  # decoder tokens of encoder-decoder models; differs from every other size
CLIP = 2  # of a video beside an image
SAMPLES = [3200, 2400]  # two rows of audio
FRAMES = [96, 70]  # two rows of spectra


@dataclass
class Candidate:
    """A family while it is discovered."""

    family: str
    architecture: str
    head: str
    model_class: Any
    tree: Tree
    config: Any
    given: dict[str, Tree] = field(default_factory=dict)  # inputs by hand
    dropped: set[str] = field(default_factory=set)  # those that are left out by hand
    inputs: dict[str, Tree] = field(default_factory=dict)
    parts: dict[str, Tree] = field(default_factory=dict)

    @property
    def parameters(self) -> set[str]:
        """The parameter names of the model's forward."""
        return set(inspect.signature(self.model_class.forward).parameters)


def tokens(candidate: Candidate, width: int | str = WIDTH) -> Tree:
    """Token ids that are no special tokens."""
    text = candidate.config.get_text_config(decoder=True)
    low = special_ids_end(candidate.tree)
    size = getattr(text, "vocab_size", reach(candidate.config, "vocab_size") or VOCABULARY)
    return {"kind": "token_ids", "shape": [2, width], "low": low, "high": size}


def mask(lengths: list[int]) -> Tree:
    """A right-padded attention mask."""
    return {"kind": "ragged_mask", "lengths": lengths, "width": max(lengths)}


def values(*shape: int | str) -> Tree:
    """Floating point values; a size may be an expression of the configuration."""
    return {"kind": "normals", "shape": list(shape)}


def text_inputs(candidate: Candidate) -> dict[str, Tree]:
    """Token ids, mask and, where the model tells segments apart, token types."""
    inputs = {"input_ids": tokens(candidate)}
    if "attention_mask" in candidate.parameters:
        inputs["attention_mask"] = mask(LENGTHS)
    if (
        "token_type_ids" in candidate.parameters
        and getattr(candidate.config, "type_vocab_size", 0) > 1
    ):
        types = candidate.config.type_vocab_size
        inputs["token_type_ids"] = {
            "kind": "token_ids",
            "shape": [2, WIDTH],
            "low": 0,
            "high": types,
        }
    return inputs


def seq2seq_inputs(candidate: Candidate) -> dict[str, Tree]:
    """What the encoder and the decoder read."""
    return text_inputs(candidate) | {"decoder_input_ids": tokens(candidate, TARGET)}


def protein_inputs(candidate: Candidate) -> dict[str, Tree]:
    """A text, and a protein of which each residue with its structure is a token."""
    lengths, protein = [15, 11], candidate.config.protein_encoder_config
    ids = {"low": SPECIAL_IDS_END, "high": protein.vocab_size, "shape": [2, max(lengths)]}
    return text_inputs(candidate) | {
        "protein_input_ids": {"kind": "token_ids"} | ids,
        "protein_attention_mask": mask(lengths),
    }


def decision_inputs(candidate: Candidate) -> dict[str, Tree]:
    """One prompt with three questions, of yes or no, of four choices and of a score up to three."""
    return {
        "input_ids": tokens(candidate) | {"shape": [1, 24]},
        "marks": {"kind": "numbers", "values": [[9, 17, 24]]},
        "num_options": {"kind": "numbers", "values": [[2, 4, 3]]},
        "question_type_ids": {"kind": "numbers", "values": [[0, 1, 2]]},
    }


def folding_inputs(candidate: Candidate) -> dict[str, Tree]:
    """Two complexes of nine and seven tokens of three atoms each, and proteins aligned to them.

    The first has two chains of residues and a ligand of two tokens; the second has one chain.
    """
    chains, width, depth, each = [4, 3, 2], 9, 3, 3
    atoms = [token for token in range(width) for _ in range(each)]
    lengths = [width, width - 2]
    aligned = {"kind": "ragged_pixels", "sizes": [[depth, length] for length in lengths]}

    def by_chain(names: list[int]) -> list[int]:
        return [name for name, length in zip(names, chains, strict=True) for _ in range(length)]

    def numbers(first: list[int], second: list[int]) -> Tree:
        return {"kind": "numbers", "values": [first, second]}

    def ids(low: int, high: int | str, *shape: int) -> Tree:
        return {"kind": "token_ids", "shape": [2, *shape], "low": low, "high": high}

    def boolean(of: Tree) -> Tree:
        return {"kind": "boolean", "of": of}

    one = [0] * width
    positions = [*range(width)]
    residues = [*range(chains[0]), *range(chains[1]), *[0] * chains[2]]
    counted = len(atoms)
    return {
        "token_index": numbers(positions, positions),
        "residue_index": numbers(residues, positions),
        "asym_id": numbers(by_chain([0, 1, 2]), one),
        "sym_id": numbers(by_chain([0, 1, 0]), one),
        "entity_id": numbers(by_chain([1, 1, 2]), [1] * width),
        "mol_type": numbers(by_chain([0, 0, 3]), one),
        "res_type": ids(2, 23, width),
        "input_ids": ids(SPECIAL_IDS_END, 24, width),
        "token_bonds": values(2, width, width, 1),
        "attention_mask": boolean(mask(lengths)),
        "ref_pos": values(2, counted, 3),
        "ref_charge": ids(0, 3, counted),
        "ref_element": ids(6, 9, counted),
        "ref_atom_name_chars": ids(1, "config.char_vocab_size", counted, 4),
        "ref_space_uid": numbers(atoms, atoms),
        "atom_attention_mask": boolean(mask([each * length for length in lengths])),
        "atom_to_token": numbers(atoms, atoms),
        "deletion_mean": values(2, width),
        "msa": ids(2, 23, depth, width),
        "msa_attention_mask": boolean(aligned),
        "has_deletion": boolean(ids(0, 2, depth, width)),
        "deletion_value": values(2, depth, width),
    }


def document_inputs(candidate: Candidate) -> dict[str, Tree]:
    """For each row documents with the question before them, how well each suits, and an answer."""
    lengths = [11, 9, 10, 8, 6, 7]  # three documents a row
    shape = {"shape": ["2 * config.n_docs", max(lengths)]}
    return {
        "context_input_ids": tokens(candidate) | shape,
        "context_attention_mask": mask(lengths),
        "doc_scores": values(2, "config.n_docs"),
        "decoder_input_ids": tokens(candidate, TARGET),
    }


def vision_inputs(candidate: Candidate) -> dict[str, Tree]:
    """Square images of the configured size."""
    return {"pixel_values": values(2, *image(candidate))}


def image(candidate: Candidate) -> list[int | str]:
    """Channels, height and width of an image: expressions of the configuration, or 64 pixels."""
    channels, size = reach(candidate.config, "num_channels"), reach(candidate.config, "image_size")
    return [concrete(channels, candidate.config) or 3, size or 64, size or 64]


def reach(config: Any, name: str, path: str = "config") -> str | None:
    """The expression that gives the integer `name` of a configuration or of one of its parts."""
    if type(getattr(config, name, None)) is int:
        return f"{path}.{name}"
    for part in getattr(config, "sub_configs", {}):
        if found := reach(getattr(config, part), name, f"{path}.{part}"):
            return found
    return None


def pyramid_inputs(candidate: Candidate) -> dict[str, Tree]:
    """Images that are not square, for models that take any size: swapped axes show."""
    inputs = {"pixel_values": values(2, 3, 96, 64)}
    if "pixel_mask" in candidate.parameters:
        inputs["pixel_mask"] = {"kind": "ragged_pixels", "sizes": [[96, 64], [64, 32]]}
    return inputs


def page_inputs(candidate: Candidate) -> dict[str, Tree]:
    """Lines of text or tables: images wider than high, but where the size is configured."""
    size = reach(candidate.config, "image_size")
    return {"pixel_values": values(2, 3, size or 48, size or 96)}


def prompted_inputs(candidate: Candidate) -> dict[str, Tree]:
    """Square images and, for each, points, boxes and a rough mask of two objects.

    The object with one point has a second that is padding (-1).
    """
    points = [[[[9.0, 20.0], [30.0, 12.0]], [[5.0, 6.0], [50.0, 41.0]]]]
    points += [[[[40.0, 33.0], [17.0, 51.0]], [[22.0, 8.0], [11.0, 27.0]]]]
    labels = [[[1, 0], [1, -1]], [[1, 1], [0, 1]]]
    prompt = "config.prompt_encoder_config"
    side = f"4 * {prompt}.image_size // {prompt}.patch_size"
    return {
        "pixel_values": values(2, *image(candidate)),
        "input_points": {"kind": "numbers", "values": points},
        "input_labels": {"kind": "numbers", "values": labels},
        "input_boxes": {"kind": "boxes", "shape": [2, 2], "size": 64.0},
        "input_masks": values(2, 1, side, side),
    }


def tracking_inputs(candidate: Candidate) -> dict[str, Tree]:
    """A short video, and on its second frame points, a box and a mask, each of an object."""
    size = image(candidate)[1]
    return {
        "pixel_values_videos": values(4, 3, size, size),
        "input_points": {"kind": "numbers", "values": [[[[9.0, 20.0], [30.0, 12.0]]]]},
        "input_labels": {"kind": "numbers", "values": [[[1, 0]]]},
        "input_boxes": {"kind": "boxes", "shape": [1, 1], "size": 64.0},
        "input_masks": {"kind": "token_ids", "shape": [1, 1, size, size], "low": 0, "high": 2},
        "frame_idx": {"kind": "numbers", "values": [1]},
    }


def pair_inputs(candidate: Candidate) -> dict[str, Tree]:
    """Images that are not square, each with a second that shows the same scene moved."""
    return {"pixel_values": {"kind": "shifted_pairs", "shape": [2, 3, 96, 64], "shift": 8}}


def video_inputs(candidate: Candidate) -> dict[str, Tree]:
    """Frames of square images."""
    return {"pixel_values": values(2, "config.num_frames", *image(candidate))}


def dual_inputs(candidate: Candidate) -> dict[str, Tree]:
    """Texts that end in the end token, at which such models pool, and images."""
    ids, end = tokens(candidate), reach(candidate.config, "eos_token_id")
    if end:
        ids = {"kind": "ended", "of": ids, "token": end, "lengths": LENGTHS}
    pixels = values(2, *image(candidate))
    return {"input_ids": ids, "attention_mask": mask(LENGTHS), "pixel_values": pixels}


def class_prompt_inputs(candidate: Candidate) -> dict[str, Tree]:
    """Images, for each a task and the names of two classes, which end in the end token."""
    end = reach(candidate.config, "eos_token_id")
    inputs = {"pixel_values": values(2, *image(candidate))}
    for name, lengths in (("classes", [5, 4, 3, 5]), ("tasks", [9, 7])):
        ids = tokens(candidate, max(lengths)) | {"shape": [len(lengths), max(lengths)]}
        ended = {"kind": "ended", "of": ids, "token": end, "lengths": lengths}
        inputs |= {f"{name}_input_ids": ended, f"{name}_attention_mask": mask(lengths)}
    return inputs | {"classes_structure": {"kind": "numbers", "values": [2, 2]}}


def vision_text_inputs(candidate: Candidate) -> dict[str, Tree]:
    """A text with an image beside it, or with placeholders for what the encoder sees of it."""
    if placeholder(candidate, "image"):
        return vision_language_inputs(candidate)
    inputs = text_inputs(candidate) | {"pixel_values": values(2, *image(candidate))}
    if "pixel_mask" in candidate.parameters:
        inputs["pixel_mask"] = {"kind": "ragged_pixels", "sizes": [[32, 32], [24, 16]]}
    return inputs


def vision_language_inputs(candidate: Candidate) -> dict[str, Tree]:
    """Images, videos where the model takes them, and a text with a placeholder for each feature.

    How many features they have is the model's answer. The placeholders of a video stand together or
    each frame's apart, as the model takes them.
    """
    model = candidate.model_class(candidate.config)
    of_video = {name: spec for name, spec in candidate.given.items() if "video" in name}
    of_image = {name: candidate.given[name] for name in candidate.given.keys() - of_video.keys()}
    seen = {"image": image_inputs(candidate) | of_image}
    if "pixel_values_videos" in candidate.parameters - candidate.dropped:
        seen["video"] = clip_inputs(candidate) | of_video
    sounds = ("input_features", "input_values", "audio")
    if any(name.startswith(sounds) for name in candidate.given):
        seen["audio"] = candidate.given
    counts = {kind: feature_count(candidate, model, kind, seen[kind]) for kind in seen}
    text: dict[str, Tree] = {"input_ids": tokens(candidate), "attention_mask": mask(LENGTHS)}
    if not counts["image"] or "input_ids" in candidate.given:
        # The image goes to cross-attention, or before the text; or the text is given.
        return text | {name: spec for kind in seen for name, spec in seen[kind].items()}
    for pieces in (1, CLIP):
        text = placeholders(candidate, counts, pieces)
        inputs = text | {name: spec for kind in seen for name, spec in seen[kind].items()}
        if "video" not in seen or runs(candidate, model, inputs):
            break
    return inputs


def image_inputs(candidate: Candidate) -> dict[str, Tree]:
    """One image a row: square, or as patches of a grid of each row's own."""
    if "image_grid_thw" not in candidate.parameters:
        return {"pixel_values": values(2, *image(candidate))}
    return {
        "pixel_values": values(2 * 32, patch(candidate)),
        "image_grid_thw": {"kind": "numbers", "values": [[1, 4, 8], [1, 2, 16]]},
    }


def clip_inputs(candidate: Candidate) -> dict[str, Tree]:
    """One short video a row, beside its image."""
    if "video_grid_thw" not in candidate.parameters:
        return {"pixel_values_videos": values(2, CLIP, *image(candidate))}
    return {
        "pixel_values_videos": values(2 * 16 * CLIP, patch(candidate)),
        "video_grid_thw": {"kind": "numbers", "values": [[CLIP, 4, 4], [CLIP, 2, 8]]},
    }


def patch(candidate: Candidate) -> str:
    """How many values a patch has: an expression of the configuration."""
    config = candidate.config
    sizes = [reach(config, "in_channels") or reach(config, "num_channels") or "3"]
    sizes += [each] if (each := reach(config, "temporal_patch_size")) else []
    return " * ".join([*sizes, f"{reach(config, 'patch_size')} ** 2"])


def feature_count(candidate: Candidate, model: Any, kind: str, seen: dict[str, Tree]) -> Any:
    """How many features the model makes of a row's image or video: a number or an expression.

    None where they do not take the place of placeholders in the text.
    """
    holders = (model.base_model, model, getattr(model, "vlm", None))
    found = (get for m in holders if (get := getattr(m, f"get_{kind}_features", None)))
    get = next(found, None)
    if get is None or placeholder(candidate, kind) is None:
        return None
    if fixed := reach(candidate.config, f"{kind}_soft_tokens_per_image"):  # padded to as many
        return fixed
    takes = inspect.signature(get).parameters
    inputs = {n: make_input(n, s, candidate.config, 0) for n, s in seen.items() if n in takes}
    with torch.no_grad():
        found = get(**inputs, return_dict=True)
    features = found.last_hidden_state if found.pooler_output is None else found.pooler_output
    if features is None:  # several for each place, one for each layer that takes them
        return None
    sizes = [each.numel() for each in ([features] if torch.is_tensor(features) else features)]
    count = sum(sizes) // model.get_input_embeddings().embedding_dim // 2
    names = ("image_seq_length", "mm_tokens_per_image", "num_query_tokens", "video_seq_length")
    expressions = [each for name in names if (each := reach(candidate.config, name))]
    return next((e for e in expressions if concrete(e, candidate.config) == count), count)


def placeholder(candidate: Candidate, kind: str) -> str | None:
    """The expression that gives the token in whose place go the features of `kind`."""
    names = [f"{kind}_token_{ending}" for ending in ("index", "id")]
    return next((each for name in names if (each := reach(candidate.config, name))), None)


def placeholders(candidate: Candidate, counts: dict[str, Any], pieces: int) -> dict[str, Tree]:
    """Text with placeholders, its mask and types; those of a video in `pieces` one token apart."""
    total = functools.reduce(plus, [count for count in counts.values() if count])
    width = plus(total, WIDTH)
    zeros: Tree = {"kind": "zeros", "shape": [2, width]}
    ids, types, start = tokens(candidate, width), zeros, 1
    for number, (kind, count) in enumerate(counts.items(), 1):
        parts = pieces if kind == "video" else 1
        spans: Tree = {"starts": [start], "count": count}
        if parts > 1:
            spans = {"starts": [start, start + count // 2 + 1], "count": count // 2}
        ids = {
            "kind": "with_placeholders",
            "of": ids,
            "token": placeholder(candidate, kind),
            **spans,
        }
        types = {"kind": "with_placeholders", "of": types, "token": number, **spans}
        marker = f"{'audio' if kind == 'audio' else 'vision'}_start_token_id"
        if candidate.architecture == "multimodal" and hasattr(candidate.config, marker):
            ids = {
                "kind": "with_placeholders",
                "of": ids,
                "token": f"config.{marker}",
                "starts": [plus(start, -1)],
                "count": 1,
            }
        start = plus(count, start + 2)
    lengths = [plus(total, length) for length in LENGTHS]
    inputs = {
        "input_ids": ids,
        "attention_mask": {"kind": "ragged_mask", "lengths": lengths, "width": width},
    }
    names = ("mm_token_type_ids", "moe_mm_token_type_ids", "token_type_ids")
    typed = [name for name in names if name in candidate.parameters]
    return inputs | dict.fromkeys(typed, types)


def plus(first: Any, second: Any) -> Any:
    """The sum of two numbers or expressions."""
    if isinstance(first, str) or isinstance(second, str):
        return f"{first} + {second}"
    return first + second


def crop_inputs(candidate: Candidate) -> dict[str, Tree]:
    """For each row an image as three crops, one of all and two of its halves, and a text."""
    vision, features = "config.vision_config", 12
    width = features + WIDTH
    spans: Tree = {"kind": "with_placeholders", "starts": [1], "count": features}
    types: Tree = {"of": {"kind": "zeros", "shape": [2, width]}, "token": 1}
    pixels = f"{vision}.num_channels * {vision}.patch_size ** 2"
    return {
        "input_ids": spans | {"of": tokens(candidate, width), "token": "config.image_patch_id"},
        "attention_mask": mask([features + length for length in LENGTHS]),
        "mm_token_type_ids": spans | types,
        "pixel_values": values(6, f"{vision}.num_position_embeddings", pixels),
        "image_token_pooling": {
            "kind": "pooled_patches",
            "grids": [[4, 3], [8, 3], [4, 3], [8, 3]],
            "window": 2,
        },
        "image_grids": {"kind": "numbers", "values": [[2, 2, 4, 2], [2, 2, 4, 2]]},
        "image_num_crops": {"kind": "numbers", "values": [3, 3]},
    }


def runs(candidate: Candidate, model: Any, inputs: dict[str, Tree]) -> bool:
    """Whether the model takes these inputs."""
    made = {name: make_input(name, spec, candidate.config, 0) for name, spec in inputs.items()}
    try:
        with torch.no_grad():
            model(**made)
    except Exception:
        return False
    return True


def image_to_text_inputs(candidate: Candidate) -> dict[str, Tree]:
    """An image, with a text where the encoder reads one too, and tokens for the decoder."""
    if "input_ids" in candidate.parameters:
        inputs = vision_language_inputs(candidate)
    else:
        inputs = vision_inputs(candidate)
    return inputs | {"decoder_input_ids": tokens(candidate, TARGET)}


def speech_inputs(candidate: Candidate) -> dict[str, Tree]:
    """Audio for the encoder and tokens for the decoder."""
    return audio_inputs(candidate) | {"decoder_input_ids": tokens(candidate, TARGET)}


def audio_language_inputs(candidate: Candidate) -> dict[str, Tree]:
    """Spectra of two sounds and a text, with a placeholder for each feature of a sound."""
    config, given = candidate.config, candidate.given
    mels, positions = (reach(config, n) for n in ("num_mel_bins", "max_source_positions"))
    frames: int | str = f"{positions} * 2" if positions else FRAMES[0]
    width = concrete(frames, config)
    inputs = {"input_features": values(2, mels or 80, frames)}
    for name in {"input_features_mask", "feature_attention_mask"} & candidate.parameters:
        inputs[name] = mask([width, width - 26])
    inputs |= given
    if "input_ids" in inputs:
        return inputs
    counts, model = [], candidate.model_class(config).eval()
    takes = inspect.signature(model.get_audio_features).parameters
    read = takes if "input_features" in takes else inputs  # some pass on whatever they are given
    sound = {n: make_input(n, spec, config, 0) for n, spec in inputs.items() if n in read}
    for row in (0, 1):  # as many placeholders as the model makes features of the sound
        with torch.no_grad():
            made = model.get_audio_features(**{n: v[row : row + 1] for n, v in sound.items()})
        features = made if isinstance(made, torch.Tensor) else made.pooler_output
        counts.append(features.flatten(0, -2).shape[0])
    token = "audio_token_id" if hasattr(config, "audio_token_id") else "audio_token_index"
    longest = max(counts) + WIDTH
    if longest == config.get_text_config().hidden_size:  # sizes that differ show a swap
        longest += 1
    ids: Tree = {"kind": "with_placeholders", "of": tokens(candidate, longest)}
    ids |= {"token": f"config.{token}", "count": counts}
    lengths = [longest, counts[1] + LENGTHS[1]]
    return {"input_ids": ids, "attention_mask": mask(lengths)} | inputs


def audio_inputs(candidate: Candidate) -> dict[str, Tree]:
    """Two sounds of different lengths, as samples or as spectra."""
    if "input_features" not in candidate.parameters:
        return {"input_values": values(2, SAMPLES[0]), "attention_mask": mask(SAMPLES)}
    mels, positions = (reach(candidate.config, n) for n in ("num_mel_bins", "max_source_positions"))
    if mels and positions:  # always 30 s, which two strided convolutions make into the positions
        return {"input_features": values(2, mels, f"{positions} * 2")}
    for name in ("input_feat_per_channel", "feature_projection_input_dim"):
        mels = mels or reach(candidate.config, name)
    return {"input_features": values(2, FRAMES[0], mels or 80), "attention_mask": mask(FRAMES)}


def codec_inputs(candidate: Candidate) -> dict[str, Tree]:
    """Samples by channel."""
    return {"input_values": values(2, reach(candidate.config, "audio_channels") or 1, SAMPLES[0])}


def series_inputs(candidate: Candidate) -> dict[str, Tree]:
    """Past values by channel."""
    return {"past_values": values(2, "config.context_length", "config.num_input_channels")}


def univariate_inputs(candidate: Candidate) -> dict[str, Tree]:
    """Past values of two series."""
    return {"past_values": values(2, "config.context_length")}


def covariate_inputs(candidate: Candidate) -> dict[str, Tree]:
    """Past and future values, what is known of every time, and what is known of each series."""
    config = candidate.config
    past = config.context_length + max(config.lags_sequence)
    kinds = {"kind": "token_ids", "shape": [2, "config.num_static_categorical_features"]}
    return {
        "past_values": values(2, past),
        "past_time_features": values(2, past, "config.num_time_features"),
        "past_observed_mask": mask([past, past - 3]) | {"kind": "observed_mask"},
        "static_categorical_features": kinds | {"low": 0, "high": min(config.cardinality)},
        "static_real_features": values(2, "config.num_static_real_features"),
        "future_values": values(2, "config.prediction_length"),
        "future_time_features": values(2, "config.prediction_length", "config.num_time_features"),
    }


def spectrogram_inputs(candidate: Candidate) -> dict[str, Tree]:
    """Spectra of the configured length."""
    return {"input_values": values(2, "config.max_length", "config.num_mel_bins")}


def audio_dual_inputs(candidate: Candidate) -> dict[str, Tree]:
    """Texts and sounds."""
    return {"input_ids": tokens(candidate), "attention_mask": mask(LENGTHS)}


def video_dual_inputs(candidate: Candidate) -> dict[str, Tree]:
    """Texts and videos, which are given by hand: the size of images is that of another library."""
    frames = {"padding_mask_videos": mask([4, 3])}
    return {"input_ids": tokens(candidate), "attention_mask": mask(LENGTHS)} | frames


def speech_synthesis_inputs(candidate: Candidate) -> dict[str, Tree]:
    """Texts; what else a model reads (speakers, noise) is given by hand."""
    return text_inputs(candidate) | candidate.given


def codec_language_inputs(candidate: Candidate) -> dict[str, Tree]:
    """Texts and codes or latents of sounds, which are given by hand."""
    return {"attention_mask": mask(LENGTHS)} | candidate.given


def drafter_inputs(candidate: Candidate) -> dict[str, Tree]:
    """Embeddings and what the target keeps of 11 tokens, of which a mask tells the real ones."""
    return {"attention_mask": mask([11, 8])} | candidate.given


def vocoder_inputs(candidate: Candidate) -> dict[str, Tree]:
    """Spectra and the noise that becomes their sound."""
    noise = values(2, 20, "config.model_in_channels")
    return {"input_features": values(2, 20, "config.num_mel_bins"), "noise_sequence": noise}


INPUTS: dict[str, Callable[[Candidate], dict[str, Tree]]] = {
    "encoder_only": text_inputs,
    "decoder_only": text_inputs,
    "state_space": text_inputs,
    "encoder_decoder": seq2seq_inputs,
    "retrieval_augmented": document_inputs,
    "decision": decision_inputs,
    "protein_folding": folding_inputs,
    "vision": vision_inputs,
    "dual_encoder": dual_inputs,
    "sigmoid_dual_encoder": dual_inputs,
    "grounding": dual_inputs,
    "prompted_grounding": class_prompt_inputs,
    "vision_text": vision_text_inputs,
    "vision_language": vision_language_inputs,
    "image_or_video_language": crop_inputs,
    "protein_language": protein_inputs,
    "retrieval": vision_language_inputs,
    "multimodal": vision_language_inputs,
    "vision_encoder_decoder": image_to_text_inputs,
    "detection": pyramid_inputs,
    "focal_detection": pyramid_inputs,
    "varifocal_detection": pyramid_inputs,
    "ocr": page_inputs,
    "segmentation": pyramid_inputs,
    "depth": vision_inputs,
    "universal_segmentation": pyramid_inputs,
    "mask_generation": prompted_inputs,
    "video_segmentation": tracking_inputs,
    "keypoint_detection": pyramid_inputs,
    "keypoint_matching": pair_inputs,
    "pose_estimation": vision_inputs,
    "image_to_image": vision_inputs,
    "backbone": vision_inputs,
    "video": video_inputs,
    "speech_seq2seq": speech_inputs,
    "audio_language": audio_language_inputs,
    "audio": audio_inputs,
    "codec": codec_inputs,
    "audio_autoencoder": codec_inputs,
    "transducer": speech_inputs,
    "audio_dual_encoder": audio_dual_inputs,
    "video_dual_encoder": video_dual_inputs,
    "text_to_speech": speech_synthesis_inputs,
    "drafter": drafter_inputs,
    "vocoder": vocoder_inputs,
    "codec_language": codec_language_inputs,
    "time_series": series_inputs,
    "quantile_time_series": univariate_inputs,
    "probabilistic_time_series": covariate_inputs,
    "audio_classification": spectrogram_inputs,
}


def make_input(name: str, spec: Tree, config: Any, seed: int) -> torch.Tensor:
    """The tensor that the script will make of `spec`; the same call, made here."""
    arguments = {
        key: concrete(value, config) for key, value in spec.items() if key not in ("kind", "of")
    }
    make = getattr(_random, spec["kind"])
    takes = inspect.signature(make).parameters
    first: list[Any] = [make_input(name, spec["of"], config, seed)] if "of" in spec else []
    if "name" in takes:
        first = [name]
    if "seed" in takes:
        arguments["seed"] = seed
    made: torch.Tensor = make(*first, **arguments)
    return made


def concrete(value: Any, config: Any) -> Any:
    """`value` with expressions of the configuration worked out, lists as tuples."""
    if isinstance(value, list):
        return tuple(concrete(item, config) for item in value)
    if isinstance(value, str) and "config." in value:
        return eval(value, {"config": config})  # of the registry, which is our own
    return value
