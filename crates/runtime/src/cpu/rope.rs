//! RoPE and writing to the KV cache, a few tokens per task.

use super::attention::{StepInputs, sequence_of};
use super::norm::{check_weight, normalize};
use super::rows::{row_tasks, task_rows};
use super::simd::{Element, with_element};
use super::{Args, CpuKernel, KvLayer, Tensor};
use plan::DType;

/// Inputs x, positions, frequencies; parameter `head_dim`.
pub(super) struct Rope;
/// Inputs k, v and the step; writes the KV cache.
pub(super) struct AppendKv;
/// Inputs packed q, k, v, the step, frequencies, and the norm weights of q and k if there is a parameter `norm_eps`;
/// parameter `heads`. Outputs the rotated q, writes the KV cache.
pub(super) struct RopeAppendKv;

/// Cosines and sines of one position.
struct Rotation {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rotation {
    fn new(position: i32, frequencies: &[f32]) -> Rotation {
        let angles = frequencies.iter().map(|frequency| (position as f32 * frequency).sin_cos());
        let (sin, cos) = angles.unzip();
        Rotation { cos, sin }
    }

    /// Rotates one head in place.
    fn apply(&self, head: &mut [f32]) {
        let half = self.cos.len();
        let (low, high) = head.split_at_mut(half);
        for (((a, b), cos), sin) in low.iter_mut().zip(high).zip(&self.cos).zip(&self.sin) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}

fn check_rotation(x: &Tensor, positions: &Tensor, frequencies: &Tensor, head_dim: usize) -> Result<(), String> {
    x.expect(DType::F32)?;
    positions.expect_shape(DType::I32, &[x.row_count()])?;
    frequencies.expect(DType::F32)?;
    match head_dim > 0 && 2 * frequencies.len() <= head_dim && x.width().is_multiple_of(head_dim) {
        true => Ok(()),
        false => Err(format!("expected whole heads of {head_dim}, found rows {} wide", x.width())),
    }
}

impl CpuKernel for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn check(&self, args: &Args) -> Result<(), String> {
        args.expect_counts(3, 1)?;
        check_rotation(&args.inputs[0], &args.inputs[1], &args.inputs[2], args.int("head_dim")?)?;
        args.outputs[0].expect_shape(DType::F32, args.inputs[0].shape())
    }

    fn tasks(&self, args: &Args) -> usize {
        row_tasks(&args.inputs[0])
    }

    unsafe fn run(&self, args: &Args, task: usize) -> Result<(), String> {
        let (x, width) = (args.inputs[0].floats()?, args.inputs[0].width());
        let (positions, frequencies) = (args.inputs[1].ints()?, args.inputs[2].floats()?);
        let head_dim = args.int("head_dim")?;
        for row in task_rows(task, positions.len()) {
            let range = row * width..(row + 1) * width;
            // SAFETY: rows are divided between tasks.
            let out = unsafe { args.outputs[0].write::<f32>(range.clone())? };
            out.copy_from_slice(&x[range]);
            let rotation = Rotation::new(positions[row], frequencies);
            out.chunks_exact_mut(head_dim).for_each(|head| rotation.apply(head));
        }
        Ok(())
    }
}

/// Writes the keys and values of one token, unless it is padding.
fn append(kv: &KvLayer, step: &StepInputs<'_>, token: usize, keys: &[f32], values: &[f32]) -> Result<(), String> {
    let Some(sequence) = sequence_of(step.query_starts, token) else { return Ok(()) };
    let position = step.position(token)?;
    let block = step.block(sequence, position / kv.block_tokens)?;
    let heads = keys.chunks_exact(kv.head_dim).zip(values.chunks_exact(kv.head_dim));
    for (head, (key, value)) in heads.enumerate() {
        let at = kv.keys_at(block, head)? + position % kv.block_tokens * kv.head_dim;
        with_element!(kv.dtype, E => {
            // SAFETY: `keys_at` is inside the pool, and the row of a position inside its block; nothing reads the pool
            // while tokens are appended.
            unsafe {
                let data = kv.data.cast::<E>().add(at);
                store(key, data);
                store(value, data.add(kv.block_tokens * kv.head_dim));
            }
            Ok::<(), String>(())
        })?;
    }
    Ok(())
}

/// Stores a row with atomic element writes: if a caller gives two tokens one slot, each element is from one of them.
///
/// # Safety
/// `at` must be valid for the row, and nothing but this function may touch it meanwhile.
unsafe fn store<E: Element>(row: &[f32], at: *mut E) {
    for (index, value) in row.iter().enumerate() {
        // SAFETY: promised by the caller.
        unsafe { E::narrow(*value).store_shared(at.add(index)) };
    }
}

impl CpuKernel for AppendKv {
    fn name(&self) -> &'static str {
        "append_kv"
    }

    fn check(&self, args: &Args) -> Result<(), String> {
        args.expect_counts(5, 0)?;
        let kv = args.kv()?;
        StepInputs::check(&args.inputs[2..5], args.inputs[0].row_count(), kv)?;
        let shape = [args.inputs[0].row_count(), kv.kv_heads * kv.head_dim];
        args.inputs[..2].iter().try_for_each(|rows| rows.expect_shape(DType::F32, &shape))
    }

    fn tasks(&self, args: &Args) -> usize {
        row_tasks(&args.inputs[0])
    }

    unsafe fn run(&self, args: &Args, task: usize) -> Result<(), String> {
        let (kv, step) = (args.kv()?, StepInputs::new(&args.inputs[2..5])?);
        let (keys, values, width) = (args.inputs[0].floats()?, args.inputs[1].floats()?, args.inputs[0].width());
        for token in task_rows(task, args.inputs[0].row_count()) {
            let range = token * width..(token + 1) * width;
            append(kv, &step, token, &keys[range.clone()], &values[range])?;
        }
        Ok(())
    }
}

impl CpuKernel for RopeAppendKv {
    fn name(&self) -> &'static str {
        "rope_append_kv"
    }

    fn check(&self, args: &Args) -> Result<(), String> {
        let norms = args.inputs.len() > 5;
        args.expect_counts(if norms { 7 } else { 5 }, 1)?;
        let (kv, qkv) = (args.kv()?, &args.inputs[0]);
        if norms {
            args.float("norm_eps")?;
            args.inputs[5..].iter().try_for_each(|weight| check_weight(weight, kv.head_dim))?;
        }
        StepInputs::check(&args.inputs[1..4], qkv.row_count(), kv)?;
        check_rotation(qkv, &args.inputs[1], &args.inputs[4], kv.head_dim)?;
        let heads = args.int("heads")?;
        // whole heads, by `check_rotation`; `heads` may be any number
        if (qkv.width() / kv.head_dim).checked_sub(2 * kv.kv_heads) != Some(heads) {
            return Err(format!("expected {heads} heads and twice {} of {}", kv.kv_heads, kv.head_dim));
        }
        args.outputs[0].expect_shape(DType::F32, &[qkv.row_count(), heads * kv.head_dim])
    }

    fn tasks(&self, args: &Args) -> usize {
        row_tasks(&args.inputs[0])
    }

    unsafe fn run(&self, args: &Args, task: usize) -> Result<(), String> {
        let (kv, step) = (args.kv()?, StepInputs::new(&args.inputs[1..4])?);
        let (qkv, width) = (args.inputs[0].floats()?, args.inputs[0].width());
        let frequencies = args.inputs[4].floats()?;
        let (q_width, k_width) = (args.int("heads")? * kv.head_dim, kv.kv_heads * kv.head_dim);
        let norm = match &args.inputs[5..] {
            [q_norm_weight, k_norm_weight] => {
                let weights = (q_norm_weight.widened(0..kv.head_dim)?, k_norm_weight.widened(0..kv.head_dim)?);
                Some((args.float("norm_eps")?, weights.0, weights.1))
            }
            _ => None,
        };
        let mut keys = vec![0.0; k_width];
        for token in task_rows(task, args.inputs[0].row_count()) {
            let (q, kv_row) = qkv[token * width..(token + 1) * width].split_at(q_width);
            let (k, v) = kv_row.split_at(k_width);
            let rotation = Rotation::new(step.positions[token], frequencies);
            // SAFETY: rows are divided between tasks.
            let out = unsafe { args.outputs[0].write::<f32>(token * q_width..(token + 1) * q_width)? };
            let turn = |heads: &[f32], weight: Option<(f32, &[f32])>, out: &mut [f32]| {
                for (head, out) in heads.chunks_exact(kv.head_dim).zip(out.chunks_exact_mut(kv.head_dim)) {
                    match weight {
                        Some((eps, weight)) => normalize(head, weight, eps, out),
                        None => out.copy_from_slice(head),
                    }
                    rotation.apply(out);
                }
            };
            turn(q, norm.as_ref().map(|(eps, weight, _)| (*eps, &**weight)), out);
            turn(k, norm.as_ref().map(|(eps, _, weight)| (*eps, &**weight)), &mut keys);
            append(kv, &step, token, &keys, v)?;
        }
        Ok(())
    }
}
