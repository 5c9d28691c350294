"""A UMT5 encoder in GGUF, in llama.cpp's names, against the same encoder in safetensors; its tokenizer too."""

import pytest
import torch
from steadydancer.quant.blocks import dequantise
from support import tiny
from support.gguf_writer import BY_NAME, quantise, write_gguf

NAMES = {
    "layer.0.SelfAttention.q": "attn_q",
    "layer.0.SelfAttention.k": "attn_k",
    "layer.0.SelfAttention.v": "attn_v",
    "layer.0.SelfAttention.o": "attn_o",
    "layer.0.SelfAttention.relative_attention_bias": "attn_rel_b",
    "layer.0.layer_norm": "attn_norm",
    "layer.1.DenseReluDense.wi_0": "ffn_gate",
    "layer.1.DenseReluDense.wi_1": "ffn_up",
    "layer.1.DenseReluDense.wo": "ffn_down",
    "layer.1.layer_norm": "ffn_norm",
}


def llama_name(key):
    if key == "shared.weight":
        return "token_embd.weight"
    if key == "encoder.final_layer_norm.weight":
        return "enc.output_norm.weight"
    _, _, block, rest = key.split(".", 3)
    return f"enc.blk.{block}.{NAMES[rest.removesuffix('.weight')]}.weight"


@pytest.fixture(scope="module")
def files(comfyui):
    """The tiny encoder as GGUF in Q8_0, and what its blocks stand for as float32 safetensors."""
    import sentencepiece
    from safetensors.torch import load_file

    folder = comfyui / "models/text_encoders"
    plain = tiny.write_umt5(folder / "umt5.safetensors")
    numbers = load_file(plain)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=tiny.tokenizer_model())
    size = pieces.vocab_size()
    kinds = [3 if pieces.is_control(i) else 2 if pieces.is_unknown(i) else 1 for i in range(size)]
    metadata = {
        "general.architecture": "t5encoder",
        "tokenizer.ggml.tokens": [pieces.id_to_piece(i) for i in range(size)],
        "tokenizer.ggml.scores": [pieces.get_score(i) for i in range(size)],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
    }
    tensors = {}
    for key, tensor in numbers.items():
        if key == "spiece_model":
            continue
        values = tensor.float().numpy()
        kind = "Q8_0" if values.ndim == 2 and values.shape[1] % 32 == 0 else "F32"
        tensors[llama_name(key)] = (kind, values.shape, quantise(values, kind))
        numbers[key] = tensor.float()
        if kind == "Q8_0":
            blocks = torch.frombuffer(bytearray(tensors[llama_name(key)][2]), dtype=torch.uint8)
            dequantise(blocks, BY_NAME["Q8_0"], numbers[key])
    tiny.write(plain, numbers)
    return plain, write_gguf(folder / "umt5-Q8_0.gguf", tensors, metadata)


def test_the_tokenizer_is_rebuilt_from_the_header(comfyui, files):
    import sentencepiece
    from steadydancer.formats.gguf_file import open_gguf
    from steadydancer.formats.sentencepiece import sentencepiece_model

    rebuilt = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model(open_gguf(files[1])))
    original = sentencepiece.SentencePieceProcessor(model_proto=tiny.tokenizer_model())
    for text in ("a woman dances on an empty stage", "0123 lazy dog", "  two  blanks ", "x"):
        assert rebuilt.encode(text) == original.encode(text)
    assert rebuilt.eos_id() == 1 and rebuilt.pad_id() == 0 and rebuilt.unk_id() == 2


@pytest.fixture
def small(comfyui, monkeypatch):
    """Model options of a network of one block, which loading a GGUF encoder uses too."""
    import comfy.sd

    options = {"umt5xxl_model_config": {"num_layers": 1, "vocab_size": 64, "d_ff": 64, "num_heads": 4}}
    original = comfy.sd.load_text_encoder_state_dicts

    def of_one_block(*args, model_options, **kwargs):
        return original(*args, model_options={**model_options, **options}, **kwargs)

    monkeypatch.setattr(comfy.sd, "load_text_encoder_state_dicts", of_one_block)
    return options


def test_it_encodes_what_the_safetensors_file_does(comfyui, files, small):
    import comfy.sd
    from steadydancer.loaders import build

    plain = comfy.sd.load_clip([str(files[0])], clip_type=comfy.sd.CLIPType.WAN, model_options=dict(small))
    packed = build.load_clip([files[1]], "wan")
    table = packed.cond_stage_model.umt5xxl.transformer.shared.weight
    assert hasattr(table, "_qdata") and table.nbytes == 64 * 4096 // 32 * 34
    words = "a woman in a red dress dances"
    expected = plain.encode_from_tokens(plain.tokenize(words))
    found = packed.encode_from_tokens(packed.tokenize(words))
    error = ((found - expected).norm() / expected.norm()).item()
    assert error < 1e-5


def test_its_scratch_memory_goes_when_comfyui_unloads_it(comfyui, files, small, monkeypatch):
    import comfy.model_management
    from steadydancer.loaders import build
    from steadydancer.quant.ops import packed_operations

    operations = packed_operations()
    monkeypatch.setattr(build, "packed_operations", lambda: operations)
    clip = build.load_clip([files[1]], "wan")
    clip.encode_from_tokens(clip.tokenize("a woman dances"))
    assert operations.scratch.memory
    comfy.model_management.unload_all_models()
    assert not operations.scratch.memory


def test_other_encoders_and_mixed_up_files_are_told_apart(comfyui, files, tmp_path):
    from steadydancer.loaders import build

    other = write_gguf(tmp_path / "llm.gguf", {"w": ("F32", (4,), bytes(16))}, {"general.architecture": "llama"})
    with pytest.raises(ValueError, match="llm.gguf is no T5 or UMT5 encoder but 'llama'"):
        build.load_clip([other], "wan")
    with pytest.raises(ValueError, match="umt5-Q8_0.gguf is a text encoder .*not a diffusion model"):
        build.load_diffusion([files[1]])
    empty = write_gguf(tmp_path / "strange.gguf", {"w": ("F32", (4,), bytes(16))}, {"general.architecture": "sd1"})
    with pytest.raises(ValueError, match="strange.gguf is not a model that ComfyUI knows"):
        build.load_diffusion([empty])
