//! NVIDIA's run-time compiler: where it is, and units through it. The one file that names `cudarc::nvrtc`.

use std::ffi::{CStr, CString, c_char};
use std::path::{Path, PathBuf};

use cudarc::nvrtc::sys;

use super::cache::Artifact;

/// An NVRTC that was found and opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nvrtc {
    /// The file that was opened; `None` where the loader's own path had it.
    pub path: Option<PathBuf>,
    /// Its version, such as (13, 0).
    pub version: (i32, i32),
}

impl Nvrtc {
    /// What tells this NVRTC from another one whose output may differ: versions say no more than major and minor.
    pub(super) fn identity(&self) -> String {
        let size = self.path.as_ref().and_then(|path| std::fs::metadata(path).ok()).map(|file| file.len());
        format!("{:?} {size:?}", self.version)
    }
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
    if !unsafe { sys::is_culib_present() } {
        return Err("libnvrtc.so was not found".to_owned());
    }
    let (mut major, mut minor) = (0, 0);
    // SAFETY: both pointers are valid for the call.
    let result = unsafe { sys::nvrtcVersion(&mut major, &mut minor) };
    match result {
        sys::nvrtcResult::NVRTC_SUCCESS if major < 13 => {
            Err(format!("this is NVRTC {major}.{minor}, not 13.0 or later"))
        }
        sys::nvrtcResult::NVRTC_SUCCESS => Ok(Nvrtc { path, version: (major, minor) }),
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

/// Compiles a unit to a cubin and to PTX. The error is the log. [`find`] must have succeeded before.
pub(super) fn compile(name: &str, source: &str, options: &[&str]) -> Result<Artifact, String> {
    let text = |text: &str| CString::new(text).map_err(|_| format!("`{name}` has a zero byte in it"));
    let (source, file) = (text(source)?, text(name)?);
    let options = options.iter().map(|option| text(option)).collect::<Result<Vec<_>, _>>()?;
    let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
    let program = Program::new(&source, &file)?;
    // SAFETY: the program is alive, the options are terminated strings that outlive the call.
    let compiled = unsafe { sys::nvrtcCompileProgram(program.0, options.len() as i32, options.as_ptr()) };
    // SAFETY: the functions of a program's results, as the C header pairs them.
    let log = unsafe { program.result(sys::nvrtcGetProgramLogSize, sys::nvrtcGetProgramLog) };
    let log = log.map(|bytes| readable(&bytes)).unwrap_or_default();
    if compiled != sys::nvrtcResult::NVRTC_SUCCESS {
        return Err(if log.is_empty() { format!("{compiled:?}") } else { log });
    }
    // SAFETY: as above.
    let (cubin, ptx) = unsafe {
        (
            program.result(sys::nvrtcGetCUBINSize, sys::nvrtcGetCUBIN)?,
            program.result(sys::nvrtcGetPTXSize, sys::nvrtcGetPTX)?,
        )
    };
    Ok(Artifact { cubin, ptx: readable(&ptx), log })
}

/// A terminated text of C.
fn readable(bytes: &[u8]) -> String {
    let text = CStr::from_bytes_until_nul(bytes).map_or(bytes, CStr::to_bytes);
    String::from_utf8_lossy(text).into_owned()
}

/// A program of NVRTC, which is destroyed with this.
struct Program(sys::nvrtcProgram);

impl Program {
    fn new(source: &CStr, name: &CStr) -> Result<Program, String> {
        let mut program = std::ptr::null_mut();
        // SAFETY: terminated strings, which NVRTC copies; no headers.
        let result = unsafe {
            sys::nvrtcCreateProgram(&mut program, source.as_ptr(), name.as_ptr(), 0, std::ptr::null(), std::ptr::null())
        };
        match result {
            sys::nvrtcResult::NVRTC_SUCCESS => Ok(Program(program)),
            error => Err(format!("{error:?}")),
        }
    }

    /// A result of the program.
    ///
    /// # Safety
    /// The first function must give the size of what the second one writes.
    unsafe fn result(
        &self,
        size: unsafe fn(sys::nvrtcProgram, *mut usize) -> sys::nvrtcResult,
        get: unsafe fn(sys::nvrtcProgram, *mut c_char) -> sys::nvrtcResult,
    ) -> Result<Vec<u8>, String> {
        let mut bytes = 0;
        // SAFETY: the program is alive and the pointer valid.
        let asked = unsafe { size(self.0, &mut bytes) };
        if asked != sys::nvrtcResult::NVRTC_SUCCESS {
            return Err(format!("{asked:?}"));
        }
        let mut buffer = vec![0u8; bytes];
        // SAFETY: the buffer has the size that was asked for.
        let got = unsafe { get(self.0, buffer.as_mut_ptr().cast()) };
        match got {
            sys::nvrtcResult::NVRTC_SUCCESS => Ok(buffer),
            got => Err(format!("{got:?}")),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: the program is alive, and nothing uses it any more.
        unsafe { sys::nvrtcDestroyProgram(&mut self.0) };
    }
}
