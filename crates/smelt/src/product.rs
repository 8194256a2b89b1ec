//! A product alone: the graph of one linear, as passes leave it, and the kernels for it. For those who want to know what
//! it takes.

use codegen::{Catalog, CodegenError, ProgramShape, Selection, select};
use ir::ops::{Cast, Linear};
use ir::{DType, DerivedWeights, Graph, NoWeights, Op, TensorType};
use passes::quantize::{Format, Layers};
use passes::{PassContext, PassManager, Silent};
use plan::ProgramKind;

use crate::{Driver, Error, precision};

/// What is multiplied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product {
    /// Rows of activations.
    pub rows: u64,
    /// Rows of the weight.
    pub outputs: u64,
    /// Columns of both.
    pub inputs: u64,
    /// Dtype of the activations.
    pub activations: DType,
    /// Dtype of the weight, before it gets its format.
    pub weights: DType,
    /// Dtype of the result, where it is not that of the activations.
    pub to: Option<DType>,
    /// Codes of the weight.
    pub format: Option<Format>,
    /// Whether an op makes the activations: kernels for many rows do not take what the caller of a program gives.
    pub made: bool,
}

impl Product {
    /// The linear, with what makes codes of its activations, where the format has some.
    pub fn graph(&self, driver: &Driver) -> Result<Graph, Error> {
        let mut graph = Graph::new("product", Vec::new(), Vec::new());
        let given = if self.made { DType::F32 } else { self.activations };
        let mut x = graph.add_input("x", TensorType::new(given, [self.rows, self.inputs]));
        if given != self.activations {
            let cast = graph.add(Op::new(Cast { to: self.activations }), &[x], &["cast"]);
            x = graph.result(cast.map_err(frontend::ImportError::from)?);
        }
        let weight = graph.add_constant("weight", TensorType::new(self.weights, [self.outputs, self.inputs]));
        let linear = graph.add(Op::new(Linear { to: self.to }), &[x, weight], &["y"]);
        let y = graph.result(linear.map_err(frontend::ImportError::from)?);
        graph.add_output("y", y);
        let layers = Layers::Named(["y".to_owned()].into());
        let passes = self.format.map(|format| format.nearest(layers)).into_iter().collect();
        let pipeline = precision::quantizing(driver.pipeline(), passes);
        let weights = DerivedWeights::over(&NoWeights);
        let ran = PassManager::default().run(&pipeline, &mut graph, &PassContext::new(&weights), &mut Silent);
        ran.map_err(|failure| driver.pass_failed(failure))?;
        Ok(graph)
    }
}

/// The kernels of a graph of fixed sizes, and its program.
pub(crate) fn select_fixed(
    graph: &Graph,
    catalog: &Catalog,
    target: &str,
) -> Result<(Selection, [ProgramShape; 1]), Error> {
    let programs = [ProgramShape {
        name: "product".to_owned(),
        kind: ProgramKind::Decode,
        replacements: Default::default(),
        symbols: Vec::new(),
    }];
    let selection = select(graph, catalog, &programs);
    let selection = selection.map_err(|problems| CodegenError::NoKernel { target: target.to_owned(), problems })?;
    Ok((selection, programs))
}
