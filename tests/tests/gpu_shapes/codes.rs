//! Quantization kernels, and quantized linear layers for many rows.

use tests::Case;

use super::case;

/// Cases of this module.
pub fn cases() -> Vec<Case> {
    [quantized(), linears()].concat()
}

/// Quantized rows and scales, equal to the last bit.
fn quantized() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in ["bf16", "f16", "f32"] {
        for (cols, t) in [(1, 1), (2, 3), (37, 5), (48, 9), (200, 17), (1032, 3), (4096, 5), (8200, 2), (20000, 2)] {
            let blocks = |block: u64| cols.min(block);
            let scales = |block: u64| cols.div_ceil(blocks(block));
            let text = format!(
                "graph @quantized<T in 1..{t}>(%tokens: i32[T]) {{\n  \
                 %table = constant @\"table\" : {dtype}[32, {cols}]\n  %x = embedding %tokens, %table : {dtype}[T, {cols}]\n  \
                 %a, %as = quantize_blocks %x {{to = i8}} : i8[T, {cols}], f32[T, 1]\n  \
                 %b, %bs = quantize_blocks %x {{to = f8e4m3}} : f8e4m3[T, {cols}], f32[T, 1]\n  \
                 %c, %cs = quantize_blocks %x {{to = f8e4m3, cols = 128}} : f8e4m3[T, {cols}], f32[T, {wide}]\n  \
                 %d, %ds = quantize_blocks %x {{to = i8, cols = 2}} : i8[T, {cols}], f32[T, {narrow}]\n  \
                 %e, %es = quantize_blocks %x {{to = i8, cols = 1024}} : i8[T, {cols}], f32[T, {widest}]\n  \
                 %one = constant @\"one\" : f32[1, 1]\n  %f = quantize %x, %one {{to = i8}} : i8[T, {cols}]\n  \
                 %each = constant @\"each\" : bf16[1, {wide}]\n  %g = quantize %x, %each {{to = f8e4m3}} : f8e4m3[T, {cols}]\n  \
                 %h = quantize %x, %cs {{to = i8}} : i8[T, {cols}]\n  \
                 return %a, %as, %b, %bs, %c, %cs, %d, %ds, %e, %es, %f, %g, %h\n}}\n",
                wide = scales(128),
                narrow = scales(2),
                widest = scales(1024),
            );
            let name = format!("codes of {dtype} rows of {cols}, {t}");
            cases.push(Case { args: vec!["exact".to_owned()], ..case(name, &[("T", t)], text) });
        }
    }
    cases
}

/// The formats of a linear layer's operands.
#[derive(Clone, Copy)]
struct Format {
    name: &'static str,
    /// The dtype of x, and columns of its blocks.
    x: Option<(&'static str, Option<u64>)>,
    /// The dtype of the weight, rows and columns of its blocks.
    weight: (&'static str, Option<u64>, Option<u64>),
    zero: bool,
}

const FORMATS: [Format; 10] = [
    Format { name: "fp8", x: Some(("f8e4m3", None)), weight: ("f8e4m3", None, None), zero: false },
    Format {
        name: "fp8 blocks",
        x: Some(("f8e4m3", Some(128))),
        weight: ("f8e4m3", Some(128), Some(128)),
        zero: false,
    },
    Format { name: "int8", x: Some(("i8", None)), weight: ("i8", None, None), zero: false },
    Format { name: "int8 groups of x", x: Some(("i8", Some(128))), weight: ("i8", None, None), zero: false },
    Format { name: "int8 weight", x: None, weight: ("i8", None, None), zero: false },
    Format { name: "int8 weight groups", x: None, weight: ("i8", None, Some(128)), zero: false },
    Format { name: "fp8 weight", x: None, weight: ("f8e4m3", None, None), zero: false },
    Format { name: "int4 groups", x: None, weight: ("i4", None, Some(128)), zero: false },
    Format { name: "int4 groups, zeros", x: None, weight: ("i4", None, Some(128)), zero: true },
    Format { name: "int8 weight, zeros", x: None, weight: ("i8", None, None), zero: true },
];

/// `{to = i8, cols = 128}`, and the shape of scales of `rows` rows and `cols` columns.
fn blocks(to: &str, [rows, cols]: [Option<u64>; 2], [n, k]: [u64; 2]) -> (String, [u64; 2]) {
    let attr = |name: &str, size: Option<u64>| size.map_or_else(String::new, |size| format!(", {name} = {size}"));
    let attrs = format!("{{to = {to}{}{}}}", attr("rows", rows), attr("cols", cols));
    (attrs, [n.div_ceil(rows.unwrap_or(1)), k.div_ceil(cols.unwrap_or(k))])
}

/// A quantized linear layer with an epilogue; the last step decodes `b`. If `normed`, a norm quantizes x.
fn linear(format: Format, dtype: &str, [n, k, t, b]: [u64; 4], epilogue: &str, normed: bool) -> Case {
    let Format { name, x, weight: (to, rows, cols), zero } = format;
    let width = if epilogue.contains("swiglu") { n / 2 } else { n };
    let result = if epilogue.contains("add") { "f32" } else { dtype };
    let (attrs, [scale_rows, scale_cols]) = blocks(to, [rows, cols], [n, k]);
    let mut lines = vec![
        format!("%table = constant @\"table\" : {dtype}[32, {k}]"),
        format!("%x = embedding %tokens, %table : {dtype}[T, {k}]"),
        format!("%w = constant @\"fan_in\" : {dtype}[{n}, {k}]"),
    ];
    let codes = if zero { "rounded" } else { "codes" };
    let scale = format!("f32[{scale_rows}, {scale_cols}]");
    lines.push(format!("%{codes}, %scale = quantize_blocks %w {attrs} : {to}[{n}, {k}], {scale}"));
    let (mut operands, mut scaled) = (vec!["%x", "%codes"], vec!["weight"]);
    if let Some((to, cols)) = x {
        let (attrs, [_, scales]) = blocks(to, [None, cols], [1, k]);
        let types = format!("{to}[T, {k}], f32[T, {scales}]");
        lines.push(match normed {
            true => {
                let attrs = attrs.replace("{to", &format!("{{eps = 1e-5, norm = {dtype}, to"));
                format!(
                    "%weight = constant @\"norm_weight\" : {dtype}[{k}]\n  \
                     %xq, %xs = rms_norm_quantize %x, %weight {attrs} : {types}"
                )
            }
            false => format!("%xq, %xs = quantize_blocks %x {attrs} : {types}"),
        });
        (operands, scaled) = (vec!["%xq", "%codes", "%xs"], vec!["x", "weight"]);
    }
    operands.push("%scale");
    if zero {
        lines.push(format!("%zero = constant @\"zero\" : i8[{scale_rows}, {scale_cols}]"));
        lines.push(format!("%codes = quantize %w, %scale, %zero {{to = {to}}} : {to}[{n}, {k}]"));
        (operands, scaled) = ([operands, vec!["%zero"]].concat(), [scaled, vec!["zero_point"]].concat());
    }
    if epilogue.contains("bias") {
        lines.push(format!("%bias = constant @\"w.bias\" : {dtype}[{n}]"));
        operands.push("%bias");
    }
    if epilogue.contains("add") {
        lines.push(format!("%residuals = constant @\"residuals\" : {result}[32, {width}]"));
        lines.push(format!("%r = embedding %tokens, %residuals : {result}[T, {width}]"));
        operands.push("%r");
    }
    let mut attrs = vec![format!("quantized = [{}]", scaled.join(", "))];
    attrs.extend((!epilogue.is_empty()).then(|| format!("epilogue = [{epilogue}]")));
    attrs.extend((x.is_some() || result != dtype).then(|| format!("to = {result}")));
    let (operands, attrs) = (operands.join(", "), attrs.join(", "));
    lines.push(format!("%y = fused_linear {operands} {{{attrs}}} : {result}[T, {width}]"));
    let text = format!(
        "graph @codes<T in 1..{t}, B in 1..{b}>(%tokens: i32[T]) {{\n  {}\n  return %y\n}}\n",
        lines.join("\n  ")
    );
    let name = format!("linear of {name}, {dtype} {n}x{k}, {t} rows, {b} decoded, norm {normed}, {epilogue}");
    case(name, &[("T", t), ("B", b)], text)
}

fn linears() -> Vec<Case> {
    let mut cases = Vec::new();
    let epilogues = ["", "bias", "add", "bias, add", "swiglu", "bias, swiglu"];
    for (place, format) in FORMATS.into_iter().enumerate() {
        for (size, shape) in [[16, 16], [48, 208], [208, 144], [512, 528], [320, 256], [1056, 1040]].iter().enumerate()
        {
            for (rows, [t, b]) in [[17, 3], [65, 33], [131, 12], [300, 40]].into_iter().enumerate() {
                let [n, k] = *shape;
                // halves in blocks of weights end at block boundaries of a kernel
                let epilogue = match epilogues[(place + size + rows) % epilogues.len()] {
                    gated if gated.ends_with("swiglu") && format.weight.1.is_some() && n != 512 => "bias",
                    epilogue => epilogue,
                };
                let dtype = if (place + rows) % 3 == 2 { "f16" } else { "bf16" };
                let normed = format.x.is_some() && k > 200 && rows % 2 == 1;
                cases.push(linear(format, dtype, [n, k, t, b], epilogue, normed));
            }
        }
        for (size, [n, k, t, b]) in [[4096, 1024, 512, 50], [512, 4096, 200, 64]].into_iter().enumerate() {
            cases.push(linear(format, "bf16", [n, k, t, b], epilogues[(place + 4 * size) % 6], false));
        }
    }
    cases
}
