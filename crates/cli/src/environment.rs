//! Environment variables: where CUDA's libraries are, where caches go. The only file that reads them. And what
//! distinguishes this build of the program.

use std::path::PathBuf;

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
    let named = ["SMELT_CUDA_HOME", "CUDA_HOME"].into_iter().filter_map(std::env::var_os);
    let mut folders: Vec<PathBuf> = named.filter(|value| !value.is_empty()).map(PathBuf::from).collect();
    folders.push(PathBuf::from("/usr/local/cuda"));
    let python = std::process::Command::new("python3").args(["-c", "import sys; print('\\n'.join(sys.path))"]).output();
    let paths = python.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    for packages in paths.lines().filter(|line| !line.is_empty()) {
        let Ok(entries) = std::fs::read_dir(PathBuf::from(packages).join("nvidia")) else { continue };
        let mut found: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path().join("lib"))).collect();
        found.sort();
        folders.extend(found);
    }
    folders
}

/// Identifies this build of the program, so that plans cached by an older one are not reused.
pub fn build_identity() -> String {
    let metadata = std::env::current_exe().and_then(std::fs::metadata);
    let modified = metadata.as_ref().ok().and_then(|metadata| metadata.modified().ok());
    let modified = modified.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    format!("{} {}", metadata.map_or(0, |metadata| metadata.len()), modified.unwrap_or_default().as_nanos())
}
