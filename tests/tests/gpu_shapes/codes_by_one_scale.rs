//! Quantization with one scale per tensor: by a norm, and in the epilogue of a linear layer.

use tests::Case;

use super::case;

/// Cases of this module.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let epilogues = ["", "swiglu", "bias", "bias, swiglu", "gelu_tanh"];
    let shapes = [[48, 64], [208, 144], [512, 528], [1056, 1040], [2048, 512], [37, 20], [18, 400]];
    for (place, to) in ["f8e4m3", "i8"].into_iter().enumerate() {
        for (size, shape) in shapes.into_iter().enumerate() {
            for (rows, tokens) in [[1, 1], [17, 3], [65, 33], [131, 12]].into_iter().enumerate() {
                let dtype = if (place + rows) % 3 == 2 { "f16" } else { "bf16" };
                let epilogue = epilogues[(place + size + rows) % epilogues.len()];
                cases.push(chain(to, dtype, shape, tokens, epilogue));
                cases.push(coded_result(to, dtype, shape, tokens, epilogue));
            }
        }
        cases.push(chain(to, "bf16", [28672, 512], [512, 64], "swiglu"));
    }
    cases
}

/// The weight of a linear layer that reads the quantized values, one of which may be rounded either way: that matters
/// little in sums.
fn lines_after(to: &str, dtype: &str, width: u64) -> String {
    format!(
        "%down = constant @\"down.fan_in\" : {dtype}[64, {width}]\n  \
         %d8, %ds = quantize_blocks %down {{to = {to}}} : {to}[64, {width}], f32[64, 1]\n  \
         %z = fused_linear %codes, %d8, %s, %ds {{quantized = [x, weight], to = f32}} : f32[T, 64]\n  return %z"
    )
}

/// The start of a graph: rows of a table, a weight, and a scale at which the largest values saturate.
fn lines_before(to: &str, dtype: &str, [n, k]: [u64; 2], [t, b]: [u64; 2]) -> String {
    format!(
        "graph @codes<T in 1..{t}, B in 1..{b}>(%tokens: i32[T]) {{\n  \
         %table = constant @\"table\" : {dtype}[32, {k}]\n  %x = embedding %tokens, %table : {dtype}[T, {k}]\n  \
         %row = constant @\"row\" : f32[1, 64]\n  %r8, %s = quantize_blocks %row {{to = {to}}} : {to}[1, 64], f32[1, 1]\n  \
         %weight = constant @\"norm_weight\" : {dtype}[{k}]\n  %w = constant @\"fan_in\" : {dtype}[{n}, {k}]\n  \
         %bias = constant @\"w.bias\" : {dtype}[{n}]"
    )
}

fn width(n: u64, epilogue: &str) -> u64 {
    if epilogue.ends_with("swiglu") { n / 2 } else { n }
}

fn attributes(epilogue: &str) -> (&'static str, String) {
    let bias = if epilogue.contains("bias") { ", %bias" } else { "" };
    (bias, if epilogue.is_empty() { String::new() } else { format!("epilogue = [{epilogue}], ") })
}

/// A norm quantizes, a linear layer over that quantizes its result, and a linear layer reads it.
fn chain(to: &str, dtype: &str, [n, k]: [u64; 2], tokens: [u64; 2], epilogue: &str) -> Case {
    let epilogue = if n % 2 == 1 { "" } else { epilogue };
    let (width, (bias, listed)) = (width(n, epilogue), attributes(epilogue));
    let text = format!(
        "{before}\n  %a = rms_norm_quantize %x, %weight, %s {{eps = 1e-5, norm = {dtype}, to = {to}}} : {to}[T, {k}]\n  \
         %w8, %ws = quantize_blocks %w {{to = {to}}} : {to}[{n}, {k}], f32[{n}, 1]\n  \
         %codes = fused_linear %a, %w8, %s, %ws{bias}, %s \
         {{quantized = [x, weight], {listed}to = f32, quantize_to = {to}}} : {to}[T, {width}]\n  {after}\n}}\n",
        before = lines_before(to, dtype, [n, k], tokens),
        after = lines_after(to, dtype, width),
    );
    let name = format!("chain of {to}, {dtype} {n}x{k}, {tokens:?}, {epilogue}");
    case(name, &[("T", tokens[0]), ("B", tokens[1])], text)
}

/// An unquantized linear layer, with a norm for one row, quantizes its result.
fn coded_result(to: &str, dtype: &str, [n, k]: [u64; 2], tokens: [u64; 2], epilogue: &str) -> Case {
    let epilogue = if n % 2 == 1 { "" } else { epilogue };
    let (width, (bias, listed)) = (width(n, epilogue), attributes(epilogue));
    let (weight, before) = match tokens[0] {
        1 => (", %weight", format!("prologue = rms_norm(1e-5, {dtype}), ")),
        _ => ("", String::new()),
    };
    let text = format!(
        "{start}\n  %codes = fused_linear %x, %w{weight}{bias}, %s {{{before}{listed}to = f32, quantize_to = {to}}} : {to}[T, {width}]\n  \
         {after}\n}}\n",
        start = lines_before(to, dtype, [n, k], tokens),
        after = lines_after(to, dtype, width),
    );
    let name = format!("quantized to {to} after a product, {dtype} {n}x{k}, {tokens:?}, {epilogue}");
    case(name, &[("T", tokens[0]), ("B", tokens[1])], text)
}
