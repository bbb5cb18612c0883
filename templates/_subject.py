"""The model under test on its device, beside its fp64 reference on the CPU."""

from __future__ import annotations

import copy
import fnmatch
import math
import re
import tempfile
import time
import unittest
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from templates import _story as story
from templates._compare import Tensors, flatten, rms, rmse, unmasked
from templates._devices import runtime_of, synchronize
from templates._graph import Graph
from templates._random import normals, settle


@dataclass
class Subject:
    """The model under test, what it should give, how far it may be off; built when first used."""

    device: str
    dtype: str = "float32"
    weights: str = "random"
    size: str = "tiny"
    seed: int = 0
    seconds: dict[str, float] = field(default_factory=dict, init=False)  # of loading, first call

    def build(self, attention: str = "eager", dtype: str = "float32") -> Any:
        """A new model on the CPU, in `dtype`, which is fp32 or that of the subject."""
        model = copy.deepcopy(self.made if dtype == "float32" else self.loaded)
        if attention in story.ATTENTIONS[1:]:  # the first is what models have by default
            attend(model, attention)
        return model

    @cached_property
    def made(self) -> Any:
        """The model in fp32 on the CPU, batch norms settled; all others are copies of it."""
        seed_generators(self.seed, "cpu")
        model = self.make().eval()
        if self.weights == "random":
            settle(model, lambda probe: self.call(in_fp64(probe), self.make_inputs(model.config)))
        return model

    @cached_property
    def loaded(self) -> Any:
        """The same in the type of the subject, loaded as users load it; nothing is run on it."""
        return self.reloaded(self.made, self.dtype)[0]

    def variant(self, **changes: Any) -> Subject:
        """The same subject but for `changes` of its type or device, beside the same reference."""
        other = replace(self, **changes)
        for name in ("made", "reference", "inputs"):
            setattr(other, name, getattr(self, name))
        return other

    def make(self) -> Any:
        """The model in fp32 on the CPU."""
        return story.build_model(self.weights, self.size, self.seed)

    def make_inputs(self, config: Any) -> Tensors:
        """Inputs that suit the model with this configuration."""
        return dict(story.build_inputs(config, self.seed))

    def fresh(self) -> Any:
        """A new model under test: on the device, with the attention that users get by default."""
        if runtime := runtime_of(self.device):
            keeps = any(name.startswith(f"{story.CACHE}.") for name in story.OUTPUTS)
            return Graph(self.build("default"), runtime, self.device, self.dtype, keeps)
        return self.build("default", self.dtype).to(self.device)

    def reloaded(self, model: Any, dtype: str) -> tuple[Any, dict[str, Any]]:
        """`model` saved and loaded in `dtype`, and what the loading reports.

        Loading keeps in fp32 what must stay so (rotary frequencies, some norms).
        """
        options = {"dtype": getattr(torch, dtype), "output_loading_info": True}
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            loaded, report = type(model).from_pretrained(folder, **options)
        if model.config._attn_implementation in story.ATTENTIONS[1:]:
            attend(loaded, model.config._attn_implementation)
        return loaded.eval().to(model.device), report

    @cached_property
    def model(self) -> Any:
        """The model under test."""
        return self.timed("load", self.fresh)

    @cached_property
    def reference(self) -> Any:
        """The same model in fp64 with eager attention on the CPU: what is right."""
        return in_fp64(self.build())

    @cached_property
    def inputs(self) -> Tensors:
        """The inputs, on the CPU; floating point ones in fp32."""
        return self.make_inputs(self.made.config)

    @cached_property
    def outputs(self) -> Tensors:
        """What the model under test gives."""
        model, inputs = self.model, self.inputs
        found: Tensors = self.timed("first_call", lambda: self.run(model, inputs))
        return found

    @cached_property
    def expected(self) -> Tensors:
        """What the reference gives."""
        return self.run(self.reference, self.inputs)

    @cached_property
    def everything(self) -> Tensors:
        """What the reference gives with all that it can be asked for: hidden states, attentions."""
        model = in_fp64(self.build())  # another one, as it keeps the hooks that record its outputs
        return self.run(model, self.inputs, **story.ALL_OUTPUTS)

    @cached_property
    def further(self) -> Tensors:
        """What it gives only when asked for."""
        return {n: value for n, value in self.everything.items() if n not in self.expected}

    @cached_property
    def eps(self) -> float:
        """The relative rounding error of the floating point type."""
        return torch.finfo(getattr(torch, self.dtype)).eps

    @cached_property
    def bounds(self) -> dict[str, float]:
        """Per output the RMSE that rounding explains."""
        return self.explained(self.inputs, self.expected)

    def explained(self, inputs: Tensors, expected: Tensors) -> dict[str, float]:
        """Per output the RMSE that rounding explains where `expected` is right for `inputs`.

        2 times what a plain CPU run in this type costs (3 times in half precision), that cost
        itself bounded, and a floor of some roundings. One run of few numbers may be lucky: of a
        tiny model the worst of 3 counts, in which everything rounds otherwise. Those leave oneDNN
        out, which may be what is wrong when the CPU itself is under test. Where the model
        rounds to half precision by design, something may round otherwise, which costs more: the
        bound of the cost is taken.
        """
        model, costs, tiny = self.build(dtype=self.dtype), [], self.size == "tiny"
        for seed in range(3 if tiny else 1):
            with without_onednn() if tiny else nullcontext():  # which a large model needs
                plain = self.run(model, inputs)
            costs.append({name: rmse(plain[name], value) for name, value in expected.items()})
            nudge(model, seed)
        half = self.eps > 1e-6
        factor, most, floor = (3, 0.1, self.eps) if half else (2, 1e-4, 8 * self.eps)
        worst = {name: max(cost[name] for cost in costs) for name in expected}
        if not half:
            worst |= {n: math.inf for n in worst for p in story.ROUNDED if fnmatch.fnmatch(n, p)}
        return {
            name: factor * min(worst[name], most * rms(value)) + floor * rms(value)
            for name, value in expected.items()
        }

    def timed(self, what: str, work: Callable[[], Any]) -> Any:
        """What `work()` gives; how long that takes is kept in `seconds`."""
        start = time.perf_counter()
        result = work()
        synchronize(self.device)
        self.seconds[what] = time.perf_counter() - start
        return result

    def call(self, model: Any, inputs: Tensors, **options: Any) -> Any:
        """Call `model` on `inputs` moved to its device, floating point ones in its type."""
        seed_generators(self.seed, model.device)  # for models that draw random numbers by design
        with fp64_throughout() if model.dtype == torch.float64 else nullcontext():
            return story.call_model(model, placed(inputs, model), **(story.OPTIONS | options))

    def run(self, model: Any, inputs: Tensors, **options: Any) -> Tensors:
        """The outputs of `model` on `inputs` by name, on the CPU, floating point ones in fp64."""
        with torch.no_grad():
            found = flatten(self.call(model, inputs, **options))
        found = {name: value.cpu() for name, value in found.items()}
        return {name: v.double() if v.is_floating_point() else v for name, v in found.items()}

    def objective(self, model: Any) -> torch.Tensor:
        """A scalar that depends on all floating point outputs: their random projections, summed."""
        total = torch.zeros((), dtype=torch.float64)
        for name, value in flatten(self.call(model, self.inputs)).items():
            if value.is_floating_point():
                direction = normals(f"objective {name}", value.shape).to(value)
                total = total + (unmasked(value) * direction).sum().cpu().double()
        return total

    def finite_difference(self, names: set[str], step: float = 1e-8) -> tuple[float, float]:
        """Slope of the reference's objective where the parameters `names` move at random.

        And how far it may be off, as the difference of two values that are rounded themselves.
        The step is small, as a larger one would carry some of many ReLUs over their kinks. What the
        model detaches stays as it was first, as it does for the gradient.
        """
        reference = self.reference  # built here: that detaches too
        learning = {n: p for n, p in reference.named_parameters() if n in names}
        directions = {n: normals(f"direction {n}", p.shape) for n, p in learning.items()}
        values: list[float] = []
        detached: list[torch.Tensor] = []

        def handle(operator: Any, *args: Any, **kwargs: Any) -> Any:
            if operator is torch.ops.aten.detach.default:
                detached.append(detached.pop(0) if values else args[0].clone())
                return detached[-1].clone()
            return operator(*args, **kwargs)

        with torch.no_grad(), on_each_operator(handle):
            for move in (step, -2 * step, step):  # the last brings them back
                for name, parameter in learning.items():
                    parameter.add_(directions[name], alpha=move)
                values.append(self.objective(reference).item())
        rounding = torch.finfo(torch.float64).eps * max(map(abs, values))
        return (values[0] - values[1]) / (2 * step), rounding / step


CACHE = "past_key_values"  # the argument and output that holds the state
ROUNDED: dict[str, str] = {}  # outputs of fp32 models that depend on half precision -> why


def call_model(model: Any, inputs: Tensors, **options: Any) -> Any:
    """What `model` gives for `inputs`; a template whose model takes no tensors has its own."""
    return model(**inputs, **options)


@contextmanager
def decidable(
    subject: Subject, run: Callable[[Any], Tensors], bounds: dict[str, float]
) -> Iterator[None]:
    """A context for a comparison of what `run(model)` gives, which skips what cannot be decided.

    With weights of another seed than the script's, which was not chosen for that, a choice among
    what is nearly equal may hang on a rounding: where one rounding of some weights moves the exact
    result further than its bound, how near another comes to it says nothing of the model under
    test, which has no part in this.
    """
    try:
        yield
    except AssertionError as error:
        if subject.seed == story.SEED:
            raise
        model = copy.deepcopy(subject.reference)
        before = run(model)
        for seed in range(3):
            nudge(model, seed, subject.eps)
            for name, value in run(model).items():
                moved = rmse(value, before[name])
                if moved > bounds[name]:
                    why = f"one rounding of weights moves the exact {name} by {moved:.1e}"
                    raise unittest.SkipTest(f"undecidable with this seed: {why}; {error}") from None
        raise


def unless_dead(subject: Subject, check: Callable[[Any], None]) -> None:
    """`check(model)` holds of the model under test; skipped where other seeds leave nothing alive.

    The seed of the script was chosen so that all inputs show and outputs vary. With weights of
    another one, what does not hold of the exact model either says nothing of the one under test.
    """
    try:
        check(subject.model)
    except AssertionError as error:
        if subject.seed == story.SEED:
            raise
        try:
            check(subject.reference)
        except AssertionError:
            raise unittest.SkipTest(f"so does the exact model with this seed: {error}") from None
        raise


def excused(parameter: str) -> bool:
    """Whether the parameter of this name is known to have no gradient."""
    return any(fnmatch.fnmatch(parameter, pattern) for pattern in story.NO_GRADIENT)


def seed_generators(seed: int, device: str | torch.device) -> None:
    """Seed the generators of the CPU and of `device`; torch.manual_seed is slow: it seeds all."""
    torch.default_generator.manual_seed(seed)
    kind = torch.device(device).type
    if kind != "cpu":
        backend = getattr(torch, kind)
        getattr(backend, "manual_seed_all", backend.manual_seed)(seed)


def checkpoint_of(weights: str) -> str:
    """The checkpoint that `--weights` names: the family's own, or a folder. Errors: ValueError."""
    where: str | None = story.CHECKPOINT if weights == "pretrained" else weights
    if where is None:
        raise ValueError(f"transformers names no checkpoint of {story.FAMILY}: --weights PATH")
    return where


def pretrained(model_class: Any, weights: str) -> Any:
    """The model of a checkpoint in fp32: the family's, from hub or cache, or that of a folder.

    Errors: ValueError where it lacks weights of the class, which would be random then.
    """
    where = checkpoint_of(weights)
    options = {"dtype": torch.float32, "output_loading_info": True}
    model, found = model_class.from_pretrained(where, **options)
    if missing := sorted(found["missing_keys"]):
        names = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise ValueError(
            f"{where} lacks {len(missing)} weights of {model_class.__name__} ({names}): "
            "they would be random"
        )
    return model


def nudge(model: Any, seed: int, eps: float = 0.0) -> None:
    """Make some weights of `model` larger by one rounding of their type, or by `eps` of them."""
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        if weight.is_floating_point():
            chosen = torch.rand(weight.shape, generator=generator) < 1 / 16
            weight.data.mul_(1 + max(eps, torch.finfo(weight.dtype).eps) * chosen)


def attend(model: Any, implementation: str) -> None:
    """Let `model` compute its attention by this implementation."""
    model.set_attn_implementation(implementation)
    if model.config._attn_implementation != implementation:  # older models only warn, and read this
        model.config._attn_implementation = implementation


def in_fp64(model: Any) -> Any:
    """`model` in fp64."""
    if story.EXPERTS:  # the default implementation has no fp64
        model.set_experts_implementation("eager")
    return model.double()


def placed(inputs: Tensors, model: Any) -> Tensors:
    """`inputs` on the device of `model`, floating point ones in its type."""
    floats = {name: model.dtype for name, value in inputs.items() if value.is_floating_point()}
    return {name: value.to(model.device, floats.get(name)) for name, value in inputs.items()}


def generate(subject: Subject, inputs: Tensors, **options: Any) -> Tensors:
    """Greedy decoding of exactly 5 tokens: the logits of each step, (rows, 5, vocabulary)."""
    inputs = {name: value.clone() for name, value in inputs.items()}  # some models write on them
    options = story.OPTIONS | options | {"do_sample": False}
    options |= {"min_new_tokens": 5, "max_new_tokens": 5}
    options |= {"output_logits": True, "return_dict_in_generate": True}
    config = subject.model.config.to_dict()  # a placeholder that is chosen would ask for features
    kinds, ends = ("audio", "image", "video", "visual"), ("_token_id", "_token_ids", "_token_index")
    named = [v for k, v in config.items() if k.startswith(kinds) and k.endswith(ends)]
    tokens = [token for v in named for token in (v if isinstance(v, (list, tuple)) else [v])]
    if placeholders := [token for token in tokens if token is not None]:
        options["suppress_tokens"] = placeholders
    made = subject.model.generate(**placed(inputs, subject.model), **options)
    return {"logits": torch.stack(made.logits, 1).cpu().double()}


def on_each_operator(handle: Callable[..., Any]) -> Any:
    """A context in which `handle(operator, *args, **kwargs)` runs in place of each operator."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return handle(f, *args, **(kwargs or {}))

    return Mode()  # type: ignore[no-untyped-call]


@contextmanager
def without_onednn() -> Iterator[None]:
    """A context in which the CPU computes with the kernels of torch itself."""
    backend: Any = torch.backends.mkldnn
    usual, backend.enabled = backend.enabled, False
    try:
        yield
    finally:
        backend.enabled = usual


@contextmanager
def fp64_throughout() -> Iterator[None]:
    """A context in which a cast to fp32 casts to fp64, and new tensors are fp64.

    Many models compute norms, rotations or logits in fp32 whatever their own type is, which would
    spoil the reference; and what is filled without a type would be too small for its limits.
    """
    full = torch.ops.aten.full.default

    def handle(operator: Any, *args: Any, **kwargs: Any) -> Any:
        filled = operator is full and isinstance(args[1], float) and kwargs.get("dtype") is None
        if filled or kwargs.get("dtype") == torch.float32:
            kwargs["dtype"] = torch.float64
        return operator(*args, **kwargs)

    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with on_each_operator(handle):
            yield
    finally:
        torch.set_default_dtype(usual)


def operators_by_device(run: Callable[[], object]) -> tuple[Counter[str], list[str]]:
    """How many operators `run()` executes by the device of their results, and who fell back.

    Of an operator that it lacks, a device says that it falls back to the CPU; the results look as
    if they were its own.
    """
    count: Counter[str] = Counter()

    def handle(operator: Any, *args: Any, **kwargs: Any) -> Any:
        result = operator(*args, **kwargs)
        count.update(value.device.type for value in [*flatten(result).values()][:1])
        return result

    usual = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings(record=True) as told, on_each_operator(handle):
            warnings.simplefilter("always")
            run()
    finally:
        torch.set_warn_always(usual)
    messages = [str(each.message).splitlines()[0] for each in told]
    return count, [each for each in messages if re.search("fall(ing)? ?back", each, re.IGNORECASE)]
