"""Introspection of the installed transformers: what the registry knows of a family is found here.

For each family: the architecture and the model class (the head of its task), a tiny configuration,
inputs, the checks that apply with the fact that makes them apply; then the model is built and run,
and what it gives (names and shapes of outputs, golden values) is written down. Slow, needs torch.
What a person knows better stands in `overrides/`, with its reason.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import math
import multiprocessing
import multiprocessing.connection
import os
import resource
import sys
import time
import traceback
import typing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers

from generator import ROOT, heads, registry
from generator.inputs import INPUTS, Candidate, make_input
from generator.shrink import RELAXATIONS, Tree, instantiate, shrink, shrunk_part
from templates import _random, _story, _subject
from templates._compare import fingerprint, flatten, joined
from templates._heads import Head, Switched
from templates._parts import Part
from templates._subject import Subject

OVERRIDES = ROOT / "generator" / "overrides"
SECONDS = 300  # for one family
MEMORY = 8 * 2**30  # bytes for one family
TOGETHER = 25  # families are written at once: so many are lost where it is stopped

# The auto mappings of transformers, the preferred head first, and the architecture each makes.
HEADS = (
    ("MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING", "speech_seq2seq"),
    ("MODEL_FOR_OBJECT_DETECTION_MAPPING", "detection"),
    ("MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING", "grounding"),
    ("MODEL_FOR_TEXT_RECOGNITION_MAPPING", "ocr"),
    ("MODEL_FOR_TABLE_RECOGNITION_MAPPING", "ocr"),
    ("MODEL_FOR_RETRIEVAL_MAPPING", "retrieval"),
    ("MODEL_FOR_DEPTH_ESTIMATION_MAPPING", "depth"),
    ("MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING", "vision_language"),
    ("MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING", "dual_encoder"),
    ("MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING", "video"),
    ("MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING", "encoder_decoder"),
    ("MODEL_FOR_MASKED_LM_MAPPING", "encoder_only"),
    ("MODEL_FOR_CAUSAL_LM_MAPPING", "decoder_only"),
    ("MODEL_FOR_CTC_MAPPING", "audio"),
    ("MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING", "audio_classification"),
    ("MODEL_FOR_AUDIO_TOKENIZATION_MAPPING", "codec"),
    ("MODEL_FOR_TIME_SERIES_PREDICTION_MAPPING", "time_series"),
    ("MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING", "vision"),
    ("MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING", "segmentation"),
    ("MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING", "universal_segmentation"),
    ("MODEL_FOR_KEYPOINT_DETECTION_MAPPING", "keypoint_detection"),
    ("MODEL_FOR_KEYPOINT_MATCHING_MAPPING", "keypoint_matching"),
    ("MODEL_FOR_POSE_ESTIMATION_MAPPING", "pose_estimation"),
    ("MODEL_FOR_IMAGE_TO_IMAGE_MAPPING", "image_to_image"),
    ("MODEL_FOR_IMAGE_MATTING_MAPPING", "image_to_image"),
    ("MODEL_FOR_IMAGE_MAPPING", "backbone"),  # image features: nearly every model has them
    ("MODEL_FOR_BACKBONE_MAPPING", "backbone"),
)
LABELS = 5  # classes of classifiers
ABSENT = -1024.0  # what SAM gives for each pixel of an object that it does not see
# What every model imports, in 3 of its 4 seconds: imported before processes are forked.
COMMON = (
    "transformers.modeling_utils",
    "transformers.modeling_layers",
    "transformers.masking_utils",
    "transformers.generation",
    "transformers.models.auto.modeling_auto",
)
COMMON_SWITCHES = {"is_encoder_decoder", "tie_word_embeddings", "use_cache"}  # checked elsewhere
# What a head may be that is not what its mapping says: its labels are not shifted, or it refuses to
# run where its configuration is no decoder's.
OTHER_TASKS = {"next_token": ("tokens", "decoder")}
FLAGS = ("output_hidden_states", "output_attentions", "output_router_logits")
CACHES = {"past_key_values", "cache_params", "state", "decoder_cache"}  # arguments that hold one
LABELLED = (
    "vision",
    "video",
    "segmentation",
    "universal_segmentation",
    "audio_classification",
)  # and all whose name ends in "detection"


def main(
    families: list[str], directory: Path = registry.DIRECTORY, refresh_only: bool = False
) -> int:
    """Discover `families` (all of the registry where none is named) and write the registry.

    With `refresh_only` only their golden values and the switches of their configurations.
    """
    known, overrides = registry.read(directory), read_overrides()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    preload()
    failed: list[str] = []
    found: dict[str, registry.Entry] = {}
    wanted = families or sorted(known)
    if refresh_only:
        work = apart(refresh, [*registry.select(known, wanted).items()])
    else:
        work = apart(discover, [(each, overrides.get(each, [])) for each in wanted])
    for family, result in work:
        if isinstance(result, registry.Entry):
            by = known[family].confirmed if family in known else {}  # what `crosscheck` found
            found[family] = replace(result, confirmed=by)
            print(f"{family}: {result.model_class}, {result.parameters} parameters", flush=True)
            if len(found) % TOGETHER == 0:
                registry.write(registry.read(directory) | found, directory)
        else:
            failed.append(family)
            print(f"{family}: {result}", file=sys.stderr, flush=True)
    if found:
        registry.write(registry.read(directory) | found, directory)
    if failed:
        print(
            f"{len(failed)} not discovered: {' '.join(failed)}; say what they need in "
            "generator/overrides/, then `nox -s discover -- <family>`",
            file=sys.stderr,
        )
    return 1 if failed else 0


def preload() -> None:
    """Import what all models need, and all configurations, once and not in every child."""
    for name in COMMON:
        importlib.import_module(name)
    for mapping, _ in HEADS:
        list(getattr(importlib.import_module(COMMON[-1]), mapping))


def apart(
    function: Callable[..., Any], calls: Iterable[tuple[str, Any]]
) -> Iterator[tuple[str, Any]]:
    """What `function` gives for each of `calls`, by its first argument; where it fails, why.

    Each call has a process of its own, with an end: a model that crashes, hangs or takes all memory
    costs one family. They are forked, since to import torch takes longer than most calls, so the
    caller must not have run any operator.
    """
    for name in ("torch._dynamo", "torchvision", "transformers.models.auto.modeling_auto"):
        importlib.import_module(name)  # what nearly every model imports, seconds each
    context, waiting = multiprocessing.get_context("fork"), deque(calls)
    running: dict[Any, tuple[str, Any, float]] = {}
    while waiting or running:
        while waiting and len(running) < (os.cpu_count() or 1):
            call = waiting.popleft()
            answers, theirs = context.Pipe(duplex=False)
            child = context.Process(target=_answer, args=(theirs, function, call))
            child.start()
            theirs.close()
            running[answers] = (call[0], child, time.monotonic() + SECONDS)
        ready = multiprocessing.connection.wait(list(running), timeout=1)
        for answers, (name, child, deadline) in [*running.items()]:
            late = time.monotonic() > deadline
            if answers not in ready and not late:
                continue
            try:
                result = answers.recv() if answers in ready else f"no answer within {SECONDS} s"
            except EOFError:
                child.join()
                result = f"its process died with exit code {child.exitcode}"
            child.kill()
            child.join()
            del running[answers]
            yield name, result


def _answer(answers: Any, function: Callable[..., Any], call: tuple[Any, ...]) -> None:
    """In a child: send what `function` gives, or the error with the line that raised it."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    torch.set_num_threads(1)
    try:
        result = function(*call)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{'/'.join(Path(place.filename).parts[-2:])}:{place.lineno}"
        result = f"{type(error).__name__}: {error} ({where})"
    answers.send(result)


@dataclass(frozen=True, kw_only=True)
class Override:
    """What a person knows better of a family, and why; a table `[[family]]` in overrides/."""

    reason: str
    head: str | None = None  # the family's main class, or the auto mapping that has it
    architecture: str | None = None  # where the head is a class
    config: Tree = field(default_factory=dict)  # arguments in place of the shrunk ones
    inputs: dict[str, Any] = field(default_factory=dict)  # in place of the usual; "none" drops one
    # other inputs, or models beside it: name -> "inputs", and "model" with "config" in place of the
    # shrunk one
    parts: dict[str, Tree] = field(default_factory=dict)
    options: Tree = field(default_factory=dict)  # arguments of every call
    insensitive: list[str] = field(default_factory=list)  # inputs that the model ignores
    no_gradient: list[str] = field(default_factory=list)  # patterns of parameters
    not_applicable: list[str] = field(default_factory=list)  # checks
    rounded: list[str] = field(default_factory=list)  # patterns of outputs: from half precision
    requires: list[str] = field(default_factory=list)  # pip packages
    seed: int = 0  # the first to try
    coverage: str | None = None  # "partial": a modality is left out; "fallback": another class


def read_overrides(directory: Path = OVERRIDES) -> dict[str, list[Override]]:
    """Family -> its overrides.

    Raises:
        registry.RegistryError: a file is not TOML, or a key is unknown or of the wrong type.
    """
    found: dict[str, list[Override]] = {}
    for path in sorted(directory.glob("*.toml")):
        for family, items in registry.parse(path).items():
            where = f"{path.name}: [[{family}]]"
            for item in items:
                override = registry.checked(Override, where, item)
                for check in override.not_applicable:
                    if check not in registry.CHECKS:
                        hint = registry.suggest(check, registry.CHECKS)
                        raise registry.RegistryError(f"{where} not_applicable: no {check!r}{hint}")
                found.setdefault(family, []).append(override)
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
    labelled = candidate.architecture in LABELLED or candidate.architecture.endswith("detection")
    labels = {"num_labels": LABELS} if labelled else {}
    given = {name: spec for override in overrides for name, spec in override.inputs.items()}
    candidate.given = {name: spec for name, spec in given.items() if isinstance(spec, dict)}
    candidate.dropped = given.keys() - candidate.given.keys()
    problems: list[Exception] = []
    for relaxed in RELAXATIONS:
        try:
            config_class = candidate.model_class.config_class
            candidate.tree = shrink(config_class, labels | config, relaxed=relaxed)
            candidate.config = instantiate(candidate.tree)
            candidate.inputs = INPUTS[candidate.architecture](candidate) | given
            candidate.inputs = {k: v for k, v in candidate.inputs.items() if isinstance(v, dict)}
            for override in overrides:
                candidate.parts |= {name: tiny_part(part) for name, part in override.parts.items()}
            return run(candidate, overrides)
        except Exception as problem:  # models refuse what does not suit them in every way
            problems.append(problem)
    raise problems[0]


def tiny_part(given: Tree) -> Tree:
    """A part as the registry has it: where it is another model, with its whole configuration."""
    if "model" not in given:
        return given
    own = registry.with_none(given.get("config", {}))
    config_class = getattr(transformers, given["model"]).config_class
    if "class" not in own:
        return given | {"config": shrink(config_class, own)}
    composite, (name, fields) = own.pop("class"), own.popitem()  # transformers hides the class
    part = shrunk_part(config_class, fields, {}, {}, {})
    return given | {"config": {"class": composite, name: part}, "config_part": name}


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
    for mapping, architecture in HEADS:
        for model_class in heads.classes(mapping, family) if head in (None, mapping) else ():
            config, kind = model_class.config_class(), architecture
            if kind == "decoder_only" and not hasattr(config, "num_attention_heads"):
                kind = "state_space"
            if kind == "vision_language" and config.is_encoder_decoder:
                kind = "vision_encoder_decoder"
            return Candidate(family, kind, mapping, model_class, {}, None)
    raise registry.RegistryError(
        f"{family}: none of its classes is in {head or 'a mapping of generator.discover.HEADS'}; "
        f"name head and architecture in generator/overrides/ [[{family}]]"
    )


def run(candidate: Candidate, overrides: list[Override]) -> registry.Entry:
    """Build and run the tiny model; its entry in the registry."""
    one = any("attention_parity" in override.not_applicable for override in overrides)
    attentions = ["sdpa", "eager"] if candidate.model_class._supports_sdpa and not one else []
    parts = candidate.model_class(candidate.config).modules()  # the experts may be a part's
    models = [part for part in parts if isinstance(part, transformers.PreTrainedModel)]
    can_set_experts = any(model._can_set_experts_implementation() for model in models)
    experts = ["grouped_mm", "batched_mm", "eager"] if can_set_experts else []
    options: Tree = {}
    for override in overrides:
        options |= override.options
    limit = next((override for override in overrides if override.coverage), None)
    stage(candidate, attentions, experts, options)
    start = max((override.seed for override in overrides), default=0)
    subject = living_subject([*candidate.parts], start)
    fresh = Subject("cpu", seed=subject.seed)  # a model may keep the hooks of earlier calls
    flags = [name for name in FLAGS if accepts(fresh, name, len(subject.expected))]
    _story.ALL_OUTPUTS.update(dict.fromkeys(flags, True))
    further, left_out = living_heads(candidate, subject.seed)
    switches, stuck = living_switches(subject)
    applicable, reasons = facts(candidate, subject, attentions, experts)
    if further:
        applicable["heads"] = f"{candidate.family} has {len(further)} further heads"
    else:
        reasons["heads"] = f"{candidate.family} has no further head"
        applicable.pop("heads")
    if candidate.parts:
        applicable["parts"] = f"{candidate.family} has {len(candidate.parts)} further parts"
    else:
        reasons["parts"] = f"{candidate.family} has no further part"
        applicable.pop("parts")
    for override in overrides:
        for check in override.not_applicable:
            applicable.pop(check, None)
            reasons[check] = override.reason
    templates = registry.template_checks()
    if candidate.architecture not in templates:
        raise registry.RegistryError(f"there is no template {candidate.architecture}.py yet")
    there = templates[candidate.architecture]
    size, problem = full_size(candidate.model_class)
    return registry.Entry(
        family=candidate.family,
        architecture=candidate.architecture,
        title=title(candidate),
        model_class=candidate.model_class.__name__,
        checkpoint=checkpoint(candidate),
        head=candidate.head,
        parameters=sum(p.numel() for p in subject.reference.parameters()),
        full_size=size,
        full_size_problem=problem,
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
        outputs={name: list(value.shape) for name, value in subject.everything.items()},
        checks={check: fact for check, fact in applicable.items() if check in there},
        not_applicable={check: fact for check, fact in reasons.items() if check in there},
        fp32_outputs=fp32_outputs(subject) if "dtype_bf16" in applicable else [],
        heads=further,
        heads_left_out=left_out,
        parts=candidate.parts,
        coverage=limit.coverage if limit and limit.coverage else "full",
        coverage_reason=limit.reason if limit else None,
        options=options,
        constants=constants(candidate, overrides),
        insensitive={name: each.reason for each in overrides for name in each.insensitive},
        no_gradient=cross_attention(further)
        | {p: override.reason for override in overrides for p in override.no_gradient},
        switches=switches,
        switches_left_out=stuck,
        golden=golden_values(subject, further, candidate.parts, switches),
    )


def refresh(family: str, entry: registry.Entry) -> registry.Entry:
    """`entry` with the golden values and the switches that the installed transformers gives."""
    model_class = getattr(transformers, entry.model_class)
    candidate = Candidate(family, entry.architecture, entry.head, model_class, entry.config, None)
    candidate.inputs, candidate.parts = entry.inputs, entry.parts
    stage(candidate, entry.attentions, entry.experts, entry.options)
    _story.ALL_OUTPUTS.update(dict.fromkeys(entry.all_outputs, True))
    subject = Subject("cpu", seed=entry.seed)
    switches, stuck = living_switches(subject)
    values = golden_values(subject, entry.heads, entry.parts, switches)
    for name in values.keys() & entry.golden.keys():  # the last digits differ between processors
        new, old = values[name], entry.golden[name]
        if math.dist(new, old) <= 1e-7 * old[0]:
            values[name] = old
    return replace(entry, switches=switches, switches_left_out=stuck, golden=values)


def stage(candidate: Candidate, attentions: list[str], experts: list[str], options: Tree) -> None:
    """Let the code that templates share have the model of `candidate` for a script."""
    template = importlib.import_module(f"templates.{candidate.architecture}")
    for name, fact in template.SLOTS.items():  # classes that the template's own call names
        if fact == "constants.session_class":
            setattr(template, name, session_class(candidate))
    _story.active = SimpleNamespace(  # type: ignore[assignment]
        call_model=getattr(template, "call_model", _subject.call_model),
        ROUNDED={},
        MODEL_CLASS=candidate.model_class.__name__,
        ATTENTIONS=attentions,
        EXPERTS=experts,
        OPTIONS=options,
        SWITCHES={},
        ALL_OUTPUTS={},
        build_config=lambda: instantiate(candidate.tree),
        build_model=lambda weights, size, seed: seeded(candidate, seed),
        build_inputs=lambda config, seed: make_inputs(candidate.inputs, config, seed),
        build_parts=lambda config, seed: {
            name: (
                getattr(transformers, part.get("model", candidate.model_class.__name__)),
                part_config(part) if "config" in part else config,
                make_inputs(part["inputs"], config, seed),
            )
            for name, part in candidate.parts.items()
        },
    )


def part_config(part: Tree) -> Any:
    """The configuration of a part that is another model."""
    config = instantiate(part["config"])
    return getattr(config, part["config_part"]) if "config_part" in part else config


def make_inputs(specs: Tree, config: Any, seed: int) -> dict[str, torch.Tensor]:
    """The tensors that the script will make of `specs`."""
    return {name: make_input(name, spec, config, seed) for name, spec in specs.items()}


def constants(candidate: Candidate, overrides: list[Override]) -> Tree:
    """What only the template of the architecture names."""
    if candidate.architecture == "state_space":
        return {"cache": next(iter(candidate.parameters & CACHES))}
    if "inference_session" in candidate.parameters:
        rounded = {name: each.reason for each in overrides for name in each.rounded}
        return {"session_class": session_class(candidate).__name__, "rounded": rounded}
    return {}


def session_class(candidate: Candidate) -> Any:
    """The class of what the model keeps of a video, which is no tensor."""
    hints = typing.get_type_hints(candidate.model_class.forward)
    return hints["inference_session"]


def full_size(model_class: Any) -> tuple[dict[str, int], str | None]:
    """Parameters and bytes by dtype of the default configuration; or why it cannot be built."""
    try:
        with torch.device("meta"):
            model = model_class(model_class.config_class())
    except Exception as error:  # composites have no default parts; some read values while built
        return {}, f"{type(error).__name__}: {error}".splitlines()[0]
    size = {"parameters": sum(parameter.numel() for parameter in model.parameters())}
    for name in ("float32", "bfloat16"):
        kind = getattr(torch, name)
        size[name] = sum(
            value.numel() * (kind if value.is_floating_point() else value.dtype).itemsize
            for value in (*model.parameters(), *model.buffers())
        )
    return size, None


def living_subject(parts: list[str], start: int) -> Subject:
    """The model with the first seed from `start` with which no output is dead, as by a last ReLU.

    None of its `parts` has a dead one either.

    Raises:
        ValueError: there is none among twenty.
    """
    for seed in range(start, start + 20):
        subject = Subject("cpu", seed=seed)
        least = {"matching_scores": 0.0, "single_inputs": 0.0}  # no match; of no other kind
        found = dict(subject.expected)
        least |= {n: 0.9 for n in found if n.startswith("pred_masks.")}  # nearly all objects
        for name in parts:
            found |= flatten(Part("cpu", seed=seed, part=name).expected, name)
        dead = [n for n, v in found.items() if not alive(v, least.get(n, 0.5))]
        if not dead:
            return subject
    raise ValueError(f"the outputs {', '.join(dead)} are zero or not finite with every seed")


def living_heads(candidate: Candidate, seed: int) -> tuple[dict[str, str], dict[str, str]]:
    """The further heads of the family with their tasks; those that do not run, with the error."""
    living, left_out = {}, {}
    parts = {part.get("model") for part in candidate.parts.values()}
    for name, task in heads.further(candidate.family, candidate.model_class).items():
        if name in parts:
            continue
        takes = inspect.signature(getattr(transformers, name).forward).parameters
        tasks = [task, *OTHER_TASKS.get(task, ())]
        if "start_positions" not in takes and task == "question":
            tasks = ["class"]  # of answers
        if "labels" not in takes:
            tasks.append("inference")
        agree: dict[str, bool] = {}  # of those with which it runs
        problem = ""
        for each in tasks:
            try:
                agree[each] = agrees(name, each, seed)
            except Exception as error:  # models refuse what does not suit them in every way
                problem = problem or f"{type(error).__name__}: {error}".splitlines()[0]
            if agree.get(each):
                break
        if agree:  # where no formula gives its loss, the check tells
            living[name] = max(agree, key=lambda each: agree[each])
        else:
            left_out[name] = problem
    return living, left_out


def living_switches(subject: Subject) -> tuple[dict[str, bool], dict[str, str]]:
    """The switches of the configuration that change what the model gives, as they are not usually.

    And those with which it does not run, with the error.
    """
    living: dict[str, bool] = {}
    left_out: dict[str, str] = {}
    usual = golden(joined(subject.expected))
    for name, value in switches_of(_story.build_config()):
        _story.SWITCHES[name] = not value
        try:
            found = Switched("cpu", seed=subject.seed, switch=name).expected
        except Exception as error:  # models refuse what does not suit them in every way
            left_out[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            continue
        if any(not alive(tensor) for tensor in found.values()):
            left_out[name] = "an output is zero or not finite"
        elif golden(joined(found)) != usual:
            living[name] = not value
    return living, left_out


def switches_of(config: Any, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """The boolean fields of a configuration and its parts, but for those that all models have."""
    common = vars(transformers.PreTrainedConfig()).keys() | COMMON_SWITCHES
    for name, value in sorted(vars(config).items()):
        if isinstance(value, transformers.PreTrainedConfig):
            yield from switches_of(value, f"{prefix}{name}.")
        elif (
            isinstance(value, bool) and name not in common and not name.startswith(("_", "output_"))
        ):
            yield prefix + name, value


def golden_values(
    subject: Subject, further: dict[str, str], parts: Iterable[str], switches: Iterable[str]
) -> dict[str, list[float]]:
    """The fingerprints of the outputs; of those of each further head and part; with each switch."""
    found = dict(subject.expected)
    if subject.further:
        found["all_outputs"] = joined(subject.further)
    for name, task in further.items():
        found[name] = joined(Head("cpu", seed=subject.seed, head=name, task=task).expected)
    for name in parts:
        found[name] = joined(Part("cpu", seed=subject.seed, part=name).expected)
    for name in switches:
        found[name] = joined(Switched("cpu", seed=subject.seed, switch=name).expected)
    return {name: golden(value) for name, value in found.items()}


def cross_attention(further: Iterable[str]) -> dict[str, str]:
    """The patterns of the parameters that decoders of an encoder-decoder do not use alone."""
    reason = "a decoder without an encoder's states leaves its cross-attention out"
    found = {}
    for name in filter(lambda name: name.endswith("ForCausalLM"), further):
        with torch.device("meta"):
            model = getattr(transformers, name)(_story.build_config())
        names = [n for n, _ in model.named_parameters()]
        for part in ("encoder_attn", "cross_attn"):
            if any(f".{part}" in each for each in names):
                found[f"{name}.*.{part}*"] = reason
    return found


def agrees(head: str, task: str, seed: int) -> bool:
    """Whether the loss of a head is what the formula of `task` gives."""
    subject = Head("cpu", seed=seed, head=head, task=task)
    if task == "inference":
        return bool(subject.expected)
    labels, formula = subject.loss()
    found = subject.run(subject.model, subject.inputs | labels)
    return torch.allclose(found["loss"], formula(found), rtol=1e-4)


def golden(value: torch.Tensor) -> list[float]:
    """The fingerprint of an output, without the digits that differ between processors."""
    return [float(f"{number:.9e}") for number in fingerprint(value)]


def alive(value: torch.Tensor, least: float = 0.5) -> bool:
    """Whether an output is finite and more than `least` of it shows something; integers will do."""
    live = value if value.is_floating_point() else torch.ones(1)
    shown = (live != 0) & (live != ABSENT)
    return bool(torch.isfinite(live).all()) and bool(shown.float().mean() > least)


def seeded(candidate: Candidate, seed: int) -> Any:
    """The tiny model with its portable weights; its class as the template prepares it."""
    template = f"templates.{candidate.architecture}"
    if importlib.util.find_spec(template):
        prepare = getattr(importlib.import_module(template), "prepare", None)
        if prepare:
            prepare(candidate.model_class)
    model = candidate.model_class(instantiate(candidate.tree))
    _random.set_weights(model, seed)
    return model


def accepts(subject: Subject, flag: str, usual: int) -> bool:
    """Whether the model gives more outputs for `flag` than its `usual` number of them."""
    try:
        return len(subject.run(subject.reference, subject.inputs, **{flag: True})) > usual
    except (TypeError, ValueError):  # unknown, or refused
        return False


def fp32_outputs(subject: Subject) -> list[str]:
    """The outputs that a model in bf16 gives in fp32; none where it cannot run in bf16."""
    half = Subject("cpu", "bfloat16", seed=subject.seed)
    try:
        with torch.no_grad():
            outputs = flatten(half.call(half.model, subject.inputs))
    except (AttributeError, RuntimeError):  # the check of bf16 shows it
        return []
    return [name for name, value in outputs.items() if value.dtype == torch.float32]


def facts(
    candidate: Candidate, subject: Subject, attentions: list[str], experts: list[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """The checks that apply with the fact that makes them apply, and those that don't with why."""
    model, name = subject.reference, candidate.model_class.__name__
    takes, masks = candidate.parameters, ("attention_mask", "context_attention_mask")
    mask = next((each for each in masks if each in candidate.inputs), "attention_mask")
    over_time = getattr(candidate.config, "feat_extract_norm", None) == "group"
    # Some pass their cache on to the base model without naming it.
    cached = CACHES & {*takes, *inspect.signature(model.base_model.forward).parameters}
    labels = bool(takes & {"labels", "return_loss", "future_values", "spectrogram_labels"})
    questions: dict[str, tuple[bool, str, str]] = {
        "tying": (
            has_output_embeddings(model) and hasattr(model.config, "tie_word_embeddings"),
            f"{name} has an output embedding",
            f"{name} has no output embedding, or a configuration that leaves tying to its parts",
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
            mask in candidate.inputs and not over_time,
            f"{name}.forward takes {mask}",
            (
                "feat_extract_norm is 'group': it norms over the whole row, padding included"
                if over_time
                else f"{name}.forward takes no {mask}"
            ),
        ),
        "single_token": (
            "attention_mask" in candidate.inputs,
            f"{name}.forward takes attention_mask",
            f"{name}.forward takes no attention_mask",
        ),
        "cache": (
            bool(cached),
            f"{name}.forward takes a cache",
            f"{name}.forward takes no cache",
        ),
        "chunked_prefill": (
            bool(cached),
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
                        return str(ast.literal_eval(keyword.value)) or None
    return None


def title(candidate: Candidate) -> str:
    """How the model is called: the configuration class's name without its endings."""
    name = str(candidate.model_class.config_class.__name__)
    return name.removesuffix("Config").removesuffix("WithHifiGan")
