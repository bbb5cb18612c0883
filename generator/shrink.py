"""Tiny configurations: the defaults of a configuration class, field by field made small.

Sizes that a model couples stay equal, all others differ, so that two swapped dimensions show as
an error and not as a pass. The text, vision and audio parts of a composite get different widths.
The result is literal data (a dict with the configuration class under "class"), never an object.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

Tree = dict[str, Any]

VOCABULARY = 99
HEADS = 4
WIDTHS = {"text": 32, "vision": 24, "audio": 48}  # all divisible by HEADS
SPECIAL_IDS_END = 5  # special token ids lie below, tokens are drawn from here on


def modality(name: str, fields: Tree) -> str:
    """Text, vision or audio, by the name of a configuration class and its fields."""
    if re.search(r"Vision|Image|ViT(?!Text)", name) or {"image_size", "patch_size"} & fields.keys():
        return "vision"
    if re.search(r"Audio|Speech|Encodec", name) or "num_mel_bins" in fields:
        return "audio"
    return "text"


def default_fields(config_class: type) -> Tree:
    """The fields that `config_class` adds to those of every configuration, with their defaults."""
    from transformers import PreTrainedConfig

    common = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    found = {}
    for field in dataclasses.fields(config_class):
        if field.name in common or field.name.startswith("_"):
            continue
        if field.default is not dataclasses.MISSING:
            found[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
    return found


def sub_configs(config_class: Any) -> dict[str, tuple[type, Tree, bool]]:
    """Sub-configurations by field: class, default arguments, and whether they may be absent."""
    from transformers import CONFIG_MAPPING

    found = {}
    for name, spec in config_class.sub_configs_defaults.items():
        known = spec.model_type in CONFIG_MAPPING
        sub_class = CONFIG_MAPPING[spec.model_type] if known else spec.config_class
        arguments = {key: v for key, v in spec.init_kwargs.items() if key != "model_type"}
        exists = dataclasses.is_dataclass(sub_class)  # a default may be of a type that does not
        found[name] = (sub_class, arguments, spec.optional or not exists)
    return found


def scaled(sizes: list[int], smallest: int = 8) -> list[int]:
    """Sizes of stages over a common divisor: their ratios stay, the smallest is at least 8."""
    common = math.gcd(*sizes)
    divisors = [d for d in range(1, common + 1) if common % d == 0 and min(sizes) // d >= smallest]
    return [size // max(divisors, default=1) for size in sizes]


Rule = Callable[[Any, str], Any]  # (default, modality) -> tiny value


def at_most(value: int) -> Rule:
    """A rule that gives `value`, or the default where that is smaller already."""
    return lambda default, _: min(default, value)


def width_plus(more: int) -> Rule:
    """A rule that gives the hidden size of the modality plus `more`."""
    return lambda _, modality: WIDTHS[modality] + more


# Field name -> rule for integer fields; the first that matches counts.
RULES: tuple[tuple[str, Rule], ...] = (
    (r"\w*vocab_size\w*", at_most(VOCABULARY)),
    (r"num_key_value_heads|num_kv_heads|multi_query_group_num", at_most(HEADS // 2)),
    (
        r"num_heads",
        lambda default, kind: min(default, 2 if kind == "vision" else HEADS),
    ),  # 2D rotary
    (
        r"(\w+_)?num_attention_heads|(mamba_)?n(um)?_heads?|(\w+_)?(en|de)coder_attention_heads",
        at_most(HEADS),
    ),
    (r"mamba_d_head|mamba_head_dim", at_most(16)),  # 2 (expansion) x 32 (width) over 4 heads
    (r"linear_num_value_heads|linear_num_heads", at_most(HEADS)),
    (r"linear_num_key_heads", at_most(HEADS // 2)),
    (r"index_n_heads", at_most(16)),  # behind a ReLU few would give many tokens the same score, 0
    (r"linear_key_head_dim|linear_head_dim", at_most(8)),
    (r"linear_value_head_dim", at_most(12)),
    (r"index_topk", at_most(4)),  # fewer tokens than the text has
    (r"mamba_chunk_size", at_most(4)),  # several chunks
    (r"rotary_dim", at_most(4)),  # half of a head
    (r"query_pre_attn_scalar", at_most(12)),
    (r"(mamba_)?n_groups|mamba_n_groups|n_group", at_most(2)),
    (r"topk_group|first_k_dense_replace|max_window_layers", at_most(1)),
    (r"qk_nope_head_dim", at_most(8)),
    (r"(qk_rope|index)_head_dim", at_most(4)),
    (r"head_dim|dim_head|d_kv|v_head_dim|kv_channels", at_most(12)),
    (r"q_lora_rank", at_most(18)),
    (r"kv_lora_rank", at_most(10)),
    (r"hidden_size|d_model|n_embd|hidden_dim", width_plus(0)),
    (r"hidden_size_per_layer_input|laurel_rank", at_most(8)),
    (r"encoder_hidden_size", at_most(WIDTHS["vision"])),
    (r"(expert_ffn_hidden|moe_intermediate)_size", width_plus(-8)),
    (r"\w*shared_\w*intermediate_size", width_plus(16)),
    (
        r"(\w+_)?intermediate_size|\w*ffn_dim|d(im)?_?ff|[dn]_inner|ffn_hidden_size",
        width_plus(8),
    ),
    (r"projection_dim", at_most(20)),
    (
        r"out_hidden_size|text_hidden_size",
        lambda *_: WIDTHS["text"],
    ),  # of vision towers that end in the projector
    (
        r"(\w+_)?num_hidden_layers|num_(decoder_)?layers|n_layers?|(\w+_)?(en|de)coder_layers|depth",
        at_most(2),
    ),
    (r"(\w+_)?max_position_embeddings|n_positions|max_(target|text)_positions", at_most(48)),
    (r"max_source_positions", at_most(40)),
    (r"attention_window(_size)?", at_most(6)),  # shorter than the text
    (r"num_mel_bins", at_most(16)),
    (r"image_size", at_most(32)),
    (r"num_position_embeddings", at_most(36)),  # of a square of patches
    (r"patch_size", at_most(8)),
    (r"num_frames", at_most(4)),
    (r"window_size", lambda default, _: 32 if default == 112 else min(default, 2)),  # 112: pixels
    (r"embed_dim", at_most(12)),
    (r"(fusion|decoder)_hidden_size", at_most(16)),
    (r"embedding_size", at_most(8)),
    (r"num_conv_pos_embeddings", at_most(16)),
    (r"num_conv_pos_embedding_groups", at_most(4)),
    (r"(moe_)?(num|n)_(local_|routed_)?experts", at_most(4)),
    (r"(moe_)?(num_experts_per_tok|top_?k(_experts)?)|num_selected_experts", at_most(2)),
    (r"(mamba_d_|ssm_)?state(_size)?|state_size", at_most(6)),
    (r"num_queries", at_most(7)),
    (r"prediction_length", at_most(6)),
    (r"num_filters", at_most(4)),
    (r"codebook_size", at_most(32)),
    (r"(input_feat_per_channel|feature_projection_input_dim)", at_most(18)),
    (r"subsampling_conv_channels|conv_channels|classifier_proj_size", at_most(12)),
    (r"conv_depthwise_kernel_size", at_most(7)),
    (r"num_prompts", at_most(5)),
)
# The same for fields that hold a list of integers, one for each stage or layer.
LIST_RULES: tuple[tuple[str, Rule], ...] = (
    (
        r"depths",
        lambda default, _: [min(depth, 2) for depth in default],
    ),  # windows shift in the 2nd
    (r"num_heads", lambda default, _: scaled(default, 1)),
    (r"(\w+_)?hidden_sizes", lambda default, _: scaled(default)),
    (r"conv_dim", lambda default, _: [16] * len(default)),
    (r"\w*out_indices", lambda default, _: [*range(len(default))]),
    (r"fullatt_block_indexes", lambda *_: [1]),  # of two layers
    (r"deepstack_visual_indexes", lambda *_: [0, 1]),
)
# What models support though their default leaves it off: grouped queries and a sliding window.
FIXED = {
    "num_key_value_heads": HEADS // 2,
    "num_kv_heads": HEADS // 2,
    "use_sliding_window": True,
    "sliding_window": 6,
}
# Fields that hold a list with the kind of each layer.
LAYER_LISTS = ("layer_types", "layers_block_type", "mlp_layer_types", "indexer_types")
# What is given up, one after the other, for a model that the rules do not suit: field -> value.
RELAXATIONS: tuple[Tree, ...] = (
    {},
    {r"num_(key_value|kv)_heads": HEADS},
    {r"head_dim|d_kv": WIDTHS["text"] // HEADS},
    {r"num_(key_value|kv)_heads": HEADS, r"head_dim|d_kv": WIDTHS["text"] // HEADS},
    {r"sliding_window": 48},
    {r"num_hidden_layers|n_layers?": 4},
    {r"patch_size": 16, "image_size": 64},
)


def shrink(
    config_class: type,
    overrides: Tree | None = None,
    arguments: Tree | None = None,
    special: dict[int, int] | None = None,
    relaxed: Tree | None = None,
) -> Tree:
    """The literal arguments that make `config_class` tiny: {"class": name, field: value, ...}.

    Args:
        config_class: a configuration class of transformers.
        overrides: hand-made values that replace those of the rules; nested for sub-configurations.
        arguments: values that a composite gives the class in place of the class's own defaults.
        special: special token ids given out so far, default id -> tiny id; shared by the parts of
            a composite, so that a token keeps one id in all of them.
        relaxed: one of `RELAXATIONS`.
    """
    overrides, arguments = dict(overrides or {}), dict(arguments or {})
    special = {} if special is None else special
    defaults, subs = default_fields(config_class), sub_configs(config_class)
    kind = modality(config_class.__name__, defaults)
    tree: Tree = {"class": config_class.__name__}
    for name, default in {**defaults, **arguments}.items():
        if name not in overrides and name not in subs:
            staged = name.endswith("out_indices") and "num_hidden_layers" not in defaults
            value = default if staged else tiny_value(name, default, kind, special)
            for pattern, other in (relaxed or {}).items():
                if re.fullmatch(pattern, name) and value is not None:
                    value = other
            if value != defaults.get(name) and value != listed(defaults.get(name)):
                tree[name] = value
            if name.endswith("out_indices") and value and "num_hidden_layers" in defaults:
                tree["num_hidden_layers"] = len(value)  # as many as feature maps are taken from
    for name, (sub_class, sub_arguments, optional) in subs.items():
        own = overrides.pop(name, None)
        if own is not None or not optional:
            tree[name] = shrunk_part(sub_class, own, sub_arguments, special, relaxed)
    tree |= overrides
    if "mrope_section" in getattr(config_class, "ignore_keys_at_rope_validation", ()):
        tree.setdefault("rope_parameters", multimodal_rope(tree))
    given = overrides.keys() & {"num_hidden_layers", *LAYER_LISTS}
    return tree if given else tree | layers_of_every_kind(config_class, arguments, tree)


def layers_of_every_kind(config_class: type, arguments: Tree, tree: Tree) -> Tree:
    """The lists with the kind of each layer, where those of `tree` lack one that is usual."""
    names = [name for name in LAYER_LISTS if name in default_fields(config_class)]
    if not names:
        return {}
    try:
        usual = config_class(**arguments)
        layers = [*zip(*(getattr(usual, name) for name in names), strict=True)]
    except Exception:  # no usual configuration, or not one kind for each layer
        return {}
    chosen: list[tuple[str, ...]] = []
    for kinds in layers:
        if any(kind not in column for kind, *column in zip(kinds, *chosen, strict=True)):
            chosen.append(kinds)
    try:
        tiny = instantiate(tree)
        if all(set(getattr(tiny, name)) >= set(getattr(usual, name)) for name in names):
            return {}
    except Exception:  # as many kinds as usual, but not as many layers: the class refuses them
        pass
    chosen += layers[: max(0, 2 - len(chosen))]
    lists = {n: list(column) for n, column in zip(names, zip(*chosen, strict=True), strict=True)}
    return {"num_hidden_layers": len(chosen)} | lists


def shrunk_part(sub_class: type, own: Tree | None, arguments: Tree, *others: Any) -> Tree:
    """The tiny sub-configuration; its values alone where transformers hides the class.

    `arguments` are for `sub_class`: where `own` names another class, they are left out.
    """
    import transformers

    given = (own or {}).pop("class", None)
    part = class_of_transformers(given) if given else sub_class
    tree = shrink(part, own, arguments if part is sub_class else {}, *others)
    if not hasattr(transformers, part.__name__):
        del tree["class"]  # the composite makes it of the values
    return tree


def multimodal_rope(tree: Tree) -> Tree:
    """Rotary positions by time, height and width, among which the rotated pairs are divided."""
    width = tree.get("head_dim") or tree["hidden_size"] // tree["num_attention_heads"]
    side = width // 6
    sections = [width // 2 - 2 * side, side, side]
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections}


def tiny_value(name: str, default: Any, kind: str, special: dict[int, int]) -> Any:
    """The tiny value of one field, or its default."""
    if re.fullmatch(r"\w*token_(id|index)s?", name):
        if isinstance(default, int):
            return special_id(default, special)
        if isinstance(default, (list, tuple)):
            return [special_id(token, special) for token in default]
    if re.fullmatch(r"(begin_)?suppress_tokens", name) and default is not None:
        return []
    if name in FIXED:
        return FIXED[name]
    if (
        isinstance(default, (list, tuple))
        and default
        and all(type(size) is int for size in default)
    ):
        rules, default = LIST_RULES, list(default)
    else:
        rules = RULES if type(default) is int else ()
    for pattern, rule in rules:
        if re.fullmatch(pattern, name):
            return rule(default, kind)
    return default


def listed(value: Any) -> Any:
    """A tuple as a list, as TOML has it."""
    return list(value) if isinstance(value, tuple) else value


def special_id(default: int, special: dict[int, int]) -> int:
    """The tiny id of a special token: a default that is low and free, else the last free low one.

    Where all low ones are taken it is the next; `special_ids_end` says where tokens begin.
    """
    if default not in special:
        taken = {*special.values()}
        free = [k for k in range(max(SPECIAL_IDS_END, len(taken) + 1)) if k not in taken]
        special[default] = default if default in free[:SPECIAL_IDS_END] else free[-1]
    return special[default]


def special_ids_end(tree: Tree) -> int:
    """The first id of a tiny configuration that is no special token's."""
    end = SPECIAL_IDS_END
    for name, value in tree.items():
        if isinstance(value, dict):
            end = max(end, special_ids_end(value))
        elif re.fullmatch(r"\w*token_(id|index)s?", name):
            ids = value if isinstance(value, list) else [value]
            end = max(end, *(token + 1 for token in ids if isinstance(token, int)))
    return end


def class_of_transformers(name: str) -> type:
    """The class of transformers with this name."""
    import transformers

    found: type = getattr(transformers, name)
    return found


def instantiate(tree: Tree) -> Any:
    """The configuration object that `tree` describes."""
    arguments = {
        key: instantiate(value) if isinstance(value, dict) and "class" in value else value
        for key, value in tree.items()
        if key != "class"
    }
    return class_of_transformers(tree["class"])(**arguments)
