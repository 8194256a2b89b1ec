//! Graphs over difficult shapes: 1, primes, one past a tile, widths without whole vectors.

// Each test file uses its own part of this.
#![allow(dead_code)]

mod codes;
mod codes_by_one_scale;
mod codes_few;

use tests::Case;

const FLOATS: [&str; 3] = ["bf16", "f16", "f32"];

/// A case of this name and text.
fn case(name: String, sizes: &[(&str, u64)], text: String) -> Case {
    Case {
        name,
        path: "gpu".into(),
        command: "run_device".to_owned(),
        args: Vec::new(),
        sizes: sizes.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect(),
        dummy_weights: false,
        fires_with: None,
        near_misses: Vec::new(),
        text,
    }
}

/// All cases.
pub fn cases() -> Vec<Case> {
    [small_cases(), large_linears(), codes::cases(), codes_by_one_scale::cases(), refilled_rings(), streams()].concat()
}

/// Few units per warp, and weights that L2 holds: a place of a ring is filled again while its last loads may still be under
/// way.
fn refilled_rings() -> Vec<Case> {
    let shapes = [(4224, 1032), (4256, 1088), (4256, 1536)];
    let case = |(n, k)| [1, 2].map(|rows| fused_linear("bf16", [n, k, rows, rows], "", "bias, gelu"));
    shapes.into_iter().flat_map(case).collect()
}

/// Streams of weights whose columns are split over clusters, unevenly, and rings that are filled several times.
fn streams() -> Vec<Case> {
    let shapes = [[192, 4104, 33, 20], [4160, 1032, 100, 40], [72, 16384, 12, 9], [576, 2056, 128, 64]];
    let epilogues = ["swiglu", "bias, gelu", "bias, add"];
    shapes.into_iter().flat_map(|shape| epilogues.map(|epilogue| fused_linear("bf16", shape, "", epilogue))).collect()
}

/// The fastest ones.
pub fn small_cases() -> Vec<Case> {
    [linears(), fused_linears(), codes_few::cases(), rows(), attention(), sampling(), tables()].concat()
}

/// A step of `t` tokens of `b` sequences; the last step decodes `b`.
fn linear(dtype: &str, n: u64, k: u64, t: u64, b: u64, bias: bool) -> Case {
    let (attrs, result) = match dtype != "f32" && !(n + t).is_multiple_of(3) {
        true => (" {to = f32}", "f32"),
        false => ("", dtype),
    };
    let (declared, operand) = match bias {
        true => (format!("  %bias = constant @\"w.bias\" : {dtype}[{n}]\n"), ", %bias"),
        false => (String::new(), ""),
    };
    let text = format!(
        "graph @linear<T in 1..{t}, B in 1..{b}>(%tokens: i32[T]) {{\n  \
         %table = constant @\"table\" : {dtype}[32, {k}]\n  %x = embedding %tokens, %table : {dtype}[T, {k}]\n  \
         %w = constant @\"fan_in\" : {dtype}[{n}, {k}]\n{declared}  %y = linear %x, %w{operand}{attrs} : {result}[T, {n}]\n  \
         return %y\n}}\n"
    );
    case(format!("linear {dtype} {n}x{k}, {t} rows, {b} decoded, bias {bias}"), &[("T", t), ("B", b)], text)
}

fn linears() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in FLOATS {
        for (n, k) in [(1, 1), (1, 8), (7, 13), (16, 64), (17, 72), (72, 136), (129, 200), (320, 64), (257, 520)] {
            for (t, b) in [(1, 1), (17, 3), (65, 8), (131, 16)] {
                cases.push(linear(dtype, n, k, t, b, (n + k) % 2 == 0));
            }
        }
    }
    cases
}

/// A linear layer with a norm before it, and a bias, a gate or a residual after it: one launch for few rows, several
/// otherwise.
fn fused_linear(dtype: &str, [n, k, t, b]: [u64; 4], before: &str, epilogue: &str) -> Case {
    let gated = epilogue.contains("swiglu");
    let width = if gated { n / 2 } else { n };
    let list = if epilogue.is_empty() { String::new() } else { format!("epilogue = [{epilogue}], ") };
    let norm = if before.is_empty() { String::new() } else { format!("prologue = {before}(1e-5, {dtype}), ") };
    let x = match before {
        "" => "",
        "layer_norm" => ", %weight, %shift",
        _ => ", %weight",
    };
    let result = if epilogue.ends_with("add") { "f32" } else { dtype };
    let x_dtype = if before.is_empty() { dtype } else { "f32" };
    let to = if result == x_dtype { String::new() } else { format!("to = {result}") };
    let attrs = format!("{norm}{list}{to}");
    let bias = if epilogue.contains("bias") { ", %bias" } else { "" };
    let residual = if epilogue.contains("add") { ", %r" } else { "" };
    let text = format!(
        "graph @fused<T in 1..{t}, B in 1..{b}>(%tokens: i32[T]) {{\n  \
         %table = constant @\"table\" : {dtype}[32, {k}]\n  %narrow = embedding %tokens, %table : {dtype}[T, {k}]\n  \
         %wide = cast %narrow {{to = f32}} : f32[T, {k}]\n  %weight = constant @\"norm_weight\" : {dtype}[{k}]\n  \
         %shift = constant @\"shift.bias\" : {dtype}[{k}]\n  \
         %residuals = constant @\"residuals\" : f32[32, {width}]\n  %r = embedding %tokens, %residuals : f32[T, {width}]\n  \
         %bias = constant @\"w.bias\" : {dtype}[{n}]\n  %w = constant @\"fan_in\" : {dtype}[{n}, {k}]\n  \
         %y = fused_linear {x_name}, %w{x}{bias}{residual} {{{attrs}}} : {result}[T, {width}]\n  return %y\n}}\n",
        x_name = if before.is_empty() { "%narrow" } else { "%wide" },
        attrs = attrs.trim_end_matches(", "),
    );
    let name = format!("fused linear {dtype} {n}x{k}, {t} rows, {b} decoded, norm {before:?}, {epilogue}");
    case(name, &[("T", t), ("B", b)], text)
}

fn fused_linears() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in ["bf16", "f16"] {
        for (n, k) in [(16, 64), (32, 72), (48, 200), (208, 136), (528, 520), (40, 64)] {
            for (t, b) in [(1, 1), (17, 3), (65, 4), (131, 12)] {
                for (before, epilogue) in [
                    ("rms_norm", ""),
                    ("rms_norm", "bias"),
                    ("rms_norm", "swiglu"),
                    ("rms_norm", "bias, swiglu"),
                    ("", "swiglu"),
                    ("", "add"),
                    ("rms_norm", "bias, add"),
                    ("layer_norm", "bias"),
                    ("layer_norm", "bias, gelu_tanh"),
                    ("", "bias, gelu"),
                    ("", "scale(0.5), add"),
                    ("rms_norm", "bias, softcap(2.0), clamp(-1.5, 0.5), add"),
                ] {
                    cases.push(fused_linear(dtype, [n, k, t, b], before, epilogue));
                }
            }
        }
    }
    let large = [(512, 4096, 128, 2), (2048, 1024, 64, 4), (1024, 8200, 20, 1), (256, 16384, 5, 4)];
    // more strips than blocks of linear_few, rows that are too long for shared memory, and a norm of a row
    let few = [(8480, 136, 3, 3), (96, 16384, 8, 8), (4256, 1032, 1, 1)];
    for (n, k, t, b) in large.into_iter().chain(few) {
        cases.push(fused_linear("bf16", [n, k, t, b], "rms_norm", "swiglu"));
        cases.push(fused_linear("bf16", [n, k, t, b], "rms_norm", "bias, add"));
        cases.push(fused_linear("bf16", [n, k, t, b], "layer_norm", "bias, gelu_tanh"));
    }
    cases
}

fn large_linears() -> Vec<Case> {
    let mut cases = Vec::new();
    for (n, k, t, b) in [(512, 4096, 128, 9), (96, 14336, 33, 5), (1000, 1024, 300, 13), (4096, 256, 200, 2)] {
        cases.push(linear("bf16", n, k, t, b, false));
        cases.push(linear("f16", n, k, t, b, true));
    }
    cases
}

fn rows() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in FLOATS {
        for (cols, t) in [(1, 1), (2, 3), (7, 5), (64, 9), (101, 2), (256, 17), (1032, 3), (4096, 5), (8200, 2)] {
            let other = if dtype == "f32" { "bf16" } else { "f32" };
            let text = format!(
                "graph @rows<T in 1..{t}, B in 1..{t}>(%tokens: i32[T], %others: i32[T]) {{\n  \
                 %table = constant @\"table\" : {dtype}[32, {cols}]\n  %x = embedding %tokens, %table : {dtype}[T, {cols}]\n  \
                 %y = embedding %others, %table : {dtype}[T, {cols}]\n  %weight = constant @\"norm_weight\" : {dtype}[{cols}]\n  \
                 %normed = rms_norm %x, %weight {{eps = 1e-5}} : {dtype}[T, {cols}]\n  \
                 %sum, %summed = add_rms_norm %x, %y, %weight {{eps = 1e-6}} : {dtype}[T, {cols}], {dtype}[T, {cols}]\n  \
                 %norm_weight16 = constant @\"norm_weight16\" : bf16[{cols}]\n  \
                 %other = rms_norm %y, %norm_weight16 {{eps = 1e-5, to = {other}}} : {other}[T, {cols}]\n  \
                 %sum2, %other2 = add_rms_norm %y, %x, %norm_weight16 {{eps = 1e-5, to = {other}}} : {dtype}[T, {cols}], {other}[T, {cols}]\n  \
                 %shift = constant @\"shift.bias\" : {dtype}[{cols}]\n  %shift16 = constant @\"shift16.bias\" : bf16[{cols}]\n  \
                 %centred = layer_norm %x, %weight, %shift {{eps = 1e-5}} : {dtype}[T, {cols}]\n  \
                 %bare = layer_norm %y, %norm_weight16 {{eps = 1e-5, to = {other}}} : {other}[T, {cols}]\n  \
                 %sum3, %other3 = add_layer_norm %x, %y, %norm_weight16, %shift16 {{eps = 1e-5, to = {other}}} : {dtype}[T, {cols}], {other}[T, {cols}]\n  \
                 %added = add %x, %y : {dtype}[T, {cols}]\n  %product = mul %x, %y : {dtype}[T, {cols}]\n  \
                 %active = silu %x : {dtype}[T, {cols}]\n  %gated = silu_mul %x, %y : {dtype}[T, {cols}]\n  \
                 %mapped, %capped = map %x, %weight, %y {{f = [add(x0, x1), gelu(v0), softcap(v1, 2.0), clamp(x2, -0.5, 0.25), \
                 mul(v2, v3), {dtype}(v4), f16(v2)]}} : {dtype}[T, {cols}], f16[T, {cols}]\n  \
                 %narrow = cast %x {{to = f16}} : f16[T, {cols}]\n  %wide = cast %x {{to = f32}} : f32[T, {cols}]\n  \
                 return %normed, %sum, %summed, %other, %sum2, %other2, %centred, %bare, %sum3, %other3, %added, %product, %active, %gated, %mapped, \
                 %capped, %narrow, %wide\n}}\n"
            );
            let text = match dtype {
                "f16" => text.replace("  %narrow = cast %x {to = f16} : f16", "  %narrow = cast %x {to = bf16} : bf16"),
                "f32" => text.replace("  %wide = cast %x {to = f32} : f32", "  %wide = cast %x {to = bf16} : bf16"),
                _ => text,
            };
            cases.push(case(format!("rows {dtype} of {cols}, {t}"), &[("T", t), ("B", t)], text));
        }
        for (sizes, t) in [(vec![1u64, 1], 1), (vec![8, 16, 8], 3), (vec![5, 3, 7], 4), (vec![128, 64, 64], 5)] {
            let cols: u64 = sizes.iter().sum();
            let list = |item: &dyn Fn(usize, u64) -> String| {
                sizes.iter().enumerate().map(|(i, size)| item(i, *size)).collect::<Vec<_>>().join(", ")
            };
            let (names, types) = (list(&|i, _| format!("%p{i}")), list(&|_, size| format!("{dtype}[T, {size}]")));
            let sizes = list(&|_, size| size.to_string());
            let swiglu = match cols % 2 {
                0 => format!("  %gated = swiglu %x : {dtype}[T, {}]\n  return %gated, ", cols / 2),
                _ => "  return ".to_owned(),
            };
            let text = format!(
                "graph @split<T in 1..{t}>(%tokens: i32[T]) {{\n  %table = constant @\"table\" : {dtype}[32, {cols}]\n  \
                 %x = embedding %tokens, %table : {dtype}[T, {cols}]\n  \
                 {names} = split %x {{sizes = [{sizes}]}} : {types}\n{swiglu}{names}\n}}\n"
            );
            cases.push(case(format!("split {dtype} into {sizes}"), &[("T", t)], text));
        }
    }
    cases
}

/// A layer's worth of attention: rope, append, attend. Several steps grow the cache.
fn attention() -> Vec<Case> {
    let mut cases = Vec::new();
    let shapes = [
        (1, 1, 16),
        (4, 1, 32),
        (6, 2, 64),
        (8, 8, 64),
        (3, 3, 80),
        (5, 1, 96),
        (8, 2, 128),
        (71, 1, 16),
        (2, 1, 256),
        (20, 1, 48),
        (2, 2, 22),
        (4, 2, 10),
    ];
    let steps = [(1, 1, false), (70, 3, false), (66, 2, true), (200, 5, false), (3, 3, true)];
    let of_floats = FLOATS.map(|dtype| (dtype, dtype, steps.as_slice()));
    let of_codes = [("bf16", "f8e4m3"), ("bf16", "i8"), ("f16", "f8e4m3"), ("f16", "i8"), ("f32", "f8e4m3")];
    let of_codes = of_codes.map(|(dtype, cache)| (dtype, cache, &steps[..3]));
    for (dtype, cache, steps) in of_floats.into_iter().chain(of_codes) {
        for (heads, kv_heads, head_dim) in shapes {
            for &(t, b, normed) in steps {
                let (q, width) = (heads * head_dim, (heads + 2 * kv_heads) * head_dim);
                // integers need larger values; those of normalized heads are set by their norm weights
                let by = if cache == "i8" { 32.0 } else { 1.0 }; // exact, wherever it is rounded
                let scores = if normed { 1.0 } else { by * by };
                let scale = (f64::from(head_dim as u32).powf(-0.5) / scores) as f32;
                // as in models: rows in f32, rounded once after RoPE
                let (widened, row, to) = match dtype != "f32" && heads % 2 == 0 {
                    true => {
                        let cast = format!("  %wide = cast %qkv {{to = f32}} : f32[T, {width}]\n");
                        (cast, "%wide", format!(", to = {dtype}"))
                    }
                    false => (String::new(), "%qkv", String::new()),
                };
                let (weights, operands, eps) = match normed {
                    true => {
                        let weight = |name| format!("  %{name} = constant @\"{name}\" : {dtype}[{head_dim}]\n");
                        let weights = weight("q.norm_weight") + &weight("k.norm_weight");
                        (weights, ", %q.norm_weight, %k.norm_weight", ", norm_eps = 1e-6")
                    }
                    false => (String::new(), "", ""),
                };
                let text = format!(
                    "graph @attention<T in 1..{t}, B in 1..{b}>(%tokens: i32[T], %positions: i32[T], \
                     %query_starts: i32[B + 1], %block_table: i32[B, 5]) {{\n  \
                     kv 0 : {cache} {{layers = 2, kv_heads = {kv_heads}, head_dim = {head_dim}, block_tokens = 64}}\n  \
                     %frequencies = rope_frequencies {{dim = {half}, theta = 10000.0, scaling = default}} : f32[{quarter}]\n  \
                     %table = constant @\"table\" : {dtype}[32, {width}]\n  \
                     %small = embedding %tokens, %table : {dtype}[T, {width}]\n  \
                     %qkv = scale %small {{by = {by:?}}} : {dtype}[T, {width}]\n{widened}{weights}  \
                     %q, %cache = rope_append_kv {row}, %positions, %query_starts, %block_table, %frequencies{operands} \
                     {{group = 0, layer = 1, head_dim = {head_dim}, heads = {heads}, kv_heads = {kv_heads}{eps}{to}}} : \
                     {dtype}[T, {q}], effect\n  \
                     %mixed = paged_attention %q, %cache, %positions, %query_starts, %block_table {{group = 0, \
                     layer = 1, head_dim = {head_dim}, kv_heads = {kv_heads}, scale = {scale:?}}} : {dtype}[T, {q}]\n  \
                     {smaller}return {shown}{mixed}\n}}\n",
                    // as large as for other caches: softmax weights are rounded to 16 bits, relative to values
                    smaller = match by == 1.0 {
                        true => String::new(),
                        false => format!("%meant = scale %mixed {{by = {:?}}} : {dtype}[T, {q}]\n  ", 1.0 / by),
                    },
                    mixed = if by == 1.0 { "%mixed" } else { "%meant" },
                    // queries that are an output prevent fusion
                    shown = if t == 70 { "%q, " } else { "" },
                    half = head_dim / 2 * 2,
                    quarter = head_dim / 2,
                );
                cases.push(case(
                    format!(
                        "attention {dtype} over {cache}, {heads}/{kv_heads} heads of {head_dim}, {t} tokens of {b}, \
                         normed {normed}"
                    ),
                    &[("T", t), ("B", b)],
                    text,
                ));
            }
        }
    }
    cases
}

fn sampling() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in FLOATS {
        for (cols, classes, t) in [(1, 1, 1), (7, 7, 3), (1000, 997, 2), (32000, 32000, 5), (20003, 20001, 1)] {
            let text = format!(
                "graph @argmax<T in 1..{t}>(%tokens: i32[T]) {{\n  %table = constant @\"table\" : {dtype}[32, {cols}]\n  \
                 %x = embedding %tokens, %table : {dtype}[T, {cols}]\n  \
                 %best = argmax %x {{classes = {classes}}} : i32[T]\n  return %best\n}}\n"
            );
            cases.push(case(format!("argmax {dtype} {classes} of {cols}, {t} rows"), &[("T", t)], text));
        }
    }
    // rows with an overflow, or NaN from one, have no largest element
    for (cols, t) in [(7, 31), (1000, 31), (32000, 31)] {
        for by in ["2.0", "7.0"] {
            let text = format!(
                "graph @unusable<T in 1..{t}>(%tokens: i32[T]) {{\n  %table = constant @\"table\" : f32[32, {cols}]\n  \
                 %x = embedding %tokens, %table : f32[T, {cols}]\n  %large = scale %x {{by = 1e38}} : f32[T, {cols}]\n  \
                 %larger = scale %large {{by = {by}}} : f32[T, {cols}]\n  \
                 %nothing = scale %larger {{by = 0}} : f32[T, {cols}]\n  %y = add %x, %nothing : f32[T, {cols}]\n  \
                 %infinite = argmax %larger {{classes = {cols}}} : i32[T]\n  \
                 %nan = argmax %y {{classes = {cols}}} : i32[T]\n  return %infinite, %nan\n}}\n"
            );
            cases.push(case(format!("argmax of unusable rows, {cols} columns times {by}"), &[("T", t)], text));
        }
    }
    cases
}

/// Tied tables, which are packed for lm_head and read by the embedding; gathered rows; weights generated on the device.
fn tables() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in FLOATS {
        for (vocab, cols, t) in [(33, 8, 4), (129, 72, 9), (50, 200, 20), (40, 7, 3)] {
            for dummy_weights in [false, true] {
                let text = format!(
                    "graph @tied<T in 1..{t}, R in 1..{t}>(%tokens: i32[T], %rows: i32[R]) {{\n  \
                     %table = constant @\"table\" : {dtype}[{vocab}, {cols}]\n  \
                     %x = embedding %tokens, %table : {dtype}[T, {cols}]\n  \
                     %last = gather_rows %x, %rows : {dtype}[R, {cols}]\n  \
                     %logits = linear %last, %table : {dtype}[R, {vocab}]\n  return %x, %last, %logits\n}}\n"
                );
                let name = format!("tied table {dtype} {vocab}x{cols}, dummy {dummy_weights}");
                cases.push(Case { dummy_weights, ..case(name, &[("T", t), ("R", t.min(2))], text) });
            }
        }
    }
    cases
}
