//! Allowed dependencies, from the manifests.

use crate::tree::{Dependency, Package, Tree};

/// The arrows of ARCHITECTURE.md. `tests` and `xtask` may depend on anything.
const MAP: &[(&str, &[&str])] = &[
    ("cli", &["smelt", "server"]),
    ("server", &["smelt", "engine", "text"]),
    ("smelt", &["frontend", "passes", "codegen", "runtime", "engine", "text", "ir", "plan"]),
    ("frontend", &["ir", "plan"]),
    ("codegen", &["passes", "ir", "plan"]),
    ("passes", &["ir", "plan"]),
    ("ir", &["plan"]),
    ("runtime", &["plan"]),
    ("engine", &["plan"]),
    ("text", &[]),
    ("plan", &[]),
    ("custom-pass", &["cli", "smelt"]),
    ("custom-op", &["cli", "smelt"]),
    ("new-pass", &["cli", "smelt"]),
    ("tests", &[]),
    ("xtask", &[]),
];
const FREE: [&str; 2] = ["tests", "xtask"];
const EXAMPLES: [&str; 3] = ["custom-pass", "custom-op", "new-pass"];
const COMPILER: [&str; 4] = ["frontend", "ir", "passes", "codegen"];

/// Crates depend only on those that the map allows. Tests within a crate may use others.
pub fn follow_the_map(tree: &Tree) -> Vec<String> {
    let mut violations = Vec::new();
    for package in &tree.packages {
        let Some((_, allowed)) = MAP.iter().find(|(name, _)| *name == package.name) else {
            violations.push(format!("`{}` is not in the map", package.name));
            continue;
        };
        let free = FREE.contains(&package.name.as_str());
        let wrong = |d: &&Dependency| d.ours && !d.dev && !free && !allowed.contains(&d.name.as_str());
        violations.extend(package.dependencies.iter().filter(wrong).map(|d| names(package, d)));
    }
    violations
}

/// Examples are what a user would write: even their tests use nothing below `smelt`.
pub fn examples_are_users(tree: &Tree) -> Vec<String> {
    refused(tree, &EXAMPLES, |d| d.ours && d.dev && d.name != "tests")
}

/// `runtime` and `engine` never name the compiler, not even in tests.
pub fn no_compiler_at_run_time(tree: &Tree) -> Vec<String> {
    refused(tree, &["runtime", "engine"], |d| d.ours && COMPILER.contains(&d.name.as_str()))
}

/// Compiler types derive no `Serialize`: only a plan leaves the process.
pub fn no_serde_in_compiler(tree: &Tree) -> Vec<String> {
    refused(tree, &["ir", "passes", "codegen"], |d| d.name == "serde" && !d.dev)
}

fn refused(tree: &Tree, packages: &[&str], refuse: impl Fn(&Dependency) -> bool) -> Vec<String> {
    let packages = tree.packages.iter().filter(|package| packages.contains(&package.name.as_str()));
    packages.flat_map(|package| package.dependencies.iter().filter(|d| refuse(d)).map(|d| names(package, d))).collect()
}

fn names(package: &Package, dependency: &Dependency) -> String {
    let kind = if dependency.dev { "a dev-dependency" } else { "a dependency" };
    format!("`{}` has `{}` as {kind}", package.name, dependency.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(name: &str, dependencies: &[(&str, bool, bool)]) -> Tree {
        let dependency = |&(name, dev, ours): &(&str, bool, bool)| Dependency { name: name.to_owned(), dev, ours };
        let dependencies = dependencies.iter().map(dependency).collect();
        Tree { packages: vec![Package { name: name.to_owned(), dependencies }], ..Tree::default() }
    }

    #[test]
    fn arrows_follow_the_map() {
        assert!(follow_the_map(&tree("cli", &[("smelt", false, true), ("clap", false, false)])).is_empty());
        assert!(follow_the_map(&tree("passes", &[("codegen", true, true)])).is_empty());
        assert!(follow_the_map(&tree("tests", &[("codegen", false, true)])).is_empty());
        assert_eq!(follow_the_map(&tree("cli", &[("ir", false, true)])), ["`cli` has `ir` as a dependency"]);
        assert_eq!(follow_the_map(&tree("scratch", &[])), ["`scratch` is not in the map"]);
    }

    #[test]
    fn examples_test_with_what_users_have() {
        assert!(examples_are_users(&tree("custom-op", &[("smelt", false, true), ("tests", true, true)])).is_empty());
        assert_eq!(examples_are_users(&tree("custom-pass", &[("ir", true, true)])).len(), 1);
    }

    #[test]
    fn the_runtime_does_not_test_against_the_compiler() {
        assert!(no_compiler_at_run_time(&tree("runtime", &[("plan", true, true)])).is_empty());
        assert!(no_compiler_at_run_time(&tree("smelt", &[("ir", false, true)])).is_empty());
        let found = no_compiler_at_run_time(&tree("engine", &[("ir", true, true)]));
        assert_eq!(found, ["`engine` has `ir` as a dev-dependency"]);
    }

    #[test]
    fn the_compiler_serializes_nothing() {
        assert!(no_serde_in_compiler(&tree("plan", &[("serde", false, false)])).is_empty());
        assert_eq!(no_serde_in_compiler(&tree("ir", &[("serde", false, false)])).len(), 1);
    }
}
