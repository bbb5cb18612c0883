"""Checks that every model has."""

from __future__ import annotations

import copy
import fnmatch
import functools
import math
import sys
import unittest
from dataclasses import replace
from typing import Any

import torch

from templates import _story as story
from templates._compare import (
    Tensors,
    assert_agree,
    assert_golden,
    assert_loss,
    flatten,
    joined,
    note,
    rms,
    rmse,
)
from templates._graph import Graph
from templates._heads import Head, Switched
from templates._random import normals
from templates._subject import Subject, decidable, excused, operators_by_device, unless_dead


def test_forward(subject: Subject) -> None:
    """The outputs have the contracted names and shapes, are finite, the same however asked for."""
    for name, value in subject.outputs.items():
        assert torch.isfinite(value).all(), f"{name} has NaN or infinite values"
    shapes = {name: tuple(value.shape) for name, value in subject.everything.items()}
    if subject.size == "tiny" and subject.seed == story.SEED:
        assert shapes == story.OUTPUTS, f"the shapes are {shapes}"
    else:  # lengths may follow from values, and so may the number of steps
        known, found = ({n.partition(".")[0] for n in names} for names in (story.OUTPUTS, shapes))
        assert found == known, f"the outputs are {sorted(found)}"
    exact = {name: 1e-9 * rms(value) for name, value in subject.expected.items()}
    assert_agree(subject.everything, subject.expected, exact, "with hidden states and the like")
    if isinstance(subject.model, Graph):  # which has but one form
        return
    listened = copy.deepcopy(subject.model)  # keeps the hooks that record its outputs
    asked = subject.run(listened, subject.inputs, **story.ALL_OUTPUTS)
    assert_agree(asked, subject.outputs, subject.bounds, "with hidden states and the like")
    as_tuple = subject.run(subject.model, subject.inputs, return_dict=False)
    for element, (name, value) in zip(as_tuple.values(), subject.outputs.items(), strict=True):
        assert torch.equal(element, value), f"{name} differs with return_dict=False"


def test_device_parity(subject: Subject) -> None:
    """The outputs are as near to the fp64 reference as rounding explains; so are the choices."""
    what = f"{subject.device} against fp64"
    assert_agree(subject.outputs, subject.expected, subject.bounds, what)
    for name in [name for name in subject.expected if name.endswith("logits")]:
        found, expected = subject.outputs[name], subject.expected[name]
        if expected.shape[-1] < 2:  # a score, no choice
            continue
        best, second = expected.topk(2).values.unbind(-1)
        clear = best - second > 10 * subject.bounds[name]
        wrong = (found.argmax(-1) != expected.argmax(-1))[clear].sum()
        assert not wrong, f"{what}: {wrong} of {clear.sum()} clear top choices of {name} differ"


def test_placement(subject: Subject) -> None:
    """The requested device holds the parameters and did the work."""
    outputs, kind, elsewhere = subject.outputs, subject.device.partition(":")[0], []
    assert outputs, "the model has no outputs"
    if isinstance(subject.model, Graph):
        runtime = subject.model.first.runtime
        kind, operators, elsewhere = runtime.target, runtime.operators, runtime.elsewhere
    else:
        for name, parameter in subject.model.named_parameters():
            assert parameter.device.type == kind, f"{name} is on {parameter.device}, not on {kind}"
        operators, elsewhere = operators_by_device(
            lambda: subject.run(subject.model, subject.inputs)
        )
        assert not elsewhere, f"{kind} left to the CPU: {elsewhere}"
    there = sum(number for place, number in operators.items() if place.startswith(kind))
    share, what = note(there / operators.total(), 1.0), f"{dict(operators)} {elsewhere[:9]}"
    assert share > 0.9, f"{share:.0%} of the operators ran on {kind}: {what}"


def test_determinism(subject: Subject) -> None:
    """Runs on the same inputs agree, whatever state random number generators are in."""
    bounds = {name: 1e-6 * rms(value) for name, value in subject.outputs.items()}
    for seed, what in ((subject.seed, "a second run"), (subject.seed + 1, "a run of another seed")):
        again = replace(subject, seed=seed).run(subject.model, subject.inputs)
        assert_agree(again, subject.outputs, bounds, what)


def test_sensitivity(subject: Subject) -> None:
    """Each input changes the output: else every other check would pass on nothing."""
    assert_sensitive(subject, [*subject.inputs])


def assert_sensitive(subject: Subject, names: list[str]) -> None:
    """The inputs `names` change the output of `subject`, but for those that are known not to."""
    others = replace(subject, seed=subject.seed + 1).make_inputs(subject.model.config)
    for name in names:
        unless_dead(subject, functools.partial(assert_shows, subject, name, others[name]))


def assert_shows(subject: Subject, name: str, other: torch.Tensor, model: Any) -> None:
    """The input `name` changes what `model` gives, unless it is known not to.

    It becomes `other`, the same of another seed, or something else where that is no other.
    """
    value = subject.inputs[name]
    fixed = torch.equal(value, other)  # masks, sizes and types do not follow from a seed
    if name.endswith("mask"):
        # Of an image with a grid no part can be hidden: hide the token before it. Images are
        # padded on the right, so of a mask of pixels it is the right half.
        hidden = 1 if "mm_token_type_ids" in subject.inputs else max(1, value.shape[-1] // 2)
        other = value.clone()
        other[..., slice(hidden) if value.ndim < 3 else slice(-hidden, None)] = 0
    elif fixed:  # exchange the rows, or have none
        exchanged = value.flip(0)
        other = value * 0 if torch.equal(value, exchanged) else exchanged
    if isinstance(model, Graph) and name in model.left_out:
        constant = f"the graph does not take {name}, whose value is a constant of it"
        size = fixed and not name.endswith("mask")  # without them there is no graph
        assert size or name in story.INSENSITIVE, constant
    try:
        outputs = subject.run(model, subject.inputs | {name: other})
    except (ArithmeticError, IndexError, RuntimeError, ValueError):
        if not fixed or name in story.INSENSITIVE:
            raise
        return  # sizes or types that do not fit the other inputs: so the model reads them
    usual = subject.outputs if model is subject.model else subject.expected
    longer = any(outputs[key].shape != value.shape for key, value in usual.items())
    if longer and name not in story.INSENSITIVE:
        return  # a sound of another length, for one: so the model reads it
    errors = {key: rmse(outputs[key], value) for key, value in usual.items()}
    least = 10 if subject.eps < 1e-6 else 1
    some = sys.float_info.min  # where an output is zero, and so its bound
    effect = max(error / max(subject.bounds[key], some) for key, error in errors.items())
    if name in story.INSENSITIVE:
        assert not effect, f"{name} changes the outputs, but {story.INSENSITIVE[name]}"
        return
    note(effect, least)
    assert effect > least, f"{name} changes the outputs by only {effect:.1f} times the bound"


def test_golden(subject: Subject) -> None:
    """The fp64 outputs are those that were stored, also with each switch of the configuration."""
    if (subject.weights, subject.size, subject.seed) != ("random", "tiny", story.SEED):
        raise unittest.SkipTest(f"the golden values are of random tiny weights, seed {story.SEED}")
    stored = story.GOLDEN.keys() & story.OUTPUTS.keys()
    assert_golden({name: value for name, value in subject.expected.items() if name in stored})
    assert subject.expected.keys() == stored, f"the outputs are {[*subject.expected]}"
    if subject.further:
        assert_golden({"all_outputs": joined(subject.further)})
    for name in story.SWITCHES:
        switched = Switched(subject.device, seed=subject.seed, switch=name)
        assert_golden({name: joined(switched.expected)})


def test_save_load(subject: Subject) -> None:
    """A saved model loads without a complaint, gives equal outputs, keeps its tied weights."""
    loaded, report = subject.reloaded(subject.model, subject.dtype)
    problems = {key: value for key, value in report.items() if value}
    assert not problems, f"from_pretrained reports {problems}"
    bounds = {name: 1e-6 * rms(value) for name, value in subject.outputs.items()}
    copied = copy.deepcopy(loaded)  # where weights lie in a file decides which kernels read them
    assert_agree(subject.run(copied, subject.inputs), subject.outputs, bounds, "the loaded model")
    count, loaded_count = (len(list(m.parameters())) for m in (subject.model, loaded))
    assert count == loaded_count, f"{count} separate parameters became {loaded_count}"


def test_tying(subject: Subject) -> None:
    """The output embedding is an input embedding exactly where the configuration says so."""
    model, embedding = subject.model, torch.nn.Embedding
    weights = [module.weight for module in model.modules() if isinstance(module, embedding)]
    weights.append(model.get_input_embeddings().weight)  # of a class of its own, as if quantized
    tied = any(model.get_output_embeddings().weight is weight for weight in weights)
    config = model.config
    if not hasattr(config, "tie_word_embeddings"):  # some composites leave it to their parts
        config = config.get_text_config(decoder=True)
    asked = config.tie_word_embeddings
    assert tied == asked, f"tie_word_embeddings is {asked}, but the embeddings are tied: {tied}"


def test_gradients(subject: Subject) -> None:
    """Each trainable parameter has a gradient; the slope is the finite difference in fp64."""
    stale = sorted(filter(excused, assert_gradients(subject)))
    assert not stale or subject.seed != story.SEED, f"NO_GRADIENT names what has one: {stale}"


def assert_gradients(subject: Subject) -> set[str]:
    """The gradients of the objective of `subject` are there and right; whose are not zero."""
    model = subject.model
    backward(subject, model)
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    learning = {name: each for name, each in trained.items() if learns(each, subject.seed)}
    wrong = sorted(name for name in trained.keys() - learning.keys() if not excused(name))
    assert not wrong, f"no gradient, or zero, or not finite: {wrong}"
    slopes = torch.stack([along(name, each) for name, each in learning.items()])
    model.zero_grad()
    slope, rounded = slopes.sum(), (1e3 if subject.eps < 1e-6 else 64) * subject.eps
    for step in (1e-8, 1e-9):  # where the larger carries something over a kink
        expected, inexact = subject.finite_difference({*learning}, step)
        bound = rounded * slopes.norm().item() + inexact
        if (error := abs(slope.item() - expected)) <= bound:
            break
    note(error, bound)

    def again(model: Any) -> Tensors:
        backward(subject, model)
        found = torch.stack([along(name, model.get_parameter(name)) for name in learning])
        model.zero_grad()
        return {"slope": found.sum()}

    with decidable(subject, again, {"slope": bound}):
        assert error <= bound, f"the slope is {slope:.6e}, fp64 says {expected:.6e} (±{bound:.1e})"
    return {name for name, each in zip(learning, slopes, strict=True) if each}


def backward(subject: Subject, model: Any) -> None:
    """Let `model` have the gradients of the objective of `subject`."""
    subject.run(model, subject.inputs)  # some keep what they computed first, without a gradient
    subject.objective(model).backward()


def along(name: str, parameter: torch.nn.Parameter) -> torch.Tensor:
    """The gradient of a parameter along the direction in which `finite_difference` moves it."""
    assert parameter.grad is not None
    direction = normals(f"direction {name}", parameter.shape).double()
    return (parameter.grad.cpu().double() * direction).sum()


def test_dtype_bf16(subject: Subject) -> None:
    """In bf16 the outputs are of the contracted types and as near to fp64 as that allows."""
    half = subject.variant(dtype="bfloat16")
    if isinstance(subject.model, Graph):  # its outputs are fp32
        half.model = subject.model.in_half()
    else:
        raw = flatten(half.call(half.model, half.inputs))
        wide = tuple(name for name, value in raw.items() if value.dtype == torch.float32)
        assert wide == story.FP32_OUTPUTS, f"outputs of the bf16 model that are fp32: {wide}"
    with decidable(half, lambda model: half.run(model, half.inputs), half.bounds):
        assert_agree(half.outputs, half.expected, half.bounds, "bf16 against fp64")


def test_isolation(subject: Subject) -> None:
    """A call changes neither its inputs nor the configuration, the weights or any class."""
    inputs = dict(story.build_inputs(subject.model.config, subject.seed))  # nobody has seen them
    assert_untouched(subject, inputs)


def assert_untouched(subject: Subject, inputs: Tensors, what: str = "a forward pass") -> None:
    """A call of the model of `subject` on `inputs` changes nothing but its outputs."""
    plain = (bool, int, float, str, list, tuple, dict, set)

    def state() -> dict[str, object]:
        classes = {type(module) for module in subject.model.modules()}
        attributes = {
            (c, k): v for c in classes for k, v in vars(c).items() if isinstance(v, plain)
        }
        return {
            "inputs": {name: value.tolist() for name, value in inputs.items()},
            "configuration": subject.model.config.to_dict(),
            "weights": {name: rms(value) for name, value in subject.model.state_dict().items()},
            "classes": attributes,
        }

    before = copy.deepcopy(state())
    subject.run(subject.model, inputs)
    touched = [part for part, value in state().items() if value != before[part]]
    assert not touched, f"{what} changes {touched}"


def test_heads(subject: Subject) -> None:
    """Each further head gives what it should, has the loss of its formula, and all of it learns."""
    if (subject.weights, subject.size) != ("random", "tiny"):
        raise unittest.SkipTest("further heads are checked with random tiny weights")
    for name, task in story.HEADS.items():
        head = Head(subject.device, subject.dtype, seed=subject.seed, head=name, task=task)
        assert_untouched(head, head.inputs, name)
        assert_agree(head.outputs, head.expected, head.bounds, f"{name} against fp64")
        if subject.seed == story.SEED:
            assert_golden({name: joined(head.expected)})
        if task == "inference":  # it takes no labels
            head.objective(head.model).backward()
        else:
            labels, formula = head.loss()
            found = flatten(head.call(head.model, head.inputs | labels))
            expected = formula(head.run(head.model, head.inputs))
            assert_loss(found["loss"].detach().cpu(), expected, head.eps, f"the loss of {name}")
            found["loss"].backward()
        learning = {n: p for n, p in head.model.named_parameters() if p.requires_grad}
        dead = {n for n, p in learning.items() if not learns(p, subject.seed)}
        if task in ("question", "choice"):  # biases that shift all positions or choices alike
            dead -= {n for n, p in learning.items() if n[-4:] == "bias" and len(p) < 3}
        excused = {
            n for n in dead for p in story.NO_GRADIENT if fnmatch.fnmatch(f"{name}.{n}", f"*{p}")
        }
        assert dead == excused, f"{name}: no gradient, or zero: {sorted(dead - excused)}"


def learns(parameter: torch.nn.Parameter, seed: int) -> bool:
    """Whether a parameter has a finite gradient, which is not zero.

    With a seed that was not chosen for that, it may be zero: of units that are dead.
    """
    if parameter.grad is None:
        return False
    size = rms(parameter.grad)
    return math.isfinite(size) and (size > 0 or seed != story.SEED)
