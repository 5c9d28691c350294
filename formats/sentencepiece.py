"""The tokenizer of a GGUF text encoder, as the file that SentencePiece reads."""

import struct
from typing import Any

from .gguf_file import GGUFFile


def sentencepiece_model(file: GGUFFile) -> bytes:
    """The SentencePiece model that a GGUF holds in pieces, as its protobuf file (sentencepiece_model.proto)."""
    meta: dict[str, Any] = file.metadata
    tokens = file.array("tokenizer.ggml.tokens")
    scores = file.array("tokenizer.ggml.scores")
    kinds = file.array("tokenizer.ggml.token_type") if "tokenizer.ggml.token_type" in file.arrays else [1] * len(tokens)
    out = bytearray()
    for token, score, kind in zip(tokens, scores, kinds):
        piece = message(1, token.encode()) + b"\x15" + struct.pack("<f", score) + number(3, kind)
        out += message(1, piece)
    trainer = number(3, 1) + number(4, len(tokens)) + number(35, 1 if 6 in kinds else 0)
    ids = {"unknown": 40, "bos": 41, "eos": 42, "padding": 43}
    for name, field in ids.items():
        trainer += number(field, meta.get(f"tokenizer.ggml.{name}_token_id", -1))
    out += message(2, trainer)
    normalizer = number(3, int(meta.get("tokenizer.ggml.add_space_prefix", True)))
    normalizer += number(4, int(meta.get("tokenizer.ggml.remove_extra_whitespaces", True)))
    if "tokenizer.ggml.precompiled_charsmap" in file.arrays:
        normalizer = message(2, bytes(file.array("tokenizer.ggml.precompiled_charsmap"))) + normalizer
    return bytes(out + message(3, normalizer))


def varint(value: int) -> bytes:
    """A whole number in protobuf's variable length; negative ones as 64 bits."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    """A protobuf field that holds a whole number."""
    return varint(field << 3) + varint(value)


def message(field: int, content: bytes) -> bytes:
    """A protobuf field that holds bytes, a text or a message."""
    return varint(field << 3 | 2) + varint(len(content)) + content
