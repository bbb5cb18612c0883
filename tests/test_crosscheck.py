"""Independent implementations agree with the models of scripts, and differ where they should."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

import crosscheck.__main__ as program
import crosscheck.audio
import crosscheck.vision  # these need no more than the environment has
from crosscheck.peers import PEERS, renamed
from generator import registry

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "fixed_tests"


def test_weights_get_the_names_of_others_and_join_where_these_are_one() -> None:
    weights = {f"a.{part}_proj": torch.full((1, 2), i) for i, part in enumerate("qkv")}
    weights["gone"] = torch.zeros(1)
    made = renamed(weights, [(r"[qkv]_proj", "qkv"), (r"^gone$", "")])
    assert made.keys() == {"a.qkv"}
    assert made["a.qkv"].tolist() == [[0, 0], [1, 1], [2, 2]]


@pytest.mark.parametrize("family", ["resnet", "vit", "hubert"])
def test_an_independent_implementation_agrees(family: str) -> None:
    result = program.run(PEERS[family], SCRIPTS)
    assert result.agrees, program.told(result)
    assert registry.read()[family].confirmed == {result.peer.package: result.version}


def test_a_small_mistake_in_transformers_is_no_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    attention = transformers.models.vit.modeling_vit.ViTAttention
    initialise = attention.__init__

    def scaled(self: object, *args: object, **kwargs: object) -> None:
        initialise(self, *args, **kwargs)
        self.scaling *= 1.001  # type: ignore[attr-defined]

    monkeypatch.setattr(attention, "__init__", scaled)
    result = program.run(PEERS["vit"], SCRIPTS)
    assert not result.agrees
    assert 1e-6 < result.error < 1e-1
    assert "does not agree with timm" in program.told(result)
    assert "## Not confirmed" in program.render([result])


def test_a_peer_that_cannot_be_compared_confirms_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crosscheck.vision, "RESNET", [])
    result = program.run(PEERS["resnet"], SCRIPTS)
    assert not result.agrees
    assert "nothing for" in result.problem
