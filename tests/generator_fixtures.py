"""Small templates and a registry for them, with one of each thing that the generator handles.

The template `encoder` is written for `bert`; `roberta` is another family of it. Tests copy it,
break it in one place, and look at what the generator says. `python -m tests.generator_fixtures`
stores what the generator makes of it in tests/golden/.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from generator import registry
from generator.transform import Templates

GOLDEN = Path(__file__).parent / "golden"

TEMPLATES = {
    "__init__.py": '"""Small templates."""\n',
    "conftest.py": '"""No template."""\n',
    "_story.py": '"""Stands for the script."""\n',
    "_random.py": '''\
"""Numbers."""

from __future__ import annotations

import math
import zlib

import numpy
import torch


def numbers(name: str, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Numbers that depend on the name."""
    first = zlib.crc32(f"{name}/{seed}".encode()) % 7
    return torch.arange(first, first + math.prod(shape)).reshape(shape)


def placed(values: torch.Tensor, token: int) -> torch.Tensor:
    """The values, the token first."""
    values[:, 0] = token
    return values


def mask(lengths: tuple[int, ...], width: int) -> torch.Tensor:
    """Which positions count."""
    return (torch.arange(width) < torch.tensor(lengths)[:, None]).long()


def spread(values: torch.Tensor) -> numpy.ndarray:
    """No script reaches this, nor numpy."""
    return values.numpy()
''',
    "_subject.py": '''\
"""The model."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch

from templates import _story as story
from templates._random import numbers

LIMITS = {"small": 1e-3}  # by size
LARGE = {name: 10 * limit for name, limit in LIMITS.items()}


@dataclass
class Subject:
    """A model and its inputs."""

    seed: int = 0

    def inputs(self) -> dict[str, torch.Tensor]:
        """The inputs of the story."""
        return story.build_inputs(story.build_config(), self.seed)


def noise(result: Any) -> Counter[str]:
    """The local `result` is not the function of that name in another module."""
    return Counter(f"{result} {numbers('noise', (1,))}")
''',
    "_basics.py": '''\
"""Checks of every model."""

from __future__ import annotations

import copy

from templates import _story as story
from templates._subject import LARGE, Subject


def test_forward(subject: Subject) -> None:
    """The inputs have the contracted shapes."""
    shapes = {name: tuple(value.shape) for name, value in subject.inputs().items()}
    assert shapes == story.OUTPUTS, f"the shapes are {shapes}"


def test_golden(subject: Subject) -> None:
    """The sums are those that were stored."""
    assert max(LARGE.values()) == 0.01
    sums = {name: [float(value.sum())] for name, value in copy.copy(subject.inputs()).items()}
    assert sums == {name: list(golden) for name, golden in story.GOLDEN.items()}
''',
    "_checks.py": '''\
"""Checks of some models."""

from __future__ import annotations

from templates import _story as story
from templates._subject import Subject, noise


def test_padding_invariance(subject: Subject) -> None:
    """The masks agree."""
    assert subject.inputs()["attention_mask"].sum() == sum(LENGTHS), story.FAMILY
    assert noise("a")


LENGTHS = (4, 3)
''',
    "_main.py": '''\
"""The program."""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Any

from templates import _story as story
from templates._subject import Subject

try:
    import pytest
except ImportError:
    pass
else:

    @pytest.fixture
    def subject() -> Subject:
        """For pytest."""
        return Subject()


def main(namespace: dict[str, Any]) -> int:
    """Run the checks; gives back the exit code."""
    if story.MISSING:
        return 3
    print(story.MODEL_CLASS, result("python"), file=sys.stderr)
    for name, check in namespace.items():
        if name.startswith("test_"):
            check(Subject())
    return 0


def result(package: str) -> str:
    """The version of a package."""
    return importlib.metadata.version("torch") + package
''',
    "encoder.py": '''\
"""Test of Bert: does BertModel run here?

    python test_hf_bert.py

Exit code: 0 all checks pass, 3 nothing was tested.
"""

from __future__ import annotations

import sys

from templates._basics import test_forward, test_golden
from templates._checks import test_padding_invariance
from templates._main import main, subject
from templates._random import mask, numbers
from templates._subject import Subject

try:
    import torch
    from transformers import BertConfig, BertModel
except ImportError as error:
    MISSING: ImportError | None = error
else:
    MISSING = None

SLOTS = {
    "Bert": "title",
    "test_hf_bert.py": "script",
    "BertConfig": "config_class",
    "BertModel": "model_class",
    "FAMILY": "family",
    "MODEL_CLASS": "model_class",
    "ALL_OUTPUTS": "all_outputs",
    "OUTPUTS": "outputs",
    "GOLDEN": "golden",
    "build_config": "config",
    "build_inputs": "inputs",
    "STEPS": "constants.steps",
}

FAMILY = "bert"
MODEL_CLASS = "BertModel"
ALL_OUTPUTS: dict[str, bool] = {}  # everything that Bert gives
OUTPUTS = {"input_ids": (2, 4), "attention_mask": (2, 4)}
GOLDEN = {"input_ids": (52.0,), "attention_mask": (7.0,)}
STEPS = (1, 2)
DOUBLED = tuple(2 * step for step in STEPS)


def build_config() -> BertConfig:
    """A tiny configuration of Bert."""
    return BertConfig(hidden_size=32, num_attention_heads=4)


def build_inputs(config: BertConfig, seed: int) -> dict[str, torch.Tensor]:
    """Two rows for a BertModel."""
    return {
        "input_ids": numbers("input_ids", shape=(2, 4), seed=seed),
        "attention_mask": mask(lengths=(4, 3), width=4),
    }


def halved(value: float) -> float:
    """Only the loss needs this."""
    return value / 2


def test_loss(subject: Subject) -> None:
    """Bert has a loss."""
    assert halved(DOUBLED[0]) == 1, f"Bert is {subject}"


if __name__ == "__main__":
    sys.exit(main(globals()))
''',
}

ENCODER = """\
[bert]
title = "Bert"
model_class = "BertModel"
checkpoint = "google-bert/bert-base-uncased"
head = "MODEL_MAPPING"
parameters = 1000
discovered_with = {transformers = "5.23.0"}
requires = []
seed = 0
attentions = []
experts = []
all_outputs = []
[bert.config]
class = "BertConfig"
hidden_size = 32
num_attention_heads = 4
[bert.inputs]
input_ids = {kind = "numbers", shape = [2, 4]}
attention_mask = {kind = "mask", lengths = [4, 3], width = 4}
[bert.outputs]
input_ids = [2, 4]
attention_mask = [2, 4]
[bert.checks]
forward = "every model"
golden = "every model"
padding_invariance = "takes attention_mask"
loss = "takes labels"
[bert.constants]
steps = [1, 2]
[bert.golden]
input_ids = [52.0]
attention_mask = [7.0]

[roberta]
title = "RoBERTa"
model_class = "RobertaModel"
head = "MODEL_MAPPING"
parameters = 2000
discovered_with = {transformers = "5.23.0"}
requires = ["timm"]
seed = 0
attentions = []
experts = []
all_outputs = ["output_hidden_states"]
[roberta.config]
class = "VisionTextDualEncoderConfig"
pad_token_id = "None"
layer_norm_eps = inf
[roberta.config.text_config]
class = "RobertaConfig"
width = 8
[roberta.config.vision_config]
class = "ViTConfig"
sizes = [1, 2]
[roberta.inputs]
input_ids = {kind = "placed", of = {kind = "numbers", shape = [2, "config.width // 2"]}, token = 5}
attention_mask = {kind = "mask", lengths = [4, "config.text_config.width - 5"], width = 4}
[roberta.outputs]
input_ids = [2, 4]
attention_mask = [2, 4]
[roberta.checks]
forward = "every model"
padding_invariance = "takes attention_mask"
[roberta.not_applicable]
golden = "not stored"
loss = "takes no labels"
[roberta.constants]
steps = [3]
"""


def write_project(folder: Path, **changes: tuple[str, str]) -> tuple[Path, Path]:
    """Write the registry and the templates into `folder`; gives back where they are.

    A keyword names a file (`toml` is the registry, `encoder` the template, others are
    `templates/_*.py`), in which the first text is replaced by the second.
    """
    files = {f"templates/{name}": text for name, text in TEMPLATES.items()}
    files["registry/encoder.toml"] = ENCODER
    known = {"toml": "registry/encoder.toml", "encoder": "templates/encoder.py"}
    for key, (old, new) in changes.items():
        name = known.get(key, f"templates/_{key}.py")
        assert old in files[name], f"{name} has no {old!r}"
        files[name] = files[name].replace(old, new, 1)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder / "registry", folder / "templates"


def scripts(folder: Path, **changes: tuple[str, str]) -> dict[str, str]:
    """The scripts of the project that `write_project` makes, by family."""
    directory, templates = write_project(folder, **changes)
    entries, maker = registry.load(directory, templates), Templates(templates)
    return {family: maker.script(entry, entries["bert"]) for family, entry in entries.items()}


def main() -> None:
    """Store what the generator makes of this project, after its scripts were read and approved."""
    with tempfile.TemporaryDirectory() as folder:
        for family, text in scripts(Path(folder)).items():
            (GOLDEN / f"test_hf_{family}.py").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
