"""Test of Sam2Video: does it run here, and are its results right?

Sam2VideoModel of transformers, tiny, with reproducible random weights,
follows objects through a video: one marked by points, one by a box, one by a mask. It is compared
with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_sam2_video.py [--device cuda] [--help]
    pytest test_hf_sam2_video.py

Exit code: 0 all checks pass, 1 one does not, 2 wrong usage, 3 mock (torch or transformers is not
installed: nothing was tested), 4 the device is not there. A check that is skipped says why.
"""

from __future__ import annotations

import sys
import unittest
from typing import Any

from templates._basics import (
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
from templates._checks import test_attention_parity
from templates._compare import Tensors, assert_agree, flatten, note, rmse
from templates._graph import Graph
from templates._main import main, subject
from templates._random import boxes, normals, numbers, set_weights, token_ids
from templates._subject import Subject, placed, unless_dead

try:
    import torch
    from transformers import (
        Sam2HieraDetConfig,
        Sam2VideoConfig,
        Sam2VideoInferenceSession,
        Sam2VideoMaskDecoderConfig,
        Sam2VideoModel,
        Sam2VideoPromptEncoderConfig,
        Sam2VisionConfig,
    )
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "Sam2Video": "title",
    "test_hf_sam2_video.py": "script",
    "Sam2VideoConfig": "config_class",
    "Sam2VideoModel": "model_class",
    "Sam2VideoInferenceSession": "constants.session_class",
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
    "ROUNDED": "constants.rounded",
    "GOLDEN": "golden",
    "build_config": "config",
    "build_inputs": "inputs",
}

FAMILY = "sam2_video"
ARCHITECTURE = "video_segmentation"
MODEL_CLASS = "Sam2VideoModel"
CHECKPOINT = "facebook/sam2.1-hiera-tiny"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 3  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ("sdpa", "eager")  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {}
OUTPUTS: dict[str, tuple[int, ...]] = {
    "pred_masks.0": (3, 1, 16, 16),
    "pred_masks.1": (3, 1, 16, 16),
    "pred_masks.2": (3, 1, 16, 16),
    "pred_masks.3": (3, 1, 16, 16),
    "object_score_logits.0": (3, 1),
    "object_score_logits.1": (3, 1),
    "object_score_logits.2": (3, 1),
    "object_score_logits.3": (3, 1),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {
    "enable_temporal_pos_encoding_for_object_pointers": False,
    "mask_decoder_config.dynamic_multimask_via_stability": False,
    "multimask_output_for_tracking": False,
    "multimask_output_in_sam": False,
}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {}  # parameters -> why they have none
ROUNDED: dict[str, str] = {
    "*.[023]": (
        "memories of frames are kept in bf16 (modeling_sam2_video.py:2735), and one that rounds "
        "otherwise costs more than fp32 does"
    )
}  # outputs of fp32 models that depend on half precision -> why
GOLDEN: dict[str, tuple[float, float, float]] = {
    "pred_masks.0": (2.955755238, 0.8360134008, -0.08720659679),
    "pred_masks.1": (2.772802269, 0.7635822568, 3.449868794),
    "pred_masks.2": (2.851207945, -0.2590493926, 5.737778116),
    "pred_masks.3": (2.89750502, 2.30033914, 2.336794248),
    "object_score_logits.0": (0.4171023106, 0.8178489304, -0.3863640377),
    "object_score_logits.1": (5.777861215, 15.42962031, -10.6747744),
    "object_score_logits.2": (0.4107687813, 0.8125246014, -0.3865349336),
    "object_score_logits.3": (0.4205948435, 0.8253729825, -0.3901955377),
    "enable_temporal_pos_encoding_for_object_pointers": (2.830441683, -0.8325619542, -0.3262238309),
    "mask_decoder_config.dynamic_multimask_via_stability": (
        2.706279716,
        0.3027936574,
        -1.093124233,
    ),
    "multimask_output_for_tracking": (2.870245781, -0.9476704021, -0.3036229864),
    "multimask_output_in_sam": (2.870245781, -0.9476704021, -0.3036229864),
}


def build_config() -> Sam2VideoConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return Sam2VideoConfig(
        image_size=64,
        num_maskmem=3,
        max_object_pointers_in_encoder=3,
        memory_attention_hidden_size=128,
        memory_attention_num_layers=2,
        memory_attention_feed_forward_hidden_size=48,
        memory_attention_rope_feat_sizes=[4, 4],
        memory_encoder_hidden_size=128,
        mask_downsampler_embed_dim=128,
        memory_fuser_embed_dim=128,
        memory_fuser_intermediate_dim=72,
        prompt_encoder_config=Sam2VideoPromptEncoderConfig(
            image_size=64,
            patch_size=16,
            hidden_size=128,
            mask_input_channels=12,
        ),
        mask_decoder_config=Sam2VideoMaskDecoderConfig(
            num_attention_heads=4,
            hidden_size=128,
            mlp_dim=40,
            iou_head_hidden_dim=20,
        ),
        vision_config=Sam2VisionConfig(
            fpn_hidden_size=128,
            backbone_channel_list=[64, 32, 16, 8],
            backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
            backbone_config=Sam2HieraDetConfig(
                hidden_size=8,
                num_attention_heads=1,
                image_size=[64, 64],
                blocks_per_stage=[1, 1, 2, 1],
                embed_dim_per_stage=[8, 16, 32, 64],
                num_attention_heads_per_stage=[1, 2, 4, 8],
                window_size_per_stage=[4, 2, 2, 2],
                global_attention_blocks=[3],
                window_positional_embedding_background_size=[2, 2],
            ),
        ),
    )


def build_model(weights: str, size: str, seed: int) -> Sam2VideoModel:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        where = CHECKPOINT if weights == "pretrained" else weights
        return Sam2VideoModel.from_pretrained(where)
    model = Sam2VideoModel(Sam2VideoConfig() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: Sam2VideoConfig, seed: int) -> Tensors:
    """A video, marks on one of its frames for an object each, and which frame that is."""
    return {
        "pixel_values_videos": normals(
            "pixel_values_videos", shape=(4, 3, config.image_size, config.image_size), seed=seed
        ),
        "input_points": numbers(values=((((9.0, 20.0), (30.0, 12.0)),),)),
        "input_labels": numbers(values=(((1, 0),),)),
        "input_boxes": boxes("input_boxes", shape=(1, 1), size=64.0, seed=seed),
        "input_masks": token_ids(
            "input_masks",
            shape=(1, 1, config.image_size, config.image_size),
            low=0,
            high=2,
            seed=seed,
        ),
        "frame_idx": numbers(values=(1,)),
    }


def call_model(model: Sam2VideoModel, inputs: Tensors, **options: Any) -> dict[str, list[Any]]:
    """What a new session gives, by frame: from the marked one on to the end, then back."""
    session = open_session(model, inputs["pixel_values_videos"])
    first, count = int(inputs["frame_idx"]), len(inputs["pixel_values_videos"])
    mark(session, first, inputs)
    found = {}
    for frame in (*range(first, count), *reversed(range(first))):
        found[frame] = model(session, frame_idx=frame, reverse=frame < first, **options)
    return by_frame([found[frame] for frame in range(count)])


def open_session(
    model: Sam2VideoModel, video: torch.Tensor | None = None
) -> Sam2VideoInferenceSession:
    """A session on the device of `model`, in its type."""
    if isinstance(model, Graph):
        raise unittest.SkipTest("a session keeps a memory between its frames, so it is no graph")
    places = ("inference_device", "inference_state_device", "video_storage_device")
    devices = dict.fromkeys(places, model.device)
    return Sam2VideoInferenceSession(video=video, dtype=model.dtype, **devices)


def mark(session: Sam2VideoInferenceSession, frame: int, inputs: Tensors) -> None:
    """Mark an object on `frame` by points, one by a box, one by a mask, as the processor does."""
    points, labels = inputs.get("input_points"), inputs.get("input_labels")
    marks = {1: {"point_coords": points, "point_labels": labels}} if points is not None else {}
    if (box := inputs.get("input_boxes")) is not None:  # its corners are points of two more kinds
        corners = box.reshape(1, 1, 2, 2)
        marks[2] = {"point_coords": corners, "point_labels": torch.tensor([[[2, 3]]])}
    for number, found in marks.items():
        session.add_point_inputs(session.obj_id_to_idx(number), frame, found)
    if (mask := inputs.get("input_masks")) is not None:
        session.add_mask_inputs(session.obj_id_to_idx(3), frame, mask)
    session.obj_with_new_inputs = [*marks, *([3] if mask is not None else [])]


def by_frame(found: list[Any]) -> dict[str, list[Any]]:
    """The outputs of all frames, each kind as a list."""
    names = ("pred_masks", "object_score_logits")
    return {name: [getattr(output, name) for output in found] for name in names}


def test_batch_invariance(subject: Subject) -> None:
    """Each object alone is followed as among the others."""
    kinds = [["input_points", "input_labels"], ["input_boxes"], ["input_masks"]]
    for index, kind in enumerate(kind for kind in kinds if kind[0] in subject.inputs):
        names = ("pixel_values_videos", "frame_idx", *kind)
        alone = subject.run(subject.model, {name: subject.inputs[name] for name in names})
        expected = {name: value[index : index + 1] for name, value in subject.outputs.items()}
        assert_agree(alone, expected, subject.bounds, f"the object of {kind[0]} alone")


def test_causality(subject: Subject) -> None:
    """What the last frame shows changes nothing in those between it and the marked one."""
    first, inputs = int(subject.inputs["frame_idx"]), dict(subject.inputs)
    video = inputs["pixel_values_videos"].clone()
    video[-1] = video[-1].flip(-1)
    found = subject.run(subject.model, inputs | {"pixel_values_videos": video})
    frames = range(first, len(video) - 1)
    before = {n: v for n, v in subject.outputs.items() if int(n.rpartition(".")[2]) in frames}
    assert_agree(found, before, subject.bounds, "another last frame")


def test_memory(subject: Subject) -> None:
    """The last frame depends on each mark of the first one, and on what stood between them."""
    unless_dead(subject, lambda model: assert_remembers(subject, model))


def assert_remembers(subject: Subject, model: Any) -> None:
    """What `model` gives for the last frame changes with the marks and with the frames before."""
    usual = subject.outputs if model is subject.model else subject.expected
    others = build_inputs(subject.model.config, subject.seed + 1)
    others["input_points"] = subject.inputs["input_points"].flip(-1)
    video = others["pixel_values_videos"] = subject.inputs["pixel_values_videos"].clone()
    video[-2] = video[-2].flip(-1)
    last, names = f"pred_masks.{len(video) - 1}", ("input_points", "input_boxes", "input_masks")
    for name in (*names, "pixel_values_videos"):
        if name not in others:
            continue
        found = subject.run(model, subject.inputs | {name: others[name]})[last]
        rows = [names.index(name)] if name in names else [*range(len(found))]
        least = subject.bounds[last]
        effect = note(rmse(found[rows], usual[last][rows]), least)
        assert (
            effect > least
        ), f"{name} changes the last frame by {effect:.1e}, not over {least:.1e}"


def test_streaming(subject: Subject) -> None:
    """Frames that come one by one give what the whole video gives, and so does the iterator."""
    model, inputs = subject.model, subject.inputs | {"frame_idx": torch.tensor([0])}
    expected = subject.run(model, inputs)
    inputs = placed(inputs, model)
    stream, whole = open_session(model), open_session(model, inputs["pixel_values_videos"])
    for session in (stream, whole):
        mark(session, 0, inputs)
    found = {
        "one by one": [model(stream, frame=frame) for frame in inputs["pixel_values_videos"]],
        "by the iterator": [*model.propagate_in_video_iterator(whole, start_frame_idx=0)],
    }
    for what, outputs in found.items():
        tensors = {n: v.cpu().double() for n, v in flatten(by_frame(outputs)).items()}
        assert_agree(tensors, expected, subject.bounds, what)


def test_late_object(subject: Subject) -> None:
    """An object that is marked on a later frame changes nothing in those that are followed."""
    model, inputs = subject.model, placed(subject.inputs, subject.model)
    found = []
    for late in (False, True):
        session = open_session(model, inputs["pixel_values_videos"])
        box = {"input_boxes": inputs["input_boxes"]}
        mark(session, 0, {name: inputs[name] for name in ("input_points", "input_labels")})
        outputs = []
        for frame in range(len(inputs["pixel_values_videos"])):
            if late and frame == 1:
                mark(session, frame, box)
            outputs.append(model(session, frame_idx=frame))
        found.append({n: v[:1].cpu().double() for n, v in flatten(by_frame(outputs)).items()})
    assert_agree(found[1], found[0], subject.bounds, "beside an object of a later frame")


if __name__ == "__main__":
    sys.exit(main(globals()))
