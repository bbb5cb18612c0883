"""Test of PeVideo: does it run here, and are its results right?

PeVideoModel of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_pe_video.py [--device cuda] [--help]
    pytest test_hf_pe_video.py

Exit code: 0 all checks pass, 1 one does not, 2 wrong usage, 3 mock (torch or transformers is not
installed: nothing was tested), 4 the device is not there. A check that is skipped says why.
"""

from __future__ import annotations

import sys

from templates._basics import (
    test_determinism,
    test_device_parity,
    test_dtype_bf16,
    test_forward,
    test_golden,
    test_gradients,
    test_isolation,
    test_placement,
    test_save_load,
    test_sensitivity,
)
from templates._checks import test_attention_parity
from templates._compare import Tensors, assert_agree, assert_loss, row_of
from templates._main import main, subject
from templates._random import normals, ragged_mask, set_weights, token_ids
from templates._subject import Subject

try:
    import torch
    from transformers import (
        ModernBertConfig,
        PeVideoConfig,
        PeVideoEncoderConfig,
        PeVideoModel,
        TimmWrapperConfig,
    )
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "PeVideo": "title",
    "test_hf_pe_video.py": "script",
    "PeVideoConfig": "config_class",
    "PeVideoModel": "model_class",
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

FAMILY = "pe_video"
ARCHITECTURE = "video_dual_encoder"
MODEL_CLASS = "PeVideoModel"
CHECKPOINT = "facebook/pe-av-large"
REQUIRES: tuple[str, ...] = ("timm",)  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ("sdpa", "eager")  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True, "output_attentions": True}
OUTPUTS = {
    "logits_video_text": (2, 2),
    "text_video_embeds": (2, 32),
    "video_embeds": (2, 32),
    "text_outputs.last_hidden_state": (2, 12, 32),
    "text_outputs.hidden_states.0": (2, 12, 32),
    "text_outputs.hidden_states.1": (2, 12, 32),
    "text_outputs.hidden_states.2": (2, 12, 32),
    "text_outputs.attentions.0": (2, 4, 12, 12),
    "text_outputs.attentions.1": (2, 4, 12, 12),
    "video_outputs.last_hidden_state": (2, 4, 48),
    "video_outputs.pooler_output": (2, 48),
    "video_outputs.hidden_states.0": (2, 5, 48),
    "video_outputs.hidden_states.1": (2, 5, 48),
    "video_outputs.hidden_states.2": (2, 4, 48),
    "video_outputs.attentions.0": (2, 4, 5, 5),
    "video_outputs.attentions.1": (2, 4, 5, 5),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {
    "text_config.attention_bias": True,
    "text_config.mlp_bias": True,
    "text_config.norm_bias": True,
    "video_config.attention_bias": True,
}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {}  # parameters -> why they have none
GOLDEN = {
    "logits_video_text": (1.360946675, -0.5099508419, -0.08078963491),
    "text_video_embeds": (0.8937236137, -0.6627383369, 0.9187615287),
    "video_embeds": (1.031896266, 0.5620689822, -0.5447512873),
    "text_outputs.last_hidden_state": (1.163268831, -1.298379931, 0.4943172507),
    "text_outputs.hidden_states.2": (1.163268831, -1.298379931, 0.4943172507),
    "video_outputs.last_hidden_state": (1.247557317, 0.4557483746, -0.5857188102),
    "video_outputs.pooler_output": (1.181230253, 0.72987748, -0.4591281887),
    "all_outputs": (0.8269863761, 0.01204858178, 0.8454689688),
    "text_config.attention_bias": (1.165505742, 0.3050546022, 0.6664941043),
    "text_config.mlp_bias": (1.163436794, 1.360927458, -0.047332372),
    "text_config.norm_bias": (1.179658104, 0.00757803069, 0.7207735534),
    "video_config.attention_bias": (1.175554574, 0.8521124248, 0.5475846882),
}


def build_config() -> PeVideoConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return PeVideoConfig(
        text_config=ModernBertConfig(
            vocab_size=99,
            hidden_size=32,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=48,
            pad_token_id=4,
            eos_token_id=3,
            bos_token_id=2,
            cls_token_id=2,
            sep_token_id=3,
        ),
        video_config=PeVideoEncoderConfig(
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=48,
            hidden_size=48,
            head_dim=12,
            vision_config=TimmWrapperConfig(
                architecture="vit_pe_core_large_patch14_336",
                num_classes=18,
                do_pooling=True,
                global_pool="map",
                model_args={
                    "embed_dim": 24,
                    "num_heads": 2,
                    "depth": 2,
                    "img_size": [28, 28],
                    "ref_feat_shape": [2, 2],
                    "attn_pool_num_heads": 4,
                },
            ),
        ),
    )


def build_model(weights: str, size: str, seed: int) -> PeVideoModel:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        where = CHECKPOINT if weights == "pretrained" else weights
        return PeVideoModel.from_pretrained(where)
    model = PeVideoModel(PeVideoConfig() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: PeVideoConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "input_ids": token_ids("input_ids", shape=(2, 12), low=5, high=99, seed=seed),
        "attention_mask": ragged_mask(lengths=(12, 9), width=12),
        "padding_mask_videos": ragged_mask(lengths=(4, 3), width=4),
        "pixel_values_videos": normals("pixel_values_videos", shape=(2, 4, 3, 28, 28), seed=seed),
    }


def test_batch_invariance(subject: Subject) -> None:
    """Each pair of text and video alone gives its embeddings and score of the batch."""
    score = next(name for name in subject.outputs if name.startswith("logits"))
    bounds = subject.bounds | {score: 2 * subject.bounds[score]}  # one of four may be all the error
    for row in (0, 1):
        alone = subject.run(subject.model, row_of(subject.inputs, row))
        outputs = row_of(subject.outputs, row)
        expected = {name: value for name, value in outputs.items() if name.endswith("embeds")}
        expected[score] = outputs[score][:, row : row + 1]
        assert_agree(alone, expected, bounds, f"pair {row} alone")


def test_loss(subject: Subject) -> None:
    """The loss asks of each text and video whether they belong together, apart from the others."""
    outputs = subject.run(subject.model, subject.inputs, return_loss=True)
    scores = next(value for name, value in outputs.items() if name.startswith("logits"))
    together = 2 * torch.eye(len(scores)) - 1  # 1 for a pair, -1 for all others
    expected = -torch.nn.functional.logsigmoid(together * scores).sum(-1).mean()
    assert_loss(outputs["loss"], expected, subject.eps)


if __name__ == "__main__":
    sys.exit(main(globals()))
