"""Compares transformers' logits of a compressed-tensors checkpoint, DIR/quantized, with those in DIR/found.json.

Prints the largest difference over max(1, |logit|), and the share of prompts where that is below 1e-4. Ends with 77
where a library is missing, and without arguments only looks for them.
"""

import json
import sys
from pathlib import Path

try:
    import compressed_tensors  # noqa: F401
    import torch
    from transformers import AutoModelForCausalLM
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(77)

if len(sys.argv) < 2:
    sys.exit()
folder = Path(sys.argv[1])
found = json.loads((folder / "found.json").read_text())
model = AutoModelForCausalLM.from_pretrained(folder / "quantized", dtype=torch.float32, attn_implementation="eager")
worst = []
with torch.no_grad():
    for prompt, logits in zip(found["prompts"], found["logits"]):
        expected = model.eval()(torch.tensor([prompt])).logits[0]
        difference = (torch.tensor(logits).reshape(expected.shape) - expected).abs() / expected.abs().clamp(min=1)
        worst.append(difference.max().item())
print(f"{max(worst):.1e} {sum(apart <= 1e-4 for apart in worst) / len(worst):.3f}")
