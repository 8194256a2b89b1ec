//! The kinds of input: what is damaged, and the commands that read it.

use std::path::Path;

use serde_json::Value;

use super::corpus::{BOUNDS, Corpus, MODELS, SMALL, Text, WITH_TOKENIZER, json as parse};
use super::mutant::{Content, Mutant};
use super::random::Random;
use super::{bytes, json, safetensors, text};

/// The inputs of a mutant.
pub struct Maker<'a> {
    pub corpus: &'a Corpus,
    pub random: &'a mut Random,
    /// A path for a temporary file.
    pub scratch: &'a Path,
}

/// A kind of input.
pub struct Kind {
    pub name: &'static str,
    /// Its relative frequency.
    weight: usize,
    make: fn(&mut Maker) -> Result<Mutant, String>,
}

const fn kind(name: &'static str, weight: usize, make: fn(&mut Maker) -> Result<Mutant, String>) -> Kind {
    Kind { name, weight, make }
}

/// All kinds. Plans have the highest weight: they are the only input with offsets into memory.
pub const KINDS: &[Kind] = &[
    kind("header", 10, header),
    kind("weights", 4, weights),
    kind("config", 12, config),
    kind("index", 6, index),
    kind("tokenizer", 8, tokenizer),
    kind("generation-config", 3, generation_config),
    kind("plan-bytes", 5, |maker| plan(maker, |fixture, maker| Ok(fixture.with_other_bytes(maker.random)))),
    kind("plan-metadata", 10, |maker| plan(maker, |fixture, maker| fixture.with_other_metadata(maker.random))),
    kind("plan-fields", 24, |maker| {
        plan(maker, |fixture, maker| fixture.with_other_fields(maker.random, maker.scratch))
    }),
    kind("graph", 16, graph),
    kind("rules", 8, rules),
    kind("precision-map", 5, precision_map),
    kind("calibration", 6, calibration),
    kind("timing-cache", 5, timing_cache),
    kind("prompt", 4, prompt),
    kind("text", 4, read_text),
    kind("options", 4, options),
    kind("special-file", 3, special_file),
];

/// The mutant of a seed and an index, of one of the kinds with these names, or of any.
pub fn make(corpus: &Corpus, (seed, index): (u64, u64), kinds: &[String], scratch: &Path) -> Result<Mutant, String> {
    let mut random = Random::of(seed, index);
    let chosen: Vec<&Kind> =
        KINDS.iter().filter(|kind| kinds.is_empty() || kinds.iter().any(|name| name == kind.name)).collect();
    let kind = random.weighted(&chosen, |kind| kind.weight);
    let mutant = (kind.make)(&mut Maker { corpus, random: &mut random, scratch })?;
    Ok(Mutant { kind: kind.name, ..mutant })
}

/// A quick command that reads a checkpoint.
fn read_model(random: &mut Random) -> Mutant {
    let command = match random.below(9) {
        0..3 => "compile in/model -o out/x.plan",
        3 => "compile in/model --dry-run --json",
        4..7 => "generate in/model --prompt-ids 5,6,7 --max-tokens 3 --json",
        7 => "build --model-dir in/model --output-dir out/engine",
        _ => return Mutant::command("quantize in/model -o out/quantized --precision int8-weight"),
    };
    Mutant::command(&format!("{command} {BOUNDS}"))
}

fn header(maker: &mut Maker) -> Result<Mutant, String> {
    let Maker { corpus, random, .. } = maker;
    let mut files = corpus.model(random.word(&MODELS))?;
    let (document, data) = safetensors::split(&files[1].1)?;
    let header_bytes = files[1].1.len() - data.len();
    files[1].1 = match random.below(8) {
        0..5 => safetensors::join(&json::mutate(&document, &[], random), data),
        5 | 6 => [bytes::mutate(&files[1].1[..header_bytes], random), data.to_vec()].concat(),
        _ => bytes::mutate(&files[1].1, random),
    };
    Ok(read_model(random).model(files))
}

/// Numbers in the tensors that are not finite, or extreme.
fn weights(maker: &mut Maker) -> Result<Mutant, String> {
    let Maker { corpus, random, .. } = maker;
    let mut files = corpus.model(random.word(&MODELS))?;
    let start = files[1].1.len() - safetensors::split(&files[1].1)?.1.len();
    let data = &mut files[1].1[start..];
    let pattern: &[u8] = match random.below(6) {
        0 => &[0, 0, 0x80, 0x7f],
        1 => &[0, 0, 0xc0, 0x7f],
        2 => &[0xff, 0xff, 0x7f, 0x7f],
        3 => &[0x7f],
        4 => &[0xff],
        _ => &[0],
    };
    let at = random.below(data.len() / 4) * 4;
    let length = *random.pick(&[4, 64, 4096, usize::MAX / 2]);
    data[at..].iter_mut().take(length).zip(pattern.iter().cycle()).for_each(|(byte, new)| *byte = *new);
    let more = random.word(&["", "", "--dtype f16", "--dtype bf16", "--kv-precision fp8"]);
    Ok(read_model(random).args(more.split_whitespace()).model(files))
}

fn config(maker: &mut Maker) -> Result<Mutant, String> {
    let Maker { corpus, random, .. } = maker;
    let mut files = corpus.model(random.word(&MODELS))?;
    files[0].1 = json::mutate(&parse(&files[0].1)?, &corpus.configurations()?, random);
    // only the configuration matters
    if random.once_in(5) {
        files.truncate(1);
        let command = format!("compile in/model --dry-run --weights dummy {BOUNDS}");
        return Ok(Mutant::command(&command).model(files));
    }
    Ok(read_model(random).model(files))
}

fn index(maker: &mut Maker) -> Result<Mutant, String> {
    let Maker { corpus, random, .. } = maker;
    let mut files = corpus.model(random.word(&SMALL))?;
    let (shards, index) = safetensors::shards(&files.remove(1).1)?;
    files.extend(shards);
    match random.below(8) {
        // the index is valid, and a shard is lost
        0 => drop(files.remove(1 + random.below(2))),
        1 => files[1].1 = bytes::mutate(&files[1].1, random),
        _ => {}
    }
    files.push(("model.safetensors.index.json".to_owned(), json::mutate(&index, &[], random)));
    Ok(read_model(random).model(files))
}

/// The commands that read a tokenizer.
fn read_tokenizer(random: &mut Random) -> Mutant {
    let command = match random.below(4) {
        0 => "compile in/model -o out/x.plan",
        1 => "eval in/model --text in/text.txt",
        _ => "generate in/model --max-tokens 4 --json --prompt",
    };
    let command_with = Mutant::command(command);
    let text = random.word(&["the sea", "", "\u{1f600} é\u{301} ½", "<|eos|><|bos|>", "a\tb\n\nc   d"]);
    let command = match command.ends_with("--prompt") {
        true => command_with.args([text]),
        false => command_with.file("text.txt", format!("{text} once upon a time there was").into_bytes()),
    };
    command.args(BOUNDS.split(' '))
}

fn tokenizer(maker: &mut Maker) -> Result<Mutant, String> {
    let Maker { corpus, random, .. } = maker;
    let mut files = corpus.model_with_tokenizer()?;
    let which = if random.once_in(6) { 3 } else { 2 };
    files[which].1 = json::mutate(&parse(&files[which].1)?, &tokenizer_parts()?, random);
    Ok(read_tokenizer(random).model(files))
}

/// Tokenizer components of other models: each can replace any other.
fn tokenizer_parts() -> Result<Vec<Value>, String> {
    const PARTS: [&str; 9] = [
        r#"{"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]}}"#,
        r#"{"normalizer": {"type": "Replace", "pattern": {"Regex": "(a|a)*b"}, "content": "aaaaaaaaaaaaaaaa"}}"#,
        r#"{"normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "xxxxxxxx"}}"#,
        r#"{"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAAAAAA"}}"#,
        r#"{"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(?:x+x+)+y"}, "behavior": "Isolated", "invert": true}}"#,
        r#"{"pre_tokenizer": {"type": "Metaspace", "replacement": "", "prepend_scheme": "always"}}"#,
        r#"{"truncation": {"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 9}}"#,
        r#"{"padding": {"strategy": {"Fixed": 4000000000}, "direction": "Left", "pad_to_multiple_of": 0, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "<pad>"}}"#,
        r#"{"model": {"type": "Unigram", "unk_id": 7, "vocab": [["", 0.0], ["a", -1e999]]}}"#,
    ];
    // strict readers refuse 1e999
    PARTS.iter().map(|part| parse(part.replace("1e999", "1e308").as_bytes())).collect()
}

fn generation_config(maker: &mut Maker) -> Result<Mutant, String> {
    let Maker { corpus, random, .. } = maker;
    let mut files = corpus.model_with_tokenizer()?;
    files[4].1 = json::mutate(&parse(&files[4].1)?, &corpus.configurations()?, random);
    Ok(read_model(random).model(files))
}

type Damage = fn(&super::plans::Fixture, &mut Maker) -> Result<Vec<u8>, String>;

fn plan(maker: &mut Maker, damage: Damage) -> Result<Mutant, String> {
    let fixture = maker.random.pick(maker.corpus.plans()?);
    let bytes = damage(fixture, maker)?;
    let command = match maker.random.below(if fixture.on_cpu { 16 } else { 10 }) {
        0 => "plan dump in/x.plan",
        1 => "inspect in/x.plan",
        2 => "inspect in/x.plan --memory",
        3 => "inspect in/x.plan --html out/x.html",
        4 => "inspect in/x.plan --dot",
        5 => "inspect in/x.plan --precision",
        6 => "inspect in/x.plan --json",
        7 => "inspect in/other.plan --diff in/x.plan",
        8 => "bench in/x.plan --input-len 3 --output-len 2 --num-runs 1 --ceilings table",
        _ => "generate in/x.plan --prompt-ids 5,6,7,8,9,10,11,12,13 --max-tokens 3 --json",
    };
    let mutant = Mutant::command(command).file("x.plan", bytes);
    let compared = command.contains("in/other.plan");
    Ok(if compared { mutant.file("other.plan", fixture.bytes.clone()) } else { mutant })
}

fn texts(of: &[Text]) -> Vec<&str> {
    of.iter().map(|text| text.text.as_str()).collect()
}

fn graph(maker: &mut Maker) -> Result<Mutant, String> {
    let Maker { corpus, random, .. } = maker;
    let case = random.pick(&corpus.graphs);
    let damaged = text::mutate(&case.text, &texts(&corpus.graphs), random);
    // the passes of the case, if it is for some
    let words: Vec<&str> = case.text.lines().next().unwrap_or_default().split_whitespace().collect();
    let mutant = Mutant::command("opt in/x.ir").file("x.ir", damaged);
    Ok(match words[..] {
        [_, "test:", "pass", ref passes @ ..] if random.once_in(2) => mutant.args(["--pass", &passes.join(",")]),
        _ if random.once_in(8) => mutant.args(["--emit", "ir-after-change,passes"]),
        _ => mutant,
    })
}

fn rules(maker: &mut Maker) -> Result<Mutant, String> {
    let Maker { corpus, random, .. } = maker;
    let rules = random.pick(&corpus.rules);
    let damaged = text::mutate(&rules.text, &texts(&corpus.rules), random);
    let beside = |graph: &&Text| graph.path.parent() == rules.path.parent();
    let graphs: Vec<&Text> = corpus.graphs.iter().filter(beside).collect();
    let graph = if graphs.is_empty() { random.pick(&corpus.graphs) } else { *random.pick(&graphs) };
    if random.once_in(6) {
        let model = corpus.model(random.word(&SMALL))?;
        let command = format!("compile in/model -o out/x.plan --rewrites in/x.rules {BOUNDS}");
        return Ok(Mutant::command(&command).file("x.rules", damaged).model(model));
    }
    let mutant = Mutant::command("opt in/x.ir --rewrites in/x.rules").file("x.ir", graph.text.as_str());
    Ok(mutant.file("x.rules", damaged))
}

const MAPS: [&str; 3] = [
    "# by hand\nlayers.*.mlp.down  int8-weight  # where it hurts\nlayers.0.attn.*  fp8\nlm_head none\n",
    "model.layers.*.self_attn.qkv_proj fp8-block\nmodel.layers.1.mlp.gate_up_proj.weight int4\n*  int8-weight\n",
    "layers.0.mlp.gate  int4  # kl 8.81e-4; none 0.00e0, fp8 7.81e-5\nlayers.0.mlp.up  int4\nlayers.2.attn.o none\n",
];

fn precision_map(maker: &mut Maker) -> Result<Mutant, String> {
    let Maker { corpus, random, .. } = maker;
    let damaged = text::mutate(random.word(&MAPS), &MAPS, random);
    let command = match random.below(3) {
        0 => "quantize in/model -o out/quantized --precision-map in/x.map".to_owned(),
        _ => format!("compile in/model -o out/x.plan --precision-map in/x.map {BOUNDS}"),
    };
    Ok(Mutant::command(&command).file("x.map", damaged).model(corpus.model("oracle/llama-mha")?))
}

fn calibration(maker: &mut Maker) -> Result<Mutant, String> {
    let Maker { corpus, random, .. } = maker;
    let [sound, rows] = corpus.calibration()?;
    let (mut damaged, mut rows_damaged) = (sound.clone(), rows.clone());
    match random.below(4) {
        0 => rows_damaged = bytes::mutate(rows, random),
        1 => {
            let (header, data) = safetensors::split(rows)?;
            rows_damaged = safetensors::join(&json::mutate(&header, &[], random), data);
        }
        _ => damaged = json::mutate(&parse(sound)?, &[], random),
    }
    let command = match random.below(6) {
        0 => "inspect in/x.json".to_owned(),
        1 => "inspect in/x.json --html out/x.html".to_owned(),
        2 => "calibrate --merge in/sound.json in/x.json -o out/merged.json".to_owned(),
        chosen => {
            let precision = ["int8-smoothquant", "int4-awq", "int4-gptq --kv-precision int8"][chosen - 3];
            format!("compile in/model -o out/x.plan --calibration in/x.json --precision {precision} {BOUNDS}")
        }
    };
    let mutant = Mutant::command(&command).file("x.json", damaged).file("x.safetensors", rows_damaged);
    Ok(match command.split_whitespace().next() {
        Some("calibrate") => mutant.file("sound.json", sound.clone()).file("sound.safetensors", rows.clone()),
        Some("compile") => mutant.model(corpus.model_with_tokenizer()?),
        _ => mutant,
    })
}

fn timing_cache(maker: &mut Maker) -> Result<Mutant, String> {
    let Maker { corpus, random, .. } = maker;
    let damaged = json::mutate(&parse(corpus.timings()?)?, &[], random);
    let mode = random.word(&["read", "read", "require"]);
    let device = random.word(&["", "", "", "--timing-device abacus"]);
    let command =
        format!("compile in/model -o out/x.plan --timing-cache in/x.json --timing-cache-mode {mode} {device} {BOUNDS}");
    Ok(Mutant::command(&command).file("x.json", damaged).model(corpus.model(WITH_TOKENIZER)?))
}

const PROMPTS: [&str; 4] = ["the sea was calm", "<|bos|>Once upon <|eos|>", "5,6,7,8", "0, 319"];

fn prompt(maker: &mut Maker) -> Result<Mutant, String> {
    let Maker { corpus, random, .. } = maker;
    let sound = random.word(&PROMPTS);
    let damaged = text::mutate(sound, &PROMPTS, random);
    // limits of a command line: no zero bytes, at most 128 KiB
    let mut prompt = String::from_utf8_lossy(&damaged).replace('\0', "");
    prompt.truncate(prompt.floor_char_boundary(100_000));
    let option = if sound.starts_with(|c: char| c.is_ascii_digit()) { "--prompt-ids" } else { "--prompt" };
    let separate = random.once_in(2);
    let arg = if separate { vec![option.to_owned(), prompt] } else { vec![format!("{option}={prompt}")] };
    let command = format!("generate in/model --max-tokens 3 --json {BOUNDS}");
    Ok(Mutant::command(&command).args(arg).model(corpus.model_with_tokenizer()?))
}

fn read_text(maker: &mut Maker) -> Result<Mutant, String> {
    let Maker { corpus, random, .. } = maker;
    let held_out = corpus.file("models/demo/heldout.txt")?;
    let start = random.below(held_out.len() - 600);
    let sound = String::from_utf8_lossy(&held_out[start..start + 20 + random.below(500)]).into_owned();
    let calibrate = "-o out/c.json --samples 2 --max-len 16 --rows 4 --target cpu";
    let (command, damaged) = match random.below(4) {
        0 => (format!("calibrate in/model --text in/x.txt {calibrate}"), text::mutate(&sound, &[], random)),
        1 => {
            let line = |part: &[u8]| serde_json::json!({"text": String::from_utf8_lossy(part)}).to_string();
            let lines: Vec<String> = sound.as_bytes().chunks(90).map(line).collect();
            let damaged = match random.once_in(2) {
                true => text::mutate(&lines.join("\n"), &["{\"prompt\": \"a\"}", "[]"], random),
                false => [json::mutate(&parse(lines[0].as_bytes())?, &[], random), b"\n{\"text\": \"a b\"}\n".to_vec()]
                    .concat(),
            };
            (format!("calibrate in/model --dataset in/x.txt {calibrate}"), damaged)
        }
        2 => (
            format!("eval in/model --text in/x.txt {BOUNDS} --stride 3 --context 9"),
            text::mutate(&sound, &[], random),
        ),
        _ => (format!("eval in/model --text in/x.txt {BOUNDS} --json"), text::mutate(&sound, &[], random)),
    };
    // a longer text only takes longer
    let damaged = &damaged[..damaged.len().min(4096)];
    Ok(Mutant::command(&command).file("x.txt", damaged).model(corpus.model_with_tokenizer()?))
}

/// Numeric options, each with a valid value.
const OPTIONS: [(&str, &str); 17] = [
    ("compile in/model --dry-run --target cpu", "--max-batch-size 2"),
    ("compile in/model --dry-run --target cpu", "--max-seq-len 64"),
    ("compile in/model --dry-run --target cpu", "--max-input-len 64"),
    ("compile in/model --dry-run --target cpu", "--max-output-len 64"),
    ("compile in/model --dry-run --target cpu", "--max-num-tokens 64"),
    ("compile in/model --dry-run --target cpu", "--kv-cache 1MiB"),
    ("compile in/model --dry-run --target cpu", "--workspace-size 1MiB"),
    ("compile in/model --dry-run --target cpu", "--opt-bisect-limit 3"),
    ("compile in/model -o out/x.plan --target cpu --gate-text in/text.txt", "--gate perplexity<+1%,kl<0.02"),
    ("generate in/model --target cpu --prompt-ids 1 --json", "--max-tokens 3"),
    ("generate in/model --target cpu --prompt-ids 1 --json --max-tokens 1", "--threads 2"),
    ("bench in/model --target cpu --ceilings table --num-runs 1 --output-len 1", "--input-len 3"),
    ("bench in/model --target cpu --ceilings table --input-len 1 --num-runs 1", "--output-len 2"),
    ("bench in/model --target cpu --ceilings table --input-len 1 --num-runs 1 --output-len 1", "--batch-sizes 2"),
    ("eval in/model --target cpu --text in/text.txt", "--context 8"),
    ("eval in/model --target cpu --text in/text.txt", "--stride 8"),
    ("calibrate in/model --target cpu --text in/text.txt -o out/c.json --samples 1 --rows 1", "--max-len 8"),
];

fn options(maker: &mut Maker) -> Result<Mutant, String> {
    let Maker { corpus, random, .. } = maker;
    let (command, option) = random.pick(&OPTIONS);
    let (name, value) = option.split_once(' ').unwrap_or((option, ""));
    let value = match random.below(3) {
        0 => String::from_utf8_lossy(&text::mutate(value, &[], random)).replace('\0', ""),
        1 => [random.word(&text::NUMBERS), random.word(&["", "", "GiB", "k", "%"])].concat(),
        _ => (1u64 << random.below(64)).to_string(),
    };
    let value: String = value.chars().take(100_000).collect();
    let mutant = Mutant::command(command).args([format!("{name}={value}")]);
    Ok(mutant.file("text.txt", &b"once upon a time"[..]).model(corpus.model_with_tokenizer()?))
}

/// Something other than a regular file instead of an input.
fn special_file(maker: &mut Maker) -> Result<Mutant, String> {
    let makers = [header, index, tokenizer, graph, rules, precision_map, calibration, timing_cache, read_text];
    let mut mutant = maker.random.pick(&makers)(maker)?;
    let content = match maker.random.below(8) {
        0 | 1 => Content::Folder,
        2 => Content::Bytes(Vec::new()),
        3 => Content::Link("nowhere".into()),
        4 => Content::Link("/dev/zero".into()),
        5 => Content::Link("/dev/null".into()),
        6 => Content::Link("/proc/self/mem".into()),
        _ => Content::Pipe,
    };
    let at = maker.random.below(mutant.files.len());
    mutant.files[at].1 = content;
    Ok(mutant)
}
