//! `smelt doctor`

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use smelt::{Driver, Error, Target};

use super::inspect::figures::number_of;
use crate::args::parse_threads;
use crate::environment::{cache_folder, cuda_folders, has_nvidia_gpu, named_cuda_folders};
use crate::failure::Failure;
use crate::output::{bytes, print, print_json};

/// Shows what this machine supports, and what is missing.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    /// Measures the memory bandwidth of the CPU, which takes some seconds.
    #[arg(long)]
    measure: bool,
    /// Number of threads to measure the CPU with [default: all].
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    threads: Option<usize>,
    /// Cache directory to look into [default: smelt in the user's cache directory].
    #[arg(long, value_name = "DIR", env = "SMELT_CACHE_DIR")]
    cache_dir: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    schema_version: u32,
    version: &'static str,
    plan_format: u32,
    targets: Vec<&'static str>,
    cpu: Cpu,
    driver: Option<DriverReport>,
    nvrtc: Option<NvrtcReport>,
    caches: Vec<Cache>,
    /// Hardware that this machine does not have: nothing to install.
    absent: Vec<String>,
    missing: Vec<Missing>,
    remarks: Vec<String>,
}

/// Files of one kind in the cache directory.
#[derive(Serialize)]
struct Cache {
    what: &'static str,
    folder: PathBuf,
    files: u64,
    bytes: u64,
}

impl Cache {
    /// The caches of a directory: what they hold, and how much of it.
    fn all(folder: &Path) -> Vec<Cache> {
        let places =
            [("plans", folder.to_owned()), ("kernels", folder.join("units")), ("losses", folder.join("losses"))];
        places.into_iter().map(|(what, folder)| Cache::of(what, folder)).collect()
    }

    fn of(what: &'static str, folder: PathBuf) -> Cache {
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let sizes = entries.filter_map(|entry| entry.metadata().ok()).filter(|data| data.is_file());
        let (files, bytes) = sizes.fold((0, 0), |(files, bytes), data| (files + 1, bytes + data.len()));
        Cache { what, folder, files, bytes }
    }
}

#[derive(Serialize)]
struct Cpu {
    architecture: &'static str,
    threads: usize,
    instruction_set: &'static str,
    /// Memory bandwidth of all threads together, in GB/s, if it was measured.
    read_bandwidth_gb_s: Option<f64>,
}

#[derive(Serialize)]
struct DriverReport {
    cuda_version: String,
    devices: Vec<DeviceReport>,
}

#[derive(Serialize)]
struct DeviceReport {
    name: String,
    compute_capability: String,
    memory_bytes: u64,
}

#[derive(Serialize)]
struct NvrtcReport {
    /// The library that compiles.
    path: Option<PathBuf>,
    version: String,
    /// Libraries that were found before it, and why they are not used.
    skipped: Vec<String>,
}

/// Something missing that the CPU target does not need.
#[derive(Serialize)]
struct Missing {
    what: &'static str,
    reason: String,
    /// The command that installs it.
    install: &'static str,
}

impl Doctor {
    pub fn run(self, driver: &Driver) -> Result<(), Failure> {
        let report = self.examine(driver)?;
        if self.json { print_json(&report) } else { print(&report.table()) }
    }

    fn examine(&self, driver: &Driver) -> Result<Report, Failure> {
        let executor = driver.cpu_executor(self.threads).map_err(Error::from)?;
        let cpu = Cpu {
            architecture: std::env::consts::ARCH,
            threads: executor.threads(),
            instruction_set: smelt::cpu_instruction_set(),
            read_bandwidth_gb_s: match self.measure {
                true => Some(executor.install(|| smelt::cpu_read_bandwidth(1 << 30)).map_err(Error::DoesNotFit)? / 1e9),
                false => None,
            },
        };
        let (mut absent, mut missing) = (Vec::new(), Vec::new());
        let driver = match smelt::cuda_driver() {
            Ok(found) => Some(DriverReport {
                cuda_version: version(found.cuda_version),
                devices: found
                    .devices
                    .into_iter()
                    .map(|device| DeviceReport {
                        name: device.name,
                        compute_capability: version(device.compute_capability),
                        memory_bytes: device.memory_bytes,
                    })
                    .collect(),
            }),
            Err(_) if has_nvidia_gpu() == Some(false) => {
                absent.push("no NVIDIA GPU in this machine: plans run on the CPU".to_owned());
                None
            }
            Err(reason) => {
                let install = "apt-get install nvidia-driver";
                missing.push(Missing { what: "NVIDIA driver", reason, install });
                None
            }
        };
        let nvrtc = match smelt::cuda::find(&cuda_folders()) {
            Ok(found) => {
                Some(NvrtcReport { path: found.path, version: version(found.version), skipped: found.skipped })
            }
            Err(reason) => {
                let install = "python3 -m pip install nvidia-cuda-nvrtc";
                missing.push(Missing { what: "NVRTC", reason, install });
                None
            }
        };
        let version = env!("CARGO_PKG_VERSION");
        let folders = named_cuda_folders().filter(|(_, folder)| !folder.is_dir());
        let remarks =
            folders.map(|(name, folder)| format!("{name} names {}, which is not a directory", folder.display()));
        let caches = self.cache_dir.clone().or_else(cache_folder).map(|folder| Cache::all(&folder));
        Ok(Report {
            schema_version: 1,
            version,
            plan_format: smelt::FORMAT_VERSION,
            targets: Target::ALL.map(Target::name).to_vec(),
            cpu,
            driver,
            nvrtc,
            caches: caches.unwrap_or_default(),
            absent,
            missing,
            remarks: remarks.collect(),
        })
    }
}

fn version((major, minor): (i32, i32)) -> String {
    format!("{major}.{minor}")
}

impl Report {
    fn table(&self) -> String {
        let cpu = &self.cpu;
        let reads = match cpu.read_bandwidth_gb_s {
            Some(rate) => format!("reads {rate:.1} GB/s"),
            None => "--measure shows its memory bandwidth".to_owned(),
        };
        let cpu =
            format!("{}, {} threads, {} instructions, {reads}", cpu.architecture, cpu.threads, cpu.instruction_set);
        let smelt =
            format!("{}, plan format {}, compiles for {}", self.version, self.plan_format, self.targets.join(", "));
        let mut rows = vec![("smelt", smelt), ("cpu", cpu)];
        if let Some(driver) = &self.driver {
            rows.push(("driver", format!("CUDA {}", driver.cuda_version)));
            for device in &driver.devices {
                let memory = bytes(device.memory_bytes);
                rows.push(("device", format!("{}, sm_{}, {memory}", device.name, device.compute_capability)));
            }
        }
        if let Some(nvrtc) = &self.nvrtc {
            let place = nvrtc.path.as_ref().map_or("the loader's path".to_owned(), |path| path.display().to_string());
            rows.push(("nvrtc", format!("{} in {place}", nvrtc.version)));
            rows.extend(nvrtc.skipped.iter().map(|reason| ("skipped", reason.clone())));
        }
        for cache in &self.caches {
            let (files, place) = (number_of(cache.files, "file"), cache.folder.display());
            rows.push(("cache", format!("{}: {files}, {}, in {place}", cache.what, bytes(cache.bytes))));
        }
        rows.extend(self.absent.iter().map(|what| ("absent", what.clone())));
        rows.extend(self.remarks.iter().map(|remark| ("note", remark.clone())));
        for missing in &self.missing {
            rows.push(("missing", format!("{}: {} (`{}`)", missing.what, missing.reason, missing.install)));
        }
        rows.into_iter().map(|(name, value)| format!("{name:<8} {value}\n")).collect()
    }
}
