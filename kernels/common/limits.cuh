// Limits of the GPU, an H100 or H200. The host has those that it needs in crates/plan/src/devices.rs.
#pragma once

namespace smelt {

constexpr int kMaxSharedBytes = 232448;  // of a block
constexpr int kRegisterFile = 65536;     // registers of a multiprocessor

}  // namespace smelt
