"""Introspection of the installed transformers: what the registry knows of a family is found here.

For each family: the architecture and the model class (the head of its task), a tiny configuration,
inputs, the checks that apply with the fact that makes them apply; then the model is built and run,
and what it gives (names and shapes of outputs, golden values) is written down. Slow, needs torch.
What a person knows better stands in `overrides.toml`, with its reason.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers

from generator import ROOT, registry
from generator.shrink import RELAXATIONS, SPECIAL_IDS_END, Tree, instantiate, shrink
from templates import _random, _story
from templates._compare import fingerprint, flatten
from templates._subject import Subject

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OVERRIDES = ROOT / "generator" / "overrides.toml"

# The auto mappings of transformers, the preferred head first, and the architecture each makes.
HEADS = (
    ("MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING", "speech_seq2seq"),
    ("MODEL_FOR_OBJECT_DETECTION_MAPPING", "detection"),
    ("MODEL_FOR_DEPTH_ESTIMATION_MAPPING", "depth"),
    ("MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING", "vision_language"),
    ("MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING", "dual_encoder"),
    ("MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING", "video"),
    ("MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING", "encoder_decoder"),
    ("MODEL_FOR_MASKED_LM_MAPPING", "encoder_only"),
    ("MODEL_FOR_CAUSAL_LM_MAPPING", "decoder_only"),
    ("MODEL_FOR_CTC_MAPPING", "audio"),
    ("MODEL_FOR_AUDIO_TOKENIZATION_MAPPING", "codec"),
    ("MODEL_FOR_TIME_SERIES_PREDICTION_MAPPING", "time_series"),
    ("MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING", "vision"),
    ("MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING", "segmentation"),
)
LENGTHS, WIDTH = [12, 9], 12  # two rows of text of different lengths
TARGET = 7  # decoder tokens of encoder-decoder models; differs from every other size
SAMPLES = [3200, 2400]  # two rows of audio
LABELS = 5  # classes of classifiers
FLAGS = ("output_hidden_states", "output_attentions", "output_router_logits")
LABELLED = ("vision", "video", "detection", "segmentation")


@dataclass
class Candidate:
    """A family while it is discovered."""

    family: str
    architecture: str
    head: str
    model_class: Any
    tree: Tree
    config: Any
    inputs: dict[str, Tree] = field(default_factory=dict)

    @property
    def parameters(self) -> set[str]:
        """The parameter names of the model's forward."""
        return set(inspect.signature(self.model_class.forward).parameters)


def main(families: list[str], directory: Path = registry.DIRECTORY) -> int:
    """Discover `families` (all of the registry where none is named) and write the registry."""
    known, overrides, failed = registry.read(directory), read_overrides(), []
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for family in families or sorted(known):
        try:
            known[family] = discover(family, overrides.get(family, []))
            print(f"{family}: {known[family].model_class}, {known[family].parameters} parameters")
        except Exception as error:
            failed.append(family)
            print(f"{family}: {type(error).__name__}: {error}", file=sys.stderr)
    registry.write(known, directory)
    if failed:
        print(
            f"{len(failed)} not discovered: {' '.join(failed)}; say what they need in "
            "generator/overrides.toml, then `nox -s discover -- <family>`",
            file=sys.stderr,
        )
    return 1 if failed else 0


@dataclass(frozen=True, kw_only=True)
class Override:
    """What a person knows better of a family, and why; a table `[[family]]` in overrides.toml."""

    reason: str
    head: str | None = None  # the family's main class, or the auto mapping that has it
    architecture: str | None = None  # where the head is a class
    config: Tree = field(default_factory=dict)  # arguments in place of the shrunk ones
    inputs: dict[str, Tree] = field(default_factory=dict)  # inputs in place of the usual ones
    no_gradient: list[str] = field(default_factory=list)  # patterns of parameters
    not_applicable: list[str] = field(default_factory=list)  # checks
    requires: list[str] = field(default_factory=list)  # pip packages


def read_overrides(path: Path = OVERRIDES) -> dict[str, list[Override]]:
    """Family -> its overrides.

    Raises:
        registry.RegistryError: the file is not TOML, or a key is unknown or of the wrong type.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise registry.RegistryError(f"{path.name}: {error}") from None
    hints = typing.get_type_hints(Override)
    found: dict[str, list[Override]] = {}
    for family, items in tables.items():
        for item in items:
            where = f"{path.name}: [[{family}]] "
            for key, value in item.items():
                if key not in hints:
                    raise registry.RegistryError(
                        f"{where}unknown key {key!r}{registry.suggest(key, hints)}"
                    )
                kind = typing.get_origin(hints[key]) or hints[key]
                if not isinstance(value, str if key in ("head", "architecture") else kind):
                    raise registry.RegistryError(f"{where}{key} is a {type(value).__name__}")
            if not item.get("reason"):
                raise registry.RegistryError(f"{where}has no reason; say why a person knows better")
            for check in item.get("not_applicable", ()):
                if check not in registry.CHECKS:
                    hint = registry.suggest(check, registry.CHECKS)
                    raise registry.RegistryError(f"{where}not_applicable: no check {check!r}{hint}")
            found.setdefault(family, []).append(Override(**item))
    return found


def discover(family: str, overrides: list[Override]) -> registry.Entry:
    """All that the registry says of one family.

    Raises:
        registry.RegistryError: transformers has no such family, or no head that we know.
    """
    config: Tree = {}
    for override in overrides:
        config = merged(config, override.config)
    candidate = choose(family, next((o for o in overrides if o.head), None))
    labels = {"num_labels": LABELS} if candidate.architecture in LABELLED else {}
    problems: list[Exception] = []
    for relaxed in RELAXATIONS:
        try:
            config_class = candidate.model_class.config_class
            candidate.tree = shrink(config_class, labels | config, relaxed=relaxed)
            candidate.config = instantiate(candidate.tree)
            candidate.inputs = INPUTS[candidate.architecture](candidate)
            for override in overrides:
                candidate.inputs |= override.inputs
            return run(candidate, overrides)
        except Exception as problem:  # models refuse what does not suit them in every way
            problems.append(problem)
    raise problems[0]


def merged(first: Tree, second: Tree) -> Tree:
    """`second` over `first`, nested tables too."""
    nested = {
        k: merged(first[k], v) for k, v in second.items() if isinstance(v, dict) and k in first
    }
    return first | second | nested


def choose(family: str, override: Override | None) -> Candidate:
    """The preferred model class of a family, by the auto mappings of transformers or by hand.

    Raises:
        registry.RegistryError: the family or a known head of it does not exist.
    """
    folder = Path(transformers.__file__).parent / "models" / family
    if not folder.is_dir():
        hint = registry.suggest(family, [path.name for path in folder.parent.iterdir()])
        raise registry.RegistryError(f"transformers has no family {family!r}{hint}")
    head = override.head if override else None
    if override and override.architecture:
        why = f"override: {override.reason}"
        model_class = getattr(transformers, str(head))
        return Candidate(family, override.architecture, why, model_class, {}, None)
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    for mapping, architecture in HEADS:
        classes = getattr(auto, mapping) if head in (None, mapping) else {}
        for config_class in [c for c in classes if of_family(c, family)]:
            model_class = classes[config_class]
            if isinstance(model_class, tuple):
                model_class = model_class[0]
            attends = hasattr(config_class(), "num_attention_heads")
            kind = architecture if attends or architecture != "decoder_only" else "state_space"
            return Candidate(family, kind, mapping, model_class, {}, None)
    raise registry.RegistryError(
        f"{family}: none of its classes is in {head or 'a mapping of generator.discover.HEADS'}; "
        f"name head and architecture in generator/overrides.toml [[{family}]]"
    )


def of_family(config_class: type, family: str) -> bool:
    """Whether a configuration class is defined in the folder of `family`."""
    return config_class.__module__.split(".")[-2] == family


# --- inputs ---------------------------------------------------------------------------------------


def tokens(candidate: Candidate, width: int | str = WIDTH) -> Tree:
    """Token ids that are no special tokens."""
    size = candidate.config.get_text_config(decoder=True).vocab_size
    return {"kind": "token_ids", "shape": [2, width], "low": SPECIAL_IDS_END, "high": size}


def mask(lengths: list[int]) -> Tree:
    """A right-padded attention mask."""
    return {"kind": "ragged_mask", "lengths": lengths, "width": max(lengths)}


def values(*shape: int | str) -> Tree:
    """Floating point values; a size may be an expression of the configuration."""
    return {"kind": "normals", "shape": list(shape)}


def text_inputs(candidate: Candidate) -> dict[str, Tree]:
    """Token ids, mask and, where the model tells segments apart, token types."""
    inputs = {"input_ids": tokens(candidate), "attention_mask": mask(LENGTHS)}
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
        inputs["pixel_mask"] = {"kind": "ragged_pixels", "sizes": [[96, 64], [80, 40]]}
    return inputs


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


def vision_language_inputs(candidate: Candidate) -> dict[str, Tree]:
    """Images and a text, with a placeholder for each image feature where the model wants them."""
    pixels = values(2, *image(candidate))
    for name in ("image_token_index", "image_token_id"):
        if hasattr(candidate.config, name) and hasattr(candidate.config, "image_seq_length"):
            text = tokens(candidate, f"config.image_seq_length + {WIDTH}")
            placed = {"kind": "with_placeholders", "of": text, "token": f"config.{name}"}
            placed["count"] = "config.image_seq_length"
            widths = [f"config.image_seq_length + {length}" for length in LENGTHS]
            rows = {"kind": "ragged_mask", "lengths": widths, "width": widths[0]}
            return {"input_ids": placed, "attention_mask": rows, "pixel_values": pixels}
    return {"pixel_values": pixels, "input_ids": tokens(candidate), "attention_mask": mask(LENGTHS)}


def speech_inputs(candidate: Candidate) -> dict[str, Tree]:
    """Audio for the encoder, as samples or as spectra, and tokens for the decoder."""
    decoder = {"decoder_input_ids": tokens(candidate, TARGET)}
    if "input_features" in candidate.parameters:
        mels = reach(candidate.config, "num_mel_bins") or 80
        positions = reach(candidate.config, "max_source_positions")
        frames = f"{positions} * 2" if positions else 80
        return {"input_features": values(2, mels, frames)} | decoder
    return audio_inputs(candidate) | decoder


def audio_inputs(candidate: Candidate) -> dict[str, Tree]:
    """Samples of two sounds of different lengths."""
    return {"input_values": values(2, SAMPLES[0]), "attention_mask": mask(SAMPLES)}


def codec_inputs(candidate: Candidate) -> dict[str, Tree]:
    """Samples by channel."""
    return {"input_values": values(2, reach(candidate.config, "audio_channels") or 1, SAMPLES[0])}


def series_inputs(candidate: Candidate) -> dict[str, Tree]:
    """Past values by channel."""
    return {"past_values": values(2, "config.context_length", "config.num_input_channels")}


INPUTS: dict[str, Callable[[Candidate], dict[str, Tree]]] = {
    "encoder_only": text_inputs,
    "decoder_only": text_inputs,
    "state_space": text_inputs,
    "encoder_decoder": seq2seq_inputs,
    "vision": vision_inputs,
    "dual_encoder": dual_inputs,
    "vision_language": vision_language_inputs,
    "detection": pyramid_inputs,
    "segmentation": pyramid_inputs,
    "depth": vision_inputs,
    "video": video_inputs,
    "speech_seq2seq": speech_inputs,
    "audio": audio_inputs,
    "codec": codec_inputs,
    "time_series": series_inputs,
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
    if isinstance(value, str) and value.startswith("config."):
        path, _, operation = value.partition(" ")
        result = config
        for attribute in path.split(".")[1:]:
            result = getattr(result, attribute)
        operator, _, number = operation.partition(" ")
        calculate = {"": lambda a, _: a, "+": int.__add__, "-": int.__sub__, "*": int.__mul__}
        return calculate[operator](result, int(number or 0))
    return value


# --- facts ----------------------------------------------------------------------------------------


def run(candidate: Candidate, overrides: list[Override]) -> registry.Entry:
    """Build and run the tiny model; its entry in the registry."""
    attentions = ["sdpa", "eager"] if candidate.model_class._supports_sdpa else []
    can_set_experts = candidate.model_class._can_set_experts_implementation()
    experts = ["grouped_mm", "batched_mm", "eager"] if can_set_experts else []
    _story.active = SimpleNamespace(  # type: ignore[assignment]
        ATTENTIONS=attentions,
        EXPERTS=experts,
        build_model=lambda weights, size, seed: seeded(candidate, seed),
        build_inputs=lambda config, seed: {
            name: make_input(name, spec, config, seed) for name, spec in candidate.inputs.items()
        },
    )
    subject = living_subject()
    flags = [name for name in FLAGS if accepts(subject, name)]
    everything = subject.run(subject.reference, subject.inputs, **dict.fromkeys(flags, True))
    applicable, reasons = facts(candidate, subject, attentions, experts)
    for override in overrides:
        for check in override.not_applicable:
            applicable.pop(check, None)
            reasons[check] = override.reason
    there = registry.template_checks()[candidate.architecture]
    return registry.Entry(
        family=candidate.family,
        architecture=candidate.architecture,
        title=title(candidate),
        model_class=candidate.model_class.__name__,
        checkpoint=checkpoint(candidate),
        head=candidate.head,
        parameters=sum(p.numel() for p in subject.reference.parameters()),
        discovered_with={
            "transformers": transformers.__version__,
            "torch": torch.__version__.split("+")[0],
        },
        requires=[package for override in overrides for package in override.requires],
        seed=subject.seed,
        attentions=attentions,
        experts=experts,
        all_outputs=flags,
        config=candidate.tree,
        inputs=candidate.inputs,
        outputs={name: list(value.shape) for name, value in everything.items()},
        checks={check: fact for check, fact in applicable.items() if check in there},
        not_applicable={check: fact for check, fact in reasons.items() if check in there},
        fp32_outputs=fp32_outputs(subject),
        no_gradient={p: override.reason for override in overrides for p in override.no_gradient},
        golden={name: list(fingerprint(value)) for name, value in subject.expected.items()},
    )


def living_subject() -> Subject:
    """The model with the first seed with which no output is dead, as behind a last ReLU.

    Raises:
        ValueError: there is none among the first twenty.
    """
    for seed in range(20):
        subject = Subject("cpu", seed=seed)
        dead = [name for name, value in subject.expected.items() if not alive(value)]
        if not dead:
            return subject
    raise ValueError(f"the outputs {', '.join(dead)} are zero or not finite with every seed")


def alive(value: torch.Tensor) -> bool:
    """Whether an output is finite and mostly not zero; any integers will do."""
    live = value if value.is_floating_point() else torch.ones(1)
    return bool(torch.isfinite(live).all()) and bool((live != 0).float().mean() > 0.5)


def seeded(candidate: Candidate, seed: int) -> Any:
    """The tiny model with its portable weights."""
    model = candidate.model_class(instantiate(candidate.tree))
    _random.set_weights(model, seed)
    return model


def accepts(subject: Subject, flag: str) -> bool:
    """Whether the model gives more outputs for `flag`."""
    try:
        return len(subject.run(subject.reference, subject.inputs, **{flag: True})) > len(
            subject.expected
        )
    except TypeError:
        return False


def fp32_outputs(subject: Subject) -> list[str]:
    """The outputs that a model in bf16 gives in fp32."""
    half = Subject("cpu", "bfloat16", seed=subject.seed)
    with torch.no_grad():
        outputs = flatten(half.call(half.model, subject.inputs))
    return [name for name, value in outputs.items() if value.dtype == torch.float32]


def facts(
    candidate: Candidate, subject: Subject, attentions: list[str], experts: list[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """The checks that apply with the fact that makes them apply, and those that don't with why."""
    model, name = subject.reference, candidate.model_class.__name__
    takes = candidate.parameters
    labels = bool(takes & {"labels", "return_loss", "future_values"})
    questions: dict[str, tuple[bool, str, str]] = {
        "tying": (
            has_output_embeddings(model),
            f"{name} has an output embedding",
            f"{name} has no output embedding",
        ),
        "attention_parity": (
            bool(attentions),
            f"{name} supports {' and '.join(attentions)} attention",
            f"{name} has one attention implementation or none",
        ),
        "experts_parity": (
            bool(experts),
            f"{name} can choose how it runs its experts",
            f"{name} has no choice of experts implementations",
        ),
        "padding_invariance": (
            "attention_mask" in candidate.inputs,
            f"{name}.forward takes attention_mask",
            f"{name}.forward takes no attention_mask",
        ),
        "single_token": (
            "attention_mask" in candidate.inputs,
            f"{name}.forward takes attention_mask",
            f"{name}.forward takes no attention_mask",
        ),
        "cache": (
            bool(takes & {"past_key_values", "cache_params"}),
            f"{name}.forward takes a cache",
            f"{name}.forward takes no cache",
        ),
        "generate": (model.can_generate(), f"{name} can generate", f"{name} cannot generate"),
        "loss": (labels, f"{name}.forward takes labels", f"{name}.forward takes no labels"),
    }
    applicable, reasons = {}, {}
    for check in registry.CHECKS:
        holds, because, why_not = questions.get(
            check, (True, f"every {candidate.architecture} model", "")
        )
        if holds:
            applicable[check] = because
        else:
            reasons[check] = why_not
    return applicable, reasons


def has_output_embeddings(model: Any) -> bool:
    """Whether the model has an input and an output embedding, which may be tied."""
    try:
        return (
            model.get_output_embeddings() is not None and model.get_input_embeddings() is not None
        )
    except (NotImplementedError, AttributeError):
        return False


def checkpoint(candidate: Candidate) -> str | None:
    """The checkpoint that the documentation of the configuration class names."""
    source = Path(inspect.getfile(candidate.model_class.config_class)).read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.ClassDef)
            and node.name == candidate.model_class.config_class.__name__
        ):
            for call in [d for d in node.decorator_list if isinstance(d, ast.Call)]:
                for keyword in call.keywords:
                    if keyword.arg == "checkpoint":
                        return str(ast.literal_eval(keyword.value))
    return None


def title(candidate: Candidate) -> str:
    """How the model is called: the configuration class's name without its ending."""
    return str(candidate.model_class.config_class.__name__).removesuffix("Config")
