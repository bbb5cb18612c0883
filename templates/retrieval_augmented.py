"""Test of Rag: does it run here, and are its results right?

RagTokenForGeneration of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_rag.py [--device cuda] [--help]
    pytest test_hf_rag.py

Exit code: 0 all checks pass, 1 one does not, 2 wrong usage, 3 mock (torch or transformers is not
installed: nothing was tested), 4 the device is not there. A check that is skipped says why.
"""

from __future__ import annotations

import sys

from templates._basics import (
    learns,
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
from templates._checks import test_attention_parity, test_batch_invariance, test_causality
from templates._compare import Tensors, assert_agree, assert_loss, rms, row_of, within
from templates._main import main, subject
from templates._random import normals, ragged_mask, set_weights, token_ids
from templates._subject import Subject, fp64_throughout, generate, placed, pretrained

try:
    import torch
    from transformers import (
        BartConfig,
        DPRConfig,
        RagConfig,
        RagSequenceForGeneration,
        RagTokenForGeneration,
    )
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "Rag": "title",
    "test_hf_rag.py": "script",
    "RagConfig": "config_class",
    "RagTokenForGeneration": "model_class",
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

FAMILY = "rag"
ARCHITECTURE = "retrieval_augmented"
MODEL_CLASS = "RagTokenForGeneration"
CHECKPOINT = None
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ("sdpa", "eager")  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {"output_attentions": True}
OUTPUTS = {
    "logits": (2, 7, 99),
    "doc_scores": (2, 3),
    "generator_enc_last_hidden_state": (6, 11, 32),
    "generator_enc_attentions.0": (6, 4, 11, 11),
    "generator_enc_attentions.1": (6, 4, 11, 11),
    "generator_dec_attentions.0": (6, 4, 7, 7),
    "generator_dec_attentions.1": (6, 4, 7, 7),
    "generator_cross_attentions.0": (6, 4, 7, 11),
    "generator_cross_attentions.1": (6, 4, 7, 11),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {
    "generator.scale_embedding": True
}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {"do_marginalize": True}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {
    "rag.question_encoder.*": (
        "documents are given with their scores, which a question is encoded for; `retrieval` does"
        " so"
    )
}  # parameters -> why they have none
GOLDEN = {
    "logits": (5.240468742, -1.891265251, 5.989835398),
    "doc_scores": (0.5648510123, 0.9875710532, -0.7998282029),
    "generator_enc_last_hidden_state": (1.202222256, -0.815744773, -1.764384821),
    "all_outputs": (0.1658751392, -0.004256050123, -0.06236147062),
    "generator.scale_embedding": (3.409411521, -1.425004568, 4.186654484),
}


def build_config() -> RagConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return RagConfig(
        n_docs=3,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        question_encoder=DPRConfig(
            vocab_size=99,
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=28,
            max_position_embeddings=48,
        ),
        generator=BartConfig(
            vocab_size=99,
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=40,
            decoder_ffn_dim=44,
            max_position_embeddings=48,
        ),
    )


def build_model(weights: str, size: str, seed: int) -> RagTokenForGeneration:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(RagTokenForGeneration, weights)
    model = RagTokenForGeneration(RagConfig() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: RagConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "context_input_ids": token_ids(
            "context_input_ids", shape=(2 * config.n_docs, 11), low=5, high=99, seed=seed
        ),
        "context_attention_mask": ragged_mask(lengths=(11, 9, 10, 8, 6, 7), width=11),
        "doc_scores": normals("doc_scores", shape=(2, config.n_docs), seed=seed),
        "decoder_input_ids": token_ids(
            "decoder_input_ids", shape=(2, 7), low=5, high=99, seed=seed
        ),
    }


def test_padding_invariance(subject: Subject) -> None:
    """What stands behind the end of documents changes nothing."""
    padded = row_of(subject.inputs, 1)
    mask = padded["context_attention_mask"]
    length, width = int(mask.sum(1).max()), mask.shape[1]
    cut = {k: v[:, :length] if k.startswith("context") else v for k, v in padded.items()}
    expected = subject.run(subject.model, cut)
    outputs = within(subject.run(subject.model, padded), expected)
    assert_agree(outputs, expected, subject.bounds, f"documents padded from {length} to {width}")


def test_documents(subject: Subject) -> None:
    """A token is as probable as the documents make it, each as far as it suits; in any order."""
    outputs = subject.run(subject.model, subject.inputs, do_marginalize=False)
    expected = torch.logsumexp(by_document(subject, outputs), 1)
    logits, bounds = {"logits": subject.outputs["logits"]}, subject.bounds
    assert_agree(logits, {"logits": expected}, bounds, "the mixture of documents")
    turned = {"doc_scores": subject.inputs["doc_scores"].flip(1)}
    for name in ("context_input_ids", "context_attention_mask"):
        turned[name] = subject.inputs[name].unflatten(0, (2, -1)).flip(1).flatten(0, 1)
    again = subject.run(subject.model, subject.inputs | turned)
    assert_agree(again, logits, bounds, "documents in another order")


def test_retrieval(subject: Subject) -> None:
    """A question is encoded, scores the documents that are retrieved for it, and learns by that."""
    questions = {
        "input_ids": token_ids("question", (2, 9), low=5, high=99, seed=subject.seed),
        "attention_mask": ragged_mask((9, 7), 9),
        "decoder_input_ids": subject.inputs["decoder_input_ids"],
    }
    model, reference = subject.fresh(), subject.reference
    shelf = Shelf(subject)
    model.set_retriever(shelf)
    found = subject.run(model, questions)
    question = {k: v for k, v in questions.items() if k != "decoder_input_ids"}
    with torch.no_grad(), fp64_throughout():
        encoded = reference.question_encoder(**question).pooler_output
    scores = torch.einsum("rw,rdw->rd", encoded, shelf.embeddings.double())
    given = subject.run(reference, subject.inputs | {"doc_scores": scores})
    bounds = subject.bounds | {"doc_scores": 1e3 * subject.eps * rms(scores)}
    bounds["logits"] += bounds["doc_scores"]  # by which each may be shifted
    assert_agree(found, given, bounds, "with documents that a question retrieves")
    labels = {"labels": questions["decoder_input_ids"]}
    subject.call(model, questions | labels, reduce_loss=True).loss.backward()
    parameters = model.question_encoder.named_parameters()
    dead = [name for name, parameter in parameters if not learns(parameter, subject.seed)]
    assert not dead, f"no gradient, or zero: {dead}"


class Shelf:
    """In place of a retriever with its index: always the same documents, each with an embedding."""

    def __init__(self, subject: Subject) -> None:
        config = subject.made.config
        shape = (2, config.n_docs, config.question_encoder.hidden_size)
        self.embeddings = normals("documents", shape, subject.seed)
        self.documents = {k: v for k, v in subject.inputs.items() if k.startswith("context")}

    def __call__(self, *question: object, **options: object) -> Tensors:
        """What is retrieved for any question."""
        ids = torch.arange(self.embeddings.shape[1]).repeat(2, 1)
        return self.documents | {"retrieved_doc_embeds": self.embeddings, "doc_ids": ids}


def test_sequence(subject: Subject) -> None:
    """RagSequenceForGeneration: a whole answer is as probable as the documents make it."""
    model = RagSequenceForGeneration(subject.made.config).eval()
    model.load_state_dict(subject.made.state_dict())
    model.to(subject.device, getattr(torch, subject.dtype))
    documents = {k: v for k, v in subject.inputs.items() if k != "decoder_input_ids"}
    labels = subject.inputs["decoder_input_ids"]
    outputs = subject.run(model, documents | {"labels": labels}, reduce_loss=True)
    following = labels[:, None, 1:, None].expand(-1, model.config.n_docs, -1, -1)
    tokens = outputs["logits"].log_softmax(-1).unflatten(0, (2, -1))[:, :, :-1]
    answers = tokens.gather(-1, following).sum((2, 3))
    expected = -torch.logsumexp(answers + documents["doc_scores"].double().log_softmax(1), 1).sum()
    assert_loss(outputs["loss"], expected, subject.eps)
    options = {"num_beams": 2, "do_sample": False, "min_length": 6, "max_length": 6}
    together = model.generate(**placed(documents, model), **options)
    for row in (0, 1):
        alone = model.generate(**placed(row_of(documents, row), model), **options)
        assert torch.equal(alone[0], together[row]), f"row {row} alone: {alone[0]}, not {together}"


def test_cache(subject: Subject) -> None:
    """Decoding in pieces with the cache gives what one pass over all tokens gives in fp64."""
    model, inputs = subject.model, dict(subject.inputs)
    ids, mask = inputs.pop("context_input_ids"), inputs["context_attention_mask"]
    with torch.no_grad():
        read = placed({"input_ids": ids, "attention_mask": mask}, model)
        encoded = model.generator.get_encoder()(**read, return_dict=True)
    expected = {"logits": subject.expected["logits"]}
    for sizes in ([3, 1, 1, 1, 1], [4, 3]):
        cache, logits = None, []
        for inputs["decoder_input_ids"] in subject.inputs["decoder_input_ids"].split(sizes, dim=1):
            options = {"past_key_values": cache, "encoder_outputs": encoded, "use_cache": True}
            with torch.no_grad():
                step = subject.call(model, inputs, **options)
            cache = step.past_key_values
            logits.append(step.logits.cpu().double())
        what = f"decoding in pieces of {sizes}"
        assert_agree({"logits": torch.cat(logits, 1)}, expected, subject.bounds, what)


def test_generate(subject: Subject) -> None:
    """Greedy decoding gives the same logits without the cache, and for each row alone."""
    inputs = {name: v for name, v in subject.inputs.items() if name != "decoder_input_ids"}
    five = {"max_length": 6}  # behind the start token; it reads no max_new_tokens
    cached = generate(subject, inputs, use_cache=True, **five)
    uncached = generate(subject, inputs, use_cache=False, **five)
    assert_agree(uncached, cached, subject.bounds, "without cache")
    alone = generate(subject, row_of(inputs, 1), use_cache=True, **five)
    assert_agree(alone, row_of(cached, 1), subject.bounds, "a row alone")


def test_loss(subject: Subject) -> None:
    """The loss is minus the log-probability of each next token, summed; padding has none."""
    padding = subject.model.config.generator.pad_token_id
    labels = subject.inputs["decoder_input_ids"].clone()
    labels[1, 5:] = padding
    inputs = {name: v for name, v in subject.inputs.items() if name != "decoder_input_ids"}
    outputs = subject.run(subject.model, inputs | {"labels": labels}, reduce_loss=True)
    following = labels[:, 1:]
    likelihood = outputs["logits"][:, :-1].gather(-1, following[..., None])[..., 0]
    assert_loss(outputs["loss"], -likelihood[following != padding].sum(), subject.eps)


def by_document(subject: Subject, outputs: Tensors) -> torch.Tensor:
    """The log-probability of each document and token, (rows, documents, tokens, vocabulary)."""
    tokens: torch.Tensor = outputs["logits"].log_softmax(-1).unflatten(0, (2, -1))
    return tokens + subject.inputs["doc_scores"].double().log_softmax(1)[..., None, None]


if __name__ == "__main__":
    sys.exit(main(globals()))
