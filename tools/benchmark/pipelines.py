"""What a user of a checkpoint gets: its pipeline, judged by its own processor and model.

Runs in the process that holds the model (`child.py`), so it needs nothing but transformers. A task
has an example, and what `pipeline` gives for it is worked out once more by hand: tokens in, model,
probabilities out. A batch of two must give each what it gets alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

TEXT = "Paris is the capital of France."
TOKENS = 8  # that a model of text adds
RATE = 16_000  # samples of a second
EXACT = 1e-4  # relative: of probabilities that were computed twice, in another batch or order


def check(model: Any, where: str) -> dict[str, Any]:
    """How the pipeline of the checkpoint at `where` does; its `model` is loaded already.

    Keys: task, status (pass, fail, skip), reason, output (what a user sees, shortened).
    """
    from transformers import pipeline

    task = task_of(type(model))
    if task not in JUDGES:
        return _found(task, "skip", f"no check for pipelines of {type(model).__name__}")
    try:
        processors = {name: load(where) for name, load in _processors(task).items()}
        if "tokenizer" in processors:  # without files it would have no words, and say nothing
            _find_one(where, set(processors["tokenizer"].vocab_files_names.values()))
    except (OSError, ValueError, ImportError) as error:
        first = str(error).strip().splitlines()[0]
        return _found(task, "skip", f"the checkpoint has not all that it needs: {first}")
    piped = pipeline(task, model=model, device=model.device, **processors)
    example, judge = JUDGES[task]
    one, other = example(piped, 0), example(piped, 1)
    with torch.no_grad():
        results = [_plain(_call(piped, task, each)) for each in (one, other)]
        expected = [_plain(judge(piped, each)) for each in (one, other)]
        both = _plain(_call(piped, task, [one, other], batch_size=2))
    shown = str(results[0])[:200]
    for result, right in zip(results, expected, strict=True):
        if problem := _difference(result, right):
            return _found(
                task, "fail", f"the pipeline is not what its parts give: {problem}", shown
            )
    if problem := _difference(both, results):
        return _found(task, "fail", f"a batch of two is not what each gets alone: {problem}", shown)
    return _found(task, "pass", None, shown)


def task_of(model_class: type) -> str | None:
    """The first task of JUDGES whose pipelines take this class; None where none does."""
    from transformers.pipelines import SUPPORTED_TASKS

    for task in JUDGES:
        for auto in SUPPORTED_TASKS[task]["pt"]:
            # By name: to have the classes is to import all that the mapping knows.
            known = auto._model_mapping._model_mapping.values()
            if any(model_class.__name__ in ([n] if isinstance(n, str) else n) for n in known):
                return task
    return None


def _found(
    task: str | None, status: str, reason: str | None, output: str | None = None
) -> dict[str, Any]:
    return {"task": task, "status": status, "reason": reason, "output": output}


def _processors(task: str) -> dict[str, Callable[[str], Any]]:
    """How to load what turns inputs of a task into tensors, by the name that `pipeline` has."""
    from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoTokenizer

    if task == "image-classification":
        return {"image_processor": AutoImageProcessor.from_pretrained}
    if task == "automatic-speech-recognition":
        return {
            "feature_extractor": AutoFeatureExtractor.from_pretrained,
            "tokenizer": AutoTokenizer.from_pretrained,
        }
    return {"tokenizer": AutoTokenizer.from_pretrained}


def _find_one(where: str, names: set[str]) -> None:
    """Errors: OSError where the checkpoint has none of the files."""
    from transformers.utils import cached_file

    missing = {"_raise_exceptions_for_missing_entries": False}
    if not any(cached_file(where, name, **missing) for name in names):
        raise OSError(f"none of {', '.join(sorted(names))}")


def _call(piped: Any, task: str, inputs: Any, **options: Any) -> Any:
    if task == "text-generation":
        if options and piped.tokenizer.pad_token_id is None:
            options = {}  # a batch of texts of different length cannot be made
        options |= {"max_new_tokens": TOKENS, "do_sample": False, "return_full_text": False}
    if task == "text-classification":
        options |= {"top_k": 1}
    found = piped(inputs, **options)
    if task == "feature-extraction":  # of the first token: a batch is padded to its longest text
        return [each[0][0] for each in found] if isinstance(inputs, list) else found[0][0]
    return found


def _text(piped: Any, number: int) -> str:
    return TEXT if number == 0 else TEXT.replace("Paris", "Rome").replace("France", "Italy")


def _masked_text(piped: Any, number: int) -> str:
    words = _text(piped, number).split()
    return " ".join([*words[:3], piped.tokenizer.mask_token, *words[4:]])


def _image(piped: Any, number: int) -> Any:
    """A colour gradient, in one direction or the other: 64 × 48."""
    from PIL import Image

    rows, columns = np.mgrid[0:48, 0:64]
    parts = [rows * 5, columns * 4, 255 - rows * 2]
    return Image.fromarray(np.stack(parts[:: -1 if number else 1], axis=-1).astype("uint8"))


def _sound(piped: Any, number: int) -> np.ndarray:
    """A second of a rising tone, from 200 or from 900 Hz."""
    time = np.arange(RATE) / RATE
    rate = piped.feature_extractor.sampling_rate / RATE
    tone = np.sin(2 * math.pi * (200 + 700 * number + 300 * time) * time * rate)
    return np.asarray(0.3 * tone, dtype=np.float32)


def _encoded(piped: Any, text: str) -> Any:
    return piped.tokenizer(text, return_tensors="pt").to(piped.model.device)


def _features(piped: Any, text: str) -> Any:
    return piped.model(**_encoded(piped, text))[0][0, 0].tolist()


def _fill_mask(piped: Any, text: str) -> Any:
    encoded = _encoded(piped, text)
    place = int((encoded["input_ids"][0] == piped.tokenizer.mask_token_id).nonzero()[0])
    likely = piped.model(**encoded).logits[0, place].softmax(-1).topk(5)
    return [
        {"score": score, "token": token}
        for score, token in zip(likely.values.tolist(), likely.indices.tolist(), strict=True)
    ]


def _generated(piped: Any, text: str) -> Any:
    encoded = _encoded(piped, text)
    options = {"max_new_tokens": TOKENS, "do_sample": False}
    ids = piped.model.generate(**encoded, **options)[0, encoded["input_ids"].shape[1] :]
    return [{"generated_text": piped.tokenizer.decode(ids, skip_special_tokens=True)}]


def _ranked(piped: Any, logits: torch.Tensor, count: int) -> Any:
    several = piped.model.config.problem_type == "multi_label_classification"
    scores = logits.sigmoid() if several or len(logits) == 1 else logits.softmax(-1)
    best = scores.topk(min(count, len(scores)))
    names = piped.model.config.id2label
    return [
        {"label": names[index], "score": score}
        for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def _classified_text(piped: Any, text: str) -> Any:
    return _ranked(piped, piped.model(**_encoded(piped, text)).logits[0], 1)


def _classified_image(piped: Any, image: Any) -> Any:
    pixels = piped.image_processor(image, return_tensors="pt").to(piped.model.device)
    return _ranked(piped, piped.model(**pixels).logits[0], 5)


def _heard(piped: Any, sound: np.ndarray) -> Any:
    rate = piped.feature_extractor.sampling_rate
    found = piped.feature_extractor(sound, sampling_rate=rate, return_tensors="pt")
    found = found.to(piped.model.device)
    if piped.model.can_generate():
        ids = piped.model.generate(**found)
        return {"text": piped.tokenizer.decode(ids[0], skip_special_tokens=True)}
    return {"text": piped.tokenizer.decode(piped.model(**found).logits[0].argmax(-1))}


JUDGES: dict[str, tuple[Callable[[Any, int], Any], Callable[[Any, Any], Any]]] = {
    "fill-mask": (_masked_text, _fill_mask),
    "text-generation": (_text, _generated),
    "text-classification": (_text, _classified_text),
    "image-classification": (_image, _classified_image),
    "automatic-speech-recognition": (_sound, _heard),
    "feature-extraction": (_text, _features),
}
"""By task: an example for its input, and what its parts give for one."""


def _plain(value: Any) -> Any:
    """A result without what the example does not decide."""
    if isinstance(value, dict):
        kept = ("score", "token", "label", "text", "generated_text")
        return {name: _plain(each) for name, each in value.items() if name in kept}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value


def _difference(one: Any, other: Any) -> str:
    """Where two results differ, in words; empty where they do not."""
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return f"{sorted(one)} and {sorted(other)}"
        return next((d for name in one if (d := _difference(one[name], other[name]))), "")
    if isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            return f"{len(one)} and {len(other)} values"
        return next((d for a, b in zip(one, other, strict=True) if (d := _difference(a, b))), "")
    same = math.isclose(one, other, rel_tol=EXACT, abs_tol=EXACT) if _numbers(one, other) else None
    return "" if same or (same is None and one == other) else f"{one!r} and {other!r}"


def _numbers(*values: Any) -> bool:
    return all(isinstance(value, (int, float)) for value in values)
