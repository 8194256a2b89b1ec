//! Environment variables: where CUDA's libraries are, where caches go. The only file that reads them. And what
//! distinguishes this build of the program.

use std::path::PathBuf;

use smelt::plans::input::read_text;

/// The user's directory for cached files.
pub fn cache_folder() -> Option<PathBuf> {
    folder("XDG_CACHE_HOME", "smelt").or_else(|| folder("HOME", ".cache/smelt"))
}

/// A path in the directory that a variable names.
fn folder(variable: &str, path: &str) -> Option<PathBuf> {
    let value = std::env::var_os(variable).filter(|value| !value.is_empty())?;
    let folder = PathBuf::from(value);
    Some(if path.is_empty() { folder } else { folder.join(path) })
}

/// Where clients of the Hugging Face Hub keep what they downloaded, by the variables that they read.
pub fn hub_cache() -> Option<PathBuf> {
    folder("HF_HUB_CACHE", "")
        .or_else(|| folder("HUGGINGFACE_HUB_CACHE", ""))
        .or_else(|| folder("HF_HOME", "hub"))
        .or_else(|| folder("XDG_CACHE_HOME", "huggingface/hub"))
        .or_else(|| folder("HOME", ".cache/huggingface/hub"))
}

/// Where NVRTC may be, before the loader's own path: directories that the environment names, the usual place, and
/// Python packages.
pub fn cuda_folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = named_cuda_folders().map(|(_, folder)| folder).collect();
    folders.push(PathBuf::from("/usr/local/cuda"));
    let python = std::process::Command::new("python3").args(["-c", "import sys; print('\\n'.join(sys.path))"]).output();
    let paths = python.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let paths = paths.lines().filter(|line| !line.is_empty()).map(PathBuf::from);
    // an environment is looked into as well if another `python3` comes first
    for packages in virtual_environment().into_iter().chain(paths) {
        let Ok(entries) = std::fs::read_dir(packages.join("nvidia")) else { continue };
        let mut found: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path().join("lib"))).collect();
        found.sort();
        folders.extend(found);
    }
    folders
}

/// CUDA directories that the user named, each with its variable.
pub fn named_cuda_folders() -> impl Iterator<Item = (&'static str, PathBuf)> {
    let named = ["SMELT_CUDA_HOME", "CUDA_HOME"].into_iter();
    let named = named.filter_map(|name| Some((name, std::env::var_os(name)?)));
    named.filter(|(_, value)| !value.is_empty()).map(|(name, value)| (name, PathBuf::from(value)))
}

/// Packages of the active virtual environment of Python.
fn virtual_environment() -> Vec<PathBuf> {
    let folder = std::env::var_os("VIRTUAL_ENV").filter(|value| !value.is_empty()).map(PathBuf::from);
    let versions = folder.and_then(|folder| std::fs::read_dir(folder.join("lib")).ok());
    versions.into_iter().flatten().flatten().map(|entry| entry.path().join("site-packages")).collect()
}

/// Whether a GPU of NVIDIA is on the PCI bus; unknown where the system does not list it.
pub fn has_nvidia_gpu() -> Option<bool> {
    let devices = std::fs::read_dir("/sys/bus/pci/devices").ok()?;
    let text = |path: PathBuf| read_text(&path, 4096).unwrap_or_default();
    // a display controller, or a processing accelerator
    let is_gpu = |class: &str| class.starts_with("0x03") || class.starts_with("0x12");
    let mut devices = devices.flatten().map(|entry| entry.path());
    let found = devices.any(|path| text(path.join("vendor")).trim() == "0x10de" && is_gpu(&text(path.join("class"))));
    // WSL has the driver's device, but no such entry on the bus
    Some(found || std::path::Path::new("/dev/dxg").exists())
}

/// Identifies this build of the program, so that plans cached by an older one are not reused.
pub fn build_identity() -> String {
    let metadata = std::env::current_exe().and_then(std::fs::metadata);
    let modified = metadata.as_ref().ok().and_then(|metadata| metadata.modified().ok());
    let modified = modified.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    format!("{} {}", metadata.map_or(0, |metadata| metadata.len()), modified.unwrap_or_default().as_nanos())
}
