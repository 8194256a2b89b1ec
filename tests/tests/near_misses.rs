//! The filetest runner demands that a near miss proves what keeps a pass from firing.

use tests::{COMMANDS, Case, Edit, Outcome, Suite};

/// The outcome of `fuse-silu-mul` for a case with these headers, on a graph with this op after `silu`.
fn outcome(headers: &str, op: &str) -> Result<Outcome, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("case.ir");
    let ops = format!("  %a = silu %x : f32[T, 4]\n  %z = {op} %a, %y : f32[T, 4]\n");
    let graph = format!("graph @g<T in 1..8>(%x: f32[T, 4], %y: f32[T, 4]) {{\n{ops}  return %z\n}}\n");
    std::fs::write(&path, format!("// test: pass fuse-silu-mul\n{headers}{graph}")).unwrap();
    let case = Case::load(folder.path(), &path)?;
    let command = COMMANDS.iter().find(|command| command.name() == case.command).unwrap();
    command.run(&Suite::standard(), &case)
}

fn unchanged() -> Outcome {
    Outcome::Text("(no change)\n".to_owned())
}

#[test]
fn no_change_must_be_proved() {
    assert_eq!(outcome("// fires-with: s/add/mul/\n", "add"), Ok(unchanged()));
    let refused = |headers, op, message: &str| {
        let error = outcome(headers, op).unwrap_err();
        assert!(error.contains(message), "{error}");
    };
    refused("", "add", "expected `// fires-with: s/OLD/NEW/`");
    refused("// fires-with: s/%a, %y/%a, %x/\n", "add", "with the edit of `fires-with` either");
    refused("// fires-with: s/sub/mul/\n", "add", "`sub` does not occur");
    refused("// fires-with: s/silu/mul/\n", "add", "with its edit: ");
    refused("// fires-with: mul\n", "add", "expected `s/OLD/NEW/`, found `mul`");
    refused("// fires-with: s/mul/mul/\n", "mul", "with no need for the edit");
}

#[test]
fn near_misses_must_not_fire() {
    let miss = "// near-miss: a sum: s/mul/add/\n";
    assert!(outcome(miss, "mul").unwrap() != unchanged());
    let error = outcome(&format!("{miss}// near-miss: both the same: s/%a, %y/%a, %x/\n"), "mul").unwrap_err();
    assert!(error.starts_with("near miss `both the same`: the passes fire:\n"), "{error}");
}

#[test]
fn edits_are_applied_in_order_and_must_find_something() {
    let edit: Edit = r"s/a b/c/ s/c\n// s/d/e/".parse().unwrap();
    assert_eq!(edit.apply("a b\nd a b").unwrap(), "e c");
    assert_eq!(edit.apply("a b\n").unwrap_err(), "`d` does not occur in the graph");
    for wrong in ["", "a", "s/a", "s/a/b", "s//b/", "s/a/b/ c"] {
        assert!(wrong.parse::<Edit>().is_err(), "{wrong}");
    }
}
