//! NVIDIA's run-time compiler: where it is. The one file that names `cudarc::nvrtc`.

use std::path::{Path, PathBuf};

/// An NVRTC that was found and opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nvrtc {
    /// The file that was opened; `None` where the loader's own path had it.
    pub path: Option<PathBuf>,
    /// Its version, such as (13, 0).
    pub version: (i32, i32),
}

/// Opens NVRTC: from the first of these folders that holds it, otherwise from the loader's path. Folders are those
/// of libraries, or homes of a toolkit (with `lib64` or `lib` below).
pub fn find(folders: &[PathBuf]) -> Result<Nvrtc, String> {
    let below = |folder: &PathBuf| ["", "lib64", "lib", "targets/x86_64-linux/lib"].map(|sub| folder.join(sub));
    let path = folders.iter().flat_map(below).find_map(|folder| library(&folder, "libnvrtc.so"));
    if let Some(path) = &path {
        preload(path)?;
    }
    // cudarc panics where a library is missing: it must not be asked before this says yes.
    // SAFETY: opening a library runs its initializers; NVRTC's have no preconditions.
    if !unsafe { cudarc::nvrtc::sys::is_culib_present() } {
        return Err("libnvrtc.so was not found".to_owned());
    }
    let (mut major, mut minor) = (0, 0);
    // SAFETY: both pointers are valid for the call.
    let result = unsafe { cudarc::nvrtc::sys::nvrtcVersion(&mut major, &mut minor) };
    match result {
        cudarc::nvrtc::sys::nvrtcResult::NVRTC_SUCCESS => Ok(Nvrtc { path, version: (major, minor) }),
        error => Err(format!("NVRTC does not tell its version: {error:?}")),
    }
}

/// The file of a library in a folder: `NAME`, or `NAME.13` and the like, the highest first.
fn library(folder: &Path, name: &str) -> Option<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let file = path.file_name().and_then(|file| file.to_str());
            file.and_then(|file| file.strip_prefix(name)).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
        .collect();
    files.sort();
    files.pop()
}

/// Opens NVRTC and its builtins by absolute path, and leaves them open: cudarc then finds them by name.
fn preload(path: &Path) -> Result<(), String> {
    let builtins = path.parent().and_then(|folder| library(folder, "libnvrtc-builtins.so"));
    for file in builtins.iter().map(PathBuf::as_path).chain([path]) {
        // SAFETY: opening a library runs its initializers; NVRTC's have no preconditions.
        let opened = unsafe { libloading::Library::new(file) };
        let opened = opened.map_err(|error| format!("{}: {error}", file.display()))?;
        std::mem::forget(opened);
    }
    Ok(())
}
