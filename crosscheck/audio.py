"""Speech models of torchaudio and OpenAI's Whisper."""

from __future__ import annotations

from typing import Any

from crosscheck.peers import Ours, Rule, Tensors, peer, renamed


@peer("torchaudio", "wav2vec2", "hubert", "wavlm", inputs=["input_values"])
def speech_encoder(ours: Ours) -> Tensors:
    """The last hidden state; torchaudio has an importer for models of transformers."""
    from torchaudio.models.wav2vec2.utils import import_huggingface_model

    body, waves = ours.model.base_model, ours.inputs["input_values"]
    ours.outputs = {"last_hidden_state": ours.exact(lambda: body(waves).last_hidden_state)}
    module = ours.exact(lambda: import_huggingface_model(body).double().eval())
    return {"last_hidden_state": ours.exact(lambda: module(waves)[0])}


WHISPER: list[Rule] = [  # names of transformers -> names of openai-whisper
    (r"^model\.", ""),
    (r"^proj_out\..*", ""),
    (r"\.layers\.", ".blocks."),
    (r"encoder_attn_layer_norm", "cross_attn_ln"),
    (r"self_attn_layer_norm", "attn_ln"),
    (r"final_layer_norm", "mlp_ln"),
    (r"encoder_attn\.", "cross_attn."),
    (r"self_attn\.", "attn."),
    (r"attn\.(q|k)_proj", lambda m: f"attn.{'query' if m[1] == 'q' else 'key'}"),
    (r"attn\.v_proj", "attn.value"),
    (r"attn\.out_proj", "attn.out"),
    (r"\.fc1\.", ".mlp.0."),
    (r"\.fc2\.", ".mlp.2."),
    (r"^decoder\.layer_norm", "decoder.ln"),
    (r"^encoder\.layer_norm", "encoder.ln_post"),
    (r"^decoder\.embed_tokens", "decoder.token_embedding"),
    (r"^decoder\.embed_positions\.weight", "decoder.positional_embedding"),
    (r"^encoder\.embed_positions\.weight", "encoder.positional_embedding"),
]


@peer(
    "openai-whisper",
    "whisper",
    inputs=["input_features", "decoder_input_ids"],
    changes={"encoder_ffn_dim": 192, "decoder_ffn_dim": 192},
)
def whisper(ours: Ours) -> Tensors:
    """The logits; OpenAI's code has layers of four times the width."""
    from whisper.model import ModelDimensions, Whisper

    c = ours.config
    assert {c.encoder_ffn_dim, c.decoder_ffn_dim} == {4 * c.d_model}
    heads = (c.encoder_attention_heads, c.decoder_attention_heads)
    encoder = (c.num_mel_bins, c.max_source_positions, c.d_model, heads[0], c.encoder_layers)
    decoder = (c.vocab_size, c.max_target_positions, c.d_model, heads[1], c.decoder_layers)

    def run() -> Any:
        module = Whisper(ModelDimensions(*encoder, *decoder))
        given = (ours.inputs["input_features"], ours.inputs["decoder_input_ids"])
        return ours.theirs(module, renamed(ours.state(), WHISPER))(*given)

    return {"logits": ours.exact(run)}
