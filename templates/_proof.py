"""Whether the real thing runs: shown by what it does and where its code lies, not by an import."""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import json
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import torch
import transformers

from templates import _story as story
from templates._devices import runtime_of
from templates._subject import Subject

REQUIRED = ("torch", "transformers", "numpy", "tokenizers", "safetensors")
OPTIONAL = (
    *("sentencepiece", "pillow", "torchvision", "timm", "scipy", "torchaudio"),
    *("openvino", "onnx", "onnxruntime", "playwright"),
)
MODULES = {"pillow": "PIL"}  # where a package has another name than its module


class Mocked(Exception):
    """Not the family's own model answers; the message says what shows that."""


def absent(packages: tuple[str, ...]) -> list[str]:
    """Those of `packages` that are not installed, or hidden (MOCK_TIMM=1)."""
    found = []
    for name in packages:
        try:
            spec = importlib.util.find_spec(MODULES.get(name, name))
        except ValueError:  # a module without one, which is no package: what it does shows
            continue
        found += [] if spec else [name]
    return found


def versions(packages: tuple[str, ...]) -> dict[str, str | None]:
    """The versions of `packages`; "?" where one does not say, None where it is absent."""
    lacking, known = absent(packages), {}
    for folder in reversed(sys.path):
        for entry in Path(folder).glob("*.dist-info"):  # importlib.metadata takes 5 ms for each
            name, _, version = entry.stem.partition("-")
            known[re.sub(r"[-_.]+", "-", name).lower()] = version
    loaded = {name: getattr(sys.modules.get(name), "__version__", None) for name in packages}
    return {
        name: None if name in lacking else str(loaded[name] or known.get(name, "?"))
        for name in packages
    }


def stand_in(shape: tuple[int, ...]) -> Any:
    """Zeros of this shape in lists: what a mock has in place of a tensor."""
    part: Any = 0.0
    for count in reversed(shape):
        part = [part] * count
    return part


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape of such lists."""
    return (len(value), *shape_of(value[0])) if isinstance(value, list) else ()


def why_mock() -> str | None:
    """Why nothing real can run here; None where torch computes, whatever else may be wrong."""
    if missing := absent(REQUIRED):
        return f"needs {', '.join(missing)}, not installed"
    if isinstance(story.MISSING, ModuleNotFoundError):
        name = story.MISSING.name
        return f"needs {name}, not installed" if name else str(story.MISSING)
    try:
        prove_torch()
    except Mocked as error:
        return str(error)
    return None


def prove_torch() -> None:
    """Have torch compute and differentiate a function whose values are known. Errors: Mocked."""
    known = (13.025156502484, 2.960782090188, -5.110727247710, 4.125957957554)
    try:
        x = torch.tensor([0.5, -1.25, 2.0], dtype=torch.float64, requires_grad=True)
        y = (torch.erf(x) * torch.stack([x, 2 * x, x - 1])).sum()
        y.backward()
        found = [y.item(), *x.grad.tolist()]  # type: ignore[union-attr]
        right = all(
            type(a) is float and abs(a - b) < 1e-10 for a, b in zip(found, known, strict=True)
        )
        file = str(torch._C.__file__)
    except NameError:  # it was not imported, for a reason that MISSING says
        return
    except Exception as error:
        raise Mocked(f"torch computes nothing: {type(error).__name__}: {error}") from error
    if not right or not file.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES)):
        raise Mocked(f"torch is not the real one: it computes {found} in {file}")


def prove(subject: Subject) -> dict[str, Any]:
    """What shows that the family's own model answers, for the record.

    Its code is that of its class, its modules run, and what it gives depends on its inputs and on
    its weights. Errors: Mocked; and whatever the model raises, which the checks will tell.
    """
    prove_torch()
    if not isinstance(transformers, types.ModuleType):
        raise Mocked(f"transformers is a {type(transformers).__name__}")
    graph = runtime_of(subject.device)
    model = subject.reference if graph else subject.model
    package, made = Path(transformers.__file__ or ".").parent, type(model)
    if len([*package.glob("models/*")]) < 100:
        raise Mocked(f"transformers is not the real one: {package} has not its models")
    if not f"{made.__module__}.".startswith(f"transformers.models.{story.FAMILY}."):
        raise Mocked(f"the model is a {made.__module__}.{made.__qualname__}")
    if made.__name__ != story.MODEL_CLASS:
        raise Mocked(f"the model is a {made.__name__}, not a {story.MODEL_CLASS}")
    for module in model.modules():
        prove_code(module, package)
    ran: set[int] = set()
    watch = torch.nn.modules.module.register_module_forward_hook(lambda m, *_: ran.add(id(m)))
    try:
        outputs = subject.expected if graph else subject.outputs
    finally:
        watch.remove()
    holders = [m for m in model.modules() if m._parameters]
    share = sum(id(module) in ran for module in holders) / max(1, len(holders))
    if id(model) not in ran or share < 0.2:
        raise Mocked(f"the forward pass runs {share:.0%} of the modules that have weights")
    others = dict(story.build_inputs(model.config, subject.seed + 1))
    prove_change("inputs", outputs, subject.run(model, others))
    weights = [p.data for p in model.parameters() if p.is_floating_point()]
    try:  # less, not more: of a speech that becomes longer the frames need terabytes
        for weight in weights:
            weight.mul_(0.5)
        prove_change("weights", outputs, subject.run(model, subject.inputs))
    finally:
        for weight in weights:
            weight.mul_(2.0)  # exact
    file = Path(sys.modules[made.__module__].__file__ or ".")
    found = {"class": f"{made.__module__}.{made.__qualname__}", "modules": len(ran)}
    return found | {"executed": share} | origin(package, file)


def prove_code(module: Any, package: Path) -> None:
    """Refuse a forward that is not the code of the module's class. Errors: Mocked."""
    made = type(module)
    known = ("torch", "transformers", *OPTIONAL, *story.REQUIRES)
    if made.__module__.partition(".")[0] not in known:
        raise Mocked(f"{made.__qualname__} comes from {made.__module__}")
    home = getattr(sys.modules.get(made.__module__), "__file__", None)
    homes = (str(package), str(Path(torch.__file__).parent), str(home))
    forward = vars(module).get("forward", made.forward)
    while forward is not None:
        code = getattr(getattr(forward, "__func__", forward), "__code__", None)
        file = getattr(code, "co_filename", "no Python")
        if not file.startswith(homes):
            raise Mocked(f"{made.__qualname__}.forward is the code of {file}")
        forward = getattr(forward, "__wrapped__", None)


def prove_change(what: str, before: dict[str, Any], after: dict[str, Any]) -> None:
    """Refuse outputs that other inputs or weights leave as they were. Errors: Mocked."""
    same = [name for name, value in before.items() if torch.equal(value, after.get(name, value))]
    if len(same) == len(before):
        raise Mocked(f"the outputs do not depend on the {what}")


def origin(package: Path, file: Path) -> dict[str, str | None]:
    """Where the code of the model comes from: installed, a source tree, or laid over the package.

    With the commit, where there is one.
    """
    kind, folder, commit = "installed", package, None
    installed = [*package.parent.glob("transformers-*.dist-info")]
    if package not in file.parents:
        kind, folder = "overlay", file.parent
    elif not installed:
        kind = "source"
    if kind != "installed":
        asked = ["git", "-C", str(folder), "rev-parse", "HEAD"]
        with contextlib.suppress(OSError):  # no Git here
            said = subprocess.run(asked, check=False, capture_output=True, text=True).stdout
            commit = said.strip() or None
    for note in (each / "direct_url.json" for each in installed):
        if note.exists():  # installed from a repository
            commit = json.loads(note.read_text()).get("vcs_info", {}).get("commit_id")
    shown = file.relative_to(package.parent) if kind == "installed" else file
    return {"origin": kind, "file": str(shown).replace(str(Path.home()), "~"), "commit": commit}
