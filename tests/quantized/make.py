"""Makes the quantized checkpoints beside it, with the logits that they mean.

Needs torch, safetensors, transformers (5.x) and compressed-tensors; a CPU is enough.

Each folder is a tiny Llama whose linears are stored as one program or another stores them, packed here after the
published layouts. What is expected is a model in float64 over what the codes mean, with activations rounded as the
format says. Where transformers reads the folder on a CPU, its logits are compared with those and the difference is
printed. It scales integer activations by 127.5 where others have 127, so there it only comes near.
"""

import json
from pathlib import Path

import torch
from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationScheme
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, FineGrainedFP8Config, LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).parent
E4M3 = torch.float8_e4m3fn
PROMPTS = [1, 7, 33]
SIZES = dict(vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4,
             num_key_value_heads=2, head_dim=16, max_position_embeddings=256, tie_word_embeddings=False,
             bos_token_id=1, eos_token_id=2)


# Weights `[N, K]` to (codes, scales, zeros), each broadcast over blocks of rows and columns.

def spread(scale, shape, block):
    return scale.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)[: shape[0], : shape[1]]


def blocks_of(weight, block):
    """`[rows, columns, elements]` of blocks, padded with zeros."""
    rows, cols = (-size % step for size, step in zip(weight.shape, block))
    padded = torch.nn.functional.pad(weight, (0, cols, 0, rows))
    tiles = padded.unfold(0, block[0], block[0]).unfold(1, block[1], block[1])
    return tiles.reshape(*tiles.shape[:2], -1)


def symmetric(weight, block, largest, dtype=torch.float32):
    scale = (blocks_of(weight, block).abs().amax(-1) / largest).to(dtype)
    ratio = weight / spread(scale.float(), weight.shape, block)
    codes = ratio.to(E4M3) if largest == 448 else ratio.round().clamp(-largest - 1, largest).to(torch.int8)
    return codes, scale, None


def asymmetric(weight, block, levels, dtype=torch.float16):
    """Codes from 0 to levels, zeros as well."""
    tiles = blocks_of(weight, block)
    low, high = tiles.amin(-1).clamp(max=0), tiles.amax(-1).clamp(min=0)
    scale = ((high - low) / levels).to(dtype)
    zero = (-low / scale.float()).round().clamp(0, levels)
    ratio = weight / spread(scale.float(), weight.shape, block) + spread(zero, weight.shape, block)
    return ratio.round().clamp(0, levels).to(torch.int32), scale, zero.to(torch.int32)


def meaning(codes, scale, zero, block):
    codes = codes.double()
    if zero is not None:
        codes = codes - spread(zero.double(), codes.shape, block)
    return codes * spread(scale.double(), codes.shape, block)


# Packing.

def pack(codes, bits, axis, order=None):
    """Unsigned codes along an axis in words, the first in the lowest bits; or in another order."""
    per_word = 32 // bits
    order = order or range(per_word)
    codes = codes.long()
    codes = codes if axis == 1 else codes.T
    words = torch.zeros(codes.shape[0], codes.shape[1] // per_word, dtype=torch.int64)
    for lane, element in enumerate(order):
        words |= codes[:, element::per_word] << (bits * lane)
    words = words if axis == 1 else words.T
    return signed(words)


def signed(words):
    words = words & 0xFFFF_FFFF
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32).contiguous()


# Activations as they are read.

def by_block(x, cols, largest):
    shape = x.shape
    x = x.reshape(-1, shape[-1])
    block = (1, cols or shape[-1])
    scale = (blocks_of(x.float(), block).abs().amax(-1) / largest).clamp(min=2.0**-100)
    return by_scale(x, spread(scale, x.shape, block), largest).reshape(shape)


def by_scale(x, scale, largest):
    ratio = (x.float() * (1 / scale)).clamp(-largest, largest)
    codes = ratio.to(E4M3).double() if largest == 448 else ratio.round().double()
    return codes * scale.double() if torch.is_tensor(scale) else codes * scale


# The formats: `linear(weight, largest activation)` gives tensors, the meaning, and a function of activations.

def plain(largest, block=None, dynamic=None, static=False, name="weight_scale", scalar=False, dtype=torch.float32):
    def linear(weight, amax):
        shape = tuple(weight.shape)
        size = block or (1, shape[1])
        size = shape if scalar else size
        codes, scale, _ = symmetric(weight, size, largest, dtype)
        tensors = {"weight": codes, name: scale.reshape(1) if scalar else scale}
        act = None
        if static:
            tensors["input_scale"] = torch.tensor([amax / largest], dtype=torch.float32)
            act = lambda x: by_scale(x, tensors["input_scale"][0], largest)
        elif dynamic is not None:
            act = lambda x: by_block(x, dynamic, largest)
        return tensors, meaning(codes, scale, None, size), act
    return linear


def packed(bits, group=None, zeros=False, dtype=torch.bfloat16):
    half = 1 << (bits - 1)

    def linear(weight, _):
        block = (1, group or weight.shape[1])
        if zeros:
            codes, scale, zero = asymmetric(weight, block, 2 * half - 1, dtype)
        else:
            codes, scale, zero = symmetric(weight, block, half - 1, dtype)
            codes = codes.int() + half
        tensors = {"weight_packed": pack(codes, bits, 1), "weight_scale": scale,
                   "weight_shape": torch.tensor(weight.shape)}
        if zeros:
            tensors["weight_zero_point"] = pack(zero, bits, 0)
            return tensors, meaning(codes, scale, zero, block), None
        return tensors, meaning(codes - half, scale, None, block), None
    return linear


def awq(group):
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def linear(weight, _):
        codes, scale, zero = asymmetric(weight, (1, group), 15)
        tensors = {"qweight": pack(codes.T, 4, 1, order), "qzeros": pack(zero.T, 4, 1, order),
                   "scales": scale.T.contiguous()}
        return tensors, meaning(codes, scale, zero, (1, group)), None
    return linear


def gptq(bits, group, sym, v2=False):
    levels = (1 << bits) - 1

    def linear(weight, _):
        block = (1, group)
        if sym:
            codes, scale, _ = symmetric(weight, block, levels // 2, torch.float16)
            codes, zero = codes.int() + (levels + 1) // 2, torch.full(scale.shape, (levels + 1) // 2)
        else:
            codes, scale, zero = asymmetric(weight, block, levels)
        stored = pack(zero.T, bits, 1)
        if not v2:
            # less one in each place of a word
            stored = signed(stored.long() - sum(1 << at for at in range(0, 32, bits)))
        tensors = {"qweight": pack(codes.T, bits, 0), "qzeros": stored, "scales": scale.T.contiguous(),
                   "g_idx": (torch.arange(weight.shape[1]) // group).int()}
        return tensors, meaning(codes, scale, zero, block), None
    return linear


def scheme(bits, kind, strategy, inputs=None, targets=("Linear",), **more):
    weights = dict(num_bits=bits, type=kind, symmetric=True, strategy=strategy, dynamic=False, **more)
    return dict(targets=list(targets), weights=weights, input_activations=inputs, output_activations=None)


def inputs(kind, strategy, dynamic, **more):
    return dict(num_bits=8, type=kind, symmetric=True, strategy=strategy, dynamic=dynamic, **more)


def compressed(format, *schemes, ignore=("lm_head",)):
    groups = {f"group_{index}": scheme for index, scheme in enumerate(schemes)}
    return dict(quant_method="compressed-tensors", format=format, quantization_status="compressed",
                config_groups=groups, ignore=list(ignore), kv_cache_scheme=None, global_compression_ratio=None)


def is_attention(name):
    return "self_attn" in name


FORMATS = {
    "ct-int8-token": (plain(127, dynamic=0), compressed(
        "int-quantized", scheme(8, "int", "channel", inputs("int", "token", True)))),
    "ct-int8-static": (plain(127, static=True, scalar=True), compressed(
        "int-quantized", scheme(8, "int", "tensor", inputs("int", "tensor", False)))),
    "ct-fp8-token": (plain(448, dynamic=0, dtype=torch.bfloat16), compressed(
        "float-quantized", scheme(8, "float", "channel", inputs("float", "token", True)))),
    "ct-fp8-block": (plain(448, block=(32, 32), dynamic=32), compressed(
        "float-quantized", scheme(8, "float", "block", inputs("float", "group", True, group_size=32),
                                  block_structure=[32, 32]))),
    "ct-int4-group": (packed(4, 32), compressed(
        "pack-quantized", scheme(4, "int", "group", group_size=32), ignore=["re:.*lm_head"])),
    "ct-int4-zeros": (packed(4, 32, zeros=True), compressed(
        "pack-quantized", {**scheme(4, "int", "group", group_size=32),
                           "weights": dict(num_bits=4, type="int", symmetric=False, strategy="group", group_size=32)})),
    "ct-mixed": (lambda weight, amax, name: (packed(8) if is_attention(name) else packed(4, 32))(weight, amax), compressed(
        "mixed-precision",
        {**scheme(8, "int", "channel", targets=["re:.*self_attn.(q|k|v|o)_proj$"]), "format": "pack-quantized"},
        {**scheme(4, "int", "group", group_size=32), "format": "pack-quantized"})),
    "modelopt-fp8": (plain(448, static=True, scalar=True), None),
    "fp8-block": (plain(448, block=(32, 32), dynamic=32, name="weight_scale_inv"), dict(
        quant_method="fp8", activation_scheme="dynamic", weight_block_size=[32, 32], fmt="e4m3")),
    "awq": (awq(32), dict(quant_method="awq", bits=4, group_size=32, version="gemm", zero_point=True,
                          modules_to_not_convert=None)),
    "gptq": (gptq(4, 32, sym=False), dict(quant_method="gptq", bits=4, group_size=32, desc_act=False, sym=False)),
    "gptq-v2-int8": (gptq(8, 32, sym=True, v2=True), dict(
        quant_method="gptq", bits=8, group_size=32, desc_act=False, sym=True, checkpoint_format="gptq_v2")),
}


def base(bias):
    torch.manual_seed(5)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, attention_bias=bias, attn_implementation="eager"))
    for name, parameter in model.named_parameters():
        mean = 1.0 if "norm" in name else 0.0
        parameter.data = torch.normal(mean, 0.12, parameter.shape).bfloat16().float()
    return model.eval()


def logits(model, prompts):
    with torch.no_grad():
        return [model(torch.tensor([prompt])).logits[0] for prompt in prompts]


def difference(found, expected):
    return max(((a.double() - b) / b.abs().clamp(min=1)).abs().max().item() for a, b in zip(found, expected))


def linears(model):
    return {name: module for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and name != "lm_head"}


def unpacked(model, tensors, quantization):
    """How far weights are from those that compressed-tensors makes of the codes."""
    scheme = QuantizationScheme(**quantization["config_groups"]["group_0"])
    for name, module in linears(model).items():
        names = ["weight_packed", "weight_scale", "weight_shape", "weight_zero_point"]
        stored = {key: tensors[f"{name}.{key}"] for key in names} | {"weight_scale": tensors[f"{name}.weight_scale"].float()}
        found = PackedQuantizationCompressor.decompress(stored, scheme)["weight"]
        yield (found.double() - module.weight.data).abs().max().item()


def make(folder, linear, quantization):
    model = base(bias=folder.name == "gptq")
    prompts = [torch.randint(3, 64, (size,)).tolist() for size in PROMPTS]
    largest = {}
    hooks = [module.register_forward_pre_hook(lambda _, args, name=name: largest.__setitem__(
        name, max(largest.get(name, 0.0), args[0].abs().max().item()))) for name, module in linears(model).items()]
    plain_logits = logits(model, prompts)
    for hook in hooks:
        hook.remove()
    tensors = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    model, acts = model.double(), {}
    for name, module in linears(model).items():
        args = (name,) if folder.name == "ct-mixed" else ()
        stored, weight, act = linear(module.weight.data.float(), largest[name], *args)
        del tensors[f"{name}.weight"]
        tensors |= {f"{name}.{key}": tensor for key, tensor in stored.items()}
        module.weight.data = weight
        acts[module] = act
    weights_alone = logits(model, prompts)
    for module, act in acts.items():
        if act is not None:
            module.register_forward_pre_hook(lambda _, args, act=act: (act(args[0]),))
    expected = logits(model, prompts)

    folder.mkdir(exist_ok=True)
    config = json.loads(model.config.to_json_string())
    config |= {"architectures": ["LlamaForCausalLM"], "dtype": "bfloat16"}
    if quantization is None:
        quantized = {"producer": {"name": "modelopt"}, "quantization": {
            "quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}}
        (folder / "hf_quant_config.json").write_text(json.dumps(quantized, indent=1) + "\n")
        for which in ["k", "v"]:
            tensors[f"model.layers.0.self_attn.{which}_proj.{which}_scale"] = torch.tensor(0.5)
    else:
        config["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    save_file({f"logits.{i}": found.float().contiguous() for i, found in enumerate(expected)},
              folder / "expected.safetensors")
    facts = {"prompts": prompts, "loss_of_codes": difference(plain_logits, expected)}
    (folder / "expected.json").write_text(json.dumps(facts) + "\n")

    note = ""
    if folder.name == "ct-int4-zeros":
        # transformers 5.24 expects packed zeros in the shape of unpacked ones: ask the library itself
        note = f", compressed-tensors {max(unpacked(model, tensors, quantization)):.1e}"
    elif folder.name.startswith("ct-") or folder.name == "fp8-block":
        more = {"quantization_config": FineGrainedFP8Config(dequantize=True)} if folder.name == "fp8-block" else {}
        read = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", **more)
        # its blocks have no kernel for a CPU, so their activations stay numbers there
        theirs = weights_alone if folder.name == "fp8-block" else expected
        note = f", transformers {difference(logits(read.eval(), prompts), theirs):.1e}"
    size = (folder / "model.safetensors").stat().st_size
    print(f"{folder.name}: {size} bytes, numbers {facts['loss_of_codes']:.1e}{note}", flush=True)


if __name__ == "__main__":
    for name, (linear, quantization) in FORMATS.items():
        make(HERE / name, linear, quantization)
