"""Test of Jev: does it run here, and are its results right?

JevForDecision of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_jev.py [--device cuda] [--help]
    pytest test_hf_jev.py

Exit code: 0 all checks pass, 1 one does not, 2 wrong usage, 3 mock (torch or transformers is not
installed: nothing was tested), 4 the device is not there. A check that is skipped says why.
"""

from __future__ import annotations

import sys
import tempfile

from templates._basics import (
    test_determinism,
    test_device_parity,
    test_dtype_bf16,
    test_golden,
    test_gradients,
    test_isolation,
    test_placement,
    test_sensitivity,
)
from templates._checks import test_attention_parity
from templates._compare import Tensors, assert_agree, rms, rmse
from templates._main import main, subject
from templates._random import numbers, set_weights, token_ids
from templates._subject import Subject, pretrained

try:
    import torch
    from transformers import JevConfig, JevForDecision, Qwen3_5TextConfig
    from transformers.decision.configuration_utils import DecisionConfig
    from transformers.decision.template_utils import Question
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "Jev": "title",
    "test_hf_jev.py": "script",
    "JevConfig": "config_class",
    "JevForDecision": "model_class",
    "FAMILY": "family",
    "MODEL_CLASS": "model_class",
    "CHECKPOINT": "checkpoint",
    "REQUIRES": "requires",
    "SEED": "seed",
    "ATTENTIONS": "attentions",
    "EXPERTS": "experts",
    "ALL_OUTPUTS": "all_outputs",
    "OUTPUTS": "outputs",
    "FP32_OUTPUTS": "fp32_outputs",
    "SWITCHES": "switches",
    "OPTIONS": "options",
    "INSENSITIVE": "insensitive",
    "NO_GRADIENT": "no_gradient",
    "GOLDEN": "golden",
    "build_config": "config",
    "build_inputs": "inputs",
}

FAMILY = "jev"
ARCHITECTURE = "decision"
MODEL_CLASS = "JevForDecision"
CHECKPOINT = "autotrust/JEV-9B"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ("sdpa", "eager")  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {}
OUTPUTS = {"output": (9,)}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {
    "text_config.attention_bias": True
}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {}  # parameters -> why they have none
GOLDEN = {
    "output": (0.5570217909, 0.6287742396, 0.4200812062),
    "text_config.attention_bias": (0.6668537844, 0.7131347423, 0.7422001537),
}


def build_config() -> JevConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return JevConfig(
        hidden_size=32,
        softcap=3.0,
        text_config=Qwen3_5TextConfig(
            vocab_size=99,
            hidden_size=32,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=48,
            head_dim=12,
            linear_key_head_dim=8,
            linear_value_head_dim=12,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            layer_types=["linear_attention", "full_attention"],
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [2, 2, 2],
                "partial_rotary_factor": 0.25,
            },
        ),
    )


def build_model(weights: str, size: str, seed: int) -> JevForDecision:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(JevForDecision, weights)
    model = JevForDecision(JevConfig() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: JevConfig, seed: int) -> Tensors:
    """A batch of one prompt."""
    return {
        "input_ids": token_ids("input_ids", shape=(1, 24), low=5, high=99, seed=seed),
        "marks": numbers(values=((9, 17, 24),)),
        "num_options": numbers(values=((2, 4, 3),)),
        "question_type_ids": numbers(values=((0, 1, 2),)),
    }


def test_forward(subject: Subject) -> None:
    """The scores, which come as a bare tensor, are finite, one for each option, and capped."""
    for name, value in subject.outputs.items():
        assert torch.isfinite(value).all(), f"{name} has NaN or infinite values"
    shapes = {name: tuple(value.shape) for name, value in subject.outputs.items()}
    assert shapes == OUTPUTS or subject.size == "full", f"the shapes are {shapes}"
    options = int(subject.inputs["num_options"].sum())
    assert shapes["output"] == (options,), f"{shapes} for {options} options"
    highest, cap = subject.outputs["output"].abs().max().item(), subject.model.config.softcap
    assert cap is None or highest <= cap, f"a score is {highest}, the cap {cap}"


def test_save_load(subject: Subject) -> None:
    """A saved model loads with how it decides, and gives equal outputs."""
    model = subject.fresh()
    model.decision_config = DecisionConfig(temperature={"choice": 2.0})
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = JevForDecision.from_pretrained(folder, dtype=model.dtype).eval().to(model.device)
    found = loaded.decision_config.temperature
    assert found == {"choice": 2.0}, f"the temperatures are {found}"
    bounds = {name: 1e-6 * rms(value) for name, value in subject.outputs.items()}
    assert_agree(subject.run(loaded, subject.inputs), subject.outputs, bounds, "the loaded model")


def test_batch_invariance(subject: Subject) -> None:
    """Each question alone has the scores that it has beside others in the prompt, which is one."""
    sizes = subject.inputs["num_options"][0].tolist()
    for number, scores in enumerate(subject.outputs["output"].split(sizes)):
        alone = {n: v if n == "input_ids" else v[:, [number]] for n, v in subject.inputs.items()}
        found = subject.run(subject.model, alone)
        assert_agree(found, {"output": scores}, subject.bounds, f"question {number} alone")


def test_causality(subject: Subject) -> None:
    """What stands behind the mark of a question changes its scores by nothing."""
    marks, sizes = subject.inputs["marks"][0], subject.inputs["num_options"][0].tolist()
    ids = subject.inputs["input_ids"].clone()
    others = build_inputs(subject.model.config, subject.seed + 1)["input_ids"]
    ids[:, marks[1] :] = others[:, marks[1] :]
    before = sum(sizes[:2])
    found = subject.run(subject.model, subject.inputs | {"input_ids": ids})["output"]
    expected = subject.outputs["output"]
    what = "questions before a change"
    assert_agree({"output": found[:before]}, {"output": expected[:before]}, subject.bounds, what)
    changes = rmse(found[before:], expected[before:])
    assert changes > 10 * subject.bounds["output"], f"the question behind changes by {changes:.1e}"


def test_decide(subject: Subject) -> None:
    """`decide` gives the scores of each question over the temperature of its kind."""
    inputs = {name: value.to(subject.model.device) for name, value in subject.inputs.items()}
    kinds = [Question.questions_types[kind] for kind in inputs["question_type_ids"][0].tolist()]
    sizes, questions = inputs["num_options"][0].tolist(), []
    for kind, size in zip(kinds, sizes, strict=True):
        options = [str(number) for number in range(size)]
        questions.append(Question(kind, kind, None, options, options, [None] * size))
    config = DecisionConfig(temperature={"noul": 0.5, "choice": 2.0})
    decided = subject.model.decide(inputs["input_ids"], inputs["marks"][0], questions, config)
    for kind, found, scores in zip(
        kinds, decided, subject.outputs["output"].split(sizes), strict=True
    ):
        expected = {"output": scores / config.temperature.get(kind, 1.0)}
        bounds = {"output": 2 * subject.bounds["output"] + subject.eps}
        assert_agree({"output": found.cpu().double()}, expected, bounds, f"decide: {kind}")


if __name__ == "__main__":
    sys.exit(main(globals()))
