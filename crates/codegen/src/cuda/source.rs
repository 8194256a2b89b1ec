//! The files of `kernels/`, which are embedded in the program, and units made of them.

use std::collections::BTreeSet;
use std::fmt::Write;

/// Every file of `kernels/` that a unit may include, by its path below that folder.
pub const KERNEL_FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/kernel_files.rs"));

/// A file that units may include besides those of `kernels/`. It may include those, and its own further files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    /// Its name in `#include` and in messages of the compiler.
    pub path: &'static str,
    /// The file.
    pub text: &'static str,
}

/// The unit with every include replaced once by the file, with `#line` directives: it compiles on its own, and messages
/// point into `kernels/` and the headers.
pub fn flatten(unit: &str, headers: &[Header]) -> String {
    let mut flat = Flat { out: String::new(), seen: BTreeSet::new(), headers };
    flat.append("unit.cu", unit);
    flat.out
}

/// A unit being flattened.
struct Flat<'a> {
    out: String,
    seen: BTreeSet<&'static str>,
    headers: &'a [Header],
}

impl Flat<'_> {
    fn append(&mut self, name: &str, text: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.out, "#line 1 \"{name}\"");
        for (number, line) in (1..).zip(text.lines()) {
            let included = line.strip_prefix("#include \"").and_then(|rest| rest.strip_suffix('"'));
            match included.and_then(|path| self.find(path)) {
                Some((header, name_below)) => {
                    if self.seen.insert(header.path) {
                        self.append(&name_below, header.text);
                        let _ = writeln!(self.out, "#line {} \"{name}\"", number + 1);
                    } else {
                        self.out.push('\n');
                    }
                }
                None if line == "#pragma once" => self.out.push('\n'),
                // an unknown include is left for the compiler to report, at its line
                None => drop(writeln!(self.out, "{line}")),
            }
        }
    }

    /// The file of an include, and its name in messages.
    fn find(&self, path: &str) -> Option<(Header, String)> {
        let brought = self.headers.iter().find(|header| header.path == path);
        let brought = brought.map(|header| (*header, header.path.to_owned()));
        brought.or_else(|| {
            let &(path, text) = KERNEL_FILES.iter().find(|(known, _)| *known == path)?;
            Some((Header { path, text }, format!("kernels/{path}")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn includes_are_pasted_once() {
        let text = flatten("#include \"ptx/griddep.cuh\"\n#include \"ptx/griddep.cuh\"\nint x;\n", &[]);
        assert_eq!(text.matches("griddepcontrol_wait()").count(), 1);
        assert!(!text.contains("#include") && !text.contains("#pragma once"));
        assert!(text.starts_with("#line 1 \"unit.cu\"\n#line 1 \"kernels/ptx/griddep.cuh\"\n"));
        assert!(text.ends_with("#line 2 \"unit.cu\"\n\nint x;\n"));
    }

    #[test]
    fn headers_come_with_a_unit_and_keep_their_names() {
        let header = |path, text| Header { path, text };
        let headers = [header("mine/a.cuh", "#include \"mine/b.cuh\"\nint a;\n"), header("mine/b.cuh", "int b;\n")];
        let text = flatten("#include \"mine/a.cuh\"\n#include \"mine/c.cuh\"\n", &headers);
        assert_eq!(
            text,
            "#line 1 \"unit.cu\"\n#line 1 \"mine/a.cuh\"\n#line 1 \"mine/b.cuh\"\nint b;\n\
             #line 2 \"mine/a.cuh\"\nint a;\n#line 2 \"unit.cu\"\n#include \"mine/c.cuh\"\n"
        );
    }
}
