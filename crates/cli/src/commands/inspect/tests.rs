//! The page of a small plan with hostile contents.

use smelt::plans::{
    Arg, Code, Input, Kernel, KvGroup, Launch, Layout, Limits, Machine, Model, Param, Port, ProgramKind, Scalar,
    Symbol, SymbolDecl, TextFile, Weight, WeightData, Work,
};
use smelt::{Buffer, DType, Plan, Program, Step};

use super::page::{Subject, page};
use super::view::View;
use super::{dot, source};

const HOSTILE: &str = "<script src='//evil'>\"&\u{1b}";

/// Two equal layers, and a launch after them.
fn plan() -> Plan {
    let linear = |layer: u32| {
        let name = |value: &str| format!("layers.{layer}.{value}");
        let ir = format!("%{} = linear %x.{layer}, %{} : bf16[T, 256]", name("y"), name("w"));
        Step::Launch(Launch {
            kernel: 0,
            site: name("y"),
            inputs: vec![Arg::Buffer(layer), Arg::Weight(layer), Arg::Kv { group: 0, layer: 0 }],
            outputs: vec![Arg::Buffer(layer + 1)],
            maps: Vec::new(),
            scalars: Vec::new(),
            grid: 8.into(),
            ir,
            work: Work {
                flops: (2 * 256 * 256).into(),
                read: "512 * context + 131584".parse().unwrap(),
                written: 512.into(),
            },
        })
    };
    let last = Step::Launch(Launch {
        kernel: 1,
        site: HOSTILE.to_owned(),
        inputs: vec![Arg::Buffer(2)],
        outputs: vec![Arg::Buffer(3)],
        maps: Vec::new(),
        scalars: Vec::new(),
        grid: 1.into(),
        ir: format!("%last = {HOSTILE}\" %x : bf16[T, 256]"),
        work: Work { flops: 256.into(), read: 512.into(), written: 512.into() },
    });
    let buffer = |index: u32| Buffer {
        name: format!("b.{index}.{HOSTILE}"),
        dtype: DType::BF16,
        shape: vec![1.into(), 256.into()],
        offset: u64::from(index % 2) * 512,
        bytes: 512,
        live: (index.saturating_sub(1), index),
    };
    let weight = |layer: u32| Weight {
        name: format!("layers.{layer}.w"),
        dtype: DType::BF16,
        shape: vec![256, 256],
        layout: Layout::Tiled,
        data: WeightData::Stored { offset: 0 },
    };
    let source =
        format!("#line 1 \"unit.cu\"\n#line 1 \"a.cuh\"\nint a; // {HOSTILE}\n#line 2 \"unit.cu\"\nint unit;\n");
    let code = || Some(Code { source: source.clone(), cubin: vec![0; 100], threads: 256, shared_bytes: 1024 });
    let width = Param { name: "n".to_owned(), value: Scalar::Int(256) };
    let word = Param { name: HOSTILE.to_owned(), value: Scalar::Text(HOSTILE.to_owned()) };
    Plan {
        target: "sm_90a".to_owned(),
        model: Model {
            architecture: format!("Tiny{HOSTILE}"),
            vocab_size: 256,
            parameters: 131_072,
            bos: None,
            eos: vec![0],
        },
        limits: Limits { max_batch_size: 1, max_input_len: 64, max_seq_len: 64, max_num_tokens: 1, max_logit_rows: 1 },
        weights: vec![weight(0), weight(1)],
        kv: vec![KvGroup { dtype: DType::BF16, layers: 1, kv_heads: 1, head_dim: 64, block_tokens: 64, blocks: 1 }],
        kernels: vec![
            Kernel { name: "linear_skinny".to_owned(), params: vec![width], code: code() },
            Kernel { name: HOSTILE.to_owned(), params: vec![word], code: code() },
        ],
        programs: vec![Program {
            name: "decode@1".to_owned(),
            kind: ProgramKind::Decode,
            symbols: vec![SymbolDecl { symbol: Symbol::new("T").unwrap(), min: 1, max: 1 }],
            buffers: (0..4).map(buffer).collect(),
            arena_bytes: 1024,
            inputs: vec![Port { name: HOSTILE.to_owned(), buffer: 0 }],
            outputs: vec![Port { name: "logits".to_owned(), buffer: 3 }],
            steps: vec![linear(0), linear(1), last],
        }],
        files: vec![TextFile { name: "tokenizer.json".to_owned(), bytes: vec![0; 10] }],
        config: vec![(HOSTILE.to_owned(), HOSTILE.to_owned())],
        inputs: vec![Input { name: HOSTILE.to_owned(), bytes: 10, hash: [7; 32] }],
        world_size: 1,
    }
}

fn view(plan: &Plan) -> View<'_> {
    View::of(plan, &plan.programs[0], Machine::H200, 64).unwrap_or_else(|_| panic!("the work has values"))
}

#[test]
fn a_page_needs_nothing_else_and_believes_nothing() {
    let plan = plan();
    let html = page(&Subject { plan: &plan, name: format!("tiny{HOSTILE}"), views: vec![view(&plan)], context: 64 });
    for forbidden in ["http://", "https://", "<script", "src=\"", "src='", "@import", "url(", "\u{1b}"] {
        assert!(!html.contains(forbidden), "the page has `{forbidden}`");
    }
    assert!(html.contains("layers 0–1, identical"));
    let (head, rest) = html.split_once("<style>").unwrap();
    let (_, body) = rest.split_once("</style>").unwrap();
    insta::assert_snapshot!("page", format!("{head}{body}"));
}

#[test]
fn graphviz_reads_every_name() {
    let plan = plan();
    insta::assert_snapshot!("dot", dot::dot(&view(&plan)));
}

#[test]
fn a_file_of_two_kernels_is_kept_once() {
    let plan = plan();
    let sources = source::Sources::of(&plan.kernels);
    assert_eq!((sources.files.len(), sources.kernels.len()), (2, 2));
    assert_eq!(sources.kernels[0], sources.kernels[1]);
}
