"""Test of Qwen2_5OmniThinker: does it run here, and are its results right?

Qwen2_5OmniThinkerForConditionalGeneration of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_qwen2_5_omni.py [--device cuda] [--help]
    pytest test_hf_qwen2_5_omni.py

Exit code: 0 all checks pass, 1 one does not, 2 wrong usage, 3 mock (torch or transformers is not
installed: nothing was tested), 4 the device is not there. A check that is skipped says why.
"""

from __future__ import annotations

import sys
from typing import Any

from templates._basics import (
    test_determinism,
    test_device_parity,
    test_dtype_bf16,
    test_forward,
    test_golden,
    test_gradients,
    test_heads,
    test_isolation,
    test_placement,
    test_save_load,
    test_sensitivity,
    test_tying,
)
from templates._checks import (
    test_attention_parity,
    test_batch_invariance,
    test_causality,
    test_padding_invariance,
)
from templates._compare import Tensors, assert_agree, assert_loss, flatten, row_of
from templates._main import main, subject
from templates._parts import test_parts
from templates._random import (
    normals,
    numbers,
    ragged_mask,
    set_weights,
    token_ids,
    with_placeholders,
)
from templates._subject import Subject, generate, pretrained

try:
    import torch
    from transformers import (
        Qwen2_5OmniAudioEncoderConfig,
        Qwen2_5OmniBigVGANConfig,
        Qwen2_5OmniDiTConfig,
        Qwen2_5OmniTalkerConfig,
        Qwen2_5OmniTalkerForConditionalGeneration,
        Qwen2_5OmniTextConfig,
        Qwen2_5OmniThinkerConfig,
        Qwen2_5OmniThinkerForConditionalGeneration,
        Qwen2_5OmniToken2WavBigVGANModel,
        Qwen2_5OmniToken2WavDiTModel,
        Qwen2_5OmniVisionEncoderConfig,
    )
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "Qwen2_5OmniThinker": "title",
    "test_hf_qwen2_5_omni.py": "script",
    "Qwen2_5OmniThinkerConfig": "config_class",
    "Qwen2_5OmniThinkerForConditionalGeneration": "model_class",
    "FAMILY": "family",
    "MODEL_CLASS": "model_class",
    "CHECKPOINT": "checkpoint",
    "REQUIRES": "requires",
    "SEED": "seed",
    "ATTENTIONS": "attentions",
    "EXPERTS": "experts",
    "HEADS": "heads",
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
    "build_parts": "parts",
}

FAMILY = "qwen2_5_omni"
ARCHITECTURE = "multimodal"
MODEL_CLASS = "Qwen2_5OmniThinkerForConditionalGeneration"
CHECKPOINT = "Qwen/Qwen2.5-Omni-7B"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ("sdpa", "eager")  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
HEADS: dict[str, str] = {}  # further classes of the family -> their task
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True, "output_attentions": True}
OUTPUTS = {
    "logits": (2, 43, 99),
    "hidden_states.0": (2, 43, 32),
    "hidden_states.1": (2, 43, 32),
    "hidden_states.2": (2, 43, 32),
    "attentions.0": (2, 4, 43, 43),
    "attentions.1": (2, 4, 43, 43),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {
    "input_text_ids": "of the text the talker reads where images are, for the positions"
}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {
    "model.audio_tower.audio_bos_eos_token.weight": (
        "a table of the published weights that no code reads"
    )
}  # parameters -> why they have none
GOLDEN = {
    "logits": (0.9441270749, 0.7257756302, -0.8261600425),
    "all_outputs": (0.4800651918, -0.4624388125, 0.1172126959),
    "talker": (1.052394301, -1.674491023, 0.804674295),
    "codes_to_spectrum": (1.165130987, 0.6298291826, -1.536024769),
    "spectrum_to_sound": (0.7722935254, 1.096748288, -0.8233617027),
}


def build_config() -> Qwen2_5OmniThinkerConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return Qwen2_5OmniThinkerConfig(
        audio_token_index=4,
        image_token_index=3,
        video_token_index=2,
        audio_start_token_id=1,
        audio_end_token_id=0,
        user_token_id=5,
        vision_start_token_id=5,
        vision_end_token_id=6,
        text_config=Qwen2_5OmniTextConfig(
            vocab_size=99,
            hidden_size=32,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=48,
            use_sliding_window=True,
            sliding_window=6,
            max_window_layers=1,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [2, 1, 1],
            },
        ),
        vision_config=Qwen2_5OmniVisionEncoderConfig(
            depth=2,
            hidden_size=24,
            intermediate_size=32,
            num_heads=2,
            patch_size=8,
            window_size=32,
            out_hidden_size=32,
            fullatt_block_indexes=[1],
        ),
        audio_config=Qwen2_5OmniAudioEncoderConfig(
            num_mel_bins=16,
            encoder_layers=2,
            encoder_attention_heads=4,
            encoder_ffn_dim=56,
            d_model=48,
            max_source_positions=40,
            n_window=20,
            output_dim=32,
        ),
    )


def build_model(weights: str, size: str, seed: int) -> Qwen2_5OmniThinkerForConditionalGeneration:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(Qwen2_5OmniThinkerForConditionalGeneration, weights)
    model = Qwen2_5OmniThinkerForConditionalGeneration(
        Qwen2_5OmniThinkerConfig() if size == "full" else build_config()
    )
    set_weights(model, seed)
    return model


def build_inputs(config: Qwen2_5OmniThinkerConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "input_ids": with_placeholders(
            with_placeholders(
                with_placeholders(
                    with_placeholders(
                        with_placeholders(
                            with_placeholders(
                                token_ids("input_ids", shape=(2, 43), low=7, high=99, seed=seed),
                                token=config.image_token_index,
                                starts=(1,),
                                count=8,
                            ),
                            token=config.vision_start_token_id,
                            starts=(0,),
                            count=1,
                        ),
                        token=config.video_token_index,
                        starts=(11,),
                        count=8,
                    ),
                    token=config.vision_start_token_id,
                    starts=(10,),
                    count=1,
                ),
                token=config.audio_token_index,
                starts=(21,),
                count=15,
            ),
            token=config.audio_start_token_id,
            starts=(20,),
            count=1,
        ),
        "attention_mask": ragged_mask(lengths=(43, 40), width=43),
        "pixel_values": normals(
            "pixel_values",
            shape=(
                64,
                config.vision_config.in_channels
                * config.vision_config.temporal_patch_size
                * config.vision_config.patch_size**2,
            ),
            seed=seed,
        ),
        "image_grid_thw": numbers(values=((1, 4, 8), (1, 2, 16))),
        "input_features": normals(
            "input_features", shape=(2, config.audio_config.num_mel_bins, 60), seed=seed
        ),
        "feature_attention_mask": ragged_mask(lengths=(60, 59), width=60),
        "pixel_values_videos": normals(
            "pixel_values_videos",
            shape=(
                64,
                config.vision_config.in_channels
                * config.vision_config.temporal_patch_size
                * config.vision_config.patch_size**2,
            ),
            seed=seed,
        ),
        "video_grid_thw": numbers(values=((2, 4, 4), (2, 2, 8))),
        "video_second_per_grid": numbers(values=(1, 2)),
    }


def build_parts(config: Qwen2_5OmniThinkerConfig, seed: int) -> dict[str, tuple[Any, Any, Tensors]]:
    """What else belongs to the model: classes, their configurations and inputs."""
    return {
        "talker": (
            Qwen2_5OmniTalkerForConditionalGeneration,
            Qwen2_5OmniTalkerConfig(
                audio_token_index=4,
                image_token_index=3,
                video_token_index=2,
                vocab_size=99,
                tts_text_start_token_id=1,
                tts_text_end_token_id=0,
                tts_text_pad_token_id=5,
                tts_codec_start_token_id=6,
                tts_codec_end_token_id=7,
                tts_codec_pad_token_id=8,
                tts_codec_mask_token_id=9,
                vision_start_token_id=10,
                vision_end_token_id=11,
                embedding_size=8,
                hidden_size=32,
                intermediate_size=40,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=48,
                head_dim=12,
                use_sliding_window=True,
                sliding_window=6,
                max_window_layers=1,
                audio_start_token_id=12,
                audio_end_token_id=13,
                rope_parameters={
                    "rope_type": "default",
                    "rope_theta": 10000.0,
                    "mrope_section": [2, 2, 2],
                },
            ),
            {
                "input_ids": token_ids("input_ids", shape=(2, 20), low=0, high=99, seed=seed),
                "attention_mask": ragged_mask(lengths=(20, 17), width=20),
                "thinker_reply_part": normals("thinker_reply_part", shape=(2, 1, 8), seed=seed),
                "input_text_ids": with_placeholders(
                    with_placeholders(
                        token_ids("input_text_ids", shape=(2, 20), low=20, high=99, seed=seed),
                        token=10,
                        starts=(0,),
                        count=1,
                    ),
                    token=3,
                    starts=(1,),
                    count=8,
                ),
                "image_grid_thw": numbers(values=((1, 4, 8), (1, 2, 16))),
            },
        ),
        "codes_to_spectrum": (
            Qwen2_5OmniToken2WavDiTModel,
            Qwen2_5OmniDiTConfig(
                num_hidden_layers=2,
                max_position_embeddings=48,
                hidden_size=32,
                num_attention_heads=2,
                head_dim=12,
                emb_dim=10,
                block_size=4,
                look_ahead_layers=[1],
                look_backward_layers=[0],
                num_embeds=33,
                mel_dim=18,
                enc_emb_dim=14,
                enc_dim=6,
                enc_channels=[10, 10, 10, 20],
                enc_kernel_sizes=[5, 3, 3, 1],
                enc_dilations=[1, 2, 3, 1],
                enc_attention_channels=9,
                enc_se_channels=7,
            ),
            {
                "hidden_states": normals("hidden_states", shape=(2, 16, 18), seed=seed),
                "condition_vector": normals("condition_vector", shape=(2, 15, 18), seed=seed),
                "speaker_embedding": normals("speaker_embedding", shape=(2, 16, 14), seed=seed),
                "quantized_code": token_ids(
                    "quantized_code", shape=(2, 8), low=1, high=33, seed=seed
                ),
                "time_step": numbers(values=(0.25, 0.75)),
            },
        ),
        "spectrum_to_sound": (
            Qwen2_5OmniToken2WavBigVGANModel,
            Qwen2_5OmniBigVGANConfig(
                mel_dim=18,
                upsample_initial_channel=16,
                upsample_rates=[5, 3],
                upsample_kernel_sizes=[11, 7],
                resblock_kernel_sizes=[3, 7],
                resblock_dilation_sizes=[[1, 3, 5], [1, 3, 5]],
            ),
            {
                "mel_spectrogram": normals("mel_spectrogram", shape=(2, 18, 16), seed=seed),
            },
        ),
    }


def test_cache(subject: Subject) -> None:
    """Reading all modalities, then decoding with the cache, gives what one pass gives."""
    mask = torch.ones_like(subject.inputs["attention_mask"])
    everything = subject.inputs | {"attention_mask": mask}
    expected = {"logits": subject.run(subject.reference, everything)["logits"]}
    shape = subject.inputs["input_ids"].shape
    by_token = {name: value for name, value in everything.items() if value.shape[:2] == shape}
    width = shape[1]
    for sizes in ([width - 4, 1, 1, 1, 1], [width - 4, 4]):
        cache, logits, seen = None, [], 0
        inputs = {name: v for name, v in everything.items() if name not in by_token}
        for size in sizes:  # the first piece has all but text; behind it no mask is needed
            inputs |= {name: value[:, seen : seen + size] for name, value in by_token.items()}
            if seen:
                del inputs["attention_mask"]
            with torch.no_grad():
                step = subject.call(subject.model, inputs, past_key_values=cache, use_cache=True)
            cache, inputs, seen = step.past_key_values, {}, seen + size
            logits.append(step.logits.cpu().double())
        what = f"decoding in pieces of {sizes}"
        assert_agree({"logits": torch.cat(logits, 1)}, expected, subject.bounds, what)


def test_generate(subject: Subject) -> None:
    """Greedy decoding gives the same logits without the cache, and for each row alone."""
    mask = torch.ones_like(subject.inputs["attention_mask"])
    inputs = subject.inputs | {"attention_mask": mask}
    cached = generate(subject, inputs, use_cache=True)
    uncached = generate(subject, inputs, use_cache=False)
    assert_agree(uncached, cached, subject.bounds, "without cache")
    alone = generate(subject, row_of(inputs, 1), use_cache=True)
    assert_agree(alone, row_of(cached, 1), subject.bounds, "a row alone")


def test_placeholders(subject: Subject) -> None:
    """Another image, video or sound changes nothing before its own placeholders, but does there."""
    ids, bound = subject.inputs["input_ids"], subject.bounds["logits"]
    others, starts = build_inputs(subject.model.config, subject.seed + 1), {}
    for name in [name for name, value in subject.inputs.items() if value.is_floating_point()]:
        changed = subject.run(subject.model, subject.inputs | {name: others[name]})["logits"]
        for row, difference in enumerate(changed - subject.outputs["logits"]):
            moved = difference.square().mean(-1).sqrt() > 10 * bound
            start = int(moved.nonzero()[0])
            token = int(ids[row, start])
            expected = int((ids[row] == token).nonzero()[0])
            assert start == expected, f"{name} acts from {start} on, its token from {expected}"
            starts[row, token] = name
    assert len(starts) == 2 * len({*starts.values()}), f"inputs share a token: {starts}"


def test_loss(subject: Subject) -> None:
    """The loss is the mean cross-entropy of each next token (label -100: none)."""
    labels = subject.inputs["input_ids"].clone()
    labels[:, ::3] = -100
    outputs = subject.run(subject.model, subject.inputs | {"labels": labels})
    logits, following = outputs["logits"][:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    expected = torch.nn.functional.cross_entropy(logits, following)
    assert_loss(outputs["loss"], expected, subject.eps)


if __name__ == "__main__":
    sys.exit(main(globals()))
