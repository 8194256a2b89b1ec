//! The model that a command line names: a plan, a checkpoint, or a model of the Hugging Face Hub that is on this machine.

use std::fs;
use std::path::{Path, PathBuf};

use smelt::extend::ir::text::nearest;
use smelt::plans::input::read_text;
use smelt::{Error, PlanFile};

use crate::environment::hub_cache;
use crate::failure::Failure;
use crate::output::{print_error, reads_model};

/// What a command takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Checkpoint,
    PlanOrCheckpoint,
}

/// The checkpoint of a name: a directory, a file in it, or `owner/name` in the Hub's cache. No output may replace it.
pub fn checkpoint(named: &Path) -> Result<PathBuf, Failure> {
    claimed(find(named, Wanted::Checkpoint)?)
}

/// The same, or a plan: its file, or the directory that `smelt build` wrote it to.
pub fn plan_or_checkpoint(named: &Path) -> Result<PathBuf, Failure> {
    claimed(find(named, Wanted::PlanOrCheckpoint)?)
}

fn claimed(found: PathBuf) -> Result<PathBuf, Failure> {
    reads_model(&found);
    Ok(found)
}

fn find(named: &Path, wanted: Wanted) -> Result<PathBuf, Failure> {
    if named.is_dir() {
        let plan = named.join("model.plan");
        let built = wanted == Wanted::PlanOrCheckpoint && plan.is_file() && !named.join("config.json").exists();
        return Ok(if built { plan } else { named.to_owned() });
    }
    // a pipe or a device, too: opening it says what is wrong with it
    if fs::symlink_metadata(named).is_ok() {
        return Ok(folder_of_part(named).unwrap_or_else(|| named.to_owned()));
    }
    if let Some(name) = HubName::parse(named) {
        let cache = hub_cache();
        if let Some(found) = cache.as_deref().and_then(|cache| name.find(cache)) {
            print_error(&format!("note: {} is {}", named.display(), found.display()));
            return Ok(found);
        }
        // a misspelled path looks alike
        if named.parent().is_none_or(|parent| !parent.is_dir()) {
            return Err(name.missing(cache.as_deref()));
        }
    }
    Err(missing(named))
}

/// Opens a plan file.
pub fn open_plan(path: &Path) -> Result<PlanFile, Failure> {
    if fs::symlink_metadata(path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        return Err(missing(path));
    }
    Ok(PlanFile::open(path).map_err(Error::from)?)
}

/// Of a path at which there is nothing.
fn missing(named: &Path) -> Failure {
    let plan = named.extension().is_some_and(|extension| extension == "plan");
    let what = if plan { "there is no such plan" } else { "there is no such file or directory" };
    let near = neighbour(named).map_or_else(String::new, |near| format!(" (did you mean `{}`?)", near.display()));
    Failure::bad_input(format!("{}: {what}{near}", named.display()))
}

/// The directory of a file that is part of a checkpoint.
fn folder_of_part(file: &Path) -> Option<PathBuf> {
    let name = file.file_name()?.to_str()?;
    // any other JSON may be a configuration of its own, for dummy weights
    let part = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"].contains(&name)
        || [".safetensors", ".safetensors.index.json"].iter().any(|end| name.ends_with(end));
    let folder = match file.parent()? {
        here if here.as_os_str().is_empty() => Path::new("."),
        folder => folder,
    };
    (part && file.is_file() && folder.join("config.json").is_file()).then(|| folder.to_owned())
}

/// The entry of the same directory whose name is most like that of a path.
fn neighbour(path: &Path) -> Option<PathBuf> {
    let parent = path.parent()?;
    let folder = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let names: Vec<String> =
        fs::read_dir(folder).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    let near = nearest(path.file_name()?.to_str()?, names.iter().map(String::as_str))?;
    Some(parent.join(near))
}

/// `owner/name` or `owner/name@revision`, as the Hub names a model.
#[derive(Debug, PartialEq, Eq)]
struct HubName<'a> {
    owner: &'a str,
    name: &'a str,
    revision: Option<&'a str>,
}

impl<'a> HubName<'a> {
    fn parse(named: &'a Path) -> Option<HubName<'a>> {
        let (owner, name) = named.to_str()?.split_once('/')?;
        let (name, revision) = match name.split_once('@') {
            Some((name, revision)) => (name, Some(revision)),
            None => (name, None),
        };
        let word = |text: &str| {
            let start = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
            start && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        let plan = name.ends_with(".plan");
        (word(owner) && word(name) && revision.is_none_or(word) && !plan).then_some(HubName { owner, name, revision })
    }

    /// Its snapshot in the cache of the Hub's clients: `models--owner--name/snapshots/COMMIT`, where `refs/REVISION`
    /// names the commit.
    fn find(&self, cache: &Path) -> Option<PathBuf> {
        let folder = cache.join(format!("models--{}--{}", self.owner, self.name));
        let revision = self.revision.unwrap_or("main");
        let commit = read_text(&folder.join("refs").join(revision), 4096).ok();
        let snapshot = folder.join("snapshots").join(commit.as_deref().map_or(revision, str::trim));
        snapshot.join("config.json").is_file().then_some(snapshot)
    }

    fn missing(&self, cache: Option<&Path>) -> Failure {
        let HubName { owner, name, revision } = self;
        let (at, option) = match revision {
            Some(revision) => (format!("@{revision}"), format!(" --revision {revision}")),
            None => Default::default(),
        };
        let place = cache.map_or_else(String::new, |cache| format!(", nor is it in {}", cache.display()));
        let message = format!("{owner}/{name}{at}: there is no such directory{place}");
        Failure::bad_input(message).help(format!("to download it: hf download {owner}/{name}{option}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_hub_are_two_words() {
        let parse = |text: &'static str| HubName::parse(Path::new(text));
        let name = HubName { owner: "meta-llama", name: "Llama-3.2-1B", revision: None };
        assert_eq!(parse("meta-llama/Llama-3.2-1B"), Some(name));
        assert_eq!(parse("a/b@v1.0").and_then(|name| name.revision), Some("v1.0"));
        for path in ["a", "a/b/c", "../b", "a/..", "./b", "/b", "a/", "a/b.plan", "a b/c", "a/b@../c", "~/b"] {
            assert_eq!(parse(path), None, "{path}");
        }
    }
}
