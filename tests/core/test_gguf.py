"""A model in one GGUF file, as llama.cpp's users have them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dselect_core.errors import DselectError
from dselect_core.lm import gguf_file
from dselect_core.lm.load import identity, load, provenance_without_weights
from dselect_core.settings.model_spec import ModelSpec
from dselect_core.settings.settings import Settings, load_settings
from tests.tiny import TEXTS, conversation, open_llama, samples_frame, save_llama, score

gguf = pytest.importorskip("gguf")

SETTINGS = Settings.model_validate({"sources": {"s": {"path": "x"}}, "coresets": {}})
SAMPLES = samples_frame([conversation(f"{i}. {text[:20]}", text[20:]) for i, text in enumerate(TEXTS)])
_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_gguf(file: Path, folder: Path) -> Path:
    """The tiny Llama of `folder` in float32, as llama.cpp's converter writes one."""
    lm = load(str(folder), ModelSpec(path=str(folder)), "x")
    model, words = lm.forward.model, lm.renderer.tokenizer
    config = model.config
    out: Any = gguf.GGUFWriter(str(file), "llama")
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_block_count(config.num_hidden_layers)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(config.num_attention_heads)
    out.add_head_count_kv(config.num_key_value_heads)
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_rope_freq_base(10_000.0)
    out.add_vocab_size(config.vocab_size)
    vocabulary = words.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("smollm")
    out.add_token_list(tokens)
    control = {token.content for token in words.added_tokens_decoder.values()}
    out.add_token_types([3 if token in control else 1 for token in tokens])
    merges = json.loads((folder / "tokenizer.json").read_text())["model"]["merges"]
    out.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in merges])
    out.add_bos_token_id(words.bos_token_id)
    out.add_eos_token_id(words.eos_token_id)
    out.add_chat_template((folder / "chat_template.jinja").read_text())
    for name, parameter in model.state_dict().items():
        array = parameter.numpy()
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        kind = name.rsplit(".", 2)[-2]
        if kind in heads:  # the halves of a rotary head lie in turn
            n, width = heads[kind], array.shape[1]
            array = array.reshape(n, 2, -1, width).swapaxes(1, 2).reshape(array.shape)
        out.add_tensor(_gguf_name(name), np.ascontiguousarray(array))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return file


def _gguf_name(name: str) -> str:
    plain = {"model.embed_tokens.weight": "token_embd", "model.norm.weight": "output_norm", "lm_head.weight": "output"}
    if name in plain:
        return plain[name] + ".weight"
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{_NAMES[rest.removesuffix('.weight')]}.weight"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(a folder, the same model as a GGUF file)."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = tmp_path_factory.mktemp("gguf")
    folder = save_llama(place / "folder")
    # transformers gives every GPT-2 tokenizer of a GGUF file this token.
    words = AutoTokenizer.from_pretrained(folder)
    words.add_special_tokens({"unk_token": "<|endoftext|>"})
    words.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(len(words))
    model.save_pretrained(folder)
    return folder, write_gguf(place / "tiny.gguf", folder)


def test_a_gguf_file_scores_as_the_folder_it_was_made_from(models: tuple[Path, Path]) -> None:
    folder, file = models
    kinds = frozenset({"difficulty", "embeddings", "activations"})
    of_file = load(str(file), ModelSpec(path=str(file)), "x")
    assert of_file.renderer.template.name == "chat" and of_file.window == 256
    expected, found = (score(lm, SAMPLES, kinds, SETTINGS) for lm in (open_llama(folder), of_file))
    assert np.allclose(found["difficulty"]["loss"].to_numpy(), expected["difficulty"]["loss"].to_numpy(), atol=1e-5)
    vectors = [scores["embeddings"]["embedding"].to_numpy() for scores in (found, expected)]
    assert np.allclose(*vectors, atol=1e-5)
    assert found["activations"]["neurons"].equals(expected["activations"]["neurons"])
    assert provenance_without_weights(str(file), ModelSpec(path=str(file)), "x") == of_file.provenance


def test_control_tokens_that_transformers_would_cut_into_letters_are_one_token(
    models: tuple[Path, Path], tmp_path: Path
) -> None:
    """Those that are neither the first nor the last of a text, as in Qwen's files: they would garble every prompt."""
    from transformers import AutoTokenizer

    folder, file = models
    words = AutoTokenizer.from_pretrained(str(folder))
    control = [token.content for token in words.added_tokens_decoder.values()]
    plain = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    cut = AutoTokenizer.from_pretrained(str(folder))
    cut._tokenizer = type(plain._tokenizer).from_str(_without_added_tokens(plain._tokenizer.to_str()))
    assert any(len(cut.encode(token, add_special_tokens=False)) > 1 for token in control)
    mended = gguf_file.with_control_tokens(cut, str(file))
    for token in control:
        assert mended.encode(token, add_special_tokens=False) == [words.get_vocab()[token]], token


def _without_added_tokens(tokenizer: str) -> str:
    return json.dumps(json.loads(tokenizer) | {"added_tokens": []})


def test_a_gguf_file_is_identified_by_its_content(models: tuple[Path, Path], tmp_path: Path) -> None:
    folder, file = models
    cache = tmp_path / "cache.json"
    first = identity(str(file), cache=cache)
    copy = tmp_path / "another-name.gguf"
    copy.write_bytes(file.read_bytes())
    assert first.startswith("local:") and identity(str(copy), cache=cache) == first != identity(str(folder))
    copy.write_bytes(file.read_bytes()[:-1] + b"\x01")
    assert identity(str(copy), cache=cache) != first
    with pytest.raises(DselectError, match=r"gone\.gguf: no such folder.*a GGUF file, or a hub name"):
        identity(str(tmp_path / "gone.gguf"))


def test_a_gguf_file_is_meant_relative_to_the_settings(models: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "dselect.yaml").write_text("model: {path: models/tiny.gguf}\nsources: {s: {path: x}}\ncoresets: {}\n")
    assert load_settings(tmp_path / "dselect.yaml").model.path == str(tmp_path / "models" / "tiny.gguf")


def test_what_is_no_gguf_file_and_a_missing_package_are_named(
    models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(models[1].read_bytes()[:2000])
    with pytest.raises(DselectError, match=r"damaged\.gguf: cannot be opened"):
        load(str(damaged), ModelSpec(path=str(damaged)), "x")
    monkeypatch.setattr(gguf_file.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(DselectError, match=r"pip install 'dselect\[gguf\]'"):
        load(str(models[1]), ModelSpec(path=str(models[1])), "x")
