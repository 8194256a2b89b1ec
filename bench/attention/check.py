#!/usr/bin/env python3
"""Checks the attention kernels against a float64 reference on the GPU of this machine, then times them.

Run from the root of the repository: python3 bench/attention/check.py [words that a case's name must contain]
Needs torch with CUDA and NVRTC. Writes $OUT/attention.json where OUT is set.
"""
import ast
import concurrent.futures
import ctypes
import glob
import json
import os
import re
import site
import subprocess
import sys
import tempfile
import time
import traceback

import torch

BLOCK = 64
DTYPES = {'f32': torch.float32, 'f16': torch.float16, 'bf16': torch.bfloat16}
LIMITS = {'f32': 1e-5, 'f16': 2e-3, 'bf16': 1e-2}
BODIES = {'reference': 'AttentionReference', 'prefill': 'AttentionPrefill', 'decode': 'AttentionDecode'}
ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'kernels')


# ---- compile and launch

def load_nvrtc():
    folders = [p + '/nvidia/*/lib' for p in site.getsitepackages() + sys.path if p]
    folders += ['/usr/local/cuda*/lib64', '/usr/local/cuda*/targets/*/lib', '/usr/lib/x86_64-linux-gnu']
    found = [f for folder in folders for f in sorted(glob.glob(folder + '/libnvrtc.so*')) if '.alt.' not in f]
    found.sort(key=lambda f: 'so.13' not in f)
    for path in found:
        try:
            for builtins in glob.glob(os.path.dirname(path) + '/libnvrtc-builtins.so*'):
                ctypes.CDLL(builtins, mode=ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(path), path
        except OSError:
            continue
    raise RuntimeError('no libnvrtc found')


NVRTC, NVRTC_PATH = load_nvrtc()
CUDA = ctypes.CDLL('libcuda.so.1')


def compile_unit(source):
    program = ctypes.c_void_p()
    assert NVRTC.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b'unit.cu', 0, None, None) == 0
    options = ['--gpu-architecture=sm_90a', '--std=c++20', '-default-device', '--ptxas-options=-v', '-I' + ROOT]
    array = (ctypes.c_char_p * len(options))(*[o.encode() for o in options])
    code = NVRTC.nvrtcCompileProgram(program, len(options), array)
    size = ctypes.c_size_t()
    NVRTC.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(max(size.value, 1))
    NVRTC.nvrtcGetProgramLog(program, log)
    log = log.value.decode(errors='replace')
    if code != 0:
        raise RuntimeError('does not compile: ' + log[:1500])
    spills = sum(int(n) for n in re.findall(r'(\d+) bytes (?:stack frame|spill)', log))
    if spills or 'C75' in log:
        print('WARNING: stack frame or spills:', log[-400:])
    NVRTC.nvrtcGetCUBINSize(program, ctypes.byref(size))
    cubin = ctypes.create_string_buffer(size.value)
    NVRTC.nvrtcGetCUBIN(program, cubin)
    registers = [int(n) for n in re.findall(r'Used (\d+) registers', log)]
    return cubin.raw, max(registers, default=0)  # the other kernel of a unit has few


def unit(kind, q_type, kv_type, heads, kv_heads, head_dim, scale, splits):
    types = f'{q_type}, {kv_type}' if kind == 'reference' else q_type
    last = f', {splits}' if kind == 'decode' else ''
    cluster = f'__cluster_dims__({splits}, 1, 1) ' if kind == 'decode' else ''
    about = '' if kind == 'reference' else 'out[1] = Body::kSharedBytes, out[2] = Body::kRows;'
    return f'''#include "attention/{kind}.cuh"
using namespace smelt;
using Body = {BODIES[kind]}<{types}, {heads}, {kv_heads}, {head_dim}, {scale!r}f{last}>;
extern "C" __global__ void launch(int* out) {{
  out[0] = Body::kThreads;
  {about}
}}
extern "C" __global__ void {cluster}__launch_bounds__(Body::kThreads)
attention({q_type}* out, const {q_type}* q, const int* positions, const int* query_starts, const int* block_table,
          const {kv_type}* kv, int tokens, int sequences, int blocks_per_sequence) {{
  run(Body{{out, q, positions, query_starts, block_table, kv, tokens, sequences, blocks_per_sequence}});
}}
'''


def driver(name, *arguments):
    code = getattr(CUDA, name)(*arguments)
    if code != 0:
        raise RuntimeError(f'{name}: error {code}')


def start(function, grid, threads, shared, values):
    pointers = (ctypes.c_void_p * len(values))(*[ctypes.addressof(v) for v in values])
    stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
    driver('cuLaunchKernel', function, grid, 1, 1, threads, 1, 1, shared, stream, pointers, None)


class Kernel:
    def __init__(self, kind, cubin, heads, kv_heads, splits):
        self.kind, self.heads, self.kv_heads, self.splits = kind, heads, kv_heads, splits
        module, self.function = ctypes.c_void_p(), ctypes.c_void_p()
        driver('cuModuleLoadData', ctypes.byref(module), cubin)
        driver('cuModuleGetFunction', ctypes.byref(self.function), module, b'attention')
        about, launch = torch.zeros(3, dtype=torch.int32, device='cuda'), ctypes.c_void_p()
        driver('cuModuleGetFunction', ctypes.byref(launch), module, b'launch')
        start(launch, 1, 1, 0, [ctypes.c_uint64(about.data_ptr())])
        self.threads, self.shared, self.rows = about.tolist()
        driver('cuFuncSetAttribute', self.function, 8, ctypes.c_int(self.shared))

    def grid(self, tokens, sequences):
        group = self.heads // self.kv_heads
        if self.kind == 'reference':
            return -(-tokens * self.heads // 4)
        if self.kind == 'decode':
            return tokens * self.kv_heads * -(-group // 16) * self.splits
        return self.kv_heads * (-(-tokens * group // self.rows) + sequences)

    def __call__(self, out, q, step, kv):
        values = [ctypes.c_uint64(t.data_ptr()) for t in (out, q, step.positions, step.starts, step.table)]
        values += [ctypes.c_uint64(kv if isinstance(kv, int) else kv.data_ptr())]
        values += [ctypes.c_int(n) for n in (step.tokens, step.sequences, step.table.shape[1])]
        start(self.function, self.grid(step.tokens, step.sequences), self.threads, self.shared, values)


# ---- data

class Step:
    """A step's inputs: (chunk, context) of each sequence, then `padding` tokens and `empty` sequences."""

    def __init__(self, parts, padding, empty, generator):
        self.parts, self.padding = parts, padding
        self.tokens = sum(n for n, _ in parts) + padding
        self.sequences = len(parts) + empty
        needed = [-(-(n + context) // BLOCK) for n, context in parts]
        width = max(needed) + 2
        self.blocks = sum(needed) + 5
        order = torch.randperm(self.blocks, generator=generator).int()
        table = torch.full((self.sequences, width), 2**30, dtype=torch.int32)  # an entry that must not be used
        starts, positions, at = [0], [], 0
        for b, (n, context) in enumerate(parts):
            table[b, :needed[b]] = order[at:at + needed[b]]
            at += needed[b]
            starts.append(starts[-1] + n)
            positions += range(context, context + n)
        starts += [starts[-1]] * empty
        positions += [2**30] * padding
        self.table = table.cuda()
        self.starts = torch.tensor(starts, dtype=torch.int32).cuda()
        self.positions = torch.tensor(positions, dtype=torch.int32).cuda()
        self.ids = [table[b, :needed[b]].long().cuda() for b in range(len(parts))]


def fill(step, kv_heads, head_dim, dtype):
    """Keys and values of each sequence, [n, kv_heads, head_dim], and the pool with NaN wherever none of them lies."""
    pool = torch.full((step.blocks, kv_heads, 2, BLOCK, head_dim), float('nan'), dtype=dtype, device='cuda')
    caches = []
    for (n, context), ids in zip(step.parts, step.ids):
        pair = []
        for which in range(2):
            x = torch.randn(n + context, kv_heads, head_dim, device='cuda').to(dtype)
            padded = torch.full((len(ids) * BLOCK, kv_heads, head_dim), float('nan'), dtype=dtype, device='cuda')
            padded[:n + context] = x
            pool[ids, :, which] = padded.view(len(ids), BLOCK, kv_heads, head_dim).transpose(1, 2)
            pair.append(x)
        caches.append(pair)
    return pool, caches


def reference(step, q, caches, heads, kv_heads, head_dim, scale):
    out = torch.zeros(step.tokens, heads, head_dim, dtype=torch.float64, device='cuda')
    group, at = heads // kv_heads, 0
    for (n, context), (k, v) in zip(step.parts, caches):
        queries = q[at:at + n].double().view(n, kv_heads, group, head_dim)
        at_position = torch.arange(n + context, device='cuda')
        hidden = at_position[None, :] > at_position[context:, None]
        for h in range(kv_heads):
            scores = scale * torch.einsum('ngd,pd->gnp', queries[:, h], k[:, h].double())
            p = torch.softmax(scores.masked_fill(hidden, float('-inf')), -1)
            out[at:at + n, h * group:(h + 1) * group] = torch.einsum('gnp,pd->ngd', p, v[:, h].double())
        at += n
    return out


def check(kernel, step, q_type, kv_type, heads, kv_heads, head_dim, scale):
    q = torch.randn(step.tokens, heads * head_dim, device='cuda').to(DTYPES[q_type])
    if step.padding:
        q[-step.padding:] = float('nan')
    pool, caches = fill(step, kv_heads, head_dim, DTYPES[kv_type])
    runs = []
    for _ in range(2):
        out = torch.full_like(q, float('nan'))
        kernel(out, q, step, pool)
        torch.cuda.synchronize()
        runs.append(out)
    bits = torch.int32 if q_type == 'f32' else torch.int16
    same = torch.equal(runs[0].view(bits), runs[1].view(bits))
    got = runs[0].double().view(step.tokens, heads, head_dim)
    want = reference(step, q, caches, heads, kv_heads, head_dim, scale)
    real = step.tokens - step.padding
    padding_ok = bool((got[real:] == 0).all())
    got, want = got[:real], want[:real]
    nan = int((~torch.isfinite(got)).any(-1).sum())
    error = float((got - want).norm() / want.norm())
    worst_row = float(((got - want).norm(dim=-1) / want.norm(dim=-1).clamp_min(1e-30)).max())
    limit = LIMITS[q_type]
    ok = same and padding_ok and nan == 0 and error <= limit and worst_row <= 6 * limit
    detail = {'ok': ok, 'error': error, 'worst_row': worst_row, 'same_bits': same, 'padding_zero': padding_ok,
              'rows_with_nan': nan}
    if nan or not error <= limit:
        bad = (~((got - want).norm(dim=-1) <= 6 * limit * want.norm(dim=-1))).nonzero()
        detail['bad_rows'] = len(bad)
        detail['first_bad'] = bad[:6].tolist()
    return detail


# ---- cases

HEADS = [(1, 1), (4, 1), (6, 2), (8, 8), (32, 8), (71, 1), (5, 5)]
HEAD_DIMS = [16, 32, 64, 80, 96, 128, 160, 256]
CHUNKS = [1, 2, 63, 64, 65, 130, 513]
CONTEXTS = [0, 1, 63, 64, 100, 1000]


def cases():
    """(kind, q type, kv type, heads, kv heads, head_dim, splits)"""
    for heads, kv_heads in HEADS:
        for i, head_dim in enumerate(HEAD_DIMS):
            splits = [1, 2, 4, 8][(i + heads) % 4]
            yield 'decode', 'bf16', 'bf16', heads, kv_heads, head_dim, splits
    for splits in [1, 2, 4, 8]:
        yield 'decode', 'bf16', 'bf16', 32, 8, 128, splits
        yield 'decode', 'f16', 'f16', 71, 1, 64, splits
    for head_dim in [16, 96, 128, 256]:
        yield 'decode', 'f16', 'f16', 32, 8, head_dim, 4
    dtypes = [('f32', 'f32'), ('bf16', 'bf16'), ('f16', 'f16'), ('f32', 'bf16'), ('bf16', 'f16'), ('f16', 'f32'),
             ('bf16', 'f32')]
    for i, (heads, kv_heads) in enumerate(HEADS):
        yield 'reference', *dtypes[i], heads, kv_heads, [32, 80, 1, 300, 128, 16, 512][i], 1
    for head_dim in [1, 7, 64, 128, 256]:
        yield 'reference', 'f32', 'f32', 6, 2, head_dim, 1
    for heads, kv_heads in HEADS:
        for head_dim in HEAD_DIMS:
            yield 'prefill', 'bf16', 'bf16', heads, kv_heads, head_dim, 1
    for head_dim in HEAD_DIMS:
        yield 'prefill', 'f16', 'f16', 32, 8, head_dim, 1
    yield 'prefill', 'bf16', 'bf16', 160, 1, 64, 1


def steps(kind, heads, kv_heads, head_dim, generator):
    if kind == 'decode':
        contexts = [0, 1, 63, 64, 100, 1000, 15, 16, 47, 48, 127, 128, 511, 4095, 6000]
        yield Step([(1, c) for c in contexts], 3, 0, generator)
        if (heads, kv_heads) == (32, 8):
            yield Step([(1, 777)], 0, 0, generator)
            yield Step([(1, 3 * i) for i in range(77)], 0, 2, generator)
    elif kind == 'reference':
        yield Step([(1, 0), (2, 63), (65, 0), (3, 1000), (64, 64)], 5, 3, generator)
        yield Step([(3, 5)] * 70, 1, 0, generator)
    else:
        yield Step([(n, CONTEXTS[(i + heads) % 6]) for i, n in enumerate(CHUNKS)], 37, 2, generator)
        if (heads, kv_heads) == (32, 8) and head_dim in (64, 128, 256):
            yield Step([(n, c) for n in CHUNKS for c in CONTEXTS], 300, 0, generator)
            yield Step([(1, 5), (2, 70)] * 50, 0, 40, generator)
            yield Step([(200, 0)], 0, 0, generator)


# ---- times

def timed(launch, copies):
    """Microseconds per launch: a graph of `copies` launches, each over a pool of its own so that L2 holds none."""
    launch(0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(copies):
            launch(i)
    graph.replay()
    torch.cuda.synchronize()
    best = float('inf')
    for _ in range(6):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        best = min(best, begin.elapsed_time(end) * 1e3 / copies)
    return best


def time_shape(kernel, parts, generator, heads=32, kv_heads=8, head_dim=128):
    step = Step(parts, 0, 0, generator)
    per_pool = step.blocks * kv_heads * 2 * BLOCK * head_dim
    read = sum(n + c for n, c in parts) * kv_heads * 2 * head_dim * 2
    copies = max(4, min(40, int(1.5e9 / read)))
    pools = min(copies, max(1, int(3e8 / (per_pool * 2)) + 1))
    pool = torch.randn(pools * per_pool, device='cuda', dtype=torch.bfloat16)
    q = torch.randn(step.tokens, heads * head_dim, device='cuda').to(torch.bfloat16)
    out = torch.empty_like(q)
    us = timed(lambda i: kernel(out, q, step, pool.data_ptr() + i % pools * per_pool * 2), copies)
    pairs = sum(n * c + n * (n + 1) // 2 for n, c in parts)
    return us, 4 * pairs * heads * head_dim / us * 1e-6, read / us * 1e-6


TIMED = [('decode', 'bf16', 'bf16', 32, 8, 128, splits) for splits in (1, 2, 4, 8)]
TIMED += [('prefill', 'bf16', 'bf16', 32, 8, 128, 1)]


def run_kind(kind, words, report_path):
    """Checks and times one body; writes what it found to a file after every case."""
    begun = time.time()
    torch.zeros(1, device='cuda')
    seed = int(begun)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    wanted = [c for c in dict.fromkeys(cases()) if c[0] == kind and all(w in str(c) for w in words)]
    timing = [c for c in TIMED if c[0] == kind]
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 8)
    compiled = {}
    for key in dict.fromkeys(timing + wanted):
        _, q_type, kv_type, heads, kv_heads, head_dim, splits = key
        source = unit(kind, q_type, kv_type, heads, kv_heads, head_dim, head_dim ** -0.5, splits)
        compiled[key] = pool.submit(compile_unit, source)
    kernels = {}
    report = {'device': torch.cuda.get_device_name(), 'seed': seed, 'results': [], 'times': [], 'registers': {}}

    def kernel_of(key):
        if key not in kernels:
            cubin, report['registers'][str(key)] = compiled[key].result()
            kernels[key] = Kernel(key[0], cubin, key[3], key[4], key[6])
        return kernels[key]

    def save():
        with open(report_path, 'w') as file:
            json.dump(report, file, indent=1, default=str)

    for key in wanted:
        _, q_type, kv_type, heads, kv_heads, head_dim, splits = key
        try:
            kernel = kernel_of(key)
            for number, step in enumerate(steps(kind, heads, kv_heads, head_dim, generator)):
                scale = float(torch.tensor(head_dim ** -0.5, dtype=torch.float32))
                detail = check(kernel, step, q_type, kv_type, heads, kv_heads, head_dim, scale)
                report['results'].append({'case': key, 'step': number, **detail})
                if not detail['ok']:
                    print('FAIL', key, 'step', number, {k: v for k, v in detail.items() if k != 'ok'}, flush=True)
        except Exception as error:  # one case must not hide the others
            report['results'].append({'case': key, 'ok': False, 'exception': str(error)[:2000]})
            print('FAIL', key, str(error)[:1200], flush=True)
            if not isinstance(error, RuntimeError):
                traceback.print_exc()
        save()
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            print('the context is lost: no more', kind, flush=True)
            return
    print(f'{kind}: checked in {time.time() - begun:.0f} s', flush=True)

    shapes = []
    for key in timing:
        if kind == 'prefill':
            shapes += [(key, 'prefill 512', [(512, 0)]), (key, 'prefill 4096', [(4096, 0)]),
                       (key, 'prefill 8 x 2048', [(2048, 0)] * 8)]
        else:
            shapes += [(key, f'decode 1 x {c}, {key[6]} splits', [(1, c - 1)]) for c in (640, 8192, 65536)]
            shapes += [(key, f'decode 32 x 4096, {key[6]} splits', [(1, 4095)] * 32)]
    for key, name, parts in shapes:
        try:
            us, tflops, tbps = time_shape(kernel_of(key), parts, generator)
            report['times'].append({'name': name, 'us': us, 'tflops': tflops, 'tb_per_s': tbps})
        except Exception as error:
            print('FAIL', name, str(error)[:500], flush=True)
        save()


def main():
    """One process for each body: a fault on the device loses the context of its process only."""
    if len(sys.argv) > 2 and sys.argv[1] == '--kind':
        return run_kind(sys.argv[2], sys.argv[4:], sys.argv[3])
    begun = time.time()
    folder = os.environ.get('OUT') or tempfile.mkdtemp()
    reports = {}
    for kind, seconds in (('decode', 60), ('reference', 40), ('prefill', 75)):
        path = os.path.join(tempfile.gettempdir(), f'attention-{kind}-{os.getpid()}.json')
        command = [sys.executable, os.path.abspath(__file__), '--kind', kind, path, *sys.argv[1:]]
        try:
            subprocess.run(command, timeout=seconds)
        except subprocess.TimeoutExpired:
            print(f'FAIL {kind}: stopped after {seconds} s', flush=True)
        if os.path.exists(path):
            with open(path) as file:
                reports[kind] = json.load(file)
    with open(os.path.join(folder, 'attention.json'), 'w') as file:
        json.dump(reports, file, indent=1)

    bad = 0
    print()
    for kind, report in reports.items():
        results = report['results']
        good = [r for r in results if r['ok']]
        bad += len(results) - len(good)
        worst = {t: max((r['error'] for r in good if r['case'][1] == t), default=0) for t in LIMITS}
        rows = {t: max((r['worst_row'] for r in good if r['case'][1] == t), default=0) for t in LIMITS}
        print(f'{kind}: {len(good)} of {len(results)} right; largest relative error (of a row):',
              ', '.join(f'{t} {worst[t]:.1e} ({rows[t]:.1e})' for t in LIMITS if worst[t]))
    print('registers:', {f'{c[0]}/{c[6]}': n for r in reports.values() for k, n in r['registers'].items()
                         for c in [ast.literal_eval(k)] if c in TIMED})
    for t in (t for r in reports.values() for t in r['times']):
        rate = f'{t["tflops"]:6.0f} TFLOP/s' if t['name'].startswith('prefill') else f'{t["tb_per_s"]:6.2f} TB/s'
        print(f'{t["name"]:32s} {t["us"]:9.1f} us {rate}')
    print(f'{bad} failures, {time.time() - begun:.0f} s')
    sys.exit(bad != 0 or len(reports) < 3)


if __name__ == '__main__':
    main()
