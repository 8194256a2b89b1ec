//! `// test: cuda TARGET KERNELS…`: the units of a graph's kernels, or of those that are named, before their includes are
//! flattened. `nvrtc` compiles all units of the same cases, if NVRTC is available.

use super::target;
use crate::{Case, Command, Outcome, Suite, device, lower};

pub struct Cuda;

impl Command for Cuda {
    fn name(&self) -> &'static str {
        "cuda"
    }

    fn run(&self, suite: &Suite, case: &Case) -> Result<Outcome, String> {
        let target = match target(case) {
            Ok(target) => target,
            Err(skipped) => return Ok(skipped),
        };
        let (graph, weights, _) = suite.fused(case)?;
        let lowered = lower(&suite.driver, &graph, target, &weights, 1)?;
        of_kernels(&lowered.selection().print_units(), &case.args[1..]).map(Outcome::Text)
    }
}

/// The units that define one of these kernels, or all if none is named.
fn of_kernels(units: &str, kernels: &[String]) -> Result<String, String> {
    const BETWEEN: &str = "}\n\n// ";
    let defines = |unit: &str, kernel: &String| unit.contains(&format!("\n{kernel}("));
    if let Some(unknown) = kernels.iter().find(|kernel| !defines(units, kernel)) {
        return Err(format!("no unit defines `{unknown}`"));
    }
    let wanted = |unit: &&str| kernels.is_empty() || kernels.iter().any(|kernel| defines(unit, kernel));
    let shown: Vec<&str> = units.split(BETWEEN).filter(wanted).collect();
    let text = shown.join(BETWEEN);
    // the first and the last one lost their ends to the split
    let (start, end) =
        (if text.starts_with("//") { "" } else { "// " }, if text.ends_with("}\n") { "" } else { "}\n" });
    Ok(format!("{start}{text}{end}"))
}

pub struct Nvrtc;

impl Command for Nvrtc {
    fn name(&self) -> &'static str {
        "nvrtc"
    }

    fn takes(&self, _: &Suite, case: &Case) -> bool {
        case.command == "cuda"
    }

    fn run(&self, suite: &Suite, case: &Case) -> Result<Outcome, String> {
        let target = match target(case) {
            Ok(target) => target,
            Err(skipped) => return Ok(skipped),
        };
        let compiler = match device::compiler() {
            Ok(compiler) => compiler,
            Err(reason) => return Ok(Outcome::Skipped(reason)),
        };
        let (graph, weights, _) = suite.fused(case)?;
        let mut lowered = lower(&suite.driver, &graph, target, &weights, 1)?;
        let built = lowered.compile(&compiler).map_err(|error| error.to_string())?;
        match built.into_iter().find_map(|built| built.slow) {
            Some(reason) => Err(format!("a kernel would be slow: {reason}")),
            None => Ok(Outcome::Passed),
        }
    }
}
