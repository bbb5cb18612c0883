"""A script's checks on one mutant, or on the model as it is: the program of each child.

`python faults/child.py SCRIPT ANSWER [--source FILE --module NAME --function NAME] [--lines …]
[--dtype float64]`

The mutant comes in by an import overlay: where the module is not imported yet, it is loaded from
FILE; where it is (as shared modules are in a warm process), the function of that name gets the
code that it has in FILE. The installed files are not touched.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.abc
import importlib.util
import io
import json
import sys
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

Observed = list[list[Any]]  # of each tensor that was seen: name, type, shape, two sums


class Overlay(importlib.abc.MetaPathFinder):
    """Finds one module in a file of ours."""

    def __init__(self, module: str, file: Path) -> None:
        self.module, self.file = module, file

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """The place of the module, if it is the one."""
        if name != self.module:
            return None
        return importlib.util.spec_from_file_location(name, self.file)


def overlay(module: str, file: Path, function: str) -> None:
    """Have `module` come from `file`, or its `function` if it is there already."""
    if module not in sys.modules:
        sys.meta_path.insert(0, Overlay(module, file))
        return
    there = sys.modules[module]
    made = types.ModuleType(module)
    made.__dict__.update(__package__=there.__package__, __file__=there.__file__)
    exec(compile(file.read_text("utf-8"), str(there.__file__), "exec"), made.__dict__)
    old, new = _function(there, function), _function(made, function)
    old.__code__ = new.__code__


def _function(module: types.ModuleType, name: str) -> types.FunctionType:
    """The function of that qualified name, without what decorators have put around it."""
    found: Any = module
    for part in name.split("."):
        if isinstance(found, types.FunctionType):
            break  # the code of what stands in a function is part of its code
        found = vars(found)[part]
        if isinstance(found, (staticmethod, classmethod)):
            found = found.__func__
        while hasattr(found, "__wrapped__"):
            found = found.__wrapped__
    if not isinstance(found, types.FunctionType):
        raise TypeError(f"{name} is no plain function")
    return found


class Trace:
    """What a run lets one see: outputs of models, gradients after backward, what classes hold.

    Two runs of the same code have the same trace; a mutant that leaves it as it is changes nothing
    that any check looks at.
    """

    def __init__(self, script: types.ModuleType) -> None:
        import torch
        from transformers import PreTrainedModel

        self.torch: Any = torch
        self.seen: Observed = []
        self.last: Any = None
        self.depth = 0  # of models that run: a check sees what the outermost gives

        def before(module: Any, inputs: Any) -> None:
            self.depth += isinstance(module, PreTrainedModel)

        def after(module: Any, inputs: Any, output: Any) -> None:
            if isinstance(module, PreTrainedModel):
                self.depth -= 1
                if not self.depth and output is not None:
                    self.last = module
                    self._keep(type(module).__name__, script.flatten(output))

        hooks = self.torch.nn.modules.module
        hooks.register_module_forward_pre_hook(before)
        hooks.register_module_forward_hook(after, always_call=True)
        call, backward = script.Subject.call, self.torch.Tensor.backward

        def called(subject: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
            self.last = model
            output = call(subject, model, *args, **kwargs)
            self._keep("call", script.flatten(output))
            return output

        def backwards(tensor: Any, *args: Any, **kwargs: Any) -> Any:
            backward(tensor, *args, **kwargs)
            parameters = self.last.named_parameters() if self.last is not None else ()
            self._keep("gradient", {n: p.grad for n, p in parameters if p.grad is not None})

        script.Subject.call = called
        self.torch.Tensor.backward = backwards

    def keep_state(self, classes: Iterable[type]) -> None:
        """Add the plain attributes of classes of transformers: a call must not change them."""
        for each in sorted(classes, key=lambda c: (c.__module__, c.__name__)):
            if each.__module__.startswith("transformers."):
                kept = {k: v for k, v in vars(each).items() if isinstance(v, (int, float, str))}
                self.seen.append([each.__name__, repr(sorted(kept.items())), [], 0.0, 0.0])

    def _keep(self, kind: str, tensors: dict[str, Any]) -> None:
        for name, tensor in tensors.items():
            if not hasattr(tensor, "dtype"):
                continue
            with self.torch.no_grad():
                value = tensor.detach().to("cpu", self.torch.float64).flatten()
                steps = self.torch.arange(value.numel(), dtype=self.torch.float64)
                sums = [(value * ((steps + k) * 0.7548).sin()).sum().item() for k in (0, 1)]
            self.seen.append([f"{kind} {name}", str(tensor.dtype), list(tensor.shape), *sums])


@contextlib.contextmanager
def lines_of(folders: tuple[str, ...], found: set[tuple[str, int]]) -> Iterator[None]:
    """Collect which lines of Python files in `folders` run."""

    def local(frame: Any, event: str, argument: Any) -> Any:
        found.add((frame.f_code.co_filename, frame.f_lineno))
        return local

    def trace(frame: Any, event: str, argument: Any) -> Any:
        name = frame.f_code.co_filename
        if not name.startswith(folders):
            return None
        found.add((name, frame.f_lineno))
        return local

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(None)


def judge_as_fp32(script: types.ModuleType) -> None:
    """Have the script's bounds in fp64 be those of fp32, and nothing be in bf16.

    Its traces are compared, not its verdicts: no check may end early because of a rounding, as then
    the rest of it would not be seen; and what is rounded to bf16 differs where nothing else does.
    """
    vars(script).pop("test_dtype_bf16", None)
    torch: Any = script.torch
    script.Subject.eps = property(
        lambda subject: max(torch.finfo(getattr(torch, t)).eps for t in (subject.dtype, "float32"))
    )


def plain_outputs(subject: Any) -> dict[str, Any]:
    """The outputs that simpler tests than ours would look at: those on the plain inputs."""
    outputs = {n: v for n, v in subject.outputs.items() if v.is_floating_point()}
    return {name: value.double().flatten().tolist()[:20_000] for name, value in outputs.items()}


def run(script: Path, dtype: str) -> dict[str, Any]:
    """The statuses of the script's checks, the trace, the outputs, the classes that took part."""
    spec = importlib.util.spec_from_file_location(script.stem, script)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[script.stem] = importlib.util.module_from_spec(spec)
    answer: dict[str, Any] = {"checks": {}, "outputs": None, "trace": [], "classes": []}
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        return answer | {"error": f"{type(error).__name__}: {error}"}
    if module.MISSING:
        return answer | {"error": f"{type(module.MISSING).__name__}: {module.MISSING}"}
    module.logging.set_verbosity_error()
    module.logging.disable_progress_bar()
    classes: set[type] = set()
    module.torch.nn.modules.module.register_module_forward_pre_hook(
        lambda each, inputs: classes.update(type(each).__mro__)
    )
    if dtype == "float64":
        judge_as_fp32(module)
    trace = Trace(module)
    subject = module.Subject("cpu", dtype, seed=module.SEED)
    for name, check in vars(module).copy().items():
        if name.startswith("test_"):
            with contextlib.redirect_stdout(io.StringIO()):
                entry = module.run_check(name[5:], check, subject)
            answer["checks"][name[5:]] = [entry["status"], entry["reason"]]
    trace.keep_state(classes)
    answer["trace"] = trace.seen
    answer["classes"] = sorted(each.__name__ for each in classes)
    with contextlib.suppress(Exception):  # it does not run at all: the simplest oracle
        answer["outputs"] = plain_outputs(subject)
    return answer


def main() -> None:
    """Run the checks and write the answer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("script", type=Path)
    parser.add_argument("answer", type=Path)
    parser.add_argument("--source", type=Path)
    parser.add_argument("--module", default="")
    parser.add_argument("--function", default="")
    parser.add_argument("--lines", nargs="*", default=[])
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    lines: set[tuple[str, int]] = set()
    watched = lines_of(tuple(options.lines), lines) if options.lines else contextlib.nullcontext()
    with watched:
        answer: dict[str, Any]
        try:
            if options.source:
                overlay(options.module, options.source, options.function)
        except Exception as error:  # the mutant cannot be put in: no fault of the checks
            answer = {"refused": f"{type(error).__name__}: {error}"}
        else:
            answer = run(options.script, options.dtype)
    answer["lines"] = sorted(lines)
    temporary = options.answer.with_suffix(".part")
    temporary.write_text(json.dumps(answer), "utf-8")
    temporary.replace(options.answer)


if __name__ == "__main__":
    main()
