//! Quantized checkpoints as different programs write them: the same under other names and in other files,
//! contradictions, and layouts that no product supports.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use frontend::{Checkpoint, KvCache, KvReach};
use ir::WeightSource;
use plan::DType;
use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::checkpoints::{Files, NO_WARNINGS, Tensor, assert_one, bad_input, options, tiny, unsupported};

/// The linear layers of `tiny` except lm_head: module, rows, columns.
const LINEARS: [(&str, usize, usize); 7] = [
    ("self_attn.q_proj", 8, 8),
    ("self_attn.k_proj", 4, 8),
    ("self_attn.v_proj", 4, 8),
    ("self_attn.o_proj", 8, 8),
    ("mlp.gate_proj", 12, 8),
    ("mlp.up_proj", 12, 8),
    ("mlp.down_proj", 8, 12),
];

fn module(name: &str) -> String {
    format!("model.layers.0.{name}")
}

fn words(count: usize, word: impl Fn(usize) -> u32) -> Vec<u8> {
    (0..count).flat_map(|at| word(at).to_le_bytes()).collect()
}

/// Words without a pattern.
fn any(at: usize) -> u32 {
    (at as u32 + 1).wrapping_mul(0x9e37_79b9).rotate_left(7)
}

fn tensor(dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Tensor {
    Tensor { dtype, shape: shape.to_vec(), bytes }
}

fn f16s(count: usize) -> Vec<u8> {
    (0..count).flat_map(|at| half::f16::from_f32(0.25 + at as f32 / 64.0).to_le_bytes()).collect()
}

/// `tiny` with groups of four columns, zero points from this word, and a group per column.
fn gptq(bits: usize, zero: u32, group_of: impl Fn(usize) -> usize) -> Files {
    let mut files = tiny();
    let per_word = 32 / bits;
    for (name, rows, cols) in LINEARS {
        let (module, groups, zeros) = (module(name), cols / 4, rows.div_ceil(per_word));
        files = files.without(&format!("{module}.weight"));
        let mut add = |suffix: &str, tensor| files.tensors.insert(format!("{module}.{suffix}"), tensor);
        let codes = cols.div_ceil(per_word);
        add("qweight", tensor(Dtype::I32, &[codes, rows], words(codes * rows, any)));
        add("qzeros", tensor(Dtype::I32, &[groups, zeros], words(groups * zeros, |_| zero)));
        add("scales", tensor(Dtype::F16, &[groups, rows], f16s(groups * rows)));
        add("g_idx", tensor(Dtype::I32, &[cols], words(cols, |col| group_of(col) as u32)));
    }
    let scheme = json!({ "quant_method": "gptq", "bits": bits, "group_size": 4 });
    files.with("quantization_config", scheme)
}

/// The same with keys of the scheme set.
fn with(mut files: Files, keys: Value) -> Files {
    for (key, value) in keys.as_object().unwrap() {
        files.config["quantization_config"][key] = value.clone();
    }
    files
}

fn graph(checkpoint: &Checkpoint) -> String {
    ir::text::print(&checkpoint.graph(&options()).unwrap())
}

/// Elements of a constant, all of them at once.
fn numbers(checkpoint: &Checkpoint, key: &str, count: u64, dtype: DType) -> Vec<f32> {
    let mut bytes = vec![0; (count * dtype.bytes()) as usize];
    checkpoint.read(key, 0..count, &mut bytes).unwrap();
    dtype.decode(&bytes)
}

#[test]
fn symmetric_zeros_are_the_middle_however_they_are_stored() {
    let by_place = |column| column / 4;
    // bits, the middle minus one, the middle
    let cases = [(4, 0x7777_7777, 0x8888_8888), (8, 0x7f7f_7f7f, 0x8080_8080)];
    for (bits, less_one, middle) in cases {
        let files = |zero, keys| with(gptq(bits, zero, by_place), keys).write();
        let sound = [
            files(less_one, json!({ "sym": true, "checkpoint_format": "gptq" })),
            files(less_one, json!({ "sym": true })),
            files(middle, json!({ "sym": true, "checkpoint_format": "gptq_v2" })),
        ];
        let expected = graph(&Checkpoint::open(sound[0].path()).unwrap());
        assert!(!expected.contains("qzeros"), "{expected}");
        for dir in &sound {
            let checkpoint = Checkpoint::open(dir.path()).unwrap();
            assert_eq!(
                (checkpoint.warnings(), graph(&checkpoint)),
                (&NO_WARNINGS.map(String::from)[..], expected.clone())
            );
        }
        let contradicting = [
            (files(middle, json!({ "sym": true, "checkpoint_format": "gptq" })), "without an offset"),
            (files(middle, json!({ "sym": true })), "without an offset"),
            // transformers and AutoGPTQ default to true
            (files(middle, json!({})), "without an offset"),
            (files(less_one, json!({ "sym": true, "checkpoint_format": "gptq_v2" })), "with an offset"),
        ];
        for (dir, offset) in &contradicting {
            let checkpoint = Checkpoint::open(dir.path()).unwrap();
            assert_eq!(graph(&checkpoint), expected);
            let said = [*offset, "`checkpoint_format` gptq", "`sym` is true", "q_proj.qzeros"];
            assert_one(checkpoint.warnings(), dir.path(), &said);
        }
        // as in the format
        for (format, zero, meant) in [("gptq", middle, 1.0), ("gptq_v2", less_one, -1.0), ("gptq", 0, 1.0 - 8.0)] {
            let dir = files(zero, json!({ "sym": false, "checkpoint_format": format }));
            let checkpoint = Checkpoint::open(dir.path()).unwrap();
            assert!(checkpoint.warnings().is_empty() && graph(&checkpoint).contains("qzeros"), "{format}");
            let meant = if zero == 0 && bits == 8 { 1.0 - 128.0 } else { meant };
            let zeros = numbers(&checkpoint, &format!("{}.qzeros", module("mlp.gate_proj")), 24, DType::I8);
            assert_eq!(zeros, [meant; 24], "{format} {zero:x}");
        }
        let dir = files(0, json!({ "sym": true, "checkpoint_format": "gptq" }));
        let said = ["zero points contradict `sym`", "`checkpoint_format` gptq", "q_proj.qzeros"];
        assert_one(&bad_input(dir.path()), dir.path(), &said);
        // arbitrary zero points are valid if `sym` is not set
        assert!(graph(&Checkpoint::open(files(0, json!({})).path()).unwrap()).contains("qzeros"));
    }
}

#[test]
fn groups_by_activation_are_read_as_numbers() {
    let group_of = |column: usize| (column * 5 + 1) % 8 % 2;
    let mut files = with(gptq(4, 0x4321_8765, group_of), json!({ "desc_act": true, "sym": false }));
    // three groups, the second with a single column
    let of_down = [2, 0, 2, 0, 1, 0, 0, 2, 2, 0, 2, 2];
    let name = format!("{}.g_idx", module("mlp.down_proj"));
    files.tensors.insert(name.clone(), tensor(Dtype::I32, &[12], words(12, |column| of_down[column])));
    let dir = files.write();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_one(checkpoint.warnings(), dir.path(), &["`g_idx`", "7 linear layers", "dequantized", "q_proj`"]);
    let text = graph(&checkpoint);
    assert!(!text.contains("fused_linear") && text.contains("linear"), "{text}");
    let word = |name: &str, at: usize| {
        let bytes = &files.tensors[name].bytes[at * 4..][..4];
        u32::from_le_bytes(bytes.try_into().unwrap())
    };
    for (name, rows, cols) in LINEARS {
        let module = module(name);
        let tensor_of = |suffix: &str| format!("{module}.{suffix}");
        let scales: Vec<f32> = DType::F16.decode(&files.tensors[&tensor_of("scales")].bytes);
        let mut expected = Vec::new();
        for (row, col) in (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col))) {
            let group = if name == "mlp.down_proj" { of_down[col] as usize } else { group_of(col) };
            let code = word(&tensor_of("qweight"), col / 8 * rows + row) >> (col % 8 * 4) & 15;
            let zero = (word(&tensor_of("qzeros"), group * rows.div_ceil(8) + row / 8) >> (row % 8 * 4) & 15) + 1;
            expected.push((code as f32 - zero as f32) * scales[group * rows + row]);
        }
        let key = format!("{module}.weight");
        assert_eq!(numbers(&checkpoint, &key, (rows * cols) as u64, DType::F32), expected, "{name}");
        let mut part = [0; 7 * 4];
        checkpoint.read(&key, 5..12, &mut part).unwrap();
        assert_eq!(DType::F32.decode(&part), expected[5..12], "{name}");
    }

    files.tensors.insert(name, tensor(Dtype::I32, &[12], words(12, |column| column as u32 % 4)));
    let dir = files.write();
    assert_one(
        &bad_input(dir.path()),
        dir.path(),
        &["down_proj.g_idx` names groups outside of the 3 that have scales"],
    );
}

/// A checkpoint of one group of linear layers in E4M3, with a scale each.
fn fp8(weight_scale: &str, input_scale: Option<&str>, scheme: Value) -> Files {
    let mut files = tiny().with("quantization_config", scheme);
    for (name, rows, cols) in LINEARS {
        let module = module(name);
        let codes = (0..rows * cols).map(|at| any(at) as u8 & 0x77).collect();
        files.tensors.insert(format!("{module}.weight"), tensor(Dtype::F8_E4M3, &[rows, cols], codes));
        let scale = |value: f32| tensor(Dtype::F32, &[], value.to_le_bytes().to_vec());
        files.tensors.insert(format!("{module}.{weight_scale}"), scale(0.01));
        files.tensors.extend(input_scale.map(|name| (format!("{module}.{name}"), scale(0.5))));
    }
    files
}

/// A graph without the names of its constants.
fn shape_of(checkpoint: &Checkpoint) -> String {
    let names = [("weight_scale_inv", "weight_scale"), ("activation_scale", "input_scale")];
    names.iter().fold(graph(checkpoint), |text, (from, to)| text.replace(from, to))
}

#[test]
fn scales_of_fp8_have_two_names() {
    for (scheme, input) in [("static", Some(["input_scale", "activation_scale"])), ("dynamic", None)] {
        let config = json!({ "quant_method": "fp8", "activation_scheme": scheme, "weight_block_size": null });
        let [first, second] = [("weight_scale", 0), ("weight_scale_inv", 1)]
            .map(|(weight, at)| fp8(weight, input.map(|names| names[at]), config.clone()).write());
        let [first, second] = [first, second].map(|dir| Checkpoint::open(dir.path()).unwrap());
        assert_eq!(shape_of(&first), shape_of(&second), "{scheme}");
        assert!(first.warnings().is_empty() && second.warnings().is_empty());
    }
}

#[test]
fn scales_may_be_powers_of_two() {
    let scheme = json!({ "quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [4, 4] });
    let key = format!("{}.weight_scale_inv", module("mlp.gate_proj"));
    type Encode<'a> = &'a dyn Fn(&[u8]) -> (Dtype, Vec<u8>);
    let with_scales = |make: Encode<'_>| {
        let mut files = fp8("weight_scale_inv", None, scheme.clone());
        for (name, rows, cols) in LINEARS {
            let shape = [rows / 4, cols / 4];
            let codes: Vec<u8> = (0..shape[0] * shape[1]).map(|at| 120 + at as u8).collect();
            let (dtype, bytes) = make(&codes);
            files.tensors.insert(format!("{}.weight_scale_inv", module(name)), tensor(dtype, &shape, bytes));
        }
        files
    };
    let exponents = with_scales(&|codes| (Dtype::F8_E8M0, codes.to_vec()));
    let floats = with_scales(&|codes| {
        let value = |code: &u8| 2f32.powi(i32::from(*code) - 127).to_le_bytes();
        (Dtype::F32, codes.iter().flat_map(value).collect())
    });
    let [exponents_dir, floats] = [&exponents, &floats].map(Files::write);
    let [first, second] = [&exponents_dir, &floats].map(|dir| Checkpoint::open(dir.path()).unwrap());
    assert_eq!(graph(&first), graph(&second));
    let expected: Vec<f32> = (0..6).map(|at| 2f32.powi(at - 7)).collect();
    for checkpoint in [first, second] {
        assert_eq!(numbers(&checkpoint, &key, 6, DType::F32), expected);
    }
    let mut damaged = exponents;
    damaged.tensors.get_mut(&key).unwrap().bytes[3] = 255;
    let dir = damaged.write();
    assert_one(&bad_input(dir.path()), dir.path(), &["E8M0 that are NaN (255)", "gate_proj.weight_scale_inv"]);
}

/// `tiny` with scales of a KV cache of two heads.
fn cached(scales: &[(&str, &[f32])]) -> Files {
    let mut files = tiny().with("num_key_value_heads", json!(2));
    for name in ["k_proj", "v_proj"].map(|name| format!("{}.weight", module(&format!("self_attn.{name}")))) {
        files.tensors.insert(name.clone(), Tensor::bf16(&name, &[8, 8]));
    }
    for (name, values) in scales {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        files.tensors.insert(module(&format!("self_attn.{name}")), tensor(Dtype::F32, &[values.len()], bytes));
    }
    files
}

#[test]
fn scales_of_a_cache_have_many_names() {
    let reach = |keys: Option<[f32; 2]>, values: Option<[f32; 2]>| {
        let of = |scales: Option<[f32; 2]>| scales.map(|scales| scales.map(|scale| scale * 448.0).to_vec());
        BTreeMap::from([(0, KvReach { keys: of(keys), values: of(values) })])
    };
    let (both, two) = (reach(Some([0.5; 2]), Some([2.0; 2])), [0.5, 4.0]);
    type Scales<'a> = &'a [(&'a str, &'a [f32])];
    let cases: [(Scales<'_>, _); 7] = [
        (&[("k_scale", &[0.5]), ("v_scale", &[2.0])], both.clone()),
        (&[("k_proj.k_scale", &[0.5]), ("v_proj.v_scale", &[2.0])], both.clone()),
        (&[("k_proj.output_scale", &[0.5]), ("v_proj.output_scale", &[2.0])], both.clone()),
        (&[("kv_scale", &[0.5])], reach(Some([0.5; 2]), Some([0.5; 2]))),
        (&[("k_scale", &two), ("v_scale", &[2.0])], reach(Some(two), Some([2.0; 2]))),
        // by channel
        (&[("v_scale", &[1.0, 2.0, 0.5, 1.0, 3.0, 3.0, 4.0, 1.0])], reach(None, Some([2.0, 4.0]))),
        (&[("q_scale", &[1.0]), ("prob_scale", &[1.0])], BTreeMap::new()),
    ];
    for (scales, expected) in cases {
        let dir = cached(scales).write();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        assert_eq!(*checkpoint.kv_reach(), expected, "{scales:?}");
        // whether they are used, and the warnings, depend on the cache's format
        let (name, queries) = (scales[0].0, expected.is_empty());
        let said = match name.rsplit_once('.') {
            Some((_, last)) if last != "output_scale" => format!("`*.{last}`"),
            _ => format!("`*.{name}`"),
        };
        assert_one(checkpoint.warnings(), dir.path(), &[&said, "are ignored"]);
        let why = if queries { "queries" } else { "those of the calibration" };
        assert_one(&checkpoint.warnings_with(KvCache::Calibrated), dir.path(), &[&said, "are ignored", why]);
        let warnings = checkpoint.warnings_with(KvCache::Codes);
        let complete = expected.values().any(|reach| reach.keys.is_some() && reach.values.is_some());
        assert_eq!(warnings.iter().any(|warning| warning.contains("--calibration")), !complete, "{warnings:?}");
        assert_eq!(warnings.iter().any(|warning| warning.contains("ignored")), queries, "{warnings:?}");
    }
    for (values, said) in [(&[-1.0f32][..], "expected scales above 0"), (&[1.0; 3], "it has 3 scales, expected 1 or 2")]
    {
        let dir = cached(&[("k_scale", values)]).write();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        assert!(checkpoint.kv_reach().is_empty() && checkpoint.warnings()[0].contains(said), "{checkpoint:?}");
    }
}

#[test]
fn the_cache_alone_may_be_quantized() {
    let scales: &[(&str, &[f32])] = &[("k_scale", &[0.5]), ("v_scale", &[2.0])];
    let float = json!({ "num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": false, "symmetric": true });
    let of_ct = |format: &str, scheme: &Value| json!({ "quant_method": "compressed-tensors", "format": format, "config_groups": {}, "kv_cache_scheme": scheme });
    let schemes = [
        of_ct("dense", &float),
        of_ct("naive-quantized", &float),
        json!({ "quant_method": "compressed-tensors", "kv_cache_scheme": float }),
        json!({ "quant_method": "modelopt", "quant_algo": null, "kv_cache_quant_algo": "FP8" }),
    ];
    for scheme in schemes {
        let dir = cached(scales).with("quantization_config", scheme).write();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let said = ["`quantization_config.kv_cache_", "it and its scales `*.k_scale`, `*.v_scale` (2) are ignored"];
        assert_one(checkpoint.warnings(), dir.path(), &said);
        assert_eq!((checkpoint.quantized_by(), checkpoint.kv_reach()[&0].keys.clone()), (None, Some(vec![224.0; 2])));
        assert!(checkpoint.warnings_with(KvCache::Codes).is_empty());
        Checkpoint::open_dummy(dir.path()).unwrap();
    }
    // scales of other formats mean other ranges, those of unknown ones none
    let reach_of = |scheme| {
        let dir = cached(scales).with("quantization_config", scheme).write();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        (checkpoint.kv_reach().get(&0).cloned(), checkpoint.warnings_with(KvCache::Codes))
    };
    let (reach, warnings) = reach_of(of_ct("dense", &json!({ "num_bits": 8, "type": "int" })));
    assert_eq!((reach.unwrap().keys, warnings.len()), (Some(vec![63.5; 2]), 0));
    let nvfp4 = json!({ "quant_method": "modelopt", "kv_cache_quant_algo": "NVFP4" });
    let (reach, warnings) = reach_of(nvfp4);
    assert!(reach.is_none() && warnings[0].contains("\"NVFP4\", which is ignored"), "{warnings:?}");

    let dir = tiny().with("quantization_config", json!({ "quant_method": "compressed-tensors", "config_groups": {} }));
    let dir = dir.write();
    assert_one(&bad_input(dir.path()), dir.path(), &["`quantization_config.config_groups` is {}, expected"]);
}

/// A copy of the AWQ checkpoint, in groups of 32 columns, with another `quantization_config`, and this file next to it.
fn awq(config: Value, beside: Option<(&str, Value)>) -> TempDir {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/quantized/awq");
    let dir = TempDir::new().unwrap();
    fs::copy(folder.join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    let mut all: Value = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
    all["quantization_config"] = config;
    fs::write(dir.path().join("config.json"), all.to_string()).unwrap();
    if let Some((name, text)) = beside {
        fs::write(dir.path().join(name), text.to_string()).unwrap();
    }
    dir
}

#[test]
fn awq_has_keys_and_a_file_of_its_own() {
    let own = json!({ "zero_point": true, "q_group_size": 32, "w_bit": 4, "version": "GEMM" });
    let mut named = own.clone();
    named["quant_method"] = "awq".into();
    let plain = json!({ "quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": true });
    let expected = graph(&Checkpoint::open(awq(plain.clone(), None).path()).unwrap());
    let same = [
        awq(named.clone(), None),
        awq(own.clone(), None),
        awq(Value::Null, Some(("quant_config.json", own.clone()))),
        awq(Value::Null, Some(("quantize_config.json", named.clone()))),
        // that of config.json is used
        awq(named.clone(), Some(("quant_config.json", json!({ "w_bit": 3 })))),
    ];
    for dir in &same {
        assert_eq!(graph(&Checkpoint::open(dir.path()).unwrap()), expected);
    }
    let dir = awq(Value::Null, Some(("quant_config.json", json!({ "w_bit": 3, "q_group_size": 32 }))));
    assert_one(&unsupported(dir.path()), dir.path(), &["quant_config.json: `w_bit` is 3, expected 4"]);
    let dir = awq(json!({ "quant_method": "awq", "bits": 4 }), None);
    assert_one(&bad_input(dir.path()), dir.path(), &["`quantization_config.group_size` is missing", "128"]);
    let dir = awq(json!({ "quant_method": "awq", "bits": 4, "group_size": 32, "backend": "llm-awq" }), None);
    assert_one(&unsupported(dir.path()), dir.path(), &["`quantization_config.backend` is \"llm-awq\""]);
}

#[test]
fn a_missing_group_size_is_128() {
    let mut files = gptq(4, 0x7777_7777, |_| 0);
    files.config["quantization_config"].as_object_mut().unwrap().remove("group_size");
    let dir = files.write();
    assert_one(&bad_input(dir.path()), dir.path(), &["`quantization_config.group_size` is missing"]);
    // rows are narrower than the group: one group
    for (name, rows, _) in LINEARS {
        let name = |suffix: &str| format!("{}.{suffix}", module(name));
        let words_of = rows.div_ceil(8);
        files.tensors.insert(name("qzeros"), tensor(Dtype::I32, &[1, words_of], words(words_of, |_| 0x7777_7777)));
        files.tensors.insert(name("scales"), tensor(Dtype::F16, &[1, rows], f16s(rows)));
    }
    assert!(Checkpoint::open(files.write().path()).unwrap().warnings().is_empty());
}

#[test]
fn settings_of_some_modules_are_shown() {
    let own = json!({ "+:.*\\.down_proj.*": { "bits": 8, "group_size": 4 } });
    let dir = with(gptq(4, 0x7777_7777, |column| column / 4), json!({ "dynamic": own })).write();
    let shown = r#"`quantization_config.dynamic` is {"+:.*\\.down_proj.*":{"bits":8,"group_size":4}}, expected"#;
    assert_one(&unsupported(dir.path()), dir.path(), &[shown]);
    let same = json!({ "-:.*lm_head": {}, ".*up_proj": { "bits": 4, "group_size": 4 } });
    let dir = with(gptq(4, 0x7777_7777, |column| column / 4), json!({ "dynamic": same })).write();
    Checkpoint::open(dir.path()).unwrap();
}

fn folder(name: &str) -> Files {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/quantized").join(name);
    let file = fs::read(folder.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
    let own = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        (name, tensor(view.dtype(), view.shape(), view.data().to_vec()))
    };
    let config = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
    Files { config, tensors: tensors.tensors().into_iter().map(own).collect() }
}

#[test]
fn zero_points_of_symmetric_codes_are_surplus() {
    let plain = folder("ct-int4-group");
    let expected = graph(&Checkpoint::open(plain.write().path()).unwrap());
    let name = |what: &str| format!("model.layers.0.mlp.down_proj.{what}_zero_point");
    let scales = plain.tensors["model.layers.0.mlp.down_proj.weight_scale"].shape.clone();
    let (rows, groups) = (scales[0], scales[1]);
    let packed = [rows / 8, groups];
    let cases = [
        (name("weight"), tensor(Dtype::I8, &scales, vec![0; rows * groups])),
        (name("weight"), tensor(Dtype::I32, &packed, words(rows / 8 * groups, |_| 0x8888_8888))),
        (name("input"), tensor(Dtype::I8, &[1], vec![0])),
    ];
    for (name, zeros) in cases {
        let mut files = plain.clone();
        files.tensors.insert(name, zeros);
        let dir = files.write();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        assert_one(
            checkpoint.warnings(),
            dir.path(),
            &["zero points of a symmetric format (1) are ignored: all are 0"],
        );
        assert_eq!(graph(&checkpoint), expected);
    }
    let mut files = plain;
    files.tensors.insert(name("weight"), tensor(Dtype::I8, &scales, vec![1; rows * groups]));
    let dir = files.write();
    assert_one(&bad_input(dir.path()), dir.path(), &["some zero points are not 0", "down_proj.weight_zero_point"]);
}

#[test]
fn patterns_may_look_around() {
    let scheme = |ignore: &str| {
        let mut files = folder("ct-int4-group");
        files.config["quantization_config"]["ignore"] = json!([ignore]);
        files
    };
    let expected = graph(&Checkpoint::open(folder("ct-int4-group").write().path()).unwrap());
    for ignore in ["lm_head", "re:^(?!model).*$", "re:.*(?<=lm_)head", "re:(lm)_head"] {
        assert_eq!(graph(&Checkpoint::open(scheme(ignore).write().path()).unwrap()), expected, "{ignore}");
    }
    // everything except lm_head is ignored, and lm_head is not quantized
    let dir = scheme("re:^(?!.*lm_head).*$").write();
    assert!(bad_input(dir.path())[0].contains("`lm_head.weight_packed`"));
    let dir = scheme("re:(").write();
    assert_one(&bad_input(dir.path()), dir.path(), &["`quantization_config.ignore` is", "not a regular expression"]);
    let dir = scheme(r"re:(?:(?=.)(?:.|.)*)*\1x(y)?").write();
    let started = std::time::Instant::now();
    let refused = Checkpoint::open(dir.path()).is_err();
    assert!(refused && started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
}
