"""Encoders: pooled, cut and normalised as their own files say, as the settings override it, and as provenance says."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dselect_core.errors import DselectError
from dselect_core.lm import encoder
from dselect_core.lm.encoder import encode, encoder_provenance
from dselect_core.lm.load import identity
from dselect_core.settings.settings import EmbeddingSpec
from tests.tiny import conversation, samples_frame, save_encoder, tokenizer

SAMPLES = samples_frame(
    [
        conversation("Hi", "Hello there"),
        conversation("A longer question?", "x", "again", "y", system="Be brief"),
        conversation("word " * 100, "longer than the window"),
        *(conversation(f"What is {i} times {i}?", str(i * i)) for i in range(5)),
    ]
)


def prompts() -> dict[str, str]:
    texts = {}
    for sample_id, messages in SAMPLES.select("sample_id", "messages").iter_rows():
        first = next(i for i, m in enumerate(messages) if m["role"] == "assistant")
        texts[sample_id] = "\n\n".join(m["content"] for m in messages[:first])
    return texts


def vectors(folder: Path, **spec: Any) -> dict[str, np.ndarray]:
    batches = encode(SAMPLES, EmbeddingSpec(path=str(folder), **spec))
    return {sample_id: vector for ids, batch in batches for sample_id, vector in zip(ids, batch, strict=True)}


def provenance(folder: Path, **spec: Any) -> dict[str, Any]:
    made_by = encoder_provenance(EmbeddingSpec(path=str(folder), **spec), identity(str(folder)))
    assert made_by.pop("model") == identity(str(folder))
    return made_by


def by_hand(folder: Path, pooling: str, window: int = 64, normalize: bool = False, prompt: str = "") -> dict[str, Any]:
    """Each prompt alone, without padding, through transformers and a few lines of torch."""
    from transformers import BertModel

    model = BertModel.from_pretrained(folder).eval()
    pool = {
        "cls": lambda states: states[0],
        "mean": lambda states: states.mean(0),
        "max": lambda states: states.amax(0),
        "mean_sqrt_len_tokens": lambda states: states.sum(0) / len(states) ** 0.5,
        "lasttoken": lambda states: states[-1],
        "weightedmean": lambda states: (
            (states * torch.arange(1, len(states) + 1)[:, None]).sum(0) / (len(states) * (len(states) + 1) / 2)
        ),
    }[pooling]
    expected = {}
    for sample_id, text in prompts().items():
        with torch.no_grad():
            ids = tokenizer()(prompt + text)["input_ids"][:window]
            vector = pool(model(torch.tensor([ids])).last_hidden_state[0])
        expected[sample_id] = (vector / vector.norm() if normalize else vector).numpy()
    return expected


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for sample_id, vector in found.items():
        assert vector.dtype == np.float32
        np.testing.assert_allclose(vector, expected[sample_id], atol=1e-5)


def test_a_plain_encoder_is_mean_pooled_and_reads_the_text_as_it_is(tmp_path: Path) -> None:
    save_encoder(tmp_path)
    assert (tmp_path / "chat_template.jinja").exists()
    assert_same(vectors(tmp_path), by_hand(tmp_path, "mean"))
    assert provenance(tmp_path) == {"window": 64, "pooling": "mean"}


def test_a_plain_encoder_of_512_tokens_has_the_provenance_that_version_0_1_gave_it(tmp_path: Path) -> None:
    config = json.loads((save_encoder(tmp_path) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 512}))
    assert provenance(tmp_path) == {"window": 512, "pooling": "mean"}


@pytest.mark.parametrize("own", ["mean", "cls", "max", "mean_sqrt_len_tokens"])
def test_an_encoder_keeps_its_own_pooling_and_window(tmp_path: Path, own: str) -> None:
    save_encoder(tmp_path, pooling=own, window=20)
    assert provenance(tmp_path) == {"window": 20, "pooling": own}
    assert_same(vectors(tmp_path), by_hand(tmp_path, own, window=20))


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "lasttoken", "weightedmean", "mean_sqrt_len_tokens"])
@pytest.mark.parametrize("own", [None, "cls"])
def test_the_settings_override_pooling_and_cap_the_window(tmp_path: Path, own: str | None, pooling: str) -> None:
    save_encoder(tmp_path, pooling=own)
    assert provenance(tmp_path, pooling=pooling, max_length=9) == {"window": 9, "pooling": pooling}
    assert_same(vectors(tmp_path, pooling=pooling, max_length=9), by_hand(tmp_path, pooling, window=9))
    assert provenance(tmp_path, max_length=1000)["window"] == 64


def test_normalisation_and_the_default_prompt_are_the_encoders_and_in_the_provenance(tmp_path: Path) -> None:
    save_encoder(tmp_path, pooling="cls", normalize=True, prompt="query: ")
    assert provenance(tmp_path) == {"window": 64, "pooling": "cls", "modules": ["Normalize"], "prompt": "query: "}
    assert_same(vectors(tmp_path), by_hand(tmp_path, "cls", normalize=True, prompt="query: "))
    assert_same(vectors(tmp_path, pooling="mean"), by_hand(tmp_path, "mean", normalize=True, prompt="query: "))


@pytest.mark.parametrize("settings", [{}, {"normalize": True}, {"window": 20}, {"prompt": "query: "}])
@pytest.mark.parametrize("own", ["mean", "cls"])
def test_vectors_are_those_of_sentence_transformers(tmp_path: Path, own: str, settings: dict[str, Any]) -> None:
    from sentence_transformers import SentenceTransformer

    save_encoder(tmp_path / "old", pooling=own, **settings)
    library = SentenceTransformer(str(tmp_path / "old"), device="cpu")
    library.save(str(tmp_path / "new"))  # the layout of today's version
    expected = {sample_id: library.encode([text])[0] for sample_id, text in prompts().items()}
    for folder in (tmp_path / "old", tmp_path / "new"):
        assert_same(vectors(folder), expected)
        assert provenance(folder) == provenance(tmp_path / "old")
        assert provenance(folder)["window"] == library.max_seq_length


def test_batches_change_no_vector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_encoder(tmp_path, pooling="mean")
    together = vectors(tmp_path)
    monkeypatch.setattr(encoder, "BATCH_TOKENS", 1)
    assert_same(vectors(tmp_path), together)


def test_progress_counts_samples(tmp_path: Path) -> None:
    counts: list[tuple[int, int]] = []
    spec = EmbeddingSpec(path=str(save_encoder(tmp_path)))
    sizes = [len(ids) for ids, _ in encode(SAMPLES, spec, lambda done, total, reused=0: counts.append((done, total)))]
    assert counts == [(int(n), SAMPLES.height) for n in np.cumsum(sizes)] and counts[-1][0] == SAMPLES.height


def test_files_in_the_folders_of_modules_are_part_of_the_identity(tmp_path: Path) -> None:
    save_encoder(tmp_path, pooling="cls")
    before = identity(str(tmp_path), cache=tmp_path / "cache")
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "config.json").write_text("{}")
    assert identity(str(tmp_path), cache=tmp_path / "cache") == before
    save_encoder(tmp_path, pooling="mean")
    assert identity(str(tmp_path), cache=tmp_path / "cache") != before


def test_an_encoder_without_pooling_says_that_there_is_none_to_replace(tmp_path: Path) -> None:
    save_encoder(tmp_path, pooling="mean")
    modules = json.loads((tmp_path / "modules.json").read_text())
    (tmp_path / "modules.json").write_text(json.dumps([modules[0] | {"type": "x.StaticEmbedding"}]))
    assert provenance(tmp_path, max_length=20) == {"window": None, "pooling": None}
    (tmp_path / "modules.json").write_text(json.dumps(modules[:1]))
    assert provenance(tmp_path) == {"window": 64, "pooling": None}
    with pytest.raises(DselectError, match="no pooling module, so remove `pooling`"):
        vectors(tmp_path, pooling="mean")


def test_a_file_that_is_not_json_is_named(tmp_path: Path) -> None:
    save_encoder(tmp_path, pooling="mean")
    (tmp_path / "1_Pooling" / "config.json").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(DselectError, match=r"1_Pooling/config\.json: not valid JSON"):
        provenance(tmp_path)


def test_a_hub_name_whose_commit_is_unknown_gives_what_the_settings_say_and_asks_no_network() -> None:
    spec = EmbeddingSpec(path="org/encoder", pooling="mean", max_length=128)
    expected = {"model": "org/encoder@None", "window": 128, "pooling": "mean"}
    assert encoder_provenance(spec, "org/encoder@None") == expected


def test_a_folder_that_is_no_encoder_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DselectError, match="cannot be opened"):
        vectors(tmp_path)


SCRIPT = """
import sys, json
from dselect_core.lm.encoder import encode, encoder_provenance
from dselect_core.lm.load import identity
from dselect_core.settings.settings import EmbeddingSpec
from dselect_core.errors import DselectError
from tests.core.test_encoder import SAMPLES
spec = EmbeddingSpec(path="org/encoder")
try:
    made_by = encoder_provenance(spec, identity("org/encoder"))
except DselectError as error:
    sys.exit(str(error))
ids, vectors = next(encode(SAMPLES, spec))
print(json.dumps([made_by, dict(zip(ids, vectors.tolist()))]))
"""


def from_hub_cache(hub: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HF_HOME": str(hub), "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)


def test_an_encoder_in_the_hub_cache_is_read_at_its_commit_without_a_network(tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--org--encoder"
    folder = save_encoder(tmp_path / "folder", pooling="cls", window=20)
    shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    # The hub has no such file, and the cache knows it.
    (repository / ".no_exist" / commit).mkdir(parents=True)
    (repository / ".no_exist" / commit / "config_sentence_transformers.json").touch()
    done = from_hub_cache(tmp_path)
    assert done.returncode == 0, done.stderr
    made_by, by_id = json.loads(done.stdout.splitlines()[-1])
    assert made_by == {"model": f"hub:org/encoder@{commit}", "window": 20, "pooling": "cls"}
    assert_same({i: np.float32(v) for i, v in by_id.items()}, vectors(folder))
    (repository / "snapshots" / commit / "modules.json").unlink()
    done = from_hub_cache(tmp_path)
    assert "modules.json is not in the local hub cache" in done.stderr and "hf download org/encoder" in done.stderr


def test_the_provenance_is_known_without_torch(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from dselect_core.lm.encoder import encoder_provenance\n"
        "from dselect_core.settings.settings import EmbeddingSpec\n"
        f"encoder_provenance(EmbeddingSpec(path={str(save_encoder(tmp_path, pooling='cls'))!r}), 'local:x')\n"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
