//! Linear layers with quantized weights, for few rows as in decode.

use tests::Case;

use super::case;

/// Cases of this module.
pub fn cases() -> Vec<Case> {
    [linears(), dummies()].concat()
}

/// The format of a weight.
#[derive(Clone, Copy)]
struct Format {
    dtype: &'static str,
    /// Rows and columns of the blocks that share a scale.
    blocks: [Option<u64>; 2],
    zero: bool,
}

const fn format(dtype: &'static str, rows: Option<u64>, cols: Option<u64>, zero: bool) -> Format {
    Format { dtype, blocks: [rows, cols], zero }
}

const FORMATS: [Format; 11] = [
    format("i8", None, None, false),
    format("i8", None, Some(128), false),
    format("i8", None, Some(64), true),
    format("i8", None, None, true),
    format("f8e4m3", None, None, false),
    format("f8e4m3", Some(128), Some(128), false),
    format("i4", None, Some(128), false),
    format("i4", None, Some(128), true),
    format("i4", None, Some(256), false),
    format("i4", None, None, false),
    // groups too small for tensor cores
    format("i4", None, Some(32), true),
];

/// A quantized linear layer with prologue and epilogue; the last step decodes `b`.
fn linear(format: Format, dtype: &str, [n, k, t, b]: [u64; 4], before: &str, epilogue: &str) -> Case {
    let Format { dtype: to, blocks: [rows, cols], zero } = format;
    let width = if epilogue.contains("swiglu") { n / 2 } else { n };
    let result = if epilogue.ends_with("add") { "f32" } else { dtype };
    let size = |name: &str, size: Option<u64>| size.map_or_else(String::new, |size| format!(", {name} = {size}"));
    let shape = format!("[{}, {}]", n.div_ceil(rows.unwrap_or(1)), k.div_ceil(cols.unwrap_or(k)));
    let widening = if dtype == "f32" { "silu %narrow" } else { "cast %narrow {to = f32}" };
    let mut lines = vec![
        format!("%table = constant @\"table\" : {dtype}[32, {k}]"),
        format!("%narrow = embedding %tokens, %table : {dtype}[T, {k}]"),
        format!("%wide = {widening} : f32[T, {k}]"),
        format!("%weight = constant @\"norm_weight\" : {dtype}[{k}]"),
        format!("%shift = constant @\"shift.bias\" : {dtype}[{k}]"),
        format!("%bias = constant @\"w.bias\" : {dtype}[{n}]"),
        format!("%residuals = constant @\"residuals\" : {result}[32, {width}]"),
        format!("%r = embedding %tokens, %residuals : {result}[T, {width}]"),
        format!("%w = constant @\"fan_in\" : {dtype}[{n}, {k}]"),
        format!(
            "%codes, %scale = quantize_blocks %w {{to = {to}{}{}}} : {to}[{n}, {k}], f32{shape}",
            size("rows", rows),
            size("cols", cols)
        ),
        format!("%zero = constant @\"zero\" : i8{shape}"),
        format!("%shifted = quantize %w, %scale, %zero {{to = {to}}} : {to}[{n}, {k}]"),
    ];
    let x = if before.is_empty() { "%narrow" } else { "%wide" };
    let mut operands = vec![x, if zero { "%shifted" } else { "%codes" }];
    operands.extend(match before {
        "" => &[][..],
        "layer_norm" => &["%weight", "%shift"],
        _ => &["%weight"],
    });
    operands.push("%scale");
    operands.extend(zero.then_some("%zero"));
    operands.extend(epilogue.contains("bias").then_some("%bias"));
    operands.extend(epilogue.ends_with("add").then_some("%r"));
    let norm = if before.is_empty() { String::new() } else { format!("prologue = {before}(1e-5, {dtype}), ") };
    let scaled = if zero { "weight, zero_point" } else { "weight" };
    let list = if epilogue.is_empty() { String::new() } else { format!(", epilogue = [{epilogue}]") };
    let to = if result == if before.is_empty() { dtype } else { "f32" } {
        String::new()
    } else {
        format!(", to = {result}")
    };
    lines.push(format!(
        "%y = fused_linear {} {{{norm}quantized = [{scaled}]{list}{to}}} : {result}[T, {width}]",
        operands.join(", ")
    ));
    let text = format!(
        "graph @codes<T in 1..{t}, B in 1..{b}>(%tokens: i32[T]) {{\n  {}\n  return %y\n}}\n",
        lines.join("\n  ")
    );
    let of = format.dtype;
    let name = format!(
        "linear of {of} in blocks {:?}, zero {zero}, {dtype} {n}x{k}, {t} rows, {b} decoded, {before:?}, {epilogue}",
        format.blocks
    );
    case(name, &[("T", t), ("B", b)], text)
}

fn linears() -> Vec<Case> {
    let mut cases = Vec::new();
    let around = [
        ("", ""),
        ("rms_norm", "bias"),
        ("", "add"),
        ("rms_norm", "swiglu"),
        ("", "bias, gelu"),
        ("rms_norm", "bias, add"),
        ("layer_norm", "bias, gelu_tanh"),
        ("", "bias, swiglu"),
    ];
    let shapes = [[16, 16], [40, 8], [48, 208], [33, 264], [208, 136], [528, 520], [7, 13], [320, 1032], [96, 4104]];
    let mut turn = 0;
    for format in FORMATS {
        for (place, [n, k]) in shapes.into_iter().enumerate() {
            let rows = [[1, 1], [16, 2], [5, 5], [9, 8], [12, 11], [33, 32], [100, 70]];
            for [t, b] in rows.into_iter().skip(place % 2).step_by(2) {
                turn += 1;
                let (before, epilogue) = match around[turn % around.len()] {
                    (before, gated) if gated.ends_with("swiglu") && n % 2 == 1 => (before, ""),
                    around => around,
                };
                let dtype = ["bf16", "f16", "bf16", "bf16", "f32"][turn % 5];
                // an f32 norm needs no other type
                let before = if dtype == "f32" { "" } else { before };
                cases.push(linear(format, dtype, [n, k, t, b], before, epilogue));
            }
        }
        let large = [[1024, 4096, 8, 1], [512, 14336, 4, 4], [8192, 512, 1, 1]];
        // blocks with several strips, and rows that are too long for shared memory
        let few = [[4240, 512, 8, 8], [4240, 512, 4, 3], [64, 14336, 8, 7]];
        for [n, k, t, b] in large.into_iter().chain(few) {
            for (before, epilogue) in [("rms_norm", "swiglu"), ("", "add")] {
                cases.push(linear(format, "bf16", [n, k, t, b], before, epilogue));
            }
        }
    }
    cases
}

/// Random quantized weights that are generated on the device, row-major and in tiles.
fn dummies() -> Vec<Case> {
    let mut cases = Vec::new();
    for (dtype, n, k) in
        [("i8", 48, 200), ("f8e4m3", 48, 200), ("i4", 48, 200), ("i8", 7, 13), ("i4", 7, 13), ("i4", 32, 272)]
    {
        for epilogue in ["", "epilogue = [swiglu]"] {
            if !epilogue.is_empty() && n % 2 == 1 {
                continue;
            }
            let width = if epilogue.is_empty() { n } else { n / 2 };
            let list = if epilogue.is_empty() { String::new() } else { format!(", {epilogue}") };
            let text = format!(
                "graph @codes<T in 1..20, B in 1..3>(%tokens: i32[T]) {{\n  \
                 %table = constant @\"table\" : bf16[32, {k}]\n  %x = embedding %tokens, %table : bf16[T, {k}]\n  \
                 %w = constant @\"w\" : {dtype}[{n}, {k}]\n  %scale = constant @\"scale\" : f32[{n}, 1]\n  \
                 %y = fused_linear %x, %w, %scale {{quantized = [weight]{list}, to = f32}} : f32[T, {width}]\n  return %y\n}}\n"
            );
            let name = format!("dummy codes {dtype} {n}x{k}, {epilogue}");
            cases.push(Case { dummy_weights: true, ..case(name, &[("T", 20), ("B", 3)], text) });
        }
    }
    cases
}
