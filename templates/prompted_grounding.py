"""Test of OmDetTurbo: does it run here, and are its results right?

OmDetTurboForObjectDetection of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_omdet_turbo.py [--device cuda] [--help]
    pytest test_hf_omdet_turbo.py

Exit code: 0 all checks pass, 1 one does not, 2 wrong usage, 3 mock (torch or transformers is not
installed: nothing was tested), 4 the device is not there. A check that is skipped says why.
"""

from __future__ import annotations

import sys

from templates._basics import (
    assert_gradients,
    test_determinism,
    test_device_parity,
    test_dtype_bf16,
    test_forward,
    test_golden,
    test_isolation,
    test_placement,
    test_save_load,
    test_sensitivity,
)
from templates._checks import test_attention_parity, test_batch_invariance
from templates._compare import Tensors, assert_agree, note, rmse, row_of
from templates._main import main, subject
from templates._random import (
    ended,
    normals,
    numbers,
    ragged_mask,
    set_weights,
    token_ids,
)
from templates._subject import Subject, in_fp64, pretrained

try:
    import torch
    from transformers import (
        CLIPTextConfig,
        OmDetTurboConfig,
        OmDetTurboForObjectDetection,
        SwinConfig,
    )
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "OmDetTurbo": "title",
    "test_hf_omdet_turbo.py": "script",
    "OmDetTurboConfig": "config_class",
    "OmDetTurboForObjectDetection": "model_class",
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

FAMILY = "omdet_turbo"
ARCHITECTURE = "prompted_grounding"
MODEL_CLASS = "OmDetTurboForObjectDetection"
CHECKPOINT = "omlab/omdet-turbo-swin-tiny-hf"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ()  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True, "output_attentions": True}
OUTPUTS = {
    "decoder_coord_logits": (2, 7, 4),
    "decoder_class_logits": (2, 7, 2),
    "init_reference_points": (1, 84, 4),
    "intermediate_reference_points": (2, 7, 4),
    "encoder_coord_logits": (2, 7, 4),
    "encoder_class_logits": (2, 7, 2),
    "encoder_extracted_states.0": (2, 32, 8, 8),
    "encoder_extracted_states.1": (2, 32, 4, 4),
    "encoder_extracted_states.2": (2, 32, 2, 2),
    "decoder_hidden_states.0": (2, 7, 32),
    "decoder_hidden_states.1": (2, 7, 32),
    "decoder_hidden_states.2": (2, 7, 32),
    "decoder_attentions.0.0": (2, 8, 16, 16),
    "decoder_attentions.0.1": (2, 8, 16, 16),
    "decoder_attentions.1.0": (2, 7, 8, 3, 4),
    "decoder_attentions.1.1": (2, 7, 8, 3, 4),
    "encoder_hidden_states.0": (2, 32, 2, 2),
    "encoder_hidden_states.1": (2, 32, 2, 2),
    "encoder_attentions.0.0": (2, 4, 4, 4),
    "classes_structure": (2,),
}
FP32_OUTPUTS: tuple[str, ...] = ("logits",)  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {
    "backbone_config.qkv_bias": False,
    "backbone_config.use_absolute_embeddings": True,
    "learn_initial_query": True,
}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {
    "classes_attention_mask": (
        "the mask of a class only names it in the memory of texts: the class is pooled at its "
        "end, before which nothing reads what follows"
    )
}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {
    "vision_backbone.layer_norms.*": (
        "feature maps of a Swin of transformers have their channels first, not last as those of "
        "timm's, for which the further norms are"
    ),
    "vision_backbone.vision_backbone.swin.layernorm.*": (
        "feature maps of a Swin of transformers have their channels first, not last as those of "
        "timm's, for which the further norms are"
    ),
    "decoder.decoder_class_head.0.*": (
        "the scores of layers before the last are made in training only"
    ),
}  # parameters -> why they have none
GOLDEN = {
    "decoder_coord_logits": (0.2208738583, -0.1584947137, 0.1896573315),
    "decoder_class_logits": (1.67212716, -2.491013503, -1.387764348),
    "init_reference_points": (2.235666056, 1.556435379, 0.7800998988),
    "intermediate_reference_points": (0.1791771717, -0.1327493651, 0.1611820301),
    "encoder_coord_logits": (0.2499844189, 0.007933328037, 0.281189837),
    "encoder_class_logits": (5.476894212, 0.6237829998, 2.423953682),
    "encoder_extracted_states.0": (1.320852607, -1.084642127, -0.3197893015),
    "encoder_extracted_states.1": (1.355930897, 0.7761524686, -1.646012209),
    "encoder_extracted_states.2": (1.58285059, 0.03062974295, -0.3634576979),
    "classes_structure": (2.0, 1.022614169, 0.3808639584),
    "all_outputs": (0.4138335418, 0.09348214327, -0.0536809511),
    "backbone_config.qkv_bias": (1.406774976, 0.2487021258, 0.3760571255),
    "backbone_config.use_absolute_embeddings": (1.43770224, 0.3730662102, 0.5939687257),
    "learn_initial_query": (1.43731309, 0.3778523886, 0.4161194293),
}


def build_config() -> OmDetTurboConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return OmDetTurboConfig(
        encoder_attention_heads=4,
        apply_layernorm_after_vision_backbone=False,
        text_projection_in_dim=40,
        text_projection_out_dim=40,
        class_embed_dim=40,
        vision_features_channels=[32, 32, 32],
        encoder_in_channels=[16, 32, 64],
        decoder_num_layers=2,
        encoder_hidden_dim=32,
        decoder_hidden_dim=32,
        task_encoder_hidden_dim=48,
        encoder_dim_feedforward=40,
        decoder_dim_feedforward=40,
        num_queries=7,
        image_size=64,
        disable_custom_kernels=True,
        backbone_config=SwinConfig(
            image_size=64,
            patch_size=4,
            embed_dim=8,
            depths=[1, 1, 2, 1],
            num_heads=[1, 2, 4, 8],
            window_size=2,
            out_indices=[2, 3, 4],
        ),
        text_config=CLIPTextConfig(
            vocab_size=99,
            projection_dim=20,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=48,
            bos_token_id=4,
            eos_token_id=3,
            hidden_size=40,
            intermediate_size=44,
        ),
    )


def build_model(weights: str, size: str, seed: int) -> OmDetTurboForObjectDetection:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(OmDetTurboForObjectDetection, weights)
    model = OmDetTurboForObjectDetection(OmDetTurboConfig() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: OmDetTurboConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "pixel_values": normals(
            "pixel_values", shape=(2, 3, config.image_size, config.image_size), seed=seed
        ),
        "classes_input_ids": ended(
            token_ids("classes_input_ids", shape=(4, 5), low=5, high=99, seed=seed),
            token=config.text_config.eos_token_id,
            lengths=(5, 4, 3, 5),
        ),
        "classes_attention_mask": ragged_mask(lengths=(5, 4, 3, 5), width=5),
        "tasks_input_ids": ended(
            token_ids("tasks_input_ids", shape=(2, 9), low=5, high=99, seed=seed),
            token=config.text_config.eos_token_id,
            lengths=(9, 7),
        ),
        "tasks_attention_mask": ragged_mask(lengths=(9, 7), width=9),
        "classes_structure": numbers(values=(2, 2)),
    }


def test_memory(subject: Subject) -> None:
    """A text that the model remembers from a batch gives what it gives where it is read alone."""
    assert subject.outputs, "the model has read nothing"
    for row in (0, 1):
        alone = row_of(subject.inputs, row)
        remembered, read = (subject.run(m, alone) for m in (subject.model, subject.fresh()))
        assert_agree(remembered, read, subject.bounds, f"row {row} from memory")


def test_forgetting(subject: Subject) -> None:
    """Other weights of the text encoder act at once: what it made of texts before is forgotten."""
    model, bound = subject.fresh(), 10 * subject.bounds["decoder_class_logits"]
    before = subject.run(model, subject.inputs)["decoder_class_logits"]
    with torch.no_grad():
        model.language_backbone.text_projection.neg_()
    after = subject.run(model, subject.inputs)["decoder_class_logits"]
    change = note(rmse(after, before), bound)
    assert change > bound, f"other weights change the scores by {change:.1e} (at least {bound:.1e})"


def test_gradients(subject: Subject) -> None:
    """Where texts are read in each call, each parameter has a gradient, and fp64 the same slope."""
    reading = subject.variant()
    reading.model, reading.reference = subject.fresh(), in_fp64(subject.build())
    for model in (reading.model, reading.reference):
        model.register_forward_pre_hook(forget)
    assert_gradients(reading)


def forget(model: OmDetTurboForObjectDetection, inputs: tuple[object, ...]) -> None:
    """Empty the memory of texts, in which are those without gradients too."""
    for memory in (model.language_cache_class, model.language_cache_prompt):
        memory.cache.clear()
        memory.current_load = 0


if __name__ == "__main__":
    sys.exit(main(globals()))
