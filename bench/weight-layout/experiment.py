#!/usr/bin/env python3
"""Which layout of 16-bit weights serves both linear kernels, and how fast are they?

Run at the root of the repository, on a machine with a Hopper GPU: python3 bench/weight-layout/experiment.py
Needs numpy, torch, libnvrtc and the driver. Compiles all units, checks each kernel against float64, times them with the
weights in memory (not in L2), writes $OUT/weight-layout.json, and prints a short table last.
  --quick     checks, and few timings
  --compile   compiles all units and stops (needs no GPU)
"""
import ctypes
import glob
import json
import math
import os
import re
import statistics
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor

START = time.time()
DEADLINE = START + 215
HERE = os.path.dirname(os.path.abspath(__file__))
KERNELS = os.path.join(HERE, '..', '..', 'kernels')
SHAPES = [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (128256, 4096)]
QUICK = '--quick' in sys.argv

# ---------------------------------------------------------------------------------------------------- compile


def nvrtc():
    """libnvrtc and, before it, the builtins that it loads by name."""
    folders = os.environ.get('NVRTC_LIB', '').split(':')
    for path in sys.path:
        folders += glob.glob(os.path.join(path, 'nvidia', '*', 'lib'))
    folders += glob.glob('/usr/local/cuda*/lib64') + glob.glob('/usr/local/cuda*/targets/*/lib')
    for folder in folders:
        libs = sorted(p for p in glob.glob(os.path.join(folder, 'libnvrtc.so*')))
        if folder and libs:
            for builtins in glob.glob(os.path.join(folder, 'libnvrtc-builtins.so*')):
                ctypes.CDLL(builtins, mode=ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(libs[-1])
    return ctypes.CDLL('libnvrtc.so')


def compile_unit(source):
    """The cubin (or None), the log, and the milliseconds that it took."""
    n = nvrtc()
    program = ctypes.c_void_p()
    assert n.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b'unit.cu', 0, None, None) == 0
    options = ['--gpu-architecture=sm_90a', '--std=c++20', '-default-device', '--ptxas-options=-v', '--no-cache',
               '-I' + KERNELS, '-I' + HERE]
    begin = time.time()
    rc = n.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*[o.encode() for o in options]))
    took = (time.time() - begin) * 1e3
    size = ctypes.c_size_t()
    n.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value or 1)
    n.nvrtcGetProgramLog(program, log)
    cubin = None
    if rc == 0:
        n.nvrtcGetCUBINSize(program, ctypes.byref(size))
        image = ctypes.create_string_buffer(size.value)
        n.nvrtcGetCUBIN(program, image)
        cubin = image.raw
    n.nvrtcDestroyProgram(ctypes.byref(program))
    return cubin, log.value.decode(), took


TAIL = '\nextern "C" __device__ int info[3] = {Body::kThreads, Body::kSharedBytes, '


def skinny(n, k, rows, warps, strips, depth, dtype='bf16', bias=False):
    return (f'#include "linear/skinny.cuh"\nusing T = smelt::{dtype};\n'
            f'using Body = smelt::LinearSkinny<T, T, {n}, {k}, {rows}, {warps}, {strips}, {depth}>;\n'
            'extern "C" __global__ void __launch_bounds__(Body::kThreads, Body::kBlocks)\n'
            f'kernel(T* y, const T* x, const T* w, {"const T* bias, " if bias else ""}int rows) {{\n'
            f'  smelt::run(Body{{y, x, w, {"bias" if bias else "nullptr"}, rows}});\n}}' + TAIL +
            'Body::kAllStrips};\n')


def skinny_layout(n, k, rows, warps, strips, depth, layout, contiguous):
    return ('#include "skinny_layouts.cuh"\nusing T = smelt::bf16;\n'
            f'using Body = smelt::SkinnyLayouts<T, {n}, {k}, {rows}, {warps}, {strips}, {depth}, {layout}, {contiguous}>;\n'
            'extern "C" __global__ void __launch_bounds__(Body::kThreads)\n'
            'kernel(T* y, const T* x, const T* w, int rows) {\n  smelt::run(Body{y, x, w, rows});\n}' + TAIL + '0};\n')


def gemm(n, k, block_rows, block_cols, stages, dtype='bf16', bias=False):
    return (f'#include "linear/wgmma.cuh"\nusing T = smelt::{dtype};\n'
            f'using Body = smelt::LinearWgmma<T, T, {n}, {k}, {block_rows}, {block_cols}, {stages}>;\n'
            'extern "C" __global__ void __launch_bounds__(Body::kThreads, Body::kBlocks)\n'
            f'kernel(T* y, const T* x, const T* w, {"const T* bias, " if bias else ""}'
            'const __grid_constant__ smelt::TensorMap map_x, const __grid_constant__ smelt::TensorMap map_w, int rows) {\n'
            f'  smelt::run(Body{{y, x, w, {"bias" if bias else "nullptr"}, &map_x, &map_w, rows}});\n}}' + TAIL + '0};\n')


def gemm_layout(n, k, block_rows, block_cols, stages, layout):
    return ('#include "gemm_layouts.cuh"\nusing T = smelt::bf16;\n'
            f'using Body = smelt::GemmLayouts<T, {n}, {k}, {block_rows}, {block_cols}, {stages}, {layout}>;\n'
            'extern "C" __global__ void __launch_bounds__(Body::kThreads)\n'
            'kernel(T* y, const T* x, const T* w, const __grid_constant__ smelt::TensorMap map_x,\n'
            '       const __grid_constant__ smelt::TensorMap map_w, int rows) {\n'
            '  smelt::run(Body{{y, x, w, nullptr, &map_x, &map_w, rows}});\n}' + TAIL + '0};\n')


def reader(warps, depth, turns, bulk):
    return ('#include "stream_read.cuh"\n'
            f'using Body = smelt::StreamRead<{warps}, {depth}, {turns}, {"true" if bulk else "false"}>;\n'
            'extern "C" __global__ void __launch_bounds__(Body::kThreads)\n'
            'kernel(smelt::u32* y, const smelt::u8* w) {\n  smelt::run(Body{y, w});\n}' + TAIL +
            'int(Body::kBlockBytes)};\n')


# ---------------------------------------------------------------------------------------------------- what to run

SKINNY = [(4, 1, 4), (4, 1, 8), (8, 1, 1), (8, 1, 2), (8, 1, 4), (8, 1, 8), (16, 1, 1), (16, 1, 2), (16, 1, 4), (4, 2, 2),
          (4, 2, 4), (8, 2, 1), (8, 2, 2), (8, 2, 4), (16, 2, 1), (8, 4, 1)]
WIDE = [(4, 2, 1), (4, 2, 2), (8, 2, 1), (8, 2, 2), (4, 4, 1), (8, 4, 1), (16, 2, 1)]  # for 16 rows and more
LAYOUTS = {0: 'row-major', 1: 'tiled', 2: 'fragments', 3: 'tiled, whole lines'}
LAYOUT_CONFIGS = [(8, 1, 4), (8, 1, 2), (8, 2, 2)]
GEMM = {512: [(128, 256, 4), (128, 192, 5), (128, 192, 4), (128, 128, 3), (128, 128, 5), (128, 128, 6), (128, 128, 7), (128, 64, 4),
              (128, 64, 8), (64, 256, 5), (64, 128, 4), (64, 128, 8)],
        2048: [(128, 256, 4), (128, 192, 5), (128, 128, 3), (128, 128, 7)],
        64: [(64, 32, 8), (64, 32, 16), (64, 64, 6), (64, 64, 12), (64, 128, 4), (64, 128, 8), (64, 256, 5)],
        128: [(128, 32, 5), (128, 64, 4), (128, 64, 8), (128, 128, 3), (128, 128, 6), (64, 64, 6), (64, 128, 4)]}
GEMM_LAYOUTS = {0: 'row-major', 1: 'tiled, a copy a strip'}
GEMM_LAYOUT_CONFIGS = [(128, 256, 4), (128, 192, 4), (128, 128, 5)]
if QUICK:
    SHAPES, SKINNY, WIDE, LAYOUT_CONFIGS = SHAPES[1:3], [(8, 1, 4), (8, 2, 2)], [(8, 2, 2)], [(8, 1, 4)]
    GEMM = {512: [(128, 256, 4), (128, 128, 3)], 64: [(64, 64, 6)]}

# (N, K, rows, kRows, dtype, bias, config)
SKINNY_CHECKS = [(n, k, rows, bound, dtype, bias, config)
                 for n, k, dtype, bias in [(72, 136, 'bf16', False), (72, 200, 'f16', True), (4096, 4096, 'bf16', False),
                                           (73, 4096 + 72, 'bf16', True), (1040, 14336, 'f16', False)]
                 for rows, bound in [(1, 8), (3, 8), (8, 8), (16, 16), (13, 16), (32, 32), (23, 24)]
                 for config in ([(8, 1, 4)] if bound > 8 else [(8, 1, 4), (8, 2, 2), (4, 1, 8), (16, 4, 1)])]
SKINNY_CHECKS = [(n, k, rows, bound, dtype, bias, (4, 2, 1) if bound > 8 else config)
                 for n, k, rows, bound, dtype, bias, config in SKINNY_CHECKS]
GEMM_CHECKS = [(n, k, rows, dtype, bias, config)
               for n, k, dtype, bias in [(72, 72, 'bf16', False), (320, 200, 'f16', True), (73, 1096, 'bf16', True),
                                         (4096, 4096, 'bf16', False), (1090, 2048, 'f16', True)]
               for rows in [1, 63, 64, 65, 130, 512]
               for config in [(128, 256, 4), (128, 192, 4), (128, 128, 3), (64, 64, 6), (64, 32, 8)]]


def units():
    wanted = [skinny(n, k, bound, *config, dtype, bias) for n, k, _, bound, dtype, bias, config in SKINNY_CHECKS]
    wanted += [gemm(n, k, *config, dtype, bias) for n, k, _, dtype, bias, config in GEMM_CHECKS]
    wanted += [reader(*config) for config in READERS]
    for n, k in SHAPES:
        wanted += [skinny(n, k, 8, *config) for config in SKINNY]
        wanted += [skinny(n, k, bound, *config) for bound in (16, 32) for config in WIDE]
        wanted += [skinny_layout(n, k, 8, *config, layout, 'true' if contiguous else 'false')
                   for config in LAYOUT_CONFIGS for layout in LAYOUTS for contiguous in (False, True)]
        wanted += [gemm(n, k, *config) for rows in GEMM for config in GEMM[rows]]
        wanted += [gemm_layout(n, k, *config, layout) for config in GEMM_LAYOUT_CONFIGS for layout in GEMM_LAYOUTS]
    return list(dict.fromkeys(wanted))


# warps, depth, turns, bulk: blocks of 32 to 128 KB
READERS = [(8, 8, 2, False), (8, 8, 4, False), (8, 16, 2, False), (4, 16, 4, False), (16, 4, 4, False), (1, 8, 32, True),
           (1, 16, 32, True), (1, 24, 64, True)]

workers = os.cpu_count() or 2
begin = time.time()
with ProcessPoolExecutor(workers) as pool:  # before torch: nothing of the GPU is forked
    SOURCES = units()
    COMPILED = dict(zip(SOURCES, pool.map(compile_unit, SOURCES, chunksize=2)))
bad = 0
for source, (cubin, log, _) in COMPILED.items():
    name = re.search(r'using Body = (.*);', source)[1]
    if cubin is None:
        print('does not compile:', name, log[-1500:])
    elif re.search(r'C75\d\d|[1-9]\d* bytes (stack|spill)', log):
        bad += 1
        registers = re.findall(r'Used \d+ registers|\d+ bytes stack frame|\d+ bytes spill stores', log)
        print('build would fail:', name, *registers, *set(re.findall(r'C75\d\d', log)))
print(f'{len(SOURCES)} units, {bad} with spills, on {workers} cores in {time.time() - begin:.1f} s')
if '--compile' in sys.argv:
    sys.exit()

# ---------------------------------------------------------------------------------------------------- the driver

import torch  # noqa: E402

torch.zeros(1, device='cuda')
cuda = ctypes.CDLL('libcuda.so.1')
DEVICE = torch.cuda.get_device_name(0)
RESULTS = {'device': DEVICE, 'checks': [], 'times': []}
DTYPES = {'bf16': torch.bfloat16, 'f16': torch.float16}


SIDE = torch.cuda.Stream()
LAST = [time.time()]


def alive():
    LAST[0] = time.time()


def watch():
    """A kernel that never ends must not take along what was measured before it."""
    while time.time() - LAST[0] < 30:
        time.sleep(1)
    print('NO PROGRESS for 30 s: a kernel hangs; the last check was', RESULTS['checks'][-1:], flush=True)
    save()
    report()
    sys.stdout.flush()
    os._exit(1)


def ok(rc, what):
    if rc != 0:
        text = ctypes.c_char_p()
        cuda.cuGetErrorString(rc, ctypes.byref(text))
        raise RuntimeError(f'{what}: {rc} {text.value}')


DEPENDENT = True


class Attribute(ctypes.Structure):
    _fields_ = [('id', ctypes.c_int), ('pad', ctypes.c_int), ('value', ctypes.c_int), ('rest', ctypes.c_byte * 60)]


class Launch(ctypes.Structure):
    _fields_ = [('grid', ctypes.c_uint * 3), ('block', ctypes.c_uint * 3), ('shared', ctypes.c_uint),
                ('stream', ctypes.c_void_p), ('attributes', ctypes.POINTER(Attribute)), ('count', ctypes.c_uint)]


class Kernel:
    loaded = {}

    def __new__(cls, source):
        if source not in cls.loaded:
            kernel = super().__new__(cls)
            cubin = COMPILED[source][0]
            if cubin is None:
                raise RuntimeError('does not compile')
            module, kernel.function = ctypes.c_void_p(), ctypes.c_void_p()
            ok(cuda.cuModuleLoadData(ctypes.byref(module), cubin), 'load')
            ok(cuda.cuModuleGetFunction(ctypes.byref(kernel.function), module, b'kernel'), 'function')
            at, size, info = ctypes.c_uint64(), ctypes.c_size_t(), (ctypes.c_int * 3)()
            ok(cuda.cuModuleGetGlobal_v2(ctypes.byref(at), ctypes.byref(size), module, b'info'), 'info')
            ok(cuda.cuMemcpyDtoH_v2(info, at, ctypes.c_size_t(12)), 'copy')
            kernel.threads, kernel.shared, kernel.extra = info
            ok(cuda.cuFuncSetAttribute(kernel.function, 8, kernel.shared), 'shared memory')
            value = ctypes.c_int()
            ok(cuda.cuFuncGetAttribute(ctypes.byref(value), 4, kernel.function), 'registers')
            kernel.registers = value.value
            ok(cuda.cuOccupancyMaxActiveBlocksPerMultiprocessor(ctypes.byref(value), kernel.function, kernel.threads,
                                                                ctypes.c_size_t(kernel.shared)), 'occupancy')
            kernel.blocks = value.value
            cls.loaded[source] = kernel
        return cls.loaded[source]

    def __call__(self, grid, *arguments, dependent=True):
        pointers = (ctypes.c_void_p * len(arguments))()
        held = []
        for i, argument in enumerate(arguments):
            if isinstance(argument, torch.Tensor):
                argument = ctypes.c_uint64(argument.data_ptr())
            elif isinstance(argument, int):
                argument = ctypes.c_int(argument)
            held.append(argument)
            pointers[i] = ctypes.addressof(argument)
        dependent = dependent and DEPENDENT
        attribute = Attribute(6, 0, 1)  # programmatic stream serialization
        launch = Launch((grid, 1, 1), (self.threads, 1, 1), self.shared, torch.cuda.current_stream().cuda_stream,
                        ctypes.pointer(attribute), 1 if dependent else 0)
        ok(cuda.cuLaunchKernelEx(ctypes.byref(launch), self.function, pointers, None), 'launch')


def tensor_map(address, kind, dims, strides, box, swizzle):
    """128 bytes at a multiple of 64."""
    class Map(ctypes.Structure):
        _fields_ = [('bytes', ctypes.c_byte * 192)]
    whole = Map()
    aligned = (ctypes.c_byte * 128).from_buffer(whole, -ctypes.addressof(whole) % 64)
    rank = len(dims)
    ok(cuda.cuTensorMapEncodeTiled(aligned, kind, rank, ctypes.c_uint64(address), (ctypes.c_uint64 * rank)(*dims),
                                   (ctypes.c_uint64 * (rank - 1))(*strides), (ctypes.c_uint32 * rank)(*box),
                                   (ctypes.c_uint32 * rank)(*[1] * rank), 0, swizzle, 2, 0), 'tensor map')
    return aligned


def map_of_x(x, block_rows):
    kind = 9 if x.dtype == torch.bfloat16 else 6
    return tensor_map(x.data_ptr(), kind, (x.shape[1], x.shape[0]), (2 * x.shape[1],), (64, block_rows), 3)


def map_of_weights(address, n, k, block_cols, layout):
    if layout == 0:
        return tensor_map(address, 9, (k, n), (2 * k,), (64, block_cols), 3)
    units, strips = math.ceil(k / 64), math.ceil(n / 16)
    return tensor_map(address, 4, (256, units, strips), (2048, 2048 * units), (256, 1, block_cols // 16), 0)


# ---------------------------------------------------------------------------------------------------- layouts


def tiled(w):
    n, k = w.shape
    padded = torch.zeros((-n % 16 + n, -k % 64 + k), dtype=w.dtype, device=w.device)
    padded[:n, :k] = w
    units = padded.reshape(padded.shape[0] // 16, 2, 8, padded.shape[1] // 64, 8, 8).permute(0, 3, 1, 2, 4, 5)
    r, c = torch.arange(8, device=w.device)[:, None], torch.arange(8, device=w.device)[None, :]
    return units[:, :, :, r, c ^ r].contiguous()  # place c of row r holds chunk c ^ r


def fragments(w):
    n, k = w.shape
    # strip, atom, g, unit, h, q, pair of MMAs, word, 2 -> strip, unit, h, mma, g, q, word, atom, 2
    parts = w.reshape(n // 16, 2, 8, k // 64, 2, 4, 2, 2, 2)
    return parts.permute(0, 3, 4, 6, 2, 5, 7, 1, 8).contiguous()


PACK = {0: lambda w: w.contiguous(), 1: tiled, 2: fragments, 3: tiled}

# ---------------------------------------------------------------------------------------------------- checks


def inputs(n, k, rows, dtype, bias):
    kind = DTYPES[dtype]
    w = (torch.randn(n, k, device='cuda') * k ** -0.5).to(kind)
    b = torch.randn(n, device='cuda').to(kind) if bias else None
    x = torch.full((rows + 5, k), math.nan, device='cuda', dtype=kind)  # rows that nobody may use
    x[:rows] = torch.randn(rows, k, device='cuda').to(kind)
    want = x[:rows].double() @ w.double().T + (b.double() if bias else 0)
    return w, x, b, want


def judge(name, run, shape, kind, want):
    """`run(y)` into poisoned rows, three times: right, the same bits, and no other row written."""
    alive()
    entry = {'what': name}
    try:
        rows, n = shape
        outputs = []
        for _ in range(3):
            y = torch.full((rows + 3, n), math.nan, device='cuda', dtype=kind)
            run(y)
            torch.cuda.synchronize()
            outputs.append(y)
        got = outputs[0][:rows].double()
        entry['error'] = float((got - want).norm() / want.norm())
        same = all(torch.equal(o[:rows], outputs[0][:rows]) for o in outputs)
        clean = bool(outputs[0][rows:].isnan().all())
        entry['ok'] = entry['error'] <= 4e-3 and same and clean
        if not entry['ok']:
            entry['note'] = f'error {entry["error"]:.2e}, same bits {same}, other rows untouched {clean}'
    except Exception as failure:  # noqa: BLE001: the others still run
        entry['ok'], entry['note'] = False, str(failure)[:300]
    RESULTS['checks'].append(entry)
    if not entry['ok']:
        print('WRONG', name, entry['note'], flush=True)


def check_decode():
    for n, k, rows, bound, dtype, bias, config in SKINNY_CHECKS:
        w, x, b, want = inputs(n, k, rows, dtype, bias)
        packed = tiled(w)

        def run(y):
            grid = math.ceil(math.ceil(n / 16) / config[1])
            Kernel(skinny(n, k, bound, *config, dtype, bias))(grid, y, x, packed, *([b] if bias else []), rows)
        judge(f'skinny {n}x{k} rows {rows}/{bound} {dtype} bias {bias} {config}', run, (rows, n), DTYPES[dtype], want)
    n, k = 4096, 4096
    w, x, _, want = inputs(n, k, 5, 'bf16', False)
    for config in LAYOUT_CONFIGS:
        for layout in LAYOUTS:
            for contiguous in ('false', 'true'):
                packed = PACK[layout](w)

                def run(y):
                    Kernel(skinny_layout(n, k, 8, *config, layout, contiguous))(n // 16 // config[1], y, x, packed, 5)
                judge(f'skinny, {LAYOUTS[layout]}, contiguous {contiguous} {config}', run, (5, n), w.dtype, want)
    count_checks()


def check_prefill():
    for n, k, rows, dtype, bias, config in GEMM_CHECKS:
        w, x, b, want = inputs(n, k, rows, dtype, bias)
        packed = tiled(w)
        maps = map_of_x(x, config[0]), map_of_weights(packed.data_ptr(), n, k, config[1], 1)

        def run(y):
            grid = math.ceil(rows / config[0]) * math.ceil(n / config[1])
            Kernel(gemm(n, k, *config, dtype, bias))(grid, y, x, packed, *([b] if bias else []), *maps, rows)
        judge(f'wgmma {n}x{k} rows {rows} {dtype} bias {bias} {config}', run, (rows, n), DTYPES[dtype], want)
    n, k = 4096, 4096
    w, x, _, want = inputs(n, k, 200, 'bf16', False)
    for config in GEMM_LAYOUT_CONFIGS:
        for layout in GEMM_LAYOUTS:
            packed = PACK[layout](w)
            maps = map_of_x(x, config[0]), map_of_weights(packed.data_ptr(), n, k, config[1], layout)

            def run(y):
                grid = math.ceil(200 / config[0]) * math.ceil(n / config[1])
                Kernel(gemm_layout(n, k, *config, layout))(grid, y, x, packed, *maps, 200)
            judge(f'wgmma, {GEMM_LAYOUTS[layout]} {config}', run, (200, n), w.dtype, want)
    count_checks()


def count_checks():
    wrong = sum(not c['ok'] for c in RESULTS['checks'])
    worst = max((c.get('error', 0) for c in RESULTS['checks'] if c['ok']), default=0)
    print(f'{len(RESULTS["checks"])} checks, {wrong} wrong, largest error of the others {worst:.2e}, '
          f'at {time.time() - START:.0f} s', flush=True)


# ---------------------------------------------------------------------------------------------------- times

POOL_BYTES = 2 * 128256 * 4096 * 2


def fill(count):
    """Random weights; their place does not matter to the time, so all layouts use the same bytes."""
    pool = torch.empty(count, device='cuda', dtype=torch.bfloat16)
    for at in range(0, count, 1 << 26):
        part = pool[at:at + (1 << 26)]
        part.copy_(torch.randn(part.numel(), device='cuda') * 0.02)
    return pool


class Timer:
    """Candidates for one product, timed in turns: graphs of launches that read other weights each time."""

    def __init__(self, n, k, rows):
        self.n, self.k, self.rows, self.size = n, k, rows, n * k
        self.copies = max(2, min(POOL_BYTES // (2 * self.size), math.ceil(480e6 / (2 * self.size))))
        self.launches = self.copies * math.ceil(24 / self.copies)
        self.graphs = []

    def weights(self, i):
        return WEIGHTS[i % self.copies * self.size:][:self.size]

    def add(self, kind, config, launch, kernel=None):
        """`launch(weights, index)`"""
        if time.time() > DEADLINE:
            return
        alive()
        try:
            launch(self.weights(0), 0)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.stream(SIDE):
                graph.capture_begin()
                try:
                    for i in range(self.launches):
                        launch(self.weights(i), i % self.copies)
                finally:
                    graph.capture_end()
            graph.replay()
            torch.cuda.synchronize()
            self.graphs.append((kind, config, graph, kernel, []))
        except Exception as failure:  # noqa: BLE001: the others still run
            print('FAILED', kind, config, self.n, self.k, self.rows, str(failure)[:200], flush=True)

    def finish(self, passes=3, replays=3):
        for _ in range(passes):
            for _, _, graph, _, times in self.graphs:
                for _ in range(replays):
                    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                    begin.record()
                    graph.replay()
                    end.record()
                    end.synchronize()
                    alive()
                    times.append(begin.elapsed_time(end) * 1e3 / self.launches)
        for kind, config, _, kernel, times in self.graphs:
            us = statistics.median(times)
            RESULTS['times'].append({
                'kind': kind, 'config': config, 'n': self.n, 'k': self.k, 'rows': self.rows, 'us': us,
                'best_us': min(times), 'tb_s': 2 * self.size / us * 1e-6,
                'tflop_s': 2 * self.size * self.rows / us * 1e-6,
                'registers': kernel and kernel.registers, 'blocks_per_sm': kernel and kernel.blocks})
        self.graphs = []


def time_reads(timer, y):
    for config in READERS:
        kernel = Kernel(reader(*config))
        grid = 2 * timer.size // kernel.extra
        timer.add('read', config, lambda w, _, kernel=kernel, grid=grid: kernel(grid, y, w), kernel)


def time_cublas(timer, x, y):
    timer.add('cublas', (), lambda w, _: torch.mm(x, w.view(timer.n, timer.k).t(), out=y))


def time_skinny(timer, x, y, bound, configs, dependent=True):
    n, k, rows = timer.n, timer.k, timer.rows
    for config in configs:
        try:
            kernel = Kernel(skinny(n, k, bound, *config))
        except RuntimeError as failure:
            print('FAILED', config, failure)
            continue
        grid = math.ceil(n // 16 / config[1])
        timer.add('skinny' if dependent else 'skinny, full edges', config,
                  lambda w, _, kernel=kernel, grid=grid: kernel(grid, y, x, w, rows, dependent=dependent), kernel)


def time_gemm(timer, x, y, configs):
    n, k, rows = timer.n, timer.k, timer.rows
    for config in configs:
        try:
            kernel, map_x = Kernel(gemm(n, k, *config)), map_of_x(x, config[0])
            maps = [map_of_weights(timer.weights(i).data_ptr(), n, k, config[1], 1) for i in range(timer.copies)]
        except RuntimeError as failure:
            print('FAILED', config, failure)
            continue
        grid = math.ceil(rows / config[0]) * math.ceil(n / config[1])
        timer.add('wgmma', config,
                  lambda w, i, kernel=kernel, map_x=map_x, maps=maps, grid=grid: kernel(grid, y, x, w, map_x, maps[i], rows),
                  kernel)


def time_layouts(timer, x, y):
    n, k, rows = timer.n, timer.k, timer.rows
    for config in LAYOUT_CONFIGS:
        for layout in LAYOUTS:
            for contiguous in ('false', 'true'):
                kernel = Kernel(skinny_layout(n, k, 8, *config, layout, contiguous))
                timer.add(f'decode, {LAYOUTS[layout]}', config + (contiguous == 'true',),
                          lambda w, _, kernel=kernel, grid=n // 16 // config[1]: kernel(grid, y, x, w, rows), kernel)


def time_gemm_layouts(timer, x, y):
    n, k, rows = timer.n, timer.k, timer.rows
    for config in GEMM_LAYOUT_CONFIGS:
        for layout in GEMM_LAYOUTS:
            kernel, map_x = Kernel(gemm_layout(n, k, *config, layout)), map_of_x(x, config[0])
            maps = [map_of_weights(timer.weights(i).data_ptr(), n, k, config[1], layout) for i in range(timer.copies)]
            grid = math.ceil(rows / config[0]) * math.ceil(n / config[1])
            timer.add(f'prefill, {GEMM_LAYOUTS[layout]}', config,
                      lambda w, i, kernel=kernel, map_x=map_x, maps=maps, grid=grid: kernel(grid, y, x, w, map_x, maps[i],
                                                                                          rows), kernel)


def guarded(what, *arguments, **options):
    try:
        what(*arguments, **options)
    except Exception as failure:  # noqa: BLE001
        print('FAILED', what.__name__, str(failure)[:300], flush=True)


def measure(rows_list, gemms):
    for n, k in SHAPES:
        for rows in rows_list:
            if time.time() > DEADLINE:
                print('no time left for', n, k, rows)
                continue
            x = torch.randn(rows, k, device='cuda').to(torch.bfloat16)
            y = torch.empty(rows, n, device='cuda', dtype=torch.bfloat16)
            timer = Timer(n, k, rows)
            if gemms:
                configs = GEMM.get(64 if rows <= 64 else rows, [])
                guarded(time_gemm, timer, x, y, configs)
                if rows == 512:
                    guarded(time_gemm_layouts, timer, x, y)
            else:
                if rows == 1:
                    guarded(time_reads, timer, y)
                    guarded(time_skinny, timer, x, y, 8, [(8, 1, 4)], dependent=False)
                if rows <= 8:
                    guarded(time_skinny, timer, x, y, 8, SKINNY)
                if rows in (1, 8):
                    guarded(time_layouts, timer, x, y)
                if rows in (16, 32):
                    guarded(time_skinny, timer, x, y, rows, WIDE)
            if not gemms or rows > 32:
                guarded(time_cublas, timer, x, y)
            timer.finish()
            torch.cuda.synchronize()
        print(f'{n} x {k} timed at {time.time() - START:.0f} s', flush=True)
        save()


def save():
    """What was measured: the layouts in the words of the ADR's table, and everything as it came. All layouts have the
    same configurations; 'tuned' is the product over more of them."""
    part = {'decode': [], 'prefill': []}
    names = {'skinny': 'tiled, tuned', 'cublas': 'cuBLAS, row-major', 'read': 'read alone'}
    for t in RESULTS['times']:
        name = names.get(t['kind']) or re.sub('^(decode|prefill), ', '', t['kind'])
        decode = t['rows'] in (1, 8) and t['kind'] != 'wgmma'
        prefill = t['rows'] == 512
        if t['kind'] == 'wgmma':
            name = 'tiled' if tuple(t['config']) in GEMM_LAYOUT_CONFIGS else 'tiled, tuned'
        if t['kind'] == 'skinny, full edges' or not (decode or prefill):
            continue
        unit = 'tb_s' if decode else 'tflop_s'
        part['decode' if decode else 'prefill'].append({
            'shape': f'{t["n"]} x {t["k"]}', 'rows': t['rows'], 'layout': name,
            'config': '/'.join(map(str, t['config'] or ())), unit: round(t[unit], 2)})
    path = os.path.join(os.environ.get('OUT', '.'), 'weight-layout.json')
    with open(path, 'w') as file:
        json.dump({'schema_version': 1, 'device': DEVICE, **part, 'times': RESULTS['times']}, file, indent=0)


# ---------------------------------------------------------------------------------------------------- report


def best(n, k, rows, test):
    rated = [t for t in RESULTS['times'] if (t['n'], t['k'], t['rows']) == (n, k, rows) and test(t['kind'])]
    return min(rated, key=lambda t: t['us'], default=None)


def show(entry, unit, config=True):
    if entry is None:
        return '-'
    return f'{entry[unit]:.2f}' + (' ' + '/'.join(map(str, entry['config'])) if config and entry['config'] else '')


def fixed(kind, config, rows, unit):
    """The rates of one configuration over all shapes."""
    cells = []
    for n, k in SHAPES:
        found = [t for t in RESULTS['times'] if (t['n'], t['k'], t['rows'], t['kind']) == (n, k, rows, kind)
                 and tuple(t['config']) == tuple(config)]
        cells.append(f'{found[0][unit]:6.2f}' if found else '     -')
    return ' '.join(cells)


def report():
    print(f'\n{DEVICE}; shapes: ' + ' '.join(f'{n}x{k}' for n, k in SHAPES))
    for rows in (1, 4, 8):
        print(f'\nskinny, {rows} rows, TB/s per shape; warps/strips/depth')
        for config in SKINNY:
            print(f'  {"/".join(map(str, config)):9}', fixed('skinny', config, rows, 'tb_s'))
    for rows in (16, 32):
        print(f'\n{rows} rows, TB/s per shape; skinny warps/strips/depth, wgmma rows/cols/stages')
        for config in WIDE:
            print(f'  skinny {"/".join(map(str, config)):10}', fixed('skinny', config, rows, 'tb_s'))
        for config in GEMM.get(64, []):
            print(f'  wgmma {"/".join(map(str, config)):11}', fixed('wgmma', config, rows, 'tb_s'))
    for rows, unit in ((64, 'tb_s'), (128, 'tflop_s'), (512, 'tflop_s'), (2048, 'tflop_s')):
        print(f'\nwgmma, {rows} rows, {unit}; rows/cols/stages')
        for config in GEMM.get(rows, []):
            print(f'  {"/".join(map(str, config)):11}', fixed('wgmma', config, rows, unit))
        print('  cublas     ', fixed('cublas', (), rows, unit))
    for rows in (1, 8):
        print(f'\ndecode layouts, {rows} rows, TB/s per shape; warps/strips/depth/contiguous')
        for layout in LAYOUTS.values():
            for config in LAYOUT_CONFIGS:
                for contiguous in (False, True):
                    print(f'  {layout:18} {"/".join(map(str, config + (int(contiguous),))):9}',
                          fixed(f'decode, {layout}', config + (contiguous,), rows, 'tb_s'))
    print('\nprefill layouts, 512 rows, TFLOP/s per shape')
    for config in GEMM_LAYOUT_CONFIGS:
        for kind in [f'prefill, {layout}' for layout in GEMM_LAYOUTS.values()] + ['wgmma']:
            print(f'  {kind:31} {"/".join(map(str, config)):10}', fixed(kind, config, 512, 'tflop_s'))
    print('\nreads alone, TB/s per shape; warps/depth/turns/bulk')
    for config in READERS:
        print(f'  {"/".join(map(str, map(int, config))):9}', fixed('read', config, 1, 'tb_s'))
    print('  skinny 8/1/4 without dependent launch', fixed('skinny, full edges', (8, 1, 4), 1, 'tb_s'))

    wrong = [c for c in RESULTS['checks'] if not c['ok']]
    print(f'\n{len(RESULTS["checks"])} checks, {len(wrong)} wrong')
    for entry in wrong[:6]:
        print('  WRONG', entry['what'], entry['note'][:120])
    print('best of each, TB/s (configuration)')
    print('shape         rows read  skinny          row-major tiled fragm. lines   cublas')
    for n, k in SHAPES:
        for rows in (1, 4, 8):
            cells = [show(best(n, k, 1, lambda kind: kind == 'read'), 'tb_s', False),
                     f'{show(best(n, k, rows, lambda kind: kind == "skinny"), "tb_s"):15}']
            cells += [show(best(n, k, rows, lambda kind, name=name: kind == 'decode, ' + name), 'tb_s', False).ljust(6)
                      for name in LAYOUTS.values()]
            cells.append(show(best(n, k, rows, lambda kind: kind == 'cublas'), 'tb_s', False))
            print(f'{n:6}x{k:<6} {rows:4}', ' '.join(cells))
    print('512 rows, TFLOP/s: product (rows/cols/stages), row-major map, tiled map, cublas')
    for n, k in SHAPES:
        cells = [show(best(n, k, 512, lambda kind, wanted=wanted: kind == wanted), 'tflop_s')
                 for wanted in ['wgmma'] + [f'prefill, {layout}' for layout in GEMM_LAYOUTS.values()] + ['cublas']]
        print(f'{n:6}x{k:<6}', ' | '.join(cells))
    print(f'{time.time() - START:.0f} s in all')


def try_dependent():
    """Whether launches with programmatic dependence can be captured here."""
    global DEPENDENT
    try:
        y = torch.empty(1, device='cuda', dtype=torch.int32)
        kernel, graph = Kernel(reader(*READERS[0])), torch.cuda.CUDAGraph()
        with torch.cuda.stream(SIDE):
            graph.capture_begin()
            try:
                for _ in range(3):
                    kernel(4, y, WEIGHTS)
            finally:
                graph.capture_end()
        graph.replay()
        torch.cuda.synchronize()
    except Exception as failure:  # noqa: BLE001
        DEPENDENT = False
        print('no programmatic dependence in graphs:', failure)


WEIGHTS = fill(POOL_BYTES // 2)
threading.Thread(target=watch, daemon=True).start()
try_dependent()
guarded(check_decode)
save()
guarded(measure, (1, 8, 4, 16, 32), False)
guarded(check_prefill)
guarded(measure, (512, 64, 128, 2048, 16, 32), True)
save()
report()
