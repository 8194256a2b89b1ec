//! `cargo xtask docs`: the reference, generated from the program, and the code in the book.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::process::smelt;
use crate::tidy::Tree;

const MENDED: &str = "run `cargo xtask docs`";
const FENCE: &str = "```";

/// A page of the reference: its path, the program's option, and the function that formats the answer.
struct Page {
    path: &'static str,
    list: &'static str,
    text: fn(&Path, &Value) -> Result<String, String>,
}

const PAGES: [Page; 3] = [
    Page { path: "docs/ops.md", list: "--list-ops", text: ops },
    Page { path: "docs/passes.md", list: "--list-passes", text: passes },
    Page { path: "docs/kernels.md", list: "--list-kernels", text: kernels },
];

/// Writes the reference, and the code in the book.
pub fn write(root: &Path) -> Result<(), String> {
    for (path, text) in reference(root)? {
        fs::write(root.join(path), text).map_err(|error| format!("{path}: {error}"))?;
    }
    let tree = Tree::read(root)?;
    for file in tree.with_extension("md") {
        let fresh = with_code(root, &file.text).map_err(|error| format!("{}: {error}", file.path))?;
        if fresh != file.text {
            fs::write(root.join(&file.path), fresh).map_err(|error| format!("{}: {error}", file.path))?;
        }
    }
    Ok(())
}

/// Fails if a page of the reference is stale.
pub fn check(root: &Path) -> Result<(), String> {
    for (path, text) in reference(root)? {
        if fs::read_to_string(root.join(path)).unwrap_or_default() != text {
            return Err(format!("{path} is stale: {MENDED}"));
        }
    }
    Ok(())
}

/// The invariant that `tidy` checks: the book shows the files that CI compiles.
pub fn stale_code(tree: &Tree) -> Vec<String> {
    let check = |path: &str, text: &str| match with_code(&tree.root, text) {
        Ok(fresh) if fresh == text => None,
        Ok(_) => Some(format!("{path} shows stale code: {MENDED}")),
        Err(error) => Some(format!("{path}: {error}")),
    };
    tree.with_extension("md").filter_map(|file| check(&file.path, &file.text)).collect()
}

/// The pages with their texts.
fn reference(root: &Path) -> Result<Vec<(&'static str, String)>, String> {
    let program = smelt(root)?;
    let page = |page: &Page| {
        let mut smelt = Command::new(&program);
        let output = smelt.args([page.list, "--json"]).output().map_err(|error| format!("smelt: {error}"))?;
        let answer = serde_json::from_slice(&output.stdout).map_err(|error| format!("{}: {error}", page.list))?;
        Ok((page.path, (page.text)(root, &answer)?))
    };
    PAGES.iter().map(page).collect()
}

/// The page with each code block that names a file, as in `rust examples/a.rs` after the fence, replaced by that file.
fn with_code(root: &Path, page: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        out.push_str(line);
        out.push('\n');
        let named = line.strip_prefix(FENCE).and_then(|info| info.split_once(' ')).map(|(_, path)| path);
        if let Some(path) = named.filter(|path| path.contains('/')) {
            let text = fs::read_to_string(root.join(path)).map_err(|error| format!("{path}: {error}"))?;
            // a snapshot begins with lines of insta
            let text = match path.ends_with(".snap") {
                true => text.splitn(3, "---\n").last().unwrap_or_default(),
                false => &text,
            };
            out.push_str(text.trim_end());
            out.push('\n');
            lines.find(|line| *line == FENCE).ok_or_else(|| format!("the block of {path} is not closed"))?;
            out.push_str(FENCE);
            out.push('\n');
        }
    }
    Ok(out)
}

/// The items of a list in an answer.
fn list<'a>(answer: &'a Value, name: &str) -> Result<&'a [Value], String> {
    answer[name].as_array().map(Vec::as_slice).ok_or_else(|| format!("the program returns no list `{name}`"))
}

fn text<'a>(item: &'a Value, name: &str) -> &'a str {
    item[name].as_str().unwrap_or_default()
}

fn texts<'a>(item: &'a Value, name: &str) -> impl Iterator<Item = &'a str> {
    item[name].as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// The start of a generated page.
fn head(title: &str, sources: &str) -> String {
    format!("# {title}\n\n<!-- Made by `cargo xtask docs` from {sources}. -->\n\n")
}

fn ops(_: &Path, answer: &Value) -> Result<String, String> {
    let mut out = head("Ops", "the declarations in crates/ir/src/ops");
    out.push_str(
        "The ops of the graph text, besides `constant` and inputs. `[…]` is optional, `%parts..` is any number\n\
         of operands. Each op says how its results depend on its operands:\n\n\
         - *source*: it has none, and the same value in every step;\n\
         - *elementwise*: element by element, at equal indices;\n\
         - *reduction*: row by row;\n\
         - *matmul*: sums of products over an axis;\n\
         - *movement*: elements come to other places;\n\
         - *state*: it reads or writes the KV cache of a layer.\n",
    );
    for op in list(answer, "ops")? {
        let required = texts(op, "operands").map(|name| format!("%{name}"));
        let optional = texts(op, "optional_operands").map(|name| format!("[%{name}]"));
        let rest = op["rest"].as_str().map(|name| format!("%{name}.."));
        let operands: Vec<String> = required.chain(optional).chain(rest).collect();
        let attrs = list(op, "attrs")?.iter().map(|attr| {
            let (name, ty) = (text(attr, "name"), text(attr, "type"));
            match ty.strip_prefix("Option<").and_then(|ty| ty.strip_suffix('>')) {
                Some(ty) => format!("[{name}: {ty}]"),
                None => format!("{name}: {ty}"),
            }
        });
        let attrs = attrs.collect::<Vec<_>>().join(", ");
        let attrs = if attrs.is_empty() { attrs } else { format!("{{{attrs}}}") };
        let words = [text(op, "name"), &operands.join(", "), &attrs];
        let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
        // Writing to a String cannot fail.
        let _ = write!(out, "\n## {}\n\n`{}` · {}\n\n", text(op, "name"), words.join(" "), text(op, "class"));
        let _ = writeln!(out, "{}", text(op, "doc").trim_end());
    }
    Ok(out)
}

fn passes(_: &Path, answer: &Value) -> Result<String, String> {
    let mut out = head("Passes", "crates/passes/src/list.rs and pipeline.rs");
    out.push_str(
        "The pipeline of `compile`, from top to bottom. *Exact* passes keep every value, to the last bit; those that *round*\n\
         omit a rounding to 16 bits or sum in another order. *Required* passes cannot be disabled.\n\n\
         | | | values | what it does |\n| --- | --- | --- | --- |\n",
    );
    let passes = list(answer, "passes")?;
    let row = |name: &str, place: &str| -> Result<String, String> {
        let pass = passes.iter().find(|pass| text(pass, "name") == name);
        let pass = pass.ok_or_else(|| format!("the pipeline has a pass `{name}` that is not in the list"))?;
        let numerics = if text(pass, "numerics") == "rounding" { "rounds" } else { text(pass, "numerics") };
        let required = if pass["required"] == Value::Bool(true) { ", required" } else { "" };
        Ok(format!("| {place} | `{name}` | {numerics}{required} | {} |\n", text(pass, "summary")))
    };
    let mut place = 0;
    let mut placed = Vec::new();
    for entry in list(answer, "pipeline")? {
        if let Some(name) = entry["pass"].as_str() {
            place += 1;
            placed.push(name);
            out.push_str(&row(name, &place.to_string())?);
        } else if let Some(stage) = entry["stage"].as_str() {
            let _ = writeln!(out, "| | *stage* `{stage}` | | the graph must be legal at this stage from here on |");
        } else if let Some(slot) = entry["slot"].as_str() {
            let _ = writeln!(out, "| | *slot* `{slot}` | | user passes run here |");
        }
    }
    let others: Vec<&str> =
        passes.iter().map(|pass| text(pass, "name")).filter(|name| !placed.contains(name)).collect();
    if !others.is_empty() {
        out.push_str(
            "\nNot in the pipeline, for `smelt opt`:\n\n| | | values | what it does |\n| --- | --- | --- | --- |\n",
        );
        for name in others {
            out.push_str(&row(name, "")?);
        }
    }
    Ok(out)
}

fn kernels(root: &Path, answer: &Value) -> Result<String, String> {
    let mut out = head("Kernels", "the catalogs in crates/codegen/src/kernels and the heads of the kernels' files");
    out.push_str(
        "For each op of a program, code generation tries the target's kernels from top to bottom; the first that supports the op\n\
         is selected. `--emit kernels` shows the choices, and why those before them refused.\n",
    );
    let kernels = list(answer, "kernels")?;
    let mut targets: Vec<&str> = kernels.iter().map(|kernel| text(kernel, "target")).collect();
    targets.dedup();
    for target in targets {
        let own: Vec<&Value> = kernels.iter().filter(|kernel| text(kernel, "target") == target).collect();
        let _ = write!(out, "\n## {target}\n\n| kernel | ops | file |\n| --- | --- | --- |\n");
        for kernel in &own {
            let ops: Vec<String> = texts(kernel, "ops").map(|op| format!("[{op}](ops.md#{op})")).collect();
            let (name, file) = (text(kernel, "name"), text(kernel, "file"));
            let _ = writeln!(out, "| `{name}` | {} | [{file}](../{file}) |", ops.join(", "));
        }
        let mut files: Vec<&str> = own.iter().map(|kernel| text(kernel, "file")).collect();
        files.dedup();
        for file in files.into_iter().filter(|file| file.ends_with(".cuh")) {
            let source = fs::read_to_string(root.join(file)).map_err(|error| format!("{file}: {error}"))?;
            let _ = write!(out, "\n### {file}\n\n```text\n{}```\n", contract(&source));
        }
    }
    Ok(out)
}

/// The header comment of a kernel's file: shapes, dtypes, layout, launch.
fn contract(source: &str) -> String {
    let lines = source.lines().map_while(|line| line.strip_prefix("//"));
    lines.map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(line))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_name_a_file_show_it() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let page = "a\n```toml xtask/none.toml\nold\n```\nb\n```sh tour\nls\n```\n";
        assert!(with_code(root, page).is_err_and(|error| error.starts_with("xtask/none.toml")));
        let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("there");
        let page = page.replace("xtask/none.toml", "./Cargo.toml");
        let fresh = with_code(root, &page).expect("a page");
        assert_eq!(fresh, format!("a\n```toml ./Cargo.toml\n{manifest}```\nb\n```sh tour\nls\n```\n"));
        assert_eq!(with_code(root, &fresh), Ok(fresh));
    }

    #[test]
    fn the_contract_is_the_comment_on_top() {
        assert_eq!(contract("// y = x\n//\n//   Grid: 1\n#pragma once\n// more\n"), "y = x\n\n  Grid: 1\n");
    }
}
