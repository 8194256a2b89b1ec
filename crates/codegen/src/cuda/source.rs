//! The files of `kernels/`, which travel inside the program, and units made of them.

use std::collections::BTreeSet;
use std::fmt::Write;

macro_rules! kernel_files {
    ($($path:literal),* $(,)?) => {
        /// Every file of `kernels/` that a unit may include, by its path below that folder.
        pub const KERNEL_FILES: &[(&str, &str)] =
            &[$(($path, include_str!(concat!("../../../../kernels/", $path)))),*];
    };
}

kernel_files![
    "attention/decode.cuh",
    "attention/paged.cuh",
    "attention/plain.cuh",
    "attention/prefill.cuh",
    "common/body.cuh",
    "common/cache.cuh",
    "common/reduce.cuh",
    "common/scalar.cuh",
    "common/silu.cuh",
    "common/sincos.cuh",
    "common/tiled.cuh",
    "common/types.cuh",
    "linear/plain.cuh",
    "linear/skinny.cuh",
    "linear/wgmma.cuh",
    "norm/rms_norm.cuh",
    "ptx/bulk.cuh",
    "ptx/cluster.cuh",
    "ptx/convert.cuh",
    "ptx/ex2.cuh",
    "ptx/griddep.cuh",
    "ptx/load.cuh",
    "ptx/mbarrier.cuh",
    "ptx/mma.cuh",
    "ptx/stmatrix.cuh",
    "ptx/wgmma.cuh",
    "rope/rope.cuh",
    "rows/elementwise.cuh",
    "rows/embedding.cuh",
    "rows/fill_random.cuh",
    "rows/map.cuh",
    "rows/split.cuh",
    "sampling/argmax.cuh",
];

/// The unit with every include replaced by the file, once, between `#line` marks: it compiles on its own, and messages
/// point into `kernels/`.
pub fn flatten(unit: &str) -> String {
    let mut out = String::new();
    let mut seen = BTreeSet::new();
    append(&mut out, &mut seen, "unit.cu", unit);
    out
}

fn append(out: &mut String, seen: &mut BTreeSet<&'static str>, name: &str, text: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "#line 1 \"{name}\"");
    for (number, line) in (1..).zip(text.lines()) {
        let included = line.strip_prefix("#include \"").and_then(|rest| rest.strip_suffix('"'));
        match included.map(|path| KERNEL_FILES.iter().find(|(known, _)| *known == path).ok_or(path)) {
            Some(Ok((path, text))) => {
                if seen.insert(path) {
                    append(out, seen, &format!("kernels/{path}"), text);
                    let _ = writeln!(out, "#line {} \"{name}\"", number + 1);
                } else {
                    out.push('\n');
                }
            }
            // what is not ours is left for the compiler to refuse, at its line
            Some(Err(_)) => drop(writeln!(out, "{line}")),
            None if line == "#pragma once" => out.push('\n'),
            None => drop(writeln!(out, "{line}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_folder_is_known() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernels");
        let mut found = Vec::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("the folder is there") {
                let path = entry.expect("an entry").path();
                match path.is_dir() {
                    true => folders.push(path),
                    false if path.extension().is_some_and(|extension| extension == "cuh") => {
                        found.push(path.strip_prefix(&root).expect("below").to_string_lossy().into_owned());
                    }
                    false => {}
                }
            }
        }
        found.sort();
        let known: Vec<&str> = KERNEL_FILES.iter().map(|(path, _)| *path).collect();
        assert_eq!(found, known);
    }

    #[test]
    fn includes_are_pasted_once() {
        let text = flatten("#include \"ptx/griddep.cuh\"\n#include \"ptx/griddep.cuh\"\nint x;\n");
        assert_eq!(text.matches("griddepcontrol_wait()").count(), 1);
        assert!(!text.contains("#include") && !text.contains("#pragma once"));
        assert!(text.starts_with("#line 1 \"unit.cu\"\n#line 1 \"kernels/ptx/griddep.cuh\"\n"));
        assert!(text.ends_with("#line 2 \"unit.cu\"\n\nint x;\n"));
    }
}
