//! What code may name: dependencies with one home, input and output, leftovers. And words that texts avoid.

use crate::tree::{File, Tree};

/// A word, where it may stand, and in how many files.
const HOMES: &[(&str, &str, usize)] = &[
    ("petgraph", "crates/ir/src/", 1),
    ("bincode", "crates/plan/src/", 1),
    ("cudarc::nvrtc", "crates/codegen/src/", 1),
    ("cudarc::driver", "crates/runtime/src/cuda/", usize::MAX),
];

const IO: [&str; 5] = ["std::fs", "std::io", "std::env", "std::net", "std::process"];
const ENVIRONMENT: [&str; 3] = ["env::var", "env::var_os", "env::vars"];
const READING: [&str; 5] = ["File::open", "fs::read", "fs::read_to_string", "fs::copy", "Mmap::map"];
/// Where input files are opened and mapped, locks of unfinished files are tried, and the system says what memory is left.
const READERS: [&str; 4] = [
    "crates/plan/src/input.rs",
    "crates/plan/src/mapped.rs",
    "crates/plan/src/partial.rs",
    "crates/runtime/src/cpu/memory.rs",
];
const PRINTING: [&str; 4] = ["print!", "println!", "eprint!", "eprintln!"];
const LEFTOVERS: [&str; 7] = ["todo!", "unimplemented!", "dbg!", "#[ignore", "FIXME", "TODO", "XXX"];

/// Words for which the field has others, in how many lines of [`READ`] each set may be: where they mean something else.
const AVOIDED: [(&[&str], usize); 2] = [
    (&["behind"], 40),
    (&["foretell", "foretells", "foretold", "spoil", "spoils", "spoiled", "spoilt", "anew", "but for"], 5),
];
const READ: [&str; 5] = ["crates/", "docs/", "kernels/", "ARCHITECTURE.md", "README.md"];
/// Help texts are the doc comments of these files.
const HELP: [&str; 4] =
    ["crates/cli/src/args.rs", "crates/cli/src/emit.rs", "crates/cli/src/load.rs", "crates/cli/src/commands/"];

/// This file must spell what it looks for.
const THIS_FILE: &str = "xtask/src/tidy/words.rs";

/// A dependency that may be replaced is named in one place.
pub fn one_home(tree: &Tree) -> Vec<String> {
    let mut violations = Vec::new();
    for &(word, home, most) in HOMES {
        let sources = tree.with_extension("rs").filter(|file| !file.path.starts_with("xtask/"));
        let named: Vec<&str> =
            sources.filter(|file| names(&code(&file.text), word)).map(|file| file.path.as_str()).collect();
        let (inside, outside): (Vec<&str>, Vec<&str>) = named.into_iter().partition(|path| path.starts_with(home));
        violations.extend(outside.iter().map(|path| format!("{path} names `{word}`, which belongs below {home}")));
        if inside.len() > most {
            violations.push(format!("`{word}` is named in {}", inside.join(" and ")));
        }
    }
    violations
}

/// `ir` and `passes` do no I/O and read no environment.
pub fn no_io_in_passes(tree: &Tree) -> Vec<String> {
    let pure = |file: &&File| file.path.starts_with("crates/ir/") || file.path.starts_with("crates/passes/");
    refused(products(tree).filter(pure), &IO)
}

/// Only `cli` reads environment variables and prints.
pub fn only_cli_talks(tree: &Tree) -> Vec<String> {
    let quiet = |file: &&File| !file.path.starts_with("crates/cli/");
    refused(products(tree).filter(quiet), &[&ENVIRONMENT[..], &PRINTING].concat())
}

/// Input files are opened in one place, which refuses what is not a file and bounds what is read.
pub fn one_reader(tree: &Tree) -> Vec<String> {
    refused(products(tree).filter(|file| !READERS.contains(&file.path.as_str())), &READING)
}

/// Nothing is left unfinished in the tree. Cases may say FIXME, for they record what is wrong today; scripts below
/// `models/` look for such words in their corpus.
pub fn nothing_unfinished(tree: &Tree) -> Vec<String> {
    let files =
        ["rs", "cu", "cuh", "py", "sh", "toml"].into_iter().flat_map(|extension| tree.with_extension(extension));
    let mut violations = Vec::new();
    for file in files.filter(|file| file.path != THIS_FILE && !file.path.starts_with("models/")) {
        for (line, text) in (1..).zip(file.text.lines()) {
            let left = LEFTOVERS.iter().filter(|word| names(text, word));
            violations.extend(left.map(|word| format!("{}:{line} has `{word}`", file.path)));
        }
    }
    violations
}

/// Texts use the words of docs/glossary.md: others are few in prose and in names, and none is in help or errors.
pub fn plain_words(tree: &Tree) -> Vec<String> {
    let read = |file: &&File| READ.iter().any(|path| file.path.starts_with(path));
    let mut violations = Vec::new();
    for (words, most) in AVOIDED {
        let lines = tree.files.iter().filter(read).flat_map(|file| file.text.lines());
        let found = lines.filter(|line| has_word(line, words)).count();
        if found > most {
            violations.push(format!("{found} lines have {}, expected at most {most}", words.join(", ")));
        }
    }
    let words: Vec<&str> = AVOIDED.iter().flat_map(|(words, _)| words.iter().copied()).collect();
    for file in products(tree) {
        let help = HELP.iter().any(|path| file.path.starts_with(path));
        let product = file.text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        for (number, line) in (1..).zip(product.lines()) {
            let text = line.trim_start();
            let said = match text.starts_with("//") {
                true => help && text.starts_with("/// ") && has_word(text, &words),
                // every other piece between quotes is a string; a word alone is a name
                false => text.split('"').skip(1).step_by(2).any(|part| part.contains(' ') && has_word(part, &words)),
            };
            if said {
                violations.push(format!("{}:{number} says `{}`", file.path, text));
            }
        }
    }
    violations
}

/// Whether a text has one of these words, in any case.
fn has_word(text: &str, words: &[&str]) -> bool {
    let text = text.to_lowercase();
    words.iter().any(|word| names(&text, word))
}

/// Sources of our crates that end up in the product.
fn products(tree: &Tree) -> impl Iterator<Item = &File> {
    let product = |path: &str| path.starts_with("crates/") && path.contains("/src/") && !path.ends_with("/tests.rs");
    tree.with_extension("rs").filter(move |file| product(&file.path))
}

fn refused<'a>(files: impl Iterator<Item = &'a File>, words: &[&str]) -> Vec<String> {
    let mut violations = Vec::new();
    for file in files {
        // Test modules stand last in a file.
        let product = file.text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        let code = code(product);
        violations.extend(words.iter().filter(|w| names(&code, w)).map(|w| format!("{} names `{w}`", file.path)));
    }
    violations
}

/// The lines of a source that are not comments, with `use a::{b, c};` spelled out as `a::b a::c`.
fn code(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = lines.join("\n");
    let mut paths = Vec::new();
    for (start, _) in code.match_indices("use ") {
        if let Some((tree, _)) = code[start + 4..].split_once(';') {
            spell_out("", tree, &mut paths);
        }
    }
    code + "\n" + &paths.join("\n")
}

/// Appends the paths of an import tree such as `std::{fs, io::{self, Read}}`.
fn spell_out(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let mut depth = 0;
    let branches = tree.split(|c: char| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    for branch in branches {
        match branch.split_once('{') {
            Some((head, rest)) => {
                let rest = rest.trim_end();
                spell_out(&format!("{prefix}{}", head.trim()), rest.strip_suffix('}').unwrap_or(rest), paths);
            }
            None => paths.push(format!("{prefix}{}", branch.trim())),
        }
    }
}

/// Whether a word stands in a text as a word, not as part of a longer one.
pub(super) fn names(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(start, _)| {
        let before = text[..start].chars().next_back();
        let after = text[start + word.len()..].chars().next();
        let longer =
            word.starts_with(part) && before.is_some_and(part) || word.ends_with(part) && after.is_some_and(part);
        !longer
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_whole() {
        assert!(names("std::io::Read", "std::io"));
        assert!(!names("std::iota", "std::io"));
        assert!(names("  println!(\"\")", "println!") && !names("eprintln!()", "println!"));
    }

    #[test]
    fn imports_are_spelled_out() {
        let code = code("// use petgraph\nuse std::{\n    env,\n    io::{self, Read},\n};\n");
        assert!(names(&code, "std::env") && names(&code, "std::io::Read") && !names(&code, "petgraph"));
    }

    #[test]
    fn dependencies_have_one_home() {
        let tree = Tree::of(&[
            ("crates/ir/src/dag.rs", "use petgraph::Direction;"),
            ("crates/ir/src/op.rs", "//! Not petgraph."),
            ("crates/runtime/src/cuda/a.rs", "cudarc::driver::result::init()"),
            ("crates/runtime/src/cuda/b.rs", "use cudarc::driver::sys;"),
        ]);
        assert!(one_home(&tree).is_empty());

        let twice = Tree::of(&[("crates/ir/src/a.rs", "petgraph::x"), ("crates/ir/src/b.rs", "petgraph::y")]);
        assert_eq!(one_home(&twice), ["`petgraph` is named in crates/ir/src/a.rs and crates/ir/src/b.rs"]);

        let abroad = Tree::of(&[("crates/runtime/src/load.rs", "use cudarc::{driver, nvrtc};")]);
        assert_eq!(one_home(&abroad).len(), 2);
    }

    #[test]
    fn passes_do_no_io() {
        let found = no_io_in_passes(&Tree::of(&[
            ("crates/passes/src/a.rs", "use std::{env, fmt};"),
            ("crates/passes/src/b.rs", "fn f() {}\n#[cfg(test)]\nmod tests { use std::fs; }"),
            ("crates/ir/tests/graph.rs", "use std::fs;"),
            ("crates/plan/src/file.rs", "use std::fs;"),
        ]));
        assert_eq!(found, ["crates/passes/src/a.rs names `std::env`"]);
    }

    #[test]
    fn libraries_are_quiet() {
        let found = only_cli_talks(&Tree::of(&[
            ("crates/cli/src/main.rs", "println!(); std::env::var(\"A\")"),
            ("crates/smelt/src/lib.rs", "/// println!()\nfn f() {}"),
            ("crates/engine/src/lib.rs", "eprintln!(\"{:?}\", env::var_os(\"A\"));"),
        ]));
        assert_eq!(
            found,
            ["crates/engine/src/lib.rs names `env::var_os`", "crates/engine/src/lib.rs names `eprintln!`"]
        );
    }

    #[test]
    fn files_are_opened_in_one_place() {
        let found = one_reader(&Tree::of(&[
            ("crates/plan/src/input.rs", "std::fs::metadata(path); File::open(path)"),
            ("crates/plan/src/mapped.rs", "memmap2::Mmap::map(file)"),
            ("crates/smelt/src/a.rs", "use std::fs::File;\nFile::open(path); fs::read_dir(path)"),
            (
                "crates/cli/src/b.rs",
                "std::fs::read_to_string(path)\n#[cfg(test)]\nmod tests { fn f() { fs::read(p) } }",
            ),
        ]));
        let names = ["crates/smelt/src/a.rs names `File::open`", "crates/cli/src/b.rs names `fs::read_to_string`"];
        assert_eq!(found, names);
    }

    #[test]
    fn words_of_the_field_are_used() {
        let many = "Behind\n".repeat(41);
        let found = plain_words(&Tree::of(&[
            ("docs/a.md", many.as_str()),
            ("crates/cli/src/args.rs", "/// Runs anew.\n// behind\nstruct A;"),
            ("crates/ir/src/a.rs", "/// Behind.\nlet text = format!(\"all but for {a}\");\nlet name = \"behind\";"),
            ("crates/ir/src/b.rs", "#[cfg(test)]\nmod tests { fn f() { g(\"made anew\") } }"),
        ]));
        let expected = [
            "44 lines have behind, expected at most 40",
            "crates/cli/src/args.rs:1 says `/// Runs anew.`",
            "crates/ir/src/a.rs:2 says `let text = format!(\"all but for {a}\");`",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn leftovers_are_found() {
        let found = nothing_unfinished(&Tree::of(&[
            ("crates/a/src/lib.rs", "fn f() {\n    todo!()\n} // TODO"),
            ("tests/cases/a.ir", "// FIXME: the sum is lost"),
            ("kernels/a.cuh", "// TODOS"),
        ]));
        assert_eq!(found, ["crates/a/src/lib.rs:2 has `todo!`", "crates/a/src/lib.rs:3 has `TODO`"]);
    }
}
