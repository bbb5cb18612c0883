"""Models of curated-transformers, which reads configurations and weights of the Hub."""

from __future__ import annotations

from typing import Any

from crosscheck.peers import Ours, Tensors, peer

ENCODERS = {
    "albert": "ALBERTEncoder",
    "bert": "BERTEncoder",
    "camembert": "CamemBERTEncoder",
    "roberta": "RoBERTaEncoder",
    "xlm_roberta": "XLMREncoder",
}


@peer("curated-transformers", *ENCODERS)
def encoder(ours: Ours) -> Tensors:
    """The hidden states of the last layer where a row has tokens."""
    from curated_transformers import models
    from curated_transformers.layers import AttentionMask

    kind = getattr(models, ENCODERS[ours.family])
    mask = AttentionMask(ours.inputs["attention_mask"].bool())
    types = ours.inputs.get("token_type_ids")

    def run() -> Any:
        module = ours.theirs(*built(kind, ours))
        return module(ours.inputs["input_ids"], mask, type_ids=types).all_outputs[-1]

    body = ours.model.base_model
    given = ours.exact(lambda: body(**ours.inputs).last_hidden_state)
    return ours.instead({"last_hidden_state": given}, {"last_hidden_state": ours.exact(run)})


@peer("curated-transformers", "mpt", inputs=["input_ids", "attention_mask"])
def decoder(ours: Ours) -> Tensors:
    """The logits where a row has tokens."""
    from curated_transformers import models
    from curated_transformers.layers import AttentionMask

    mask = AttentionMask(ours.inputs["attention_mask"].bool())

    def run() -> Any:
        return ours.theirs(*built(models.MPTCausalLM, ours))(ours.inputs["input_ids"], mask).logits

    return {"logits": ours.exact(run)}


def built(kind: Any, ours: Ours) -> tuple[Any, Tensors]:
    """The module for our configuration, and the weights for it."""
    module = kind.from_hf_config(hf_config=ours.config.to_dict())
    weights = kind.state_dict_from_hf(ours.saved)
    return module, {name: value for name, value in weights.items() if name in module.state_dict()}
