"""Vision models of timm."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from crosscheck.peers import Ours, Rule, Tensors, peer, renamed

BODY = r"^(?:vit|deit|ijepa|beit|dinov2|dinov2_with_registers|swin|convnext|convnextv2|resnet)\."
TRANSFORMER: list[Rule] = [  # names of transformers -> names of timm
    (BODY, ""),
    (r"^embeddings\.(cls|mask)_token", r"\1_token"),
    (r"^mask_token$", ""),
    (r"^embeddings\.register_tokens", "reg_token"),
    (r"^embeddings\.distillation_token", "dist_token"),
    (r"^embeddings\.position_embeddings", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
    (r"^(?:encoder\.layer|layers)\.(\d+)", r"blocks.\1"),
    (r"attention\.[qkv]_proj", "attn.qkv"),  # in this order
    (r"attention\.o_proj", "attn.proj"),
    (r"layernorm_before", "norm1"),
    (r"layernorm_after", "norm2"),
    (r"layer_scale(\d)\.lambda1", r"ls\1.gamma"),
    (r"lambda_([12])", r"gamma_\1"),
    (r"^layernorm\.", "norm."),
    (r"^pooler\.layernorm\.", "fc_norm."),
    (r"^(?:cls_)?classifier", "head"),
]


def sizes(ours: Ours) -> dict[str, Any]:
    """The arguments of timm's vision transformers."""
    c = ours.config
    return {
        "img_size": c.image_size,
        "patch_size": c.patch_size,
        "embed_dim": c.hidden_size,
        "depth": c.num_hidden_layers,
        "num_heads": c.num_attention_heads,
        "mlp_ratio": getattr(c, "mlp_ratio", None) or c.intermediate_size / c.hidden_size,
        "norm_layer": partial(torch.nn.LayerNorm, eps=c.layer_norm_eps),
    }


def last_hidden_state(ours: Ours, make: Callable[[], Any], weights: Tensors) -> Tensors:
    """The tokens behind the last norm of timm's model; ours are compared with them."""
    pixels = ours.inputs["pixel_values"]
    found = ours.exact(lambda: ours.theirs(make(), weights).forward_features(pixels))
    ours.outputs = {"last_hidden_state": body(ours, pixels)}
    return {"last_hidden_state": found}


def logits(ours: Ours, make: Callable[[], Any], weights: Tensors) -> Tensors:
    """The logits of timm's model."""
    return {"logits": ours.exact(lambda: ours.theirs(make(), weights)(ours.inputs["pixel_values"]))}


def body(ours: Ours, pixels: torch.Tensor) -> torch.Tensor:
    """The last hidden state of our model without its head."""
    found: torch.Tensor = ours.exact(lambda: ours.model.base_model(pixels).last_hidden_state)
    return found


@peer("timm", "vit")
def vit(ours: Ours) -> Tensors:
    """A classifier that looks at the first token."""
    from timm.models.vision_transformer import VisionTransformer

    make = partial(VisionTransformer, num_classes=5, **sizes(ours))
    return logits(ours, make, renamed(ours.state(), TRANSFORMER))


@peer("timm", "ijepa", "dinov2", "dinov2_with_registers", "deit")
def vit_body(ours: Ours) -> Tensors:
    """Without class token, with layer scale and registers, with a token of distillation."""
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.vision_transformer import VisionTransformer

    registers = getattr(ours.config, "num_register_tokens", 0)
    kinds: dict[str, dict[str, Any]] = {
        "ijepa": {"class_token": False, "global_pool": "avg", "fc_norm": False},
        "dinov2": {"init_values": 1.0},
        "dinov2_with_registers": {
            "init_values": 1.0,
            "reg_tokens": registers,
            "no_embed_class": True,
        },
    }
    further = kinds.get(ours.family, {})
    kind: Any = VisionTransformerDistilled if ours.family == "deit" else VisionTransformer
    weights = renamed(ours.state(), TRANSFORMER)
    weights = {name: value for name, value in weights.items() if not name.startswith("head")}
    if registers:  # the class token has its position in it, the registers have none
        weights["cls_token"] = weights["cls_token"] + weights["pos_embed"][:, :1]
        weights["pos_embed"] = weights["pos_embed"][:, 1:]
    make = partial(kind, **(sizes(ours) | {"num_classes": 0} | further))
    return last_hidden_state(ours, make, weights)


@peer(
    "timm",
    "beit",
    changes={"use_relative_position_bias": True, "use_mean_pooling": True},
)
def beit(ours: Ours) -> Tensors:
    """With relative positions and layer scale; keys have no bias."""
    from timm.models.beit import Beit

    rules: list[Rule] = [
        (r"attention\.([qv])_proj\.bias", r"attn.\1_bias"),
        (r"relative_position_bias\.relative", "attn.relative"),
        *TRANSFORMER,
    ]
    make = partial(
        Beit, num_classes=5, init_values=0.1, use_abs_pos_emb=False, use_rel_pos_bias=True
    )
    return logits(ours, partial(make, **sizes(ours)), renamed(ours.state(), rules))


SWIN: list[Rule] = [
    (r"^encoder\.layers\.(\d)\.blocks", r"stage.\1.blocks"),
    (r"^embeddings\.norm", "patch_embed.norm"),
    # timm reduces at the beginning of a stage, transformers at the end of the one before.
    (r"^encoder\.layers\.(\d)\.downsample", lambda m: f"stage.{int(m[1]) + 1}.downsample"),
    (r"attention\.(?:\w+\.)*relative_position_bias_table", "attn.relative_position_bias_table"),
    (r"^classifier", "head.fc"),
]


@peer("timm", "swin")
def swin(ours: Ours) -> Tensors:
    """Windows that move, with relative positions."""
    from timm.models.swin_transformer import SwinTransformer

    c = ours.config
    make = partial(
        SwinTransformer,
        img_size=c.image_size,
        patch_size=c.patch_size,
        embed_dim=c.embed_dim,
        depths=c.depths,
        num_heads=c.num_heads,
        window_size=c.window_size,
        mlp_ratio=c.mlp_ratio,
        num_classes=5,
        strict_img_size=True,
    )
    rules: list[Rule] = [TRANSFORMER[0], *SWIN, *TRANSFORMER, (r"^stage\.", "layers.")]
    return logits(ours, make, renamed(ours.state(), rules))


CONVNEXT: list[Rule] = [
    (BODY, ""),
    (r"^embeddings\.patch_embeddings", "stem.0"),
    (r"^embeddings\.layernorm", "stem.1"),
    (r"^encoder\.", ""),
    (r"\.layers\.", ".blocks."),
    (r"downsampling_layer", "downsample"),
    (r"layer_scale_parameter", "gamma"),
    (r"dwconv", "conv_dw"),
    (r"\.layernorm\.", ".norm."),
    (r"pwconv", "mlp.fc"),
    (r"\.grn\.", ".mlp.grn."),
    (r"^layernorm", "head.norm"),
    (r"^classifier", "head.fc"),
]


@peer("timm", "convnext", "convnextv2", changes={"layer_norm_eps": 1e-6})
def convnext(ours: Ours) -> Tensors:
    """Depthwise convolutions; version 2 with global response normalisation."""
    from timm.models.convnext import ConvNeXt

    c, second = ours.config, ours.family == "convnextv2"
    make = partial(
        ConvNeXt,
        depths=c.depths,
        dims=c.hidden_sizes,
        use_grn=second,
        ls_init_value=None if second else 1.0,
        num_classes=5,
    )
    weights = renamed(ours.state(), CONVNEXT)
    return logits(ours, make, {n: v.flatten() if ".grn." in n else v for n, v in weights.items()})


RESNET: list[Rule] = [
    (BODY, ""),
    (r"^embedder\.embedder\.convolution", "conv1"),
    (r"^embedder\.embedder\.normalization", "bn1"),
    (r"^encoder\.stages\.(\d)\.layers", lambda m: f"layer{int(m[1]) + 1}"),
    (r"layer\.(\d)\.convolution", lambda m: f"conv{int(m[1]) + 1}"),
    (r"layer\.(\d)\.normalization", lambda m: f"bn{int(m[1]) + 1}"),
    (r"shortcut\.convolution", "downsample.0"),
    (r"shortcut\.normalization", "downsample.1"),
    (r"^classifier\.1", "fc"),
]


@peer("timm", "resnet", changes={"embedding_size": 64})
def resnet(ours: Ours) -> Tensors:
    """Bottlenecks; the stem of timm is 64 wide."""
    from timm.models.resnet import Bottleneck, ResNet

    widths = tuple(size // Bottleneck.expansion for size in ours.config.hidden_sizes)
    block: Any = Bottleneck
    make = partial(ResNet, block, tuple(ours.config.depths), num_classes=5, channels=widths)
    return logits(ours, make, renamed(ours.state(), RESNET))
