// Sine and cosine of any float angle up to 2^30, within 1e-7, without the slow path (and its stack frame) of sincosf.
#pragma once
#include "common/types.cuh"

namespace smelt {

// Reduces in double to [-pi/4, pi/4], then the polynomials of Cephes (S. Moshier, sinf.c and cosf.c).
__device__ __forceinline__ void sin_cos(float angle, float& sine, float& cosine) {
  const double turns = rint(double(angle) * 0.63661977236758134308);
  double rest = fma(turns, -1.57079632679489655800, double(angle));
  rest = fma(turns, -6.12323399573676603587e-17, rest);
  const float x = float(rest), z = x * x;
  const float s = x + x * z * (-1.6666654611e-1f + z * (8.3321608736e-3f + z * -1.9515295891e-4f));
  const float tail = 4.166664568298827e-2f + z * (-1.388731625493765e-3f + z * 2.443315711809948e-5f);
  const float c = 1.0f - 0.5f * z + z * z * tail;
  const int quadrant = int(i64(turns) & 3);
  const float a = quadrant % 2 == 0 ? s : c, b = quadrant % 2 == 0 ? c : s;
  sine = quadrant < 2 ? a : -a;
  cosine = quadrant == 0 || quadrant == 3 ? b : -b;
}

}  // namespace smelt
