//! The CUDA C of a plan's kernels, taken apart at its `#line` marks, so that a file which many kernels include is kept
//! once.

use std::collections::HashMap;

use smelt::plans::Kernel;

/// The sources of all kernels.
#[derive(Default)]
pub struct Sources<'a> {
    /// Distinct files: name and text.
    pub files: Vec<(&'a str, String)>,
    /// For each kernel with code, the files that it is made of, the unit first.
    pub kernels: Vec<Vec<usize>>,
    known: HashMap<(&'a str, String), usize>,
}

impl<'a> Sources<'a> {
    pub fn of(kernels: &'a [Kernel]) -> Sources<'a> {
        let mut sources = Sources::default();
        for kernel in kernels {
            let files = kernel.code.as_ref().map_or_else(Vec::new, |code| split(&code.source));
            let indices = files.into_iter().map(|file| sources.intern(file)).collect();
            sources.kernels.push(indices);
        }
        sources
    }

    fn intern(&mut self, file: (&'a str, String)) -> usize {
        *self.known.entry(file).or_insert_with_key(|file| {
            self.files.push(file.clone());
            self.files.len() - 1
        })
    }
}

/// A flattened unit as the files that it was made of, in order of their first line. Text without marks is one unit.
fn split(source: &str) -> Vec<(&str, String)> {
    let mut files: Vec<(&str, String)> = Vec::new();
    let mut known: HashMap<&str, usize> = HashMap::new();
    let mut current = 0;
    for line in source.lines() {
        let mark = line.strip_prefix("#line ").and_then(|rest| rest.split_once(" \"")?.1.strip_suffix('"'));
        if let Some(name) = mark.or(files.is_empty().then_some("unit.cu")) {
            current = *known.entry(name).or_insert_with(|| {
                files.push((name, String::new()));
                files.len() - 1
            });
        }
        // where another file was included, an empty line may be left
        let text = &mut files[current].1;
        if mark.is_none() && !(line.is_empty() && text.ends_with("\n\n")) {
            *text += line;
            text.push('\n');
        }
    }
    files.iter_mut().for_each(|(_, text)| *text = text.trim_matches('\n').to_owned() + "\n");
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_put_together_again() {
        let source = "#line 1 \"unit.cu\"\n#line 1 \"a.cuh\"\na1\n#line 1 \"b.cuh\"\nb1\n#line 3 \"a.cuh\"\na3\n\
                      #line 2 \"unit.cu\"\nmain\n";
        let files = [("unit.cu", "main\n"), ("a.cuh", "a1\na3\n"), ("b.cuh", "b1\n")];
        assert_eq!(split(source), files.map(|(name, text)| (name, text.to_owned())));
        assert_eq!(split("int x;\n#line 7\n"), [("unit.cu", "int x;\n#line 7\n".to_owned())]);
        assert_eq!(split(""), []);
    }
}
