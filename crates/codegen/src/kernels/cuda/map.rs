//! `kernels/rows/map.cuh`: elementwise regions. The formula is printed as a functor, the only place where CUDA C comes
//! from the graph.

use std::fmt::Write;

use ir::Formula;
use plan::{Apply, Term};

use super::body::{Body, c_float, c_type};
use super::rows::{BLOCK_ELEMENTS, THREADS};
use super::{row_count, width};
use crate::{Call, Refusal, Site};

pub(super) fn map(site: &Site<'_>) -> Result<Call, Refusal> {
    let formula = site.graph.formula(site.op).ok_or(Refusal::OtherOp)?;
    let (rows, cols) = (row_count(site)?, width(site)?);
    let rank = site.result_type()?.shape.len();
    let mut inputs = Vec::new();
    for operand in site.graph.operands(site.op) {
        let ty = site.tensor(operand)?;
        let reach = if ty.shape.len() < rank { "Row" } else { "Full" };
        inputs.push(format!("smelt::{reach}<{}>", c_type(ty.dtype)));
    }
    let outputs: Vec<&str> = formula.stores().iter().map(|store| c_type(store.dtype)).collect();
    let (outputs, inputs) = (outputs.join(", "), inputs.join(", "));
    let instance = format!("Map<Formula, {cols}, smelt::Outputs<{outputs}>, smelt::Inputs<{inputs}>>");
    let grid = (rows.clone() * cols.into()).ceil_div(BLOCK_ELEMENTS);
    let mut body = Body::new("map", "rows/map.cuh", instance, THREADS, grid);
    (body.outputs_in_array, body.inputs_in_array) = (true, true);
    body.preamble = functor(&formula);
    Ok(body.scalar("rows", rows).call(site)?.text("f", formula.to_string()))
}

/// The formula over one element of each operand, one line per step.
pub(super) fn functor(formula: &Formula) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "// {formula}\nstruct Formula {{");
    let _ = writeln!(text, "  static __device__ __forceinline__ void of(const float* x, float* y) {{");
    for (index, Apply { function, args }) in formula.steps().iter().enumerate() {
        let args: Vec<String> = args.iter().map(|arg| term(*arg)).collect();
        let _ = writeln!(text, "    const float v{index} = smelt::scalar::{}({});", function.name(), args.join(", "));
    }
    for (index, store) in formula.stores().iter().enumerate() {
        let _ = writeln!(text, "    y[{index}] = {};", term(store.value));
    }
    let _ = writeln!(text, "  }}\n}};\n");
    text
}

fn term(term: Term) -> String {
    match term {
        Term::Input(index) => format!("x[{index}]"),
        Term::Step(index) => format!("v{index}"),
        Term::Number(value) => c_float(value),
    }
}

#[cfg(test)]
mod tests {
    use plan::ScalarFn;

    use crate::cuda::KERNEL_FILES;

    #[test]
    fn every_function_has_a_form_in_cuda() {
        let file = KERNEL_FILES.iter().find(|(path, _)| *path == "common/scalar.cuh").map_or("", |(_, text)| *text);
        for function in ScalarFn::ALL {
            assert!(file.contains(&format!("float {}(", function.name())), "`{}`", function.name());
        }
    }
}
