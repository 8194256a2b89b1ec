//! Runs a program on a mutant and judges its behaviour. Memory is read from `/proc` every few milliseconds, so this is
//! for Linux.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::mutant::Mutant;

/// The documented exit codes, except 1: as in `failure.rs` of `cli`.
const EXIT_CODES: [i32; 7] = [0, 2, 3, 4, 5, 6, 7];

/// Limits of a run.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From start to end.
    pub time: Duration,
    /// Bytes of memory beyond those of the input.
    pub memory: u64,
    /// Bytes of all that is said on stderr.
    pub error: usize,
    /// Bytes of what is said on stdout.
    pub output: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { time: Duration::from_secs(10), memory: 1 << 30, error: 4 << 10, output: 256 << 20 }
    }
}

/// A fault of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An exit code for bugs, or an undocumented one.
    ExitCode(i32),
    /// A signal ended it.
    Signal(i32),
    /// It printed a panic, whatever the exit code.
    Panic,
    /// It took too long.
    Slow,
    /// It took this many MiB.
    Memory(u64),
    /// This many bytes on stderr.
    LongError(usize),
    /// Too much on stdout.
    Endless,
    /// It failed with this number of errors, not one.
    Errors(usize),
    /// A control character on this stream.
    Control(&'static str, char),
    /// Bytes on this stream that are not UTF-8.
    NotText(&'static str),
    /// It left this file.
    Leftover(String),
    /// It changed an input.
    Changed(String),
}

impl Fault {
    /// Its name in reports and files: without details that differ between runs.
    pub fn name(&self) -> String {
        match self {
            Fault::ExitCode(code) => format!("exit code {code}"),
            Fault::Signal(signal) => format!("signal {signal}"),
            Fault::Panic => "panic".to_owned(),
            Fault::Slow => "slow".to_owned(),
            Fault::Memory(_) => "memory".to_owned(),
            Fault::LongError(_) => "long error".to_owned(),
            Fault::Endless => "endless output".to_owned(),
            Fault::Errors(0) => "no error".to_owned(),
            Fault::Errors(_) => "several errors".to_owned(),
            Fault::Control(stream, _) => format!("control character on {stream}"),
            Fault::NotText(stream) => format!("bytes on {stream} that are not text"),
            Fault::Leftover(_) => "leftover".to_owned(),
            Fault::Changed(_) => "changed input".to_owned(),
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Memory(mib) => write!(f, "memory: {mib} MiB beyond the input"),
            Fault::LongError(bytes) => write!(f, "long error: {bytes} bytes"),
            Fault::Errors(count @ 2..) => write!(f, "several errors: {count}"),
            Fault::Control(_, character) => write!(f, "{}: {}", self.name(), character.escape_default()),
            Fault::Leftover(path) | Fault::Changed(path) => write!(f, "{}: {path}", self.name()),
            _ => f.write_str(&self.name()),
        }
    }
}

/// How a run went.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub time: Duration,
    /// Bytes of memory at most.
    pub peak: u64,
    pub faults: Vec<Fault>,
}

/// Runs a program on a mutant in a folder, which is emptied before.
pub fn run(program: &Path, mutant: &Mutant, folder: &Path, limits: &Limits) -> Result<Outcome, String> {
    let place = Place::new(folder)?;
    mutant.write(&place.input())?;
    let mut command = place.command(program)?;
    let start = Instant::now();
    let child = command.args(&mutant.args).spawn().map_err(|error| format!("{}: {error}", program.display()))?;
    let watched = watch(child, &place, start, limits, mutant.bytes())?;
    let read = |name: &str| fs::read(place.folder.join(name)).unwrap_or_default();
    let (stdout, stderr) = (read("stdout"), read("stderr"));
    let mut faults = watched.faults;
    let code = watched.status.code();
    // what was stopped says nothing by its end, nor by what it left
    let stopped = !faults.is_empty();
    match (code, watched.status.signal()) {
        _ if stopped => {}
        (_, Some(signal)) => faults.push(Fault::Signal(signal)),
        (Some(code), _) if EXIT_CODES.contains(&code) => {}
        (code, _) => faults.push(Fault::ExitCode(code.unwrap_or(-1))),
    }
    faults.extend(said(&stdout, &stderr, if stopped { None } else { code }, limits));
    if !stopped {
        faults.extend(place.left(mutant, code == Some(0), &stderr));
    }
    Ok(Outcome { code, stdout, stderr, time: start.elapsed(), peak: watched.peak, faults })
}

/// The folder of a run: what the program is given, and all places where it may leave something.
struct Place {
    folder: PathBuf,
}

impl Place {
    fn new(folder: &Path) -> Result<Place, String> {
        let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
        if folder.exists() {
            fs::remove_dir_all(folder).map_err(failed)?;
        }
        for name in ["in", "out", "tmp", "cache", "home"] {
            fs::create_dir_all(folder.join(name)).map_err(failed)?;
        }
        Ok(Place { folder: folder.canonicalize().map_err(failed)? })
    }

    fn input(&self) -> PathBuf {
        self.folder.join("in")
    }

    /// The program with these folders around it and its output in files, which no one has to read in time.
    fn command(&self, program: &Path) -> Result<Command, String> {
        let mut command = Command::new(program);
        let file = |name: &str| {
            File::create(self.folder.join(name)).map_err(|error| format!("{}: {error}", self.folder.display()))
        };
        command.stdin(Stdio::null()).stdout(file("stdout")?).stderr(file("stderr")?);
        command.current_dir(&self.folder).env("NO_COLOR", "1").env("HOME", self.folder.join("home"));
        command.env("TMPDIR", self.folder.join("tmp")).env("XDG_CACHE_HOME", self.folder.join("cache"));
        for name in ["SMELT_CACHE_DIR", "SMELT_CUDA_HOME", "CUDA_HOME", "RUST_BACKTRACE"] {
            command.env_remove(name);
        }
        Ok(command)
    }

    /// What is there and should not be.
    fn left(&self, mutant: &Mutant, succeeded: bool, stderr: &[u8]) -> Vec<Fault> {
        let mut found = Vec::new();
        files(&self.folder, "", &mut found);
        let given = |name: &str| {
            let below = name.strip_prefix("in/");
            below.is_some_and(|name| {
                mutant.files.iter().any(|(file, _)| file == name || file.starts_with(&format!("{name}/")))
            })
        };
        let errors = String::from_utf8_lossy(stderr);
        let expected = |name: &str| {
            let (folder, file) = name.split_once('/').unwrap_or(("", name));
            let last = name.rsplit('/').next().unwrap_or(name);
            let whole = !last.starts_with('.') && !last.contains(".partial") && !last.contains(".tmp");
            match folder {
                "" => {
                    let ours = ["in", "out", "tmp", "cache", "home", "stdout", "stderr"].contains(&file);
                    // of a rule that failed, as it says
                    ours || file == "repro.ir" && errors.contains("wrote ")
                }
                "in" => given(name),
                "out" => succeeded && whole,
                // a plan in the cache is whole, and of use to the next run, though this one went on to fail
                "cache" => whole && (!last.contains('.') || last.ends_with(".plan") || succeeded),
                _ => false,
            }
        };
        let left = found.iter().filter(|name| !expected(name)).map(|name| Fault::Leftover(name.clone()));
        let changed = mutant.unchanged(&self.input()).map(|name| Fault::Changed(name.to_owned()));
        left.take(3).chain(changed).collect()
    }
}

/// Names of everything below a directory, except caches; links are not followed.
fn files(folder: &Path, prefix: &str, found: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut entries: Vec<_> = entries.filter_map(Result::ok).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files(&entry.path(), &format!("{name}/"), found);
        }
        found.push(name);
    }
}

struct Watched {
    status: ExitStatus,
    peak: u64,
    faults: Vec<Fault>,
}

/// Waits for the end, and kills the process at a limit.
fn watch(mut child: Child, place: &Place, start: Instant, limits: &Limits, input: u64) -> Result<Watched, String> {
    let said = [place.folder.join("stdout"), place.folder.join("stderr")];
    let mut peak = 0;
    loop {
        peak = peak_memory(child.id()).unwrap_or(0).max(peak);
        let fault = match () {
            () if peak > limits.memory + input => Some(Fault::Memory((peak - input) >> 20)),
            () if start.elapsed() > limits.time => Some(Fault::Slow),
            () if said.iter().any(|path| fs::metadata(path).is_ok_and(|file| file.len() > limits.output)) => {
                Some(Fault::Endless)
            }
            () => None,
        };
        let failed = |error: std::io::Error| format!("waiting for the program: {error}");
        if let Some(fault) = fault {
            // it may have ended by itself in the meantime
            let _ = child.kill();
            return Ok(Watched { status: child.wait().map_err(failed)?, peak, faults: vec![fault] });
        }
        if let Some(status) = child.try_wait().map_err(failed)? {
            return Ok(Watched { status, peak, faults: Vec::new() });
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Peak memory of a process in bytes. `None` if it has ended, or has not begun: until the kernel has given a new process
/// its own memory, which may be after `spawn` returns, `/proc` shows that of its parent, and its parent's program.
fn peak_memory(process: u32) -> Option<u64> {
    let program = |process: &str| fs::read_link(format!("/proc/{process}/exe"));
    if program(&process.to_string()).ok()? == program("self").ok()? {
        return None;
    }
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// Faults of the output. `code` is `None` if the process was killed.
fn said(stdout: &[u8], stderr: &[u8], code: Option<i32>, limits: &Limits) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (stream, bytes) in [("stdout", stdout), ("stderr", stderr)] {
        match std::str::from_utf8(bytes) {
            Ok(text) => faults.extend(text.chars().find(|c| obeyed(*c)).map(|c| Fault::Control(stream, c))),
            // the output of a killed process may end within a character
            Err(_) if code.is_none() => {}
            Err(_) => faults.push(Fault::NotText(stream)),
        }
    }
    let errors = String::from_utf8_lossy(stderr);
    if errors.contains("panicked at") {
        faults.push(Fault::Panic);
    }
    if stderr.len() > limits.error {
        faults.push(Fault::LongError(stderr.len()));
    }
    // as `Failure::rendered` and `clap` start an error
    let begins = |line: &&str| {
        ["  × ", "  x ", "error: ", "{\"schema_version\":1,\"error\":"].iter().any(|start| line.starts_with(start))
    };
    let count = errors.lines().filter(begins).count();
    if code.is_some_and(|code| code != 0) && count != 1 {
        faults.push(Fault::Errors(count));
    }
    faults
}

/// Whether a terminal interprets this character: control characters, and marks that change the direction of text.
fn obeyed(character: char) -> bool {
    let turns = matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    character.is_control() && !['\n', '\t'].contains(&character) || turns
}
