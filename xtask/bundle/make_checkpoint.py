#!/usr/bin/env python3
"""Writes a Llama checkpoint of a config's shape with arbitrary bf16 weights: make_checkpoint.py CONFIG_DIR OUT_DIR.

For measuring how fast real files are compiled and loaded. Needs nothing but Python.
"""
import json
import random
import shutil
import struct
import sys
from pathlib import Path

BLOCK = 8 << 20


def tensors(config):
    hidden, wide, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim", hidden // heads)
    yield "model.embed_tokens.weight", [vocab, hidden]
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        yield f"{name}.input_layernorm.weight", [hidden]
        for proj, rows in [("q", heads), ("k", kv_heads), ("v", kv_heads)]:
            yield f"{name}.self_attn.{proj}_proj.weight", [rows * head_dim, hidden]
        yield f"{name}.self_attn.o_proj.weight", [hidden, heads * head_dim]
        yield f"{name}.post_attention_layernorm.weight", [hidden]
        yield f"{name}.mlp.gate_proj.weight", [wide, hidden]
        yield f"{name}.mlp.up_proj.weight", [wide, hidden]
        yield f"{name}.mlp.down_proj.weight", [hidden, wide]
    yield "model.norm.weight", [hidden]
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", [vocab, hidden]


def size(shape):
    product = 2
    for length in shape:
        product *= length
    return product


def main():
    source, target = map(Path, sys.argv[1:3])
    config = json.loads((source / "config.json").read_text())
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(source / "config.json", target)
    rng = random.Random(1)
    # values of both signs from 2^-7 to 2^-5: high bytes 0x3c and 0xbc
    block = bytearray(rng.randbytes(BLOCK))
    block[1::2] = rng.randbytes(BLOCK // 2).translate(bytes(0x3C if byte < 128 else 0xBC for byte in range(256)))
    names, shards, shard, used = {}, [], [], 0
    for name, shape in tensors(config):
        if used + size(shape) > 4 << 30:
            shards.append(shard)
            shard, used = [], 0
        shard.append((name, shape))
        used += size(shape)
    shards.append(shard)
    for index, shard in enumerate(shards):
        file = f"model-{index + 1:05}-of-{len(shards):05}.safetensors"
        header, at = {}, 0
        for name, shape in shard:
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size(shape)]}
            names[name] = file
            at += size(shape)
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(target / file, "wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            for name, shape in shard:
                rest, start = size(shape), 2 * rng.randrange(BLOCK // 2)
                while rest:
                    part = memoryview(block)[start : start + rest]
                    out.write(part)
                    rest -= len(part)
                    start = 0
    index = {"metadata": {"total_size": sum(size(shape) for shard in shards for _, shape in shard)}, "weight_map": names}
    (target / "model.safetensors.index.json").write_text(json.dumps(index))


main()
