//! A formula as a functor in CUDA C, over one element of each operand: the only place where CUDA C comes from the
//! graph.

use std::fmt::Write;

use plan::{Apply, Formula, Term};

use super::body::c_float;

/// The struct `Formula`, with one line per step.
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
