// Quantization of rows to C, in float: q = x * (1 / scale).
//
//   QuantizeBlocks   quantized [rows][kCols], scales [rows][ceil(kCols / kPart)] in float, of x [rows][kCols] of T. The
//                    scale of kPart neighbours, a power of two or all, is their largest magnitude / the largest of C
//   RmsNormQuantize  the same of x, normalized with weights [kCols] of W that no earlier launch writes, and rounded
//                    to N
//   RmsNormQuantizeBy  the same with the scale *scale
//   Quantize         x quantized with given scales of S: [rows, or 1 where kEachRow is false][ceil(kCols / kPart)]
//   Grid: rows times spans of a row for QuantizeBlocks, rows for those with a norm, one block of kBlock threads each;
//         ceil(rows * kCols / 2048) blocks for Quantize
#pragma once
#include "common/quantized.cuh"
#include "norm/row.cuh"
#include "rows/elementwise.cuh"

namespace smelt {

// The smaller of two powers of two, which divides both.
constexpr int smaller(int a, int b) { return a < b ? a : b; }

// A span of a row that one block quantizes: all of it, or a group that is wider than a warp.
template <class C, int kCols, int kPart, int kWidth, int kBlock> struct QuantizedSpan {
  static_assert(kPart % kWidth == 0 || kPart == kCols, "vectors within a part");
  static constexpr int kParts = ceil_div(kCols, kPart);
  // Neighbouring lanes that share a scale; if there is one scale for the span, the whole block does.
  static constexpr int kLanes = kPart / kWidth;
  static constexpr bool kByLanes = kParts > 1 && kLanes <= 32;
  static constexpr int kSpan = kByLanes || kParts == 1 ? kCols : kPart;
  static constexpr int kSpans = ceil_div(kCols, kSpan);  // of a row
  static constexpr int kTurns = ceil_div(kSpan, kWidth * kBlock);
  // As in a norm: a short span stays in registers.
  static constexpr bool kKept = kTurns * kWidth <= 16;
  static constexpr int kKeptTurns = kKept ? kTurns : 1;

  // `read(at, column, values)` returns the values of an iteration, in a long span twice.
  template <class Read> static __device__ __forceinline__ void write(C* quantized, float* scales, int tile, Read read) {
    const i64 row = tile / kSpans;
    const int start = tile % kSpans * kSpan;
    float values[kKeptTurns][kWidth];
    const auto store = [&](const float (&x)[kWidth], int column, float reciprocal) {
      *reinterpret_cast<Vec<C, kWidth>*>(quantized + row * kCols + column) = quantize<C, kWidth>(x, reciprocal);
    };
    const auto column_of = [&](int turn) { return start + (turn * kBlock + int(threadIdx.x)) * kWidth; };
    const auto within = [&](int column) { return column < kCols && (kSpans == 1 || column < start + kSpan); };
    if constexpr (kByLanes) {
#pragma unroll kKeptTurns
      for (int turn = 0; turn < kTurns; ++turn) {
        const int column = column_of(turn), at = kKept ? turn : 0;
        u32 largest = 0;
        if (within(column)) {
          read(at, column, values[at]);
#pragma unroll
          for (int i = 0; i < kWidth; ++i) largest = max(largest, magnitude(values[at][i]));
        }
#pragma unroll
        for (int lanes = 1; lanes < kLanes; lanes *= 2)
          largest = max(largest, __shfl_xor_sync(kFullWarp, largest, lanes));
        if (!within(column)) continue;
        const float scale = scale_of<C>(largest);
        if (column % kPart == 0) scales[row * kParts + column / kPart] = scale;
        store(values[at], column, __frcp_rn(scale));
      }
    } else {
      // load
      u32 largest = 0;
#pragma unroll kKeptTurns
      for (int turn = 0; turn < kTurns; ++turn) {
        const int column = column_of(turn), at = kKept ? turn : 0;
        if (!within(column)) continue;
        read(at, column, values[at]);
#pragma unroll
        for (int i = 0; i < kWidth; ++i) largest = max(largest, magnitude(values[at][i]));
      }

      // reduce
      const float scale = scale_of<C>(block_max<kBlock>(largest)), reciprocal = __frcp_rn(scale);
      if (threadIdx.x == 0) scales[tile] = scale;

      // store
#pragma unroll kKeptTurns
      for (int turn = 0; turn < kTurns; ++turn) {
        const int column = column_of(turn), at = kKept ? turn : 0;
        if (!within(column)) continue;
        if constexpr (!kKept) read(at, column, values[at]);
        store(values[at], column, reciprocal);
      }
    }
  }
};

template <class T, int kWidth> __device__ __forceinline__ void load_floats(const T* x, float (&values)[kWidth]) {
  const auto loaded = load_vector<kWidth>(x);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) values[i] = to_float(loaded[i]);
}

template <class T, class C, int kCols, int kPart, int kBlock> struct QuantizeBlocks {
  static constexpr int kThreads = kBlock;
  static constexpr int kWidth = kPart == kCols ? vector_width<T, kCols>() : smaller(vector_width<T, kCols>(), kPart);
  using Span = QuantizedSpan<C, kCols, kPart, kWidth, kBlock>;

  C* quantized;
  float* scales;
  const T* x;
  int rows;

  __device__ __forceinline__ void stream(int) {}

  __device__ __forceinline__ void tile(int tile) {
    const T* from = x + i64(tile / Span::kSpans) * kCols;
    const auto read = [&](int, int column, float (&values)[kWidth]) { load_floats(from + column, values); };
    Span::write(quantized, scales, tile, read);
  }
};

template <class T, class N, class W, class C, int kCols, float kEps, int kPart, int kBlock> struct RmsNormQuantize {
  static constexpr int kThreads = kBlock;
  using Row = NormRow<T, N, W, kCols, kEps, kBlock>;
  static constexpr int kWidth = Row::kWidth;
  using Span = QuantizedSpan<C, kCols, kPart, kWidth, kBlock>;
  static_assert(Span::kSpans == 1, "a scale for each row, or for as many columns as a warp has");

  C* quantized;
  float* scales;
  const T* x;
  const W* weight;
  int rows;

  Row row = {};

  __device__ __forceinline__ void stream(int) { row.stream(weight, nullptr); }

  __device__ __forceinline__ void tile(int tile) {
    const T* from = x + i64(tile) * kCols;
    const auto read = [&](int column, float (&elements)[kWidth]) { Row::read(from + column, elements); };
    const auto moments = row.moments(read);
    Span::write(quantized, scales, tile, [&](int at, int column, float (&values)[kWidth]) {
      const auto normed = row.normed(moments, weight, nullptr, at, column, read);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) values[i] = to_float(normed[i]);
    });
  }
};

template <class T, class N, class W, class C, int kCols, float kEps, int kBlock> struct RmsNormQuantizeBy {
  static constexpr int kThreads = kBlock;
  using Row = NormRow<T, N, W, kCols, kEps, kBlock>;
  static constexpr int kWidth = Row::kWidth;

  C* quantized;
  const T* x;
  const W* weight;
  const float* scale;
  int rows;

  Row row = {};

  __device__ __forceinline__ void stream(int) { row.stream(weight, nullptr); }

  __device__ __forceinline__ void tile(int tile) {
    const T* from = x + i64(tile) * kCols;
    const float reciprocal = __frcp_rn(*scale);
    const auto read = [&](int column, float (&elements)[kWidth]) { Row::read(from + column, elements); };
    const auto moments = row.moments(read);
    Row::each([&](int at, int column) {
      const auto normed = row.normed(moments, weight, nullptr, at, column, read);
      float values[kWidth];
#pragma unroll
      for (int i = 0; i < kWidth; ++i) values[i] = to_float(normed[i]);
      auto* const to = reinterpret_cast<Vec<C, kWidth>*>(quantized + i64(tile) * kCols + column);
      *to = quantize<C, kWidth>(values, reciprocal);
    });
  }
};

template <class T, class C, class S, int kCols, int kPart, bool kEachRow> struct Quantize {
  static constexpr int kThreads = kElementThreads;
  static constexpr int kWidth = kPart == kCols ? vector_width<T, kCols>() : smaller(vector_width<T, kCols>(), kPart);

  C* quantized;
  const T* x;
  const S* scales;
  int rows;

  __device__ __forceinline__ void stream(int) {}

  __device__ __forceinline__ void tile(int tile) {
    each_vector<kCols, kWidth>(tile, rows, [&](i64 at) {
      const i64 row = kEachRow ? at / kCols : 0;
      const float scale = to_float(scales[row * ceil_div(kCols, kPart) + at % kCols / kPart]);
      float values[kWidth];
      load_floats(x + at, values);
      *reinterpret_cast<Vec<C, kWidth>*>(quantized + at) = quantize<C, kWidth>(values, __frcp_rn(scale));
    });
  }
};

}  // namespace smelt
