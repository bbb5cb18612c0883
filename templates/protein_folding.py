"""Test of EsmFold2: does it run here, and are its results right?

EsmFold2Model of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_esmfold2.py [--device cuda] [--help]
    pytest test_hf_esmfold2.py

Exit code: 0 all checks pass, 1 one does not, 2 wrong usage, 3 mock (torch or transformers is not
installed: nothing was tested), 4 the device is not there. A check that is skipped says why.
"""

from __future__ import annotations

import functools
import itertools
import sys
from contextlib import nullcontext
from typing import Any

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
from templates._checks import test_batch_invariance
from templates._compare import Tensors, assert_agree, flatten, rms, rmse, row_of
from templates._main import main, subject
from templates._random import (
    boolean,
    normals,
    numbers,
    ragged_mask,
    ragged_pixels,
    set_weights,
    token_ids,
)
from templates._subject import Subject, fp64_throughout, on_each_operator, placed, pretrained

try:
    import torch
    from transformers import EsmcConfig, EsmFold2Config, EsmFold2Model
    from transformers.models.esmfold2.modeling_esmfold2 import EsmFold2AtomInputs
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "EsmFold2": "title",
    "test_hf_esmfold2.py": "script",
    "EsmFold2Config": "config_class",
    "EsmFold2Model": "model_class",
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

FAMILY = "esmfold2"
ARCHITECTURE = "protein_folding"
MODEL_CLASS = "EsmFold2Model"
CHECKPOINT = "biohub/ESMFold2"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ("sdpa", "eager")  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {}
OUTPUTS = {
    "distogram_logits": (2, 9, 9, 15),
    "pair_states": (2, 9, 9, 12),
    "single_inputs": (2, 9, 87),
    "relative_position_encoding": (2, 9, 9, 12),
    "token_bonds_encoding": (2, 9, 9, 12),
}
FP32_OUTPUTS: tuple[str, ...] = (
    "distogram_logits",
    "pair_states",
)  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {
    "structure_head.*": (
        "coordinates and their confidence are made by `fold`; `denoise` and `confidence` ask for "
        "these gradients"
    ),
    "confidence_head.*": (
        "coordinates and their confidence are made by `fold`; `denoise` and `confidence` ask for "
        "these gradients"
    ),
    "esmc.*": "the language model is frozen: it runs without gradients",
}  # parameters -> why they have none
GOLDEN = {
    "distogram_logits": (2.142450918, -1.126303217, 0.7247159704),
    "pair_states": (1.551002121, 0.7198162444, -1.0713336),
    "single_inputs": (0.4198862718, -0.2356543749, 0.2684051109),
    "relative_position_encoding": (0.1555322545, -0.2798238457, 0.1749353091),
    "token_bonds_encoding": (0.3100207238, 0.2409694446, -0.1135235918),
}


def build_config() -> EsmFold2Config:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return EsmFold2Config(
        lm_encoder={"num_hidden_layers": 1, "lm_dropout": 0.0},
        hidden_size=28,
        pairwise_hidden_size=12,
        single_inputs_size=87,
        pair_transition_intermediate_size=20,
        sliding_window=8,
        chunk_size=4,
        num_loops=1,
        folding_trunk_num_hidden_layers=2,
        parcae_num_coda_layers=1,
        esmc_config=EsmcConfig(
            max_position_embeddings=48,
            vocab_size=64,
            hidden_size=16,
            intermediate_size=21,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            head_dim=4,
            mask_token_id=32,
            pad_token_id=1,
            bos_token_id=0,
            eos_token_id=2,
        ),
        atom_encoder={
            "hidden_size": 24,
            "output_dim": 20,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 34,
            "num_spatial_rope_pairs_per_axis": 1,
            "num_uid_rope_pairs": 3,
        },
        structure_head={
            "num_distogram_bins": 15,
            "num_diffusion_samples": 2,
            "inference_num_steps": 4,
            "diffusion_module": {
                "hidden_size": 32,
                "fourier_dim": 10,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "intermediate_size": 36,
                "pair_intermediate_size": 22,
                "atom_encoder": {
                    "hidden_size": 24,
                    "output_dim": 32,
                    "num_hidden_layers": 1,
                    "num_attention_heads": 2,
                    "intermediate_size": 30,
                    "num_spatial_rope_pairs_per_axis": 1,
                    "num_uid_rope_pairs": 3,
                },
            },
        },
        confidence_head={
            "num_hidden_layers": 1,
            "num_plddt_bins": 10,
            "num_pde_bins": 11,
            "num_pae_bins": 14,
            "distogram_bins": 16,
        },
        msa_encoder={
            "hidden_size": 18,
            "outer_hidden_size": 5,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "head_dim": 6,
            "intermediate_size": 26,
        },
    )


ATOMS = (
    "ref_pos",
    "ref_charge",
    "ref_element",
    "ref_atom_name_chars",
    "ref_space_uid",
    "atom_attention_mask",
    "atom_to_token",
)  # inputs that the model takes as one


@functools.cache
def prepare(model_class: Any) -> None:
    """Let models of this class take atoms by name, and begin with the same numbers everywhere.

    Those that they begin with are random, and other ones for each device and type.
    """

    def by_name(model: Any, **inputs: Any) -> Any:
        if "atom_inputs" not in inputs:
            atoms = {name: inputs.pop(name) for name in ATOMS}
            inputs["atom_inputs"] = EsmFold2AtomInputs(**atoms)
        return torch.nn.Module.__call__(model, **inputs)

    def beginning(model: Any, reference: torch.Tensor) -> torch.Tensor:
        length, width = reference.shape[-2:]  # a pair has the same however many others there are
        pairs: torch.Tensor = (
            normals("beginning", (16, 16, width))[:length, :length] * (0.4 / width) ** 0.5
        )
        return pairs.to(reference).expand(reference.shape)

    model_class.__call__, model_class._init_pair_state = by_name, beginning


def build_model(weights: str, size: str, seed: int) -> EsmFold2Model:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    prepare(EsmFold2Model)
    if weights != "random":
        return pretrained(EsmFold2Model, weights)
    model = EsmFold2Model(EsmFold2Config() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: EsmFold2Config, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "token_index": numbers(values=((0, 1, 2, 3, 4, 5, 6, 7, 8), (0, 1, 2, 3, 4, 5, 6, 7, 8))),
        "residue_index": numbers(values=((0, 1, 2, 3, 0, 1, 2, 0, 0), (0, 1, 2, 3, 4, 5, 6, 7, 8))),
        "asym_id": numbers(values=((0, 0, 0, 0, 1, 1, 1, 2, 2), (0, 0, 0, 0, 0, 0, 0, 0, 0))),
        "sym_id": numbers(values=((0, 0, 0, 0, 1, 1, 1, 0, 0), (0, 0, 0, 0, 0, 0, 0, 0, 0))),
        "entity_id": numbers(values=((1, 1, 1, 1, 1, 1, 1, 2, 2), (1, 1, 1, 1, 1, 1, 1, 1, 1))),
        "mol_type": numbers(values=((0, 0, 0, 0, 0, 0, 0, 3, 3), (0, 0, 0, 0, 0, 0, 0, 0, 0))),
        "res_type": token_ids("res_type", shape=(2, 9), low=2, high=23, seed=seed),
        "input_ids": token_ids("input_ids", shape=(2, 9), low=5, high=24, seed=seed),
        "token_bonds": normals("token_bonds", shape=(2, 9, 9, 1), seed=seed),
        "attention_mask": boolean(ragged_mask(lengths=(9, 7), width=9)),
        "ref_pos": normals("ref_pos", shape=(2, 27, 3), seed=seed),
        "ref_charge": token_ids("ref_charge", shape=(2, 27), low=0, high=3, seed=seed),
        "ref_element": token_ids("ref_element", shape=(2, 27), low=6, high=9, seed=seed),
        "ref_atom_name_chars": token_ids(
            "ref_atom_name_chars", shape=(2, 27, 4), low=1, high=config.char_vocab_size, seed=seed
        ),
        "ref_space_uid": numbers(
            values=(
                (0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6, 6, 7, 7, 7, 8, 8, 8),
                (0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6, 6, 7, 7, 7, 8, 8, 8),
            )
        ),
        "atom_attention_mask": boolean(ragged_mask(lengths=(27, 21), width=27)),
        "atom_to_token": numbers(
            values=(
                (0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6, 6, 7, 7, 7, 8, 8, 8),
                (0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6, 6, 7, 7, 7, 8, 8, 8),
            )
        ),
        "deletion_mean": normals("deletion_mean", shape=(2, 9), seed=seed),
        "msa": token_ids("msa", shape=(2, 3, 9), low=2, high=23, seed=seed),
        "msa_attention_mask": boolean(ragged_pixels(sizes=((3, 9), (3, 7)))),
        "has_deletion": boolean(
            token_ids("has_deletion", shape=(2, 3, 9), low=0, high=2, seed=seed)
        ),
        "deletion_value": normals("deletion_value", shape=(2, 3, 9), seed=seed),
    }


def test_attention_parity(subject: Subject) -> None:
    """Each attention implementation gives what eager attention gives in fp64."""
    for implementation in ATTENTIONS:
        model = subject.build(implementation, subject.dtype).to(subject.device)
        outputs = subject.run(model, subject.inputs)
        assert_agree(outputs, subject.expected, subject.bounds, f"{implementation} attention")


def test_padding_invariance(subject: Subject) -> None:
    """What stands behind the last token and the last atom changes nothing."""
    padded = row_of(subject.inputs, 1)
    cuts = ends(padded)
    expected = subject.run(subject.model, {n: trimmed(v, cuts) for n, v in padded.items()})
    outputs = subject.run(subject.model, padded)
    found = {name: trimmed(value, cuts) for name, value in outputs.items()}
    assert_agree(found, expected, subject.bounds, f"a complex cut {cuts}")


def ends(inputs: Tensors) -> dict[int, int]:
    """How many of the tokens and of the atoms of a complex are real, by how many there are."""
    masks = [inputs[name] for name in ("attention_mask", "atom_attention_mask")]
    return {mask.shape[1]: int(mask.sum()) for mask in masks}


def trimmed(value: torch.Tensor, cuts: dict[int, int]) -> torch.Tensor:
    """`value`, each dimension behind the first that is as long as one of `cuts` cut to that."""
    kept = [slice(None), *(slice(cuts.get(size, size)) for size in value.shape[1:])]
    return value[tuple(kept)]


def test_fold(subject: Subject) -> None:
    """Coordinates and their confidence are as near to fp64 as rounding explains.

    A sequence alone becomes a file with all of its atoms.
    """
    expected, plain = folded(subject, subject.reference), subject.build(dtype=subject.dtype)
    bounds, roundings = {}, folded(subject, plain)
    for name, value in expected.items():
        usual = min(rmse(roundings[name], value), 1e-2 * rms(value))
        bounds[name] = 3 * usual + 8 * subject.eps * rms(value)
    found = folded(subject, subject.model)
    assert_agree(found, expected, bounds, "a fold against fp64")
    for name in [name for name in found if "plddt" in name and "logits" not in name]:
        low, high = found[name].min().item(), found[name].max().item()
        assert 0 <= low <= high <= 1, f"{name} is between {low} and {high}"
    lines = subject.model.infer_protein_as_pdb("GAK").splitlines()
    atoms = sum(line.startswith("ATOM") for line in lines)
    assert atoms == 18, f"{atoms} atoms of glycine, alanine and lysine"


def folded(subject: Subject, model: Any) -> Tensors:
    """What `fold` gives in three steps from the same noise everywhere, of each complex."""
    count = itertools.count()

    def handle(operator: Any, *args: Any, **kwargs: Any) -> Any:
        made = operator(*args, **kwargs)
        if operator.name() in ("aten::randn", "aten::randn_like"):
            return normals(f"noise {next(count)}", tuple(made.shape)).to(made)
        return made

    inputs = placed(subject.inputs | {"distogram_atom_idx": representatives()}, model)
    wide = fp64_throughout() if model.dtype == torch.float64 else nullcontext()
    with on_each_operator(handle), wide:
        made = flatten(model.fold(**inputs, num_sampling_steps=3))
    found = {}
    for name, value in made.items():
        for row, part in enumerate(value.cpu().double().chunk(2)):
            found[f"{name}.{row}"] = trimmed(part, ends(row_of(subject.inputs, row)))
    return found


def representatives() -> torch.Tensor:
    """The atom that stands for each token: the second of three."""
    return torch.arange(1, 27, 3).repeat(2, 1)


def test_denoise(subject: Subject) -> None:
    """What takes noise from coordinates learns with all of its parameters."""
    model = subject.fresh()
    trunk, head = subject.call(model, subject.inputs), model.structure_head
    conditioning = head.prepare_conditioning(
        atom_inputs=trunk.atom_inputs,
        pair_trunk=trunk.pair_states,
        relative_position_encoding=trunk.relative_position_encoding,
        single_inputs=trunk.single_inputs,
        attention_mask=placed(subject.inputs, model)["attention_mask"],
    )
    noise = noisy(subject).to(model.device)
    level = torch.full((2,), 16.0, device=model.device)
    assert_learns(head, [head(noise, level, conditioning)], subject.seed)


def test_confidence(subject: Subject) -> None:
    """What says how sure the coordinates are learns with all of its parameters."""
    model = subject.fresh()
    trunk, head = subject.call(model, subject.inputs), model.confidence_head
    inputs = placed(subject.inputs, model)
    names = ("asym_id", "mol_type", "attention_mask", "atom_attention_mask", "atom_to_token")
    found = head(
        **{name: inputs[name] for name in names},
        single_inputs=trunk.single_inputs,
        pair_states=trunk.pair_states,
        predicted_coords=noisy(subject).to(model.device),
        distogram_atom_idx=representatives().to(model.device),
        relative_position_encoding=trunk.relative_position_encoding,
        token_bonds_encoding=trunk.token_bonds_encoding,
    )
    logits = [value for name, value in found.items() if name.endswith("logits")]
    assert_learns(head, logits, subject.seed)


def noisy(subject: Subject) -> torch.Tensor:
    """Coordinates of the atoms that are noise."""
    return normals("noise", tuple(subject.inputs["ref_pos"].shape)) * 16


def assert_learns(part: torch.nn.Module, outputs: list[torch.Tensor], seed: int) -> None:
    """Each parameter of `part` has a gradient by `outputs`."""
    torch.stack([value.double().square().mean() for value in outputs]).sum().backward()
    dead = [name for name, parameter in part.named_parameters() if not learns(parameter, seed)]
    assert not dead, f"no gradient, or zero: {dead}"


if __name__ == "__main__":
    sys.exit(main(globals()))
