//! `cargo xtask tidy`: the invariants of ARCHITECTURE.md, checked in the sources as plain text. It finds mistakes; it
//! does not stop the determined.

mod arrows;
mod files;
mod licences;
mod rooms;
mod words;

use std::path::Path;

use crate::tree::Tree;
pub use files::is_filetest;

/// An invariant and the check that lists its violations.
type Invariant = (&'static str, fn(&Tree) -> Vec<String>);

const INVARIANTS: &[Invariant] = &[
    ("crates depend only on those that the map of ARCHITECTURE.md allows", arrows::follow_the_map),
    ("`runtime` and `engine` never name the compiler, not even in tests", arrows::no_compiler_at_run_time),
    ("examples depend on `smelt` and `cli`, their tests also on the filetest runner", arrows::examples_are_users),
    (
        "compiler types derive no `Serialize`: `ir`, `passes` and `codegen` do not depend on serde",
        arrows::no_serde_in_compiler,
    ),
    ("each crate of Cargo.lock has a licence that deny.toml allows", licences::are_allowed),
    ("a dependency that may be replaced is named in one place", words::one_home),
    ("`ir` and `passes` do no I/O and read no environment", words::no_io_in_passes),
    ("only `cli` reads environment variables and prints", words::only_cli_talks),
    ("only `plan::input` opens input files", words::one_reader),
    ("nothing is left unfinished in the tree", words::nothing_unfinished),
    ("texts use the words of docs/glossary.md", words::plain_words),
    ("a Rust file starts with its purpose: `//!`", files::open_with_their_job),
    ("a hand-written Rust file has at most 700 lines", files::stay_short),
    ("a module with a folder is its `mod.rs`", rooms::folders_have_a_mod),
    ("files of a crate do not import each other in a circle", rooms::no_circles),
    ("each snapshot has its case, and each case with a snapshot has one", files::snapshots_have_cases),
    ("the book's figures are those of bench/", |tree| crate::bench::stale(&tree.root)),
    ("the book shows files that CI compiles", crate::docs::stale_code),
    ("a list in the book of what an addition touches is that of an example", crate::docs::wrong_lists),
    ("ARCHITECTURE.md names every crate and has at most 300 lines", files::architecture_is_complete),
];

/// Prints every violation, and fails if there is one.
pub fn run(root: &Path) -> Result<(), String> {
    let tree = Tree::read(root)?;
    for file in files::long_ones(&tree) {
        println!("warning: {file}");
    }
    let mut broken = 0;
    for (sentence, check) in INVARIANTS {
        let violations = check(&tree);
        for violation in &violations {
            eprintln!("error: {violation}: {sentence}");
        }
        broken += violations.len();
    }
    if broken > 0 {
        return Err(format!("tidy found {broken} violations"));
    }
    println!("tidy: {} invariants hold over {} files", INVARIANTS.len(), tree.files.len());
    Ok(())
}
