"""Decoders of litgpt, which has them from the papers and converts the weights of the Hub."""

from __future__ import annotations

from functools import partial
from typing import Any

from crosscheck.peers import Ours, Tensors, peer

# family -> the configuration of litgpt that differs from ours in sizes alone
BASES = {
    "falcon": "falcon-7b",
    "gemma": "Gemma-2b",
    "gemma2": "Gemma-2-2b",
    "gpt_neox": "pythia-14m",
    "llama": "Llama-2-7b-hf",
    "mistral": "Mistral-7B-v0.1",
    "mixtral": "Mixtral-8x7B-v0.1",
    "olmo": "OLMo-1B-hf",
    "olmo2": "OLMo-2-1124-7B",
    "phi": "phi-2",
    "phi3": "Phi-3-mini-4k-instruct",
    "qwen2": "Qwen2.5-0.5B",
    "qwen3": "Qwen3-0.6B-Base",
    "qwen3_moe": "Qwen3-30B-A3B",
    "stablelm": "stablelm-3b-4e1t",
}
# field of litgpt -> field of transformers, where a configuration has it
FIELDS = {
    "n_layer": "num_hidden_layers",
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "n_query_groups": "num_key_value_heads",
    "intermediate_size": "intermediate_size",
    "moe_intermediate_size": "moe_intermediate_size",
    "padded_vocab_size": "vocab_size",
    "block_size": "max_position_embeddings",
    "n_expert": "num_local_experts",
    "n_expert_per_token": "num_experts_per_tok",
    "norm_topk_prob": "norm_topk_prob",
    "attention_scores_scalar": "query_pre_attn_scalar",
    "attention_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
EPSILONS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon")


def config_of(ours: Ours) -> Any:
    """The configuration of litgpt that has the sizes of our model."""
    from litgpt.config import Config

    there = ours.config
    sizes = {new: getattr(there, old) for new, old in FIELDS.items() if hasattr(there, old)}
    sizes["norm_eps"] = next((getattr(there, n) for n in EPSILONS if hasattr(there, n)), 1e-5)
    sizes["head_size"] = getattr(there, "head_dim", None) or there.hidden_size // sizes["n_head"]
    rope = there.rope_parameters
    sizes |= {"rope_base": rope["rope_theta"], "vocab_size": there.vocab_size}
    sizes["rotary_percentage"] = rope.get("partial_rotary_factor", 1.0)
    kinds = getattr(there, "layer_types", None) or ["sliding_attention"] * there.num_hidden_layers
    if window := getattr(there, "sliding_window", None):
        sizes["sliding_window_size"] = window
        sizes["sliding_window_indices"] = [kind == "sliding_attention" for kind in kinds]
    return Config.from_name(BASES[ours.family], **{k: v for k, v in sizes.items() if v is not None})


@peer("litgpt", *BASES, inputs=["input_ids"], changes={"norm_topk_prob": True})
def decoder(ours: Ours) -> Tensors:
    """The logits of litgpt's model."""
    from litgpt import GPT
    from litgpt.scripts import convert_hf_checkpoint as convert

    config, weights = config_of(ours), dict[str, Any]()
    parts: dict[Any, Any] = {}  # of queries, keys and values, until they are joined
    copy: Any = {
        "falcon": partial(convert.copy_weights_falcon, config),
        "gemma2": partial(convert.copy_weights_gemma_2, parts),
        "gpt_neox": partial(convert.copy_weights_gpt_neox, config),
        "olmo2": partial(convert.copy_weights_olmo2, config, parts),
        "phi": partial(convert.copy_weights_phi, config, parts),
        "phi3": partial(convert.copy_weights_phi, config, parts),
        "qwen2": partial(convert.copy_weights_qwen_2_5, config, parts),
        "qwen3": partial(convert.copy_weights_qwen_3, config, parts),
        "qwen3_moe": partial(convert.copy_weights_qwen_3, config, parts),
    }.get(ours.family, partial(convert.copy_weights_hf_llama, config, parts))
    copy(weights, ours.saved)
    weights.setdefault("lm_head.weight", weights["transformer.wte.weight"])  # tied: saved once

    def run() -> Any:
        return ours.theirs(GPT(config), weights)(ours.inputs["input_ids"])

    return {"logits": ours.exact(run)}
