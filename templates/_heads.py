"""A further head of the family, or a switch of its configuration, as a subject of its own."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from templates import _story as story
from templates._compare import Tensors
from templates._random import set_weights
from templates._subject import Subject

CLASSES = 5  # of classifiers; differs from every other size


@dataclass
class Head(Subject):
    """The class `head` of transformers, tiny, beside its fp64 reference; `task` is what it does."""

    head: str = ""
    task: str = ""

    def make(self) -> Any:
        """The model in fp32 on the CPU, with random weights."""
        config = story.build_config()
        config.num_labels = 2 if self.task == "question" else CLASSES  # start and end
        text = config.get_text_config()
        if getattr(text, "pad_token_id", 0) is None:  # decoders classify at the last real token
            text.pad_token_id = config.pad_token_id = 0
        if self.task == "decoder":
            config.is_decoder = True
        model = getattr(transformers, self.head)(config)
        set_weights(model, self.seed)
        return model

    def make_inputs(self, config: Any) -> Tensors:
        """The inputs that the head takes; for multiple choice each row twice, as two choices."""
        takes = inspect.signature(getattr(transformers, self.head).forward).parameters
        every = super().make_inputs(config)
        inputs = {name: value for name, value in every.items() if name in takes}
        if "input_ids" in takes and "input_ids" not in every and "decoder_input_ids" in every:
            inputs["input_ids"] = every["decoder_input_ids"]  # of a decoder alone
        if self.task == "class" and inputs.pop("decoder_input_ids", None) is not None:
            inputs["input_ids"][:, 6] = config.eos_token_id  # where it classifies
        if self.task == "choice":
            inputs = {n: torch.stack([v, v.roll(1, 0)], 1) for n, v in inputs.items()}
        return inputs

    def loss(self) -> tuple[Tensors, Callable[[Tensors], torch.Tensor]]:
        """The labels that the head learns from, and the formula that gives the loss of outputs."""
        entropy, outputs = torch.nn.functional.cross_entropy, self.outputs
        if self.task == "question":
            starts, ends = torch.tensor([1, 3]), torch.tensor([4, 6])
            return {"start_positions": starts, "end_positions": ends}, lambda found: (
                entropy(found["start_logits"], starts) + entropy(found["end_logits"], ends)
            ) / 2
        scores = ("logits", "score")
        logits = next(value for name, value in outputs.items() if name.endswith(scores))
        count = logits.shape[:-1].numel()
        labels = (torch.arange(count) % logits.shape[-1]).reshape(logits.shape[:-1])
        mask = self.inputs.get("attention_mask")
        if mask is not None and mask.shape == labels.shape and self.task != "frames":
            # Some heads leave padding out by themselves, some do not.
            labels = labels.masked_fill(mask == 0, -100)
        if self.task == "frames":
            labels = torch.nn.functional.one_hot(labels, CLASSES)
        shift = 1 if self.task in ("next_token", "decoder") else 0

        def formula(found: Tensors) -> torch.Tensor:
            given = next(value for name, value in found.items() if name.endswith(scores))
            classes = labels.argmax(-1) if self.task == "frames" else labels
            if shift:
                given, classes = given[:, :-1], classes[:, 1:]
            return entropy(given.flatten(0, -2), classes.flatten())

        return {"labels": labels}, formula


@dataclass
class Switched(Subject):
    """The model with one `switch` of its configuration (`text_config.mlp_bias`) thrown."""

    switch: str = ""

    def make(self) -> Any:
        """The model in fp32 on the CPU, with random weights."""
        config = story.build_config()
        *path, name = self.switch.split(".")
        setattr(functools.reduce(getattr, path, config), name, story.SWITCHES[self.switch])
        model = getattr(transformers, story.MODEL_CLASS)(config)
        set_weights(model, self.seed)
        return model
