//! `cargo xtask docs`: the reference, generated from the program, and the code in the book; the book's lists of the
//! files that an addition touches are compared with an addition of that kind.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::process::smelt;
use crate::tree::Tree;

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

/// The word of the first line of a list of files: ` ```text touches Softcap|float softcap in crates/ir kernels `.
const TOUCHES: &str = "text touches ";
/// Where additions go if the list does not say so.
const SOURCES: [&str; 2] = ["crates/", "kernels/"];

/// The invariant that `tidy` checks: a page that says which files an op, a pass or a format touches lists all files, and
/// only those, whose name or code has one of the words of such an op, pass or format. Tests and comments do not count.
pub fn wrong_lists(tree: &Tree) -> Vec<String> {
    let mut wrong = Vec::new();
    for page in tree.with_extension("md") {
        let mut blocks = page.text.split(FENCE);
        while let Some((info, listed)) = blocks.find_map(|block| block.strip_prefix(TOUCHES)?.split_once('\n')) {
            let (words, folders) = info.split_once(" in ").unwrap_or((info, ""));
            let folders: Vec<&str> =
                if folders.is_empty() { SOURCES.to_vec() } else { folders.split_whitespace().collect() };
            let words: Vec<&str> = words.split('|').collect();
            let listed: BTreeSet<&str> = listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
            let touched = touched(tree, &words, &folders);
            if listed != touched {
                let (path, touched) = (&page.path, touched.into_iter().collect::<Vec<_>>().join(", "));
                wrong.push(format!("{path} says what `{}` touches, but that is: {touched}", words.join("` or `")));
            }
        }
    }
    wrong
}

/// The sources with one of these words.
fn touched<'a>(tree: &'a Tree, words: &[&str], folders: &[&str]) -> BTreeSet<&'a str> {
    let sources = tree.with_extension("rs").chain(tree.with_extension("cuh"));
    let sources = sources.filter(|file| folders.iter().any(|folder| file.path.starts_with(folder)));
    let product = sources.filter(|file| !file.path.contains("/tests/") && !file.path.ends_with("/tests.rs"));
    let touched = product.filter(|file| {
        let name = file.path.rsplit('/').next().and_then(|name| name.split('.').next());
        words.iter().any(|word| name == Some(*word) || names(&file.text, word))
    });
    touched.map(|file| file.path.as_str()).collect()
}

/// Whether code has the word, outside of its comments and tests.
fn names(code: &str, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    let product = code.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    product.lines().filter(|line| !line.trim_start().starts_with("//")).any(|line| {
        line.match_indices(word).any(|(at, _)| {
            let (before, after) = (&line[..at], &line[at + word.len()..]);
            !before.ends_with(part_of_word) && !after.starts_with(part_of_word)
        })
    })
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

/// The page with each code block that names a file, as in `rust examples/a.rs` after the fence, replaced by that file; a
/// block such as `rust examples/a.rs op! {` by the part of it that starts with this line and ends with the brace.
fn with_code(root: &Path, page: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        out.push_str(line);
        out.push('\n');
        let named = line.strip_prefix(FENCE).and_then(|info| info.split_once(' ')).map(|(_, named)| named);
        let named = named.map(|named| named.split_once(' ').unwrap_or((named, "")));
        if let Some((path, start)) = named.filter(|(path, _)| path.contains('/')) {
            let text = fs::read_to_string(root.join(path)).map_err(|error| format!("{path}: {error}"))?;
            // a snapshot begins with lines of insta
            let text = match path.ends_with(".snap") {
                true => text.splitn(3, "---\n").last().unwrap_or_default(),
                false => &text,
            };
            let part = part(text, start).ok_or_else(|| format!("{path} has no part that starts with `{start}`"))?;
            out.push_str(part.trim_end());
            out.push('\n');
            lines.find(|line| *line == FENCE).ok_or_else(|| format!("the block of {path} is not closed"))?;
            out.push_str(FENCE);
            out.push('\n');
        }
    }
    Ok(out)
}

/// The part of a text from the line `start` to its closing brace; all of it if there is no such line to look for.
fn part<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    if start.is_empty() {
        return Some(text);
    }
    let text = &text[text.find(&format!("\n{start}\n"))? + 1..];
    text.find("\n}\n").map(|end| &text[..end + 2])
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
    format!("# {title}\n\n<!-- Generated by `cargo xtask docs` from {sources}. -->\n\n")
}

fn ops(_: &Path, answer: &Value) -> Result<String, String> {
    let mut out = head("Ops", "the declarations in crates/ir/src/ops");
    out.push_str(
        "The ops of the graph text, besides `constant` and inputs. `[…]` is optional, `%parts..` is any number\n\
         of operands. Each op says how its results depend on its operands:\n\n\
         - *source*: no operands, and the same value in every step;\n\
         - *elementwise*: elements of the same index;\n\
         - *reduction*: row by row;\n\
         - *matmul*: sums of products over an axis;\n\
         - *movement*: copies elements to other places;\n\
         - *state*: reads or writes the KV cache of a layer.\n",
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
    let mut out = head("Passes", "the documentation of each pass and crates/passes/src/pipeline.rs");
    out.push_str(
        "The pipeline of `compile`, from top to bottom. *Exact* passes keep every value, to the last bit; those that *round*\n\
         omit a rounding to 16 bits or sum in another order. Passes that quantize change what a layer computes *within* a\n\
         share of its values, by the root mean square. *Required* passes cannot be disabled.\n\n\
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
            "\nInserted by options, and for `smelt opt`:\n\n| | | values | what it does |\n| --- | --- | --- | --- |\n",
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
        let part = |start: &str| with_code(root, &format!("```rust ./src/docs.rs {start}\n```\n"));
        assert!(part("struct Absent {").is_err());
        let page = part("struct Page {").expect("a part");
        assert!(page.starts_with("```rust ./src/docs.rs struct Page {\nstruct Page {\n    path"), "{page}");
        assert!(page.ends_with("String>,\n}\n```\n"), "{page}");
    }

    #[test]
    fn lists_of_touched_files_are_those_of_an_addition() {
        let list =
            |listed: &str| format!("a\n```text touches FuseX|x_y\n{listed}\n```\nb\n```rust a/b.rs\nFuseX\n```\n");
        let wrong = |page: &str| {
            wrong_lists(&Tree::of(&[
                ("docs/page.md", page),
                ("crates/passes/src/x_y.rs", "struct Other;"),
                ("crates/passes/src/list.rs", "x_y: FuseX,"),
                ("crates/passes/src/near.rs", "// x_y\nFuseXs ax_y x_y-z\n#[cfg(test)]\nmod tests {\n    x_y\n}"),
                ("crates/passes/tests/all.rs", "x_y"),
                ("xtask/src/docs.rs", "x_y"),
            ]))
        };
        let line = "crates/passes/src/list.rs   its line";
        let all = format!("{line}\ncrates/passes/src/x_y.rs    the rule");
        assert!(wrong(&list(&all)).is_empty());
        assert_eq!(wrong(&list(line)).len(), 1, "one is not listed");
        assert_eq!(wrong(&list(&format!("{all}\ncrates/passes/src/near.rs"))).len(), 1, "one is not touched");
        let narrow = list(line).replace("x_y\n", "x_y in crates/passes/src/l\n");
        assert!(wrong(&narrow).is_empty(), "one folder");
    }

    #[test]
    fn the_contract_is_the_comment_on_top() {
        assert_eq!(contract("// y = x\n//\n//   Grid: 1\n#pragma once\n// more\n"), "y = x\n\n  Grid: 1\n");
    }
}
