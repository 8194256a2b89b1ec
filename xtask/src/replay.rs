//! `cargo xtask replay REV`: compiles the test models with the program of another revision and with this one, and shows
//! where graph, kernels, CUDA C and plan differ. A refactor that promises no plan change is held to it. With `--renames`,
//! names of the other revision are replaced first, and prose is not compared.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::process::{cargo, run as run_command};

const FOLDER: &str = "target/replay";
const TARGETS: [&str; 2] = ["cpu", "sm_90a"];

/// Models, and the source of their weights. The oracles are models, too.
const MODELS: [(&str, &str); 2] = [("models/demo", "checkpoint"), ("bench/configs/llama-3.1-8b", "dummy")];
const ORACLES: &str = "tests/oracle";

/// Compares this tree's compiler with that of a revision; fails if they differ.
pub fn run(root: &Path, revision: &str, renames: Option<&Path>) -> Result<(), String> {
    let renames = renames.map(|path| {
        let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        parse_renames(&text).map_err(|line| format!("{}: expected `old → new`, found `{line}`", path.display()))
    });
    let renames = renames.transpose()?;
    let commit = git(root, &["rev-parse", "--verify", "--quiet", &format!("{revision}^{{commit}}")]);
    let commit = commit.map_err(|_| format!("git knows no revision `{revision}`"))?;
    let name = commit.trim().get(..12).ok_or("git gave no commit")?;
    let folder = root.join(FOLDER);
    let before = build_revision(root, &folder.join(name), name)?;
    run_command(&mut cargo(root, ["build", "--quiet", "--package", "cli"]))?;
    let after = root.join("target/debug/smelt");

    let texts = [("before", before), ("after", after)].map(|(side, program)| {
        let folder = folder.join(side);
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        }
        compile_all(root, &program, &folder)?;
        read(&folder)
    });
    let [before, after] = texts;
    let (mut before, mut after) = (before?, after?);
    if let Some(renames) = renames {
        for (side, texts) in [("before", &mut before), ("after", &mut after)] {
            let names: &[(String, String)] = if side == "before" { &renames } else { &[] };
            for (name, text) in texts {
                *text = without_prose(name, &renamed(&String::from_utf8_lossy(text), names)).into_bytes();
                let path = folder.join(side).join(name);
                fs::write(&path, &text).map_err(|error| format!("{}: {error}", path.display()))?;
            }
        }
    }
    let differing = differing(&before, &after);
    if differing.is_empty() {
        println!("replay: all {} texts are those of {name}", after.len());
        return Ok(());
    }
    let diff = ["diff", "--no-index", "--no-prefix", "--no-color", "--no-ext-diff", "before", "after"];
    // it fails if there is a difference, which is known
    let _ = Command::new("git").args(diff).current_dir(&folder).status();
    let mut compilations: Vec<&str> = differing.iter().filter_map(|text| text.split('/').next()).collect();
    compilations.dedup();
    let (count, all, of) = (differing.len(), before.len().max(after.len()), compilations.join(", "));
    Err(format!("replay: {count} of {all} texts are not those of {name} ({of})"))
}

/// The program of a revision, built on first use.
fn build_revision(root: &Path, folder: &Path, commit: &str) -> Result<PathBuf, String> {
    let program = folder.join("smelt");
    if program.exists() {
        return Ok(program);
    }
    let tree = folder.join("tree");
    let tree_text = tree.to_str().ok_or("the folder's name is not UTF-8")?;
    // left by an interrupted build
    let _ = git(root, &["worktree", "remove", "--force", tree_text]);
    git(root, &["worktree", "add", "--detach", tree_text, commit])?;
    let built = root.join(FOLDER).join("build");
    let mut build = cargo(&tree, ["build", "--quiet", "--locked", "--package", "cli"]);
    let done = run_command(build.env("CARGO_TARGET_DIR", &built));
    git(root, &["worktree", "remove", "--force", tree_text])?;
    done?;
    fs::copy(built.join("debug/smelt"), &program).map_err(|error| format!("{}: {error}", program.display()))?;
    Ok(program)
}

fn git(root: &Path, args: &[&str]) -> Result<String, String> {
    let output = Command::new("git").args(args).current_dir(root).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("git did not start: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("git {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// Compiles every model for every target, up to the steps that need NVRTC or a file. A refusal is a result as well.
fn compile_all(root: &Path, program: &Path, folder: &Path) -> Result<(), String> {
    let mut models: Vec<(String, &str)> = MODELS.map(|(model, weights)| (model.to_owned(), weights)).to_vec();
    for entry in fs::read_dir(root.join(ORACLES)).map_err(|error| format!("{ORACLES}: {error}"))? {
        let entry = entry.map_err(|error| format!("{ORACLES}: {error}"))?;
        if entry.path().join("config.json").exists() {
            models.push((format!("{ORACLES}/{}", entry.file_name().to_string_lossy()), "checkpoint"));
        }
    }
    for ((model, weights), target) in models.iter().flat_map(|model| TARGETS.map(|target| (model, target))) {
        let name = model.rsplit('/').next().unwrap_or(model);
        let folder = folder.join(format!("{name}-{target}"));
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let mut compile = Command::new(program);
        compile.current_dir(root).args(["compile", model, "--dry-run", "--target", target, "--weights", weights]);
        compile.args(["--emit", "ir,kernels,cuda,plan", "--dump-dir"]).arg(&folder);
        let output = compile.output().map_err(|error| format!("{}: {error}", program.display()))?;
        if !output.status.success() {
            let said = format!("{}\n{}", output.status, untimed(&String::from_utf8_lossy(&output.stderr)));
            fs::write(folder.join("error.txt"), said).map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

/// Lines of `old → new`; the error is a line that is none. `#` starts a comment.
fn parse_renames(text: &str) -> Result<Vec<(String, String)>, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| match line.split_once(" → ") {
            Some((old, new)) => Ok((old.to_owned(), new.to_owned())),
            None => Err(line.to_owned()),
        })
        .collect()
}

/// A text with whole words replaced, in the order of the list.
fn renamed(text: &str, renames: &[(String, String)]) -> String {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    let mut text = text.to_owned();
    for (old, new) in renames {
        let (mut out, mut done) = (String::new(), 0);
        for (start, _) in text.match_indices(old.as_str()) {
            let end = start + old.len();
            let longer = old.starts_with(part) && text[..start].ends_with(part)
                || old.ends_with(part) && text[end..].starts_with(part);
            if start >= done && !longer {
                out += &text[done..start];
                out += new;
                done = end;
            }
        }
        out += &text[done..];
        text = out;
    }
    text
}

/// A text without its prose: comments of CUDA C (with its line breaks), reasons why kernels refused, and errors.
fn without_prose(name: &str, text: &str) -> String {
    let lines = text.lines();
    let kept: Vec<String> = match name {
        name if name.ends_with(".cu") => {
            let code = lines.filter(|line| !line.starts_with("#line"));
            let code: Vec<&str> = code.map(|line| line.split("//").next().unwrap_or_default()).collect();
            let words: Vec<&str> = code.iter().flat_map(|line| line.split_whitespace()).collect();
            words.join(" ").split_inclusive(';').map(str::to_owned).collect()
        }
        name if name.ends_with("kernels.txt") => {
            lines.filter(|line| !line.starts_with("  not ")).map(str::to_owned).collect()
        }
        name if name.ends_with("error.txt") => lines.take(1).map(str::to_owned).collect(),
        _ => lines.map(str::to_owned).collect(),
    };
    kept.into_iter().map(|line| format!("{line}\n")).collect()
}

/// The output without progress lines, which have times.
fn untimed(said: &str) -> String {
    said.lines().filter(|line| !line.ends_with(" s)")).map(|line| format!("{line}\n")).collect()
}

/// The files of all subdirectories, by name.
fn read(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut texts = BTreeMap::new();
    for model in fs::read_dir(folder).map_err(failed)? {
        let model = model.map_err(failed)?;
        for file in fs::read_dir(model.path()).map_err(failed)? {
            let file = file.map_err(failed)?;
            let name = format!("{}/{}", model.file_name().to_string_lossy(), file.file_name().to_string_lossy());
            texts.insert(name, fs::read(file.path()).map_err(failed)?);
        }
    }
    Ok(texts)
}

/// Names of files that differ.
fn differing(before: &BTreeMap<String, Vec<u8>>, after: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort();
    names.dedup();
    names.into_iter().filter(|name| before.get(*name) != after.get(*name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_changed_or_on_one_side_only_differs() {
        let texts = |list: &[(&str, &str)]| -> BTreeMap<String, Vec<u8>> {
            list.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect()
        };
        let before = texts(&[("a", "1"), ("b", "1"), ("c", "1")]);
        let after = texts(&[("a", "1"), ("b", "2"), ("d", "1")]);
        assert_eq!(differing(&before, &after), ["b", "c", "d"]);
        assert!(differing(&before, &before).is_empty());
    }

    #[test]
    fn names_are_replaced_as_whole_words() {
        let renames =
            parse_renames("# attributes\nbehind → epilogue\n{scaled = → {quantized =\n").expect("two renames");
        assert_eq!(
            renamed("behind {scaled = [x], behind = [add]} behind_it unbehind", &renames),
            "epilogue {quantized = [x], epilogue = [add]} behind_it unbehind"
        );
        assert_eq!(parse_renames("a -> b"), Err("a -> b".to_owned()));
    }

    #[test]
    fn prose_is_not_compared() {
        let unit = "#line 1 \"a\"\n// y = x\nint x =  // one\n    1;\n\nint y;\n";
        assert_eq!(without_prose("m/k0.cu", unit), "int x = 1;\n int y;\n");
        assert_eq!(
            without_prose("m/kernels.txt", "%y = add\n  not a: it spills\n  timed: a\n"),
            "%y = add\n  timed: a\n"
        );
        assert_eq!(without_prose("m/plan.txt", "// all\n"), "// all\n");
    }

    #[test]
    fn times_are_left_out() {
        assert_eq!(untimed("reading checkpoint (0.01 s)\nerror: no\n"), "error: no\n");
    }
}
