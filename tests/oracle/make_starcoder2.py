"""Makes the oracle checkpoint `starcoder2-gqa`: random weights, and what transformers computes with them.

Run in an environment with torch and transformers: `python make_starcoder2.py DIR` writes the four files into DIR. The
weights are exact in bfloat16, so that plans of narrower types start from the same values.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import Starcoder2Config, Starcoder2ForCausalLM

VOCAB = 320
LENGTHS = [1, 7, 33, 80]
GREEDY = 24


def config() -> Starcoder2Config:
    return Starcoder2Config(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        hidden_act="gelu_pytorch_tanh",
        norm_epsilon=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        sliding_window=None,
        use_bias=True,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )


def fill(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Values large enough that every part of the model shows in the logits, and the best two are never close."""
    for name, parameter in model.named_parameters():
        values = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() == 2:
            values *= 1.4 / parameter.shape[1] ** 0.5
            if "embed_tokens" in name:
                # the table is the head, too: with larger rows each token would predict itself
                values *= 0.25
        elif name.endswith("bias"):
            values *= 0.1
        else:
            values = 1.0 + 0.2 * values
        parameter.data.copy_(values.bfloat16().float())


@torch.no_grad()
def main(folder: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    model = Starcoder2ForCausalLM._from_config(config(), attn_implementation="eager").float().eval()
    fill(model, generator)
    logits, prompts, greedy, margins = {}, [], [], []
    for index, length in enumerate(LENGTHS):
        prompt = torch.randint(3, VOCAB, (length,), generator=generator)
        tokens, margin = prompt, float("inf")
        for step in range(GREEDY):
            # the whole text again: no cache whose sums could differ
            found = model(tokens[None], use_cache=False).logits[0]
            if step == 0:
                logits[f"logits.{index}"] = found.contiguous()
            best = found[-1].topk(2)
            margin = min(margin, (best.values[0] - best.values[1]).item())
            tokens = torch.cat([tokens, best.indices[:1]])
        prompts.append(prompt.tolist())
        greedy.append(tokens[length:].tolist())
        margins.append(round(margin, 5))
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    save_file(logits, folder / "expected.safetensors")
    expected = {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "dtype": "float32",
        "prompts": prompts,
        "greedy": greedy,
        "smallest_top2_margin": margins,
    }
    (folder / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
