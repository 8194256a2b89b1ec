#!/usr/bin/env python3
"""Train the demo model: tokenizer, teachers, the small Llama, and its figures.

    python3 models/demo/corpus.py --out CORPUS
    python3 models/demo/train.py --corpus CORPUS --out models/demo

Needs torch, tokenizers, safetensors and transformers (5.x), and one GPU.

1. A byte-level BPE tokenizer is trained on the training text.
2. A few larger Llama models ("teachers") are trained on the training text, strongly
   regularised, since the text is small. They then write a few million tokens.
3. The small model is trained on batches of half training text, half text by the
   teachers, against the teachers' averaged predictions (and, a little, the text
   itself). The checkpoint with the best loss on the validation text is kept.
4. It is saved in bf16 in Hugging Face form, loaded again with transformers, and
   measured on the held-out text beside an interpolated bigram model.
"""

import argparse
import copy
import json
import math
import time
from dataclasses import dataclass, asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

BOS, EOS = "<|bos|>", "<|eos|>"
PROMPTS = ["The compiler", "A trait is", "If the vector", "This function returns",
           "# Ownership\n\n"]


# ---------------------------------------------------------------- model

@dataclass
class Config:
    vocab_size: int = 2048
    hidden_size: int = 256
    intermediate_size: int = 512
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    dropout: float = 0.0


class RMSNorm(nn.Module):
    def __init__(self, n, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n))
        self.eps = eps

    def forward(self, x):
        h = x.float()
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * h.to(x.dtype)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        q, kv = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
        self.q_proj = nn.Linear(c.hidden_size, q, bias=False)
        self.k_proj = nn.Linear(c.hidden_size, kv, bias=False)
        self.v_proj = nn.Linear(c.hidden_size, kv, bias=False)
        self.o_proj = nn.Linear(q, c.hidden_size, bias=False)

    def forward(self, x, cos, sin):
        c = self.c
        b, t, _ = x.shape
        q = self.q_proj(x).view(b, t, -1, c.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(b, t, -1, c.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(b, t, -1, c.head_dim).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        g = c.num_attention_heads // c.num_key_value_heads
        k, v = k.repeat_interleave(g, dim=1), v.repeat_interleave(g, dim=1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(b, t, -1))


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return x * cos.to(x.dtype) + torch.cat((-b, a), dim=-1) * sin.to(x.dtype)


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.self_attn = Attention(c)
        self.mlp = MLP(c)
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.p = c.dropout

    def forward(self, x, cos, sin):
        drop = lambda y: F.dropout(y, self.p, self.training) if self.p else y
        x = x + drop(self.self_attn(self.input_layernorm(x), cos, sin))
        return x + drop(self.mlp(self.post_attention_layernorm(x)))


class Inner(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.num_hidden_layers))
        self.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)


class Llama(nn.Module):
    """The Llama architecture with tied embeddings and the names Hugging Face gives its tensors."""

    def __init__(self, c):
        super().__init__()
        self.c = c
        self.model = Inner(c)
        inv = c.rope_theta ** (-torch.arange(0, c.head_dim, 2).float() / c.head_dim)
        f = torch.outer(torch.arange(c.max_position_embeddings).float(), inv)
        f = torch.cat((f, f), dim=-1)
        self.register_buffer("cos", f.cos(), persistent=False)
        self.register_buffer("sin", f.sin(), persistent=False)
        depth = (2 * c.num_hidden_layers) ** -0.5
        for name, p in self.named_parameters():
            if p.ndim == 2:
                std = 0.02 if "embed" in name else p.shape[1] ** -0.5
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    std *= depth
                nn.init.normal_(p, std=std)

    def forward(self, ids):
        m = self.model
        x = m.embed_tokens(ids)
        if self.c.dropout:
            x = F.dropout(x, self.c.dropout, self.training)
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        for layer in m.layers:
            x = layer(x, cos, sin)
        return F.linear(m.norm(x), m.embed_tokens.weight)


# ---------------------------------------------------------------- optimizer

def orthogonalise(g):
    """Newton-Schulz iteration of Muon on a stack of matrices [n, rows, cols]."""
    x = g.bfloat16()
    flip = x.shape[-2] > x.shape[-1]
    if flip:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
    return x.mT if flip else x


class Muon:
    """Muon (momentum, then the nearest semi-orthogonal matrix) for the layers' matrices."""

    def __init__(self, params, lr, wd, momentum=0.95):
        self.base, self.lr, self.wd, self.mu = lr, lr, wd, momentum
        groups = {}
        for p in params:
            groups.setdefault(tuple(p.shape), []).append(p)
        self.groups = [(ps, torch.zeros(len(ps), *s, device=ps[0].device))
                       for s, ps in groups.items()]

    @torch.no_grad()
    def step(self):
        for ps, buf in self.groups:
            g = torch.stack([p.grad for p in ps]).float()
            buf.lerp_(g, 1 - self.mu)
            u = muon_update(g.lerp_(buf, self.mu))
            scale = max(1.0, ps[0].shape[0] / ps[0].shape[1]) ** 0.5
            torch._foreach_mul_(ps, 1 - self.lr * self.wd)
            torch._foreach_add_(ps, list(u.float().unbind(0)), alpha=-self.lr * scale)


muon_update = orthogonalise


# ---------------------------------------------------------------- data

class Data:
    def __init__(self, folder, tok, device):
        self.tok, self.device = tok, device
        self.bos, self.eos = tok.token_to_id(BOS), tok.token_to_id(EOS)
        docs = [json.loads(l)["text"] for l in open(folder / "train.jsonl", encoding="utf-8")]
        self.docs = [np.array([self.bos] + e.ids + [self.eos], dtype=np.int32)
                     for e in tok.encode_batch(docs, add_special_tokens=False)]
        self.train_bytes = sum(len(d.encode()) for d in docs)
        self.train_tokens = sum(len(d) for d in self.docs)
        val = "\n\n".join(json.loads(l)["text"] for l in open(folder / "val.jsonl", encoding="utf-8")) + "\n"
        held = (folder / "heldout.txt").read_text(encoding="utf-8")
        self.val_text, self.held_text = val, held
        self.val = np.array(tok.encode(val, add_special_tokens=False).ids, dtype=np.int32)
        self.held = np.array(tok.encode(held, add_special_tokens=False).ids, dtype=np.int32)
        # Tokens after which a paragraph begins: the second of two line ends.
        self.newline = np.zeros(tok.get_vocab_size(), dtype=bool)
        for t, i in tok.get_vocab().items():
            self.newline[i] = t.endswith("Ċ")

    def batches(self, batch_tokens, length_of, seed):
        """Endless batches (x, y). Each epoch packs the documents in a new order. Half of the
        windows begin at a paragraph, behind a bos token, as a prompt does; half anywhere."""
        rng = np.random.default_rng(seed)
        step = 0
        while True:
            order = rng.permutation(len(self.docs))
            flat = np.concatenate([self.docs[i] for i in order])
            nl = self.newline[flat]
            after = np.flatnonzero(nl[1:] & nl[:-1]) + 2
            pos = int(rng.integers(0, 2048))
            while True:
                t = length_of(step)
                n = batch_tokens // t
                if pos + n * t + 2 * t > len(flat):
                    break
                starts = pos + t * np.arange(n)
                pos += n * t
                para = np.minimum(np.searchsorted(after, starts), len(after) - 1)
                use = (rng.random(n) < 0.5) & (after[para] < starts + t)
                starts = np.where(use, after[para] - 1, starts)
                w = flat[np.minimum(starts[:, None] + np.arange(t + 1)[None], len(flat) - 1)]
                w[use, 0] = self.bos
                w = torch.from_numpy(w.astype(np.int64)).to(self.device, non_blocking=True)
                yield w[:, :-1], w[:, 1:]
                step += 1

    def windows(self, ids, length=2048):
        """Cuts a token stream so that every token is predicted once: bos + length-1 tokens each."""
        n = length - 1
        for i in range(0, len(ids), n):
            yield np.concatenate(([self.bos], ids[i:i + n])).astype(np.int64)


@torch.no_grad()
def stream_loss(forward, data, ids, autocast):
    """Mean nats per token of the stream `ids`."""
    total, pad = 0.0, 2048
    for w in data.windows(ids):
        x = torch.full((1, pad), data.bos, dtype=torch.long, device=data.device)
        x[0, :len(w)] = torch.from_numpy(w).to(data.device)
        with torch.autocast(data.device, torch.bfloat16, enabled=autocast):
            logits = forward(x)
        total += F.cross_entropy(logits[0, :len(w) - 1].float(), x[0, 1:len(w)], reduction="sum").item()
    return total / len(ids)


# ---------------------------------------------------------------- training

@torch.no_grad()
def write_text(model, data, rows, length, prefix, seed):
    """`rows` samples of `length` tokens at temperature 1: bos, the first tokens of a paragraph of
    the training text, then the model's own continuation. Plain decoding with a key-value cache."""
    c, dev = model.c, data.device
    m = copy.deepcopy(model).to(torch.bfloat16).model
    cos, sin = model.cos.bfloat16(), model.sin.bfloat16()
    torch.manual_seed(seed)
    ids = torch.full((rows, length), data.bos, dtype=torch.long, device=dev)
    have = 0
    for x, _ in data.batches(16384, lambda s: prefix, seed):
        x = x[x[:, 0] == data.bos][: rows - have]
        ids[have:have + len(x), :prefix] = x
        have += len(x)
        if have == rows:
            break
    heads, kv, d = c.num_attention_heads, c.num_key_value_heads, c.head_dim
    keys = [torch.zeros(rows * kv, length, d, device=dev, dtype=torch.bfloat16) for _ in m.layers]
    values = [torch.zeros_like(k) for k in keys]
    for t in range(length - 1):
        x = m.embed_tokens(ids[:, t])
        for layer, k, v in zip(m.layers, keys, values):
            a = layer.self_attn
            h = layer.input_layernorm(x)
            q = rotate(a.q_proj(h).view(rows, heads, d), cos[t], sin[t]).view(rows * kv, heads // kv, d)
            k[:, t] = rotate(a.k_proj(h).view(rows, kv, d), cos[t], sin[t]).view(rows * kv, d)
            v[:, t] = a.v_proj(h).view(rows * kv, d)
            w = torch.softmax(q @ k[:, :t + 1].mT * d ** -0.5, dim=-1)
            x = x + a.o_proj((w @ v[:, :t + 1]).view(rows, heads * d))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        if t + 1 >= prefix:
            p = torch.softmax(F.linear(m.norm(x), m.embed_tokens.weight).float(), dim=-1)
            ids[:, t + 1] = (p / torch.empty_like(p).exponential_()).argmax(-1)
    return ids


def train_model(name, c, data, steps, *, batch_tokens, muon_lr, adam_lr, wd, seed, teachers=(),
                written=None, hard=1.0, evals=12, compiled=True, decay=0.6, length=2048):
    dev = data.device
    torch.manual_seed(seed)
    model = Llama(c).to(dev)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    muon = Muon(matrices, muon_lr, wd)
    adam = torch.optim.AdamW(rest, lr=adam_lr, betas=(0.9, 0.98), eps=1e-10, weight_decay=0.0,
                             fused=dev == "cuda")

    def loss_fn(x, y, *soft):
        logits = model(x).float()
        logp = F.log_softmax(logits, dim=-1)
        nll = -logp.gather(-1, y.unsqueeze(-1)).mean()
        if not soft:
            return nll, nll
        target = sum(F.softmax(s.float(), dim=-1) for s in soft) / len(soft)
        return hard * nll - (1 - hard) * (target * logp).sum(-1).mean(), nll

    run = torch.compile(loss_fn, dynamic=False) if compiled else loss_fn
    infer = torch.compile(lambda x: model(x), dynamic=False) if compiled else model
    ask = [torch.compile(t, dynamic=False) if compiled else t for t in teachers]
    share = 1 if written is None else 2
    batches = data.batches(batch_tokens // share, lambda s: length, seed)
    pick = np.random.default_rng(seed + 1)
    best, best_state, t0, train_loss = float("inf"), None, time.time(), 0.0
    for step in range(steps):
        x, y = next(batches)
        if written is not None:
            rows = pick.integers(0, len(written), len(x) * length // written.shape[1] + 1)
            flat = written[torch.from_numpy(rows).to(dev)].flatten()[: len(x) * length + 1]
            x = torch.cat((x, flat[:-1].view(len(x), length)))
            y = torch.cat((y, flat[1:].view(len(y), length)))
        frac = min(1.0, (step + 1) / min(100, steps // 10 + 1))
        left = (steps - step) / (steps * decay)
        lr = frac * min(1.0, left)
        muon.lr = muon_lr * lr
        for g in adam.param_groups:
            g["lr"] = adam_lr * lr
        with torch.autocast(dev, torch.bfloat16):
            with torch.no_grad():
                soft = [t(x) for t in ask]
            loss, nll = run(x, y, *soft)
        loss.backward()
        muon.step()
        adam.step()
        model.zero_grad(set_to_none=True)
        train_loss = nll.detach()
        done = step + 1 == steps
        if done or (step + 1) % max(1, steps // evals) == 0:
            model.eval()
            v = stream_loss(infer, data, data.val, True)
            model.train()
            if v < best:
                best, best_state = v, copy.deepcopy(model.state_dict())
            print(f"{name} step {step + 1}/{steps} train {train_loss.item():.4f} val {v:.4f} "
                  f"best {best:.4f} {time.time() - t0:.0f}s", flush=True)
    model.load_state_dict(best_state)
    return model.eval(), best, time.time() - t0


# ---------------------------------------------------------------- bigram baseline

def bigram(data):
    """The best of four interpolated bigram models on the validation tokens; its held-out loss.

    All are trained on the training tokens, with their parameters set on the validation tokens."""
    v = data.tok.get_vocab_size()
    flat = np.concatenate(data.docs).astype(np.int64)
    pair = np.bincount(flat[:-1] * v + flat[1:], minlength=v * v).reshape(v, v).astype(np.float64)
    pair[data.eos] = 0
    uni = np.bincount(flat, minlength=v).astype(np.float64)
    uni[data.bos] = 0
    p1 = uni / uni.sum()
    ctx = pair.sum(1)
    types = (pair > 0).sum(1)
    cont = (pair > 0).sum(0).astype(np.float64)

    def parts(ids):
        prev = np.concatenate(([data.bos], ids[:-1])).astype(np.int64)
        cur = ids.astype(np.int64)
        return prev, cur, pair[prev, cur] / np.maximum(ctx[prev], 1)

    pv, cv, b2v = parts(data.val)
    ph, ch, b2h = parts(data.held)
    u = 1.0 / v
    bucket = np.minimum(np.log2(ctx + 1).astype(int), 20)
    results = {}

    def em(which_val, which_held, n):
        lam = np.full((n, 3), 1 / 3)
        for _ in range(200):
            comp = lam[which_val] * np.stack([b2v, p1[cv], np.full(len(cv), u)], 1)
            comp /= comp.sum(1, keepdims=True)
            new = np.zeros((n, 3))
            np.add.at(new, which_val, comp)
            s = new.sum(1, keepdims=True)
            lam = np.where(s > 0, new / np.maximum(s, 1e-9), lam)
            lam = 0.9999 * lam + 0.0001 / 3   # no weight becomes zero
        f = lambda w, b2, cur: -np.log((lam[w] * np.stack([b2, p1[cur], np.full(len(cur), u)], 1)).sum(1)).mean()
        return f(which_val, b2v, cv), f(which_held, b2h, ch)

    results["Jelinek-Mercer"] = em(np.zeros(len(pv), int), np.zeros(len(ph), int), 1)
    results["Jelinek-Mercer by context count"] = em(bucket[pv], bucket[ph], 21)

    def best_of(grid, model):
        return min((model(g, pv, cv, b2v), model(g, ph, ch, b2h)) for g in grid)

    def witten_bell(k, prev, cur, b2):
        w = ctx[prev] / np.maximum(ctx[prev] + k * types[prev], 1e-9)
        return -np.log(w * b2 + (1 - w) * (0.999 * p1[cur] + 0.001 * u)).mean()

    def kneser_ney(d, prev, cur, b2):
        c = np.maximum(ctx[prev], 1)
        back = 0.999 * cont[cur] / cont.sum() + 0.001 * u
        left = np.where(ctx[prev] > 0, d * types[prev] / c, 1.0)
        return -np.log(np.maximum(pair[prev, cur] - d, 0) / c + left * back).mean()

    results["Witten-Bell"] = best_of([0.25, 0.5, 1, 1.5, 2, 3, 4, 6], witten_bell)
    results["Kneser-Ney"] = best_of([0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95], kneser_ney)
    name = min(results, key=lambda k: results[k][0])
    return name, results


# ---------------------------------------------------------------- export and check

def make_tokenizer(folder, vocab):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=[BOS, EOS], show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    texts = [json.loads(l)["text"] for l in open(folder / "train.jsonl", encoding="utf-8")]
    tok.train_from_iterator(texts, trainer)
    tok.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tok.token_to_id(BOS))])
    return tok


def export(model, tok, out):
    """Writes the folder with transformers' own `save_pretrained`, weights in bf16."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    c = model.c
    cfg = LlamaConfig(
        vocab_size=c.vocab_size, hidden_size=c.hidden_size, intermediate_size=c.intermediate_size,
        num_hidden_layers=c.num_hidden_layers, num_attention_heads=c.num_attention_heads,
        num_key_value_heads=c.num_key_value_heads, head_dim=c.head_dim, hidden_act="silu",
        max_position_embeddings=c.max_position_embeddings, rms_norm_eps=c.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
        tie_word_embeddings=True, attention_bias=False, mlp_bias=False,
        bos_token_id=tok.token_to_id(BOS), eos_token_id=tok.token_to_id(EOS))
    hf = LlamaForCausalLM(cfg)
    state = {k: v.detach().cpu().float() for k, v in model.state_dict().items()}
    missing, unexpected = hf.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    hf.tie_weights()
    hf = hf.to(torch.bfloat16)
    hf.config.dtype = torch.bfloat16
    hf.generation_config = GenerationConfig(bos_token_id=cfg.bos_token_id, eos_token_id=cfg.eos_token_id)
    out.mkdir(parents=True, exist_ok=True)
    hf.save_pretrained(out)
    fast = PreTrainedTokenizerFast(tokenizer_object=tok, bos_token=BOS, eos_token=EOS,
                                   model_max_length=c.max_position_embeddings,
                                   clean_up_tokenization_spaces=False)
    fast.save_pretrained(out)
    tok.save(str(out / "tokenizer.json"))
    (out / "model.safetensors").chmod(0o644)


def check(out, data, model, report):
    """Loads the folder with transformers, measures the held-out loss and samples."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    torch.set_float32_matmul_precision("highest")
    hf = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).to(data.device).eval()
    fast = AutoTokenizer.from_pretrained(out)
    held = data.held_text
    ids = fast(held)["input_ids"]
    assert ids[0] == data.bos and ids[1:] == data.held.tolist(), "transformers tokenizes differently"
    assert fast.decode(ids, skip_special_tokens=True) == held, "the text does not round-trip"
    forward = lambda x: hf(input_ids=x).logits
    loss = stream_loss(forward, data, data.held, False)
    val = stream_loss(forward, data, data.val, False)
    half = copy.deepcopy(hf).to(torch.bfloat16)
    loss_bf16 = stream_loss(lambda x: half(input_ids=x).logits, data, data.held, False)
    x = torch.from_numpy(next(data.windows(data.held))[None]).to(data.device)
    own = copy.deepcopy(model).float()
    own.load_state_dict({k: v.bfloat16().float() for k, v in own.state_dict().items()})
    with torch.no_grad():
        apart = (own(x) - forward(x)).abs().max().item()
    size = len(held.encode())
    report.update(heldout_loss=loss, heldout_ppl=math.exp(loss), val_loss=val,
                  heldout_loss_bf16_compute=loss_bf16,
                  heldout_bits_per_byte=loss * len(data.held) / math.log(2) / size,
                  heldout_tokens=len(data.held), heldout_bytes=size,
                  max_logit_difference_to_transformers=apart,
                  safetensors_bytes=(out / "model.safetensors").stat().st_size)
    report["samples"] = []
    for prompt in PROMPTS:
        x = torch.tensor([fast(prompt)["input_ids"]], device=data.device)
        torch.manual_seed(1)
        with torch.no_grad():
            greedy = hf.generate(x, max_new_tokens=80, do_sample=False)
            warm = hf.generate(x, max_new_tokens=80, do_sample=True, temperature=0.7, top_p=0.95)
        text = lambda o: fast.decode(o[0], skip_special_tokens=True)
        report["samples"].append({"prompt": prompt, "greedy": text(greedy), "temperature 0.7": text(warm)})


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--corpus", type=Path, required=True, help="the folder corpus.py wrote")
    ap.add_argument("--out", type=Path, required=True)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--vocab", type=int, default=2048)
    ap.add_argument("--hidden", type=int, default=256)
    ap.add_argument("--inter", type=int, default=512)
    ap.add_argument("--layers", type=int, default=6)
    ap.add_argument("--steps", type=int, default=3600)
    ap.add_argument("--batch-tokens", type=int, default=65536)
    ap.add_argument("--dropout", type=float, default=0.0)
    ap.add_argument("--wd", type=float, default=0.1)
    ap.add_argument("--lr", type=float, default=0.02)
    ap.add_argument("--teachers", type=int, default=3)
    ap.add_argument("--teacher-steps", type=int, default=1500)
    ap.add_argument("--teacher-dropout", type=float, default=0.3)
    ap.add_argument("--teacher-wd", type=float, default=0.5)
    ap.add_argument("--hard", type=float, default=0.1, help="weight of the text itself in the loss")
    ap.add_argument("--written-rows", type=int, default=4096, help="samples of 1024 tokens by each teacher")
    ap.add_argument("--work", type=Path, help="keep the teachers here, and use those found here")
    ap.add_argument("--only-teachers", action="store_true")
    ap.add_argument("--cpu", action="store_true", help="a smoke test, not a training run")
    args = ap.parse_args()

    dev = "cpu" if args.cpu else "cuda"
    torch.set_float32_matmul_precision("high")
    start = time.time()
    tok = make_tokenizer(args.corpus, args.vocab)
    data = Data(args.corpus, tok, dev)
    print(f"{len(data.docs)} documents, {data.train_tokens} training tokens, "
          f"{data.train_bytes / data.train_tokens:.2f} bytes a token, {len(data.val)} val, "
          f"{len(data.held)} held-out tokens, {time.time() - start:.0f}s", flush=True)
    name, results = bigram(data)
    for k, (a, b) in results.items():
        print(f"bigram {k}: val {a:.4f} held-out {b:.4f}")
    if not args.cpu:
        global muon_update
        muon_update = torch.compile(orthogonalise)
        torch._dynamo.config.recompile_limit = 64

    common = dict(batch_tokens=args.batch_tokens, compiled=not args.cpu)
    big = Config(vocab_size=args.vocab, hidden_size=512, intermediate_size=1408, num_hidden_layers=8,
                 num_attention_heads=8, num_key_value_heads=4, dropout=args.teacher_dropout)
    if args.cpu:
        big.hidden_size, big.intermediate_size, big.num_hidden_layers = 128, 128, 2
    teachers, teacher_val = [], []
    for i in range(args.teachers):
        kept = args.work / f"teacher{i}.pt" if args.work else None
        if kept and kept.exists():
            saved = torch.load(kept)
            t, v = Llama(big).to(dev).eval(), saved["val"]
            t.load_state_dict(saved["state"])
        else:
            t, v, _ = train_model(f"teacher {i}", big, data, args.teacher_steps, muon_lr=args.lr,
                                  adam_lr=2e-3, wd=args.teacher_wd, seed=args.seed + 100 + i, **common)
            if kept:
                args.work.mkdir(parents=True, exist_ok=True)
                torch.save({"state": t.state_dict(), "val": v}, kept)
        teachers.append(t.requires_grad_(False))
        teacher_val.append(v)
    written = None
    if teachers:
        both = stream_loss(lambda x: sum(F.softmax(t(x).float(), -1) for t in teachers).log(),
                           data, data.val, not args.cpu)
        print(f"teachers together: val {both:.4f}, {time.time() - start:.0f}s", flush=True)
        if args.only_teachers:
            return
        per = min(2048, args.written_rows)
        written = torch.cat([write_text(t, data, per, 1024 if not args.cpu else 96, 16, args.seed + 1000 * i + j)
                             for i, t in enumerate(teachers) for j in range(args.written_rows // per)])
        print(f"{written.numel()} tokens written by the teachers, {time.time() - start:.0f}s", flush=True)
        for row in written[:: max(1, len(written) // 3)][:3]:
            print(repr(tok.decode(row[:60].tolist())))
    c = Config(vocab_size=args.vocab, hidden_size=args.hidden, intermediate_size=args.inter,
               num_hidden_layers=args.layers, num_attention_heads=args.hidden // 64,
               num_key_value_heads=max(1, args.hidden // 128), dropout=args.dropout)
    model, val, seconds = train_model("model", c, data, args.steps, muon_lr=args.lr, adam_lr=3e-3,
                                      wd=args.wd, seed=args.seed, teachers=teachers, written=written,
                                      hard=args.hard if teachers else 1.0, **common)
    export(model, tok, args.out)
    (args.out / "heldout.txt").write_text(data.held_text, encoding="utf-8")
    report = {"config": asdict(c), "parameters": sum(p.numel() for p in model.parameters()),
              "training_bytes": data.train_bytes, "training_tokens": data.train_tokens,
              "tokens_seen": args.steps * args.batch_tokens, "seconds_model": round(seconds),
              "teacher": asdict(big) if teachers else None, "teacher_val_loss": teacher_val,
              "teachers_together_val_loss": both if teachers else None,
              "tokens_written_by_teachers": written.numel() if teachers else 0,
              "teacher_parameters": sum(p.numel() for p in teachers[0].parameters()) if teachers else 0,
              "gpu": torch.cuda.get_device_name() if dev == "cuda" else "cpu",
              "arguments": {k: str(v) for k, v in vars(args).items() if k not in ("corpus", "out")}}
    check(args.out, data, model, report)
    report["bigram"] = {k: {"val": a, "heldout": b} for k, (a, b) in results.items()}
    report["bigram_best"] = name
    report["bigram_heldout_loss"] = results[name][1]
    report["below_bigram"] = 1 - report["heldout_loss"] / results[name][1]
    report["seconds_total"] = round(time.time() - start)
    print(json.dumps(report, indent=1, ensure_ascii=False))
    return report


if __name__ == "__main__":
    main()
