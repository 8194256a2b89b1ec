//! NVRTC: finding the library, and compiling units with it. The only file that names `cudarc::nvrtc`, and only for its
//! types: cudarc's own functions open the library by name, and would use a `libnvrtc.so` of the loader's path instead
//! of the one that was found here.

use std::ffi::{CStr, CString, c_char, c_int};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cudarc::nvrtc::sys::{nvrtcProgram, nvrtcResult};
use libloading::Library;

use super::cache::Artifact;
use super::search;

/// The oldest supported major version.
const OLDEST: i32 = 13;
/// Names of the library in the loader's path.
const NAMES: [&str; 2] = ["libnvrtc.so.13", "libnvrtc.so"];

/// An opened NVRTC: calls go to this file and no other.
#[derive(Clone, Debug)]
pub struct Nvrtc {
    /// The opened file; `None` if the loader found it and the system does not say where.
    pub path: Option<PathBuf>,
    /// Its version, such as (13, 0).
    pub version: (i32, i32),
    /// Files that were found before it and are unusable, each with the reason.
    pub skipped: Vec<String>,
    api: Arc<Api>,
}

type Size = unsafe extern "C" fn(nvrtcProgram, *mut usize) -> nvrtcResult;
type Get = unsafe extern "C" fn(nvrtcProgram, *mut c_char) -> nvrtcResult;
type Texts = *const *const c_char;

/// The functions of an opened library, as `nvrtc.h` declares them.
struct Api {
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> nvrtcResult,
    create: unsafe extern "C" fn(*mut nvrtcProgram, *const c_char, *const c_char, c_int, Texts, Texts) -> nvrtcResult,
    compile: unsafe extern "C" fn(nvrtcProgram, c_int, Texts) -> nvrtcResult,
    log: (Size, Get),
    cubin: (Size, Get),
    ptx: (Size, Get),
    destroy: unsafe extern "C" fn(*mut nvrtcProgram) -> nvrtcResult,
    /// Never closed: the library has threads and exit handlers of its own.
    _library: ManuallyDrop<Library>,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Api")
    }
}

impl Api {
    /// Opens a library by path, or by a name that the loader looks up.
    fn open(file: &Path) -> Result<Api, String> {
        // SAFETY: opening a library runs its initializers; NVRTC's have no preconditions.
        let library = unsafe { Library::new(file) }.map_err(|error| error.to_string())?;
        let library = ManuallyDrop::new(library);
        // SAFETY: the types are those of `nvrtc.h`, which has not changed them since they came.
        unsafe {
            let pair = |size: &str, get: &str| Ok::<_, String>((function(&library, size)?, function(&library, get)?));
            Ok(Api {
                version: function(&library, "nvrtcVersion")?,
                create: function(&library, "nvrtcCreateProgram")?,
                compile: function(&library, "nvrtcCompileProgram")?,
                log: pair("nvrtcGetProgramLogSize", "nvrtcGetProgramLog")?,
                cubin: pair("nvrtcGetCUBINSize", "nvrtcGetCUBIN")?,
                ptx: pair("nvrtcGetPTXSize", "nvrtcGetPTX")?,
                destroy: function(&library, "nvrtcDestroyProgram")?,
                _library: library,
            })
        }
    }

    /// Its version, if it is supported.
    fn usable_version(&self) -> Result<(i32, i32), String> {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both pointers are valid for the call.
        match unsafe { (self.version)(&mut major, &mut minor) } {
            nvrtcResult::NVRTC_SUCCESS if major < OLDEST => {
                Err(format!("this is NVRTC {major}.{minor}, not {OLDEST}.0 or later"))
            }
            nvrtcResult::NVRTC_SUCCESS => Ok((major, minor)),
            error => Err(format!("NVRTC does not tell its version: {error:?}")),
        }
    }
}

/// A function of a library.
///
/// # Safety
/// `F` must be the function's type.
unsafe fn function<F: Copy>(library: &Library, name: &str) -> Result<F, String> {
    // SAFETY: as the caller promises.
    let symbol = unsafe { library.get::<F>(name.as_bytes()) };
    symbol.map(|symbol| *symbol).map_err(|error| error.to_string())
}

impl Nvrtc {
    /// Identifies this NVRTC for caching: versions have only major and minor.
    pub(super) fn identity(&self) -> String {
        let size = self.path.as_ref().and_then(|path| std::fs::metadata(path).ok()).map(|file| file.len());
        format!("{:?} {size:?}", self.version)
    }
}

/// Opens NVRTC: the first usable file of these directories, otherwise that of the loader's path. Directories hold
/// libraries, or a toolkit (with `lib64` or `lib` below); the error has the reason for each unusable file.
pub fn find(folders: &[PathBuf]) -> Result<Nvrtc, String> {
    let mut skipped = Vec::new();
    let found = search::files(folders, "libnvrtc.so").into_iter().map(|file| (file, true));
    for (file, is_there) in found.chain(NAMES.map(|name| (name.into(), false))) {
        let opened = Api::open(&file).and_then(|api| Ok((api.usable_version()?, api)));
        match opened {
            Ok((version, api)) => {
                let path = if is_there { Some(file) } else { mapped_file(api.version as usize) };
                if let Some(folder) = path.as_deref().and_then(Path::parent) {
                    open_builtins(folder, version);
                }
                return Ok(Nvrtc { path, version, skipped, api: Arc::new(api) });
            }
            // names that the loader does not find are not reported
            Err(_) if !is_there => {}
            Err(reason) => skipped.push(format!("{}: {reason}", file.display())),
        }
    }
    skipped.insert(0, "libnvrtc.so was not found".to_owned());
    Err(skipped.join("; "))
}

/// Opens the builtins library next to NVRTC, which it looks up by name, in the same version.
fn open_builtins(folder: &Path, (major, minor): (i32, i32)) {
    let wanted = [major as u32, minor as u32];
    let files = search::versions(folder, "libnvrtc-builtins.so");
    if let Some((_, file)) = files.into_iter().find(|(version, _)| version.starts_with(&wanted)) {
        // SAFETY: opening a library runs its initializers; the builtins' have no preconditions. It stays open.
        let _ = unsafe { Library::new(file) }.map(ManuallyDrop::new);
    }
}

/// The file that is mapped at an address, if the system says so.
fn mapped_file(address: usize) -> Option<PathBuf> {
    let maps = plan::input::read_text(Path::new("/proc/self/maps"), plan::input::TEXT_BYTES).ok()?;
    maps.lines().find_map(|line| {
        let (start, end) = line.split_whitespace().next()?.split_once('-')?;
        let number = |text| usize::from_str_radix(text, 16).ok();
        let inside = (number(start)?..number(end)?).contains(&address);
        inside.then(|| line.find('/').map(|at| PathBuf::from(&line[at..])))?
    })
}

/// The virtual directory of a unit's files. Relative names would be resolved against the working directory in line
/// tables, so plans made in two directories would differ.
const ROOT: &str = "/smelt/";

/// The unit with all names in its `#line` directives below the root.
fn rooted(source: &str) -> String {
    let mut rooted = String::with_capacity(source.len());
    for line in source.lines() {
        match line.strip_prefix("#line ").and_then(|mark| mark.split_once('"')) {
            Some((number, name)) => {
                rooted.extend(["#line ", number, "\"", ROOT, name]);
            }
            None => rooted.push_str(line),
        }
        rooted.push('\n');
    }
    rooted
}

/// Compiles a unit to a cubin and to PTX. The error is the log.
pub(super) fn compile(nvrtc: &Nvrtc, name: &str, source: &str, options: &[&str]) -> Result<Artifact, String> {
    let text = |text: &str| CString::new(text).map_err(|_| format!("`{name}` has a zero byte in it"));
    let (source, file) = (text(&rooted(source))?, text(&format!("{ROOT}{name}"))?);
    let options = options.iter().map(|option| text(option)).collect::<Result<Vec<_>, _>>()?;
    let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
    let api = nvrtc.api.as_ref();
    let program = Program::new(api, &source, &file)?;
    // SAFETY: the program is alive, the options are terminated strings that outlive the call.
    let compiled = unsafe { (api.compile)(program.handle, options.len() as i32, options.as_ptr()) };
    // SAFETY: the functions of a program's results are paired as in the C header.
    let log = unsafe { program.result(api.log) };
    let log = log.map(|bytes| readable(&bytes).replace(ROOT, "")).unwrap_or_default();
    if compiled != nvrtcResult::NVRTC_SUCCESS {
        return Err(if log.is_empty() { format!("{compiled:?}") } else { log });
    }
    // SAFETY: as above.
    let (cubin, ptx) = unsafe { (program.result(api.cubin)?, program.result(api.ptx)?) };
    Ok(Artifact { cubin, ptx: readable(&ptx), log })
}

/// A C string.
fn readable(bytes: &[u8]) -> String {
    let text = CStr::from_bytes_until_nul(bytes).map_or(bytes, CStr::to_bytes);
    String::from_utf8_lossy(text).into_owned()
}

/// A program of NVRTC, destroyed on drop.
struct Program<'a> {
    api: &'a Api,
    handle: nvrtcProgram,
}

impl Program<'_> {
    fn new<'a>(api: &'a Api, source: &CStr, name: &CStr) -> Result<Program<'a>, String> {
        let mut handle = std::ptr::null_mut();
        let none = std::ptr::null();
        // SAFETY: terminated strings, which NVRTC copies; no headers.
        match unsafe { (api.create)(&mut handle, source.as_ptr(), name.as_ptr(), 0, none, none) } {
            nvrtcResult::NVRTC_SUCCESS => Ok(Program { api, handle }),
            error => Err(format!("{error:?}")),
        }
    }

    /// A result of the program.
    ///
    /// # Safety
    /// The first function must give the size of what the second one writes.
    unsafe fn result(&self, (size, get): (Size, Get)) -> Result<Vec<u8>, String> {
        let mut bytes = 0;
        // SAFETY: the program is alive and the pointer valid.
        let asked = unsafe { size(self.handle, &mut bytes) };
        if asked != nvrtcResult::NVRTC_SUCCESS {
            return Err(format!("{asked:?}"));
        }
        let mut buffer = vec![0u8; bytes];
        // SAFETY: the buffer has the size that was asked for.
        match unsafe { get(self.handle, buffer.as_mut_ptr().cast()) } {
            nvrtcResult::NVRTC_SUCCESS => Ok(buffer),
            got => Err(format!("{got:?}")),
        }
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        // SAFETY: the program is alive, and nothing uses it any more.
        unsafe { (self.api.destroy)(&mut self.handle) };
    }
}
