//! Kernels over tensors that end where their memory ends, at odd sizes: for AddressSanitizer, which detects every
//! out-of-bounds element. Results are compared with naive sums.

use std::sync::Arc;

use plan::{DType, Kernel, Param, RandomPart, Scalar};

use super::{Args, CpuKernel, KvLayer, Tensor, kernels};

/// Memory of exactly the bytes that a tensor has.
struct Owned {
    dtype: DType,
    shape: Vec<usize>,
    packed: bool,
    // of four bytes each, so that every dtype is aligned
    words: Box<[u32]>,
}

impl Owned {
    fn new(dtype: DType, shape: &[usize]) -> Owned {
        let bytes = shape.iter().product::<usize>() * dtype.bytes() as usize;
        Owned { dtype, shape: shape.to_vec(), packed: false, words: vec![0; bytes.div_ceil(4)].into() }
    }

    /// Numbers from a seed, rounded to the dtype.
    fn random(dtype: DType, shape: &[usize], seed: &str) -> Owned {
        let mut owned = Owned::new(dtype, shape);
        let part = RandomPart::named(seed, 0, 0.0, if dtype.is_code() { 3.0 } else { 1.0 });
        let values = (0..owned.len()).map(|index| part.value(index as u64));
        dtype.encode(values, owned.bytes());
        owned
    }

    fn ints(shape: &[usize], values: &[i32]) -> Owned {
        let mut owned = Owned::new(DType::I32, shape);
        owned.words.iter_mut().zip(values).for_each(|(word, value)| *word = *value as u32);
        owned
    }

    fn len(&self) -> usize {
        self.shape.iter().product()
    }

    fn bytes(&mut self) -> &mut [u8] {
        let bytes = self.len() * self.dtype.bytes() as usize;
        // SAFETY: as many were allocated, and any bits are bytes.
        unsafe { std::slice::from_raw_parts_mut(self.words.as_mut_ptr().cast(), bytes) }
    }

    fn tensor(&mut self) -> Tensor {
        let bytes = self.bytes().len() as u64;
        // SAFETY: the memory has this size, and outlives the launch.
        let tensor = unsafe { Tensor::new(self.dtype, self.shape.clone(), self.words.as_mut_ptr().cast(), bytes) };
        let tensor = tensor.expect("as many bytes as it has");
        if self.packed { tensor.packed() } else { tensor }
    }

    fn values(&mut self) -> Vec<f32> {
        match (self.dtype, self.packed) {
            (_, false) => self.dtype.decode(self.bytes()),
            (_, true) => {
                let pairs = self.bytes().iter().flat_map(|byte| [(byte << 4) as i8 >> 4, *byte as i8 >> 4]);
                pairs.map(f32::from).collect()
            }
        }
    }
}

/// Runs all tasks of a kernel, or returns why it rejects the arguments.
fn run(
    name: &str,
    params: &[(&str, Scalar)],
    inputs: &mut [Owned],
    outputs: &mut [Owned],
    kv: Option<KvLayer>,
) -> Result<(), String> {
    let params = params.iter().map(|(name, value)| Param { name: (*name).to_owned(), value: value.clone() }).collect();
    let wanted = Kernel { name: name.to_owned(), params, code: None };
    let known = kernels().into_iter().find(|kernel| kernel.name() == name).expect("a kernel of this name");
    let kernel: Box<dyn CpuKernel> = known.configured(&wanted)?.unwrap_or(known);
    let args = Args {
        inputs: inputs.iter_mut().map(Owned::tensor).collect(),
        outputs: outputs.iter_mut().map(Owned::tensor).collect(),
        kv,
        kernel: Arc::new(wanted),
    };
    kernel.check(&args)?;
    // SAFETY: checked, and one task after the other.
    (0..kernel.tasks(&args)).try_for_each(|task| unsafe { kernel.run(&args, task) })
}

fn assert_near(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let bound = 1e-3 * expected.abs().max(1.0);
        assert!((found - expected).abs() <= bound, "{what}: element {index} is {found}, expected {expected}");
    }
}

/// A product of `[rows, width]` with `[columns, width]` of a dtype, with this many scales per row, and perhaps zero
/// points.
fn product(rows: usize, columns: usize, width: usize, dtype: DType, groups: usize, zeros: bool) -> Result<(), String> {
    let what = format!("{rows} x {columns} x {width} of {dtype}, {groups} scales in a row, zeros: {zeros}");
    let packed = dtype == DType::I4;
    let lines = if packed { width / 2 } else { width };
    let mut weight = Owned::random(if packed { DType::I8 } else { dtype }, &[columns, lines], &what);
    (weight.dtype, weight.packed) = (dtype, packed);
    let mut inputs = vec![Owned::random(DType::F32, &[rows, width], "x"), weight];
    let mut quantized = Vec::new();
    if groups > 0 {
        inputs.push(Owned::random(DType::F32, &[columns, groups], "scale"));
        quantized.push("weight");
    }
    if zeros {
        inputs.push(Owned::random(DType::F32, &[columns, groups], "zero"));
        quantized.push("zero_point");
    }
    inputs.push(Owned::random(DType::F32, &[columns], "bias"));
    let mut outputs = [Owned::new(DType::F32, &[rows, columns])];
    let params = [("columns_per_task", Scalar::Int(8)), ("quantized", Scalar::Text(quantized.join(", ")))];
    run("linear", &params, &mut inputs, &mut outputs, None)?;
    let values: Vec<Vec<f32>> = inputs.iter_mut().map(Owned::values).collect();
    let (x, weight, bias) = (&values[0], &values[1], &values[values.len() - 1]);
    let group = plan::scale_block(width as u64, groups.max(1) as u64).expect("groups fit") as usize;
    let mut expected = Vec::new();
    for row in x.chunks_exact(width) {
        for (column, weights) in weight.chunks_exact(width).enumerate() {
            let terms = row.iter().zip(weights).enumerate().map(|(k, (x, weight))| {
                let at = column * groups + k / group;
                let scale = if groups > 0 { values[2][at] } else { 1.0 };
                let zero = if zeros { values[3][at] } else { 0.0 };
                x * ((weight - zero) * scale)
            });
            expected.push(terms.sum::<f32>() + bias[column]);
        }
    }
    assert_near(&outputs[0].values(), &expected, &what);
    Ok(())
}

#[test]
fn products_stay_inside_their_rows() {
    let widths: &[usize] = if cfg!(miri) { &[6, 18] } else { &[1, 2, 6, 8, 10, 16, 18, 24, 40, 130] };
    for &width in widths {
        for rows in [1, 2, 3, 5] {
            for columns in [1, 3, 9] {
                for dtype in [DType::F32, DType::F16, DType::BF16] {
                    product(rows, columns, width, dtype, 0, false).expect("floats");
                }
                let counts = (0..8).map(|shift| width.div_ceil(1 << shift)).chain([1]);
                let counts = counts.filter(|count| plan::scale_block(width as u64, *count as u64).is_some());
                for groups in counts {
                    for (dtype, zeros) in [
                        (DType::I8, false),
                        (DType::I8, true),
                        (DType::F8E4M3, false),
                        (DType::I4, false),
                        (DType::I4, true),
                    ] {
                        if dtype == DType::I4 && width % 2 != 0 {
                            continue;
                        }
                        product(rows, columns, width, dtype, groups, zeros).expect("quantized");
                    }
                }
            }
        }
    }
}

#[test]
fn numbers_have_no_scales() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for groups in [1, 5, 10] {
            let refused = product(1, 3, 10, dtype, groups, false).expect_err("scales of floats");
            assert_eq!(
                refused,
                format!("expected an unquantized weight, or a quantized one with scales, found {dtype} with scales")
            );
        }
    }
    let refused = product(1, 3, 10, DType::I8, 0, false).expect_err("no scales");
    assert!(refused.ends_with("found i8 without scales"), "{refused}");
}

#[test]
fn rows_stay_inside_their_tensors() {
    let eps = [("eps", Scalar::Float(1e-5))];
    for width in [1, 7, 8, 19] {
        for rows in [1, 9] {
            let x = |name: &str| Owned::random(DType::F32, &[rows, width], name);
            let weight = || Owned::random(DType::BF16, &[width], "weight");
            let out = || Owned::new(DType::F32, &[rows, width]);
            for name in ["rms_norm", "layer_norm"] {
                run(name, &eps, &mut [x("x"), weight()], &mut [out()], None).expect("a norm");
                let (mut inputs, mut outputs) = ([x("a"), x("b"), weight()], [out(), out()]);
                run(&format!("add_{name}"), &eps, &mut inputs, &mut outputs, None).expect("a norm of a sum");
                let terms = inputs[0].values().into_iter().zip(inputs[1].values());
                assert_near(&outputs[0].values(), &terms.map(|(a, b)| a + b).collect::<Vec<_>>(), name);
            }
            let formula = [("f", Scalar::Text("[mul(x0, x1), add(v0, 1.5), f32(v1)]".to_owned()))];
            run("map", &formula, &mut [x("a"), weight()], &mut [out()], None).expect("a region");
            let mut doubled = [Owned::random(DType::F32, &[rows, 2 * width], "x")];
            run("swiglu", &[], &mut doubled, &mut [out()], None).expect("gated halves");
            let mut parts = [Owned::new(DType::F32, &[rows, width + 1]), Owned::new(DType::F32, &[rows, width - 1])];
            run("split", &[], &mut doubled, &mut parts, None).expect("parts");
            let mut best = [Owned::new(DType::I32, &[rows])];
            run("argmax", &[("classes", Scalar::Int(width as i64))], &mut [x("x")], &mut best, None)
                .expect("the largest");
            let cols = [("cols", Scalar::Int(4))];
            for dtype in [DType::I8, DType::F8E4M3] {
                let quantized = || Owned::new(dtype, &[rows, width]);
                let mut made = [quantized(), Owned::new(DType::F32, &[rows, width.div_ceil(4)])];
                run("quantize_blocks", &cols, &mut [x("x")], &mut made, None).expect("quantized and scales");
                let scale = Owned::random(DType::F32, &[1, width], "scale");
                run("quantize", &[], &mut [x("x"), scale], &mut [quantized()], None).expect("quantized");
            }
            for dtype in [DType::F32, DType::BF16, DType::I8] {
                let mut inputs = [Owned::ints(&[3], &[0, 4, 2]), Owned::random(dtype, &[5, width], "table")];
                let mut found = [Owned::new(dtype, &[3, width])];
                run("embedding", &[], &mut inputs, &mut found, None).expect("rows of a table");
                let table = inputs[1].values();
                let expected: Vec<f32> =
                    [0, 4, 2].iter().flat_map(|row| &table[row * width..][..width]).copied().collect();
                assert_near(&found[0].values(), &expected, "embedding");
                for outside in [-1, 5] {
                    inputs[0] = Owned::ints(&[3], &[0, outside, 2]);
                    run("embedding", &[], &mut inputs, &mut found, None).expect_err("a row outside of the table");
                }
            }
        }
    }
}

#[test]
fn attention_stays_inside_its_blocks() {
    let (kv_heads, head_dim, block_tokens, blocks) = (2, 9, 4, 3);
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::I8, DType::F8E4M3] {
        let mut pool = Owned::new(dtype, &[blocks, kv_heads, 2, block_tokens, head_dim]);
        let data: *mut u8 = pool.words.as_mut_ptr().cast();
        let layer = || Some(KvLayer { dtype, kv_heads, head_dim, block_tokens, blocks, data });
        // seven tokens of one sequence over two blocks, then padding
        let step = || {
            [Owned::ints(&[8], &[0, 1, 2, 3, 4, 5, 6, 0]), Owned::ints(&[2], &[0, 7]), Owned::ints(&[1, 2], &[2, 1])]
        };
        let width = (3 + 2) * kv_heads * head_dim;
        let [positions, starts, table] = step();
        let frequencies = Owned::random(DType::F32, &[head_dim / 2], "frequencies");
        let mut inputs = [Owned::random(DType::F32, &[8, width], "qkv"), positions, starts, table, frequencies];
        let mut q = [Owned::new(DType::F32, &[8, 3 * kv_heads * head_dim])];
        run("rope_append_kv", &[("heads", Scalar::Int(6))], &mut inputs, &mut q, layer()).expect("keys and values");
        let [q] = q;
        let [positions, starts, table] = step();
        let mut out = [Owned::new(DType::F32, &[8, 3 * kv_heads * head_dim])];
        let scale = [("scale", Scalar::Float(0.3))];
        run("paged_attention", &scale, &mut [q, positions, starts, table], &mut out, layer()).expect("attention");
        let values = out[0].values();
        let padding = 7 * 3 * kv_heads * head_dim;
        assert!(values[..padding].iter().all(|value| value.is_finite()) && values[padding..].iter().all(|v| *v == 0.0));
        // the first token sees only itself: its value, in the precision of the cache
        let qkv = inputs[0].values();
        let value = &qkv[width - kv_heads * head_dim..][..head_dim];
        let rounded: Vec<f32> = value.iter().map(|value| dtype.round(*value)).collect();
        assert_near(&values[..head_dim], &rounded, "attention");
        for (place, outside) in [(0, -1), (0, blocks as i32), (1, i32::MIN)] {
            let [positions, starts, mut table] = step();
            table.words[place] = outside as u32;
            let q = Owned::random(DType::F32, &[8, 3 * kv_heads * head_dim], "q");
            let mut inputs = [q, positions, starts, table];
            run("paged_attention", &scale, &mut inputs, &mut out, layer()).expect_err("a block outside of the pool");
        }
    }
}

#[test]
fn tensors_have_the_bytes_that_kernels_see() {
    let mut words = [0u32; 4];
    let data: *mut u8 = words.as_mut_ptr().cast();
    // SAFETY: none of them is read.
    let tensor = |dtype, shape: &[usize], bytes| unsafe { Tensor::new(dtype, shape.to_vec(), data, bytes) };
    assert!(tensor(DType::F32, &[2, 2], 16).is_ok());
    assert!(tensor(DType::F32, &[2, 2], 15).is_err());
    assert!(tensor(DType::I8, &[usize::MAX, 2], 16).is_err());
    assert!(tensor(DType::BF16, &[], 1).is_err());
    // SAFETY: it is not read.
    let odd = unsafe { Tensor::new(DType::F32, vec![1], data.wrapping_add(2), 8) };
    assert_eq!(odd.expect_err("not aligned"), "a tensor of f32 [1] does not fit its 8 bytes");
    let indices = tensor(DType::I32, &[4], 16).expect("it fits").promised_below(Some(5));
    assert_eq!(indices.expect_below(5), Ok(()));
    assert_eq!(indices.expect_below(4), Err("an index up to 4 of 4".to_owned()));
}
