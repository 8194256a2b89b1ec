//! Options by name: the library names them by field, as `max_seq_len` in backticks, the command line by flag.
//!
//! The id of an argument is the library's name of what it sets, wherever the library speaks of it. Names of one plain
//! word are left alone: a tensor may have the same.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use clap::Command;

/// The flag of each option, and the command of each of the library's functions that are commands.
static FLAGS: OnceLock<BTreeMap<String, String>> = OnceLock::new();

/// Takes the options of a command line.
pub fn install(command: &Command) {
    FLAGS.get_or_init(|| flags(command));
}

/// The same text with flags for the library's names of options.
pub fn with_flags(text: &str) -> String {
    FLAGS.get().map_or_else(|| text.to_owned(), |flags| replaced(text, flags))
}

/// `max_seq_len` to `--max-seq-len`, `Driver::calibrate` to `smelt calibrate`.
fn flags(command: &Command) -> BTreeMap<String, String> {
    let mut flags = BTreeMap::new();
    for command in command.get_subcommands() {
        let name = command.get_name();
        flags.insert(format!("Driver::{name}"), format!("`smelt {name}`"));
        for arg in command.get_arguments() {
            let id = arg.get_id().as_str();
            if let Some(long) = arg.get_long().filter(|_| id.contains(['_', '.', ':'])) {
                flags.insert(id.to_owned(), format!("--{long}"));
            }
        }
    }
    flags
}

fn replaced(mut text: &str, flags: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    while let Some((before, tail)) = text.split_once('`') {
        out.push_str(before);
        let named = tail.split_once('`').and_then(|(name, rest)| Some((flags.get(name)?, rest)));
        match named {
            Some((flag, _)) => out.push_str(flag),
            None => out.push('`'),
        }
        text = named.map_or(tail, |(_, rest)| rest);
    }
    out + text
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn names_of_options_become_flags_and_others_stay() {
        let flags = flags(&crate::Cli::command());
        for (text, expected) in [
            ("`max_num_tokens` 4 is below `max_batch_size` 8", "--max-num-tokens 4 is below --max-batch-size 8"),
            ("pass `fold_casts` of `target`: `kv_cache_bytes` 1", "pass `fold_casts` of `target`: --kv-cache 1"),
            ("`Driver::calibrate` makes one, `precision.calibration`", "`smelt calibrate` makes one, --calibration"),
            ("one ` and `max_seq_len", "one ` and `max_seq_len"),
        ] {
            assert_eq!(replaced(text, &flags), expected);
        }
    }

    /// Two commands that spelled one option differently would make errors of one of them wrong.
    #[test]
    fn an_option_of_the_library_has_one_flag() {
        let all = flags(&crate::Cli::command());
        for command in crate::Cli::command().get_subcommands() {
            for arg in command.get_arguments() {
                let (id, long) = (arg.get_id().as_str(), arg.get_long().map(|long| format!("--{long}")));
                if let (Some(known), Some(long)) = (all.get(id), long) {
                    assert_eq!(*known, long, "`{id}` of `smelt {}`", command.get_name());
                }
            }
        }
    }

    /// Programs that use the library have no flags.
    #[test]
    fn the_library_names_no_flags_and_each_option_that_it_names_has_one() {
        let flags = flags(&crate::Cli::command());
        let mut named = 0;
        for file in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../smelt/src")) {
            let text = fs::read_to_string(&file).unwrap();
            for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
                let flag = line.match_indices("--").any(|(at, _)| {
                    line[at + 2..].starts_with(|c: char| c.is_ascii_lowercase()) && !line[..at].ends_with(['-', '/'])
                });
                assert!(!flag, "{}: a flag: {line}", file.display());
                for word in line.split('`').skip(1).step_by(2) {
                    let is_option = ["precision.", "timing.", "Goal::", "max_", "kv_cache_", "workspace_"];
                    if is_option.iter().any(|start| word.starts_with(start)) {
                        assert!(flags.contains_key(word), "{}: no flag for `{word}`", file.display());
                        named += 1;
                    }
                }
            }
        }
        assert!(named > 20, "{named}");
    }

    fn sources(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
    }
}
