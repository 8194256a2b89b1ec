//! The contents of a driver, as lists for people and programs: the pipeline of passes, ops, kernels.

use codegen::Target;
use ir::OpClass;
use passes::pipeline::Entry;
use passes::{Numerics, Pass, Slot};
use serde::Serialize;

use crate::Driver;

/// Passes, ops and kernels of a driver.
#[derive(Clone, Debug, Serialize)]
pub struct Parts {
    /// Version of these fields.
    pub schema_version: u32,
    /// The pipeline that `compile` runs.
    pub pipeline: Vec<PipelineEntry>,
    /// Passes of the command line.
    pub passes: Vec<PassPart>,
    /// Ops of the graph text.
    pub ops: Vec<OpPart>,
    /// Kernels of all targets, by target in order of preference.
    pub kernels: Vec<KernelPart>,
}

/// A line of the pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PipelineEntry {
    /// The pass of this name runs.
    Pass(String),
    /// The graph must be legal at the stage of this name from here on.
    Stage(String),
    /// User passes of the slot of this name run before this line.
    Slot(String),
}

/// A pass.
#[derive(Clone, Debug, Serialize)]
pub struct PassPart {
    /// Its name.
    pub name: String,
    /// Its description in one sentence.
    pub summary: String,
    /// Effect on values: `exact`, `rounding` or `different`.
    pub numerics: String,
    /// Whether it is required.
    pub required: bool,
}

/// An op.
#[derive(Clone, Debug, Serialize)]
pub struct OpPart {
    /// Its name.
    pub name: String,
    /// Names of the required operands.
    pub operands: Vec<String>,
    /// Names of the optional operands.
    pub optional_operands: Vec<String>,
    /// Name of the variadic operands.
    pub rest: Option<String>,
    /// Its attributes.
    pub attrs: Vec<AttrPart>,
    /// How results depend on operands: `elementwise`, `matmul` and so on.
    pub class: String,
    /// The documentation of its declaration.
    pub doc: String,
}

/// An attribute of an op.
#[derive(Clone, Debug, Serialize)]
pub struct AttrPart {
    /// Its name.
    pub name: String,
    /// Its type in Rust.
    #[serde(rename = "type")]
    pub ty: String,
}

/// A kernel.
#[derive(Clone, Debug, Serialize)]
pub struct KernelPart {
    /// Name of its target.
    pub target: String,
    /// Its name.
    pub name: String,
    /// Names of its ops.
    pub ops: Vec<String>,
    /// The file with its code.
    pub file: String,
}

impl Driver {
    /// The contents.
    pub fn parts(&self) -> Parts {
        let pipeline = self.pipeline();
        let kernels = Target::ALL.into_iter().flat_map(|target| {
            let catalog = self.catalog(target);
            let part = |kernel: &dyn codegen::Kernel| KernelPart {
                target: target.name().to_owned(),
                name: kernel.name().to_owned(),
                ops: owned(kernel.about().ops),
                file: kernel.about().file.to_owned(),
            };
            catalog.iter().map(part).collect::<Vec<_>>()
        });
        Parts {
            schema_version: 1,
            pipeline: pipeline.entries().iter().map(entry).collect(),
            passes: self.passes().iter().map(|each| pass(each.as_ref())).collect(),
            ops: self.ops().iter().map(op).collect(),
            kernels: kernels.collect(),
        }
    }
}

fn entry(entry: &Entry) -> PipelineEntry {
    match entry {
        Entry::Pass(pass) => PipelineEntry::Pass(pass.name().into_owned()),
        Entry::Reach(stage) => PipelineEntry::Stage(stage.name().to_owned()),
        Entry::Slot(slot) => PipelineEntry::Slot(
            match slot {
                Slot::AfterImport => "AfterImport",
                Slot::BeforeFusion => "BeforeFusion",
                Slot::AfterFusion => "AfterFusion",
            }
            .to_owned(),
        ),
    }
}

fn pass(pass: &dyn Pass) -> PassPart {
    let numerics = match pass.numerics() {
        Numerics::Exact => "exact".to_owned(),
        Numerics::Rounding => "rounding".to_owned(),
        Numerics::Quantizing { percent } => format!("within {percent} %"),
        Numerics::Different => "different".to_owned(),
    };
    let (name, summary) = (pass.name().into_owned(), pass.summary().to_owned());
    PassPart { name, summary, numerics, required: pass.required() }
}

fn op(info: &ir::OpInfo) -> OpPart {
    let class = match info.class {
        OpClass::Source => "source",
        OpClass::Elementwise => "elementwise",
        OpClass::Reduction => "reduction",
        OpClass::Matmul => "matmul",
        OpClass::Movement => "movement",
        OpClass::State => "state",
    };
    let attr = |attr: &ir::AttrInfo| AttrPart { name: attr.name.to_owned(), ty: attr.ty.to_owned() };
    OpPart {
        name: info.mnemonic.to_owned(),
        operands: owned(info.operands.required),
        optional_operands: owned(info.operands.optional),
        rest: info.operands.rest.map(str::to_owned),
        attrs: info.attrs.iter().map(attr).collect(),
        class: class.to_owned(),
        doc: info.doc.lines().map(str::trim).collect::<Vec<_>>().join("\n"),
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}
