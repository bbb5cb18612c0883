"""The classes of a family: its main one, and its further heads with what they are trained for."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

# The auto mappings of transformers whose classes are further heads, and the task of each, which
# says what labels they take and how their loss follows from the logits (templates/_heads.py). The
# decoders of encoder-decoders are in the mapping of causal models, but do not shift their labels.
TASKS = {
    "MODEL_FOR_MASKED_LM_MAPPING": "tokens",
    "MODEL_FOR_CAUSAL_LM_MAPPING": "next_token",
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING": "class",
    "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING": "tokens",
    "MODEL_FOR_QUESTION_ANSWERING_MAPPING": "question",
    "MODEL_FOR_MULTIPLE_CHOICE_MAPPING": "choice",
    "MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING": "class",
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING": "class",
    "MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING": "class",
    "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING": "class",
    "MODEL_FOR_AUDIO_FRAME_CLASSIFICATION_MAPPING": "frames",
}


def classes(mapping: str, family: str) -> Iterator[Any]:
    """The model classes that an auto mapping has for the configurations of `family`.

    By the names of model types: the keys of the mapping itself import every family.
    """
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    folder_of = importlib.import_module(
        "transformers.models.auto.configuration_auto"
    ).model_type_to_module_name
    found: dict[str, None] = {}  # several model types may have the same class
    for model_type, names in getattr(auto, mapping)._model_mapping.items():
        if folder_of(model_type) == family:
            found |= dict.fromkeys(names if isinstance(names, tuple) else [names])
    transformers = importlib.import_module("transformers")
    yield from (getattr(transformers, name) for name in found)


def further(family: str, main: Any) -> dict[str, str]:
    """The heads of `family` beside its `main` class, of the same configuration: their tasks."""
    found: dict[str, str] = {}
    for mapping, task in TASKS.items():
        for each in classes(mapping, family):
            if each is not main and each.config_class is main.config_class:
                found.setdefault(each.__name__, task)
    return found
