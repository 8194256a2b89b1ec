//! `smelt doctor`

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use smelt::{Driver, Error, Target};

use crate::args::parse_threads;
use crate::environment::cuda_folders;
use crate::failure::Failure;
use crate::output::{bytes, print, print_json};

/// Shows what this machine supports, and what is missing.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    /// Number of threads to measure the CPU with [default: all].
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    threads: Option<usize>,
}

#[derive(Serialize)]
struct Report {
    schema_version: u32,
    version: &'static str,
    targets: Vec<&'static str>,
    cpu: Cpu,
    driver: Option<DriverReport>,
    nvrtc: Option<NvrtcReport>,
    missing: Vec<Missing>,
}

#[derive(Serialize)]
struct Cpu {
    architecture: &'static str,
    threads: usize,
    instruction_set: &'static str,
    /// Memory bandwidth of all threads together, in GB/s.
    read_bandwidth_gb_s: f64,
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
            read_bandwidth_gb_s: executor.install(|| smelt::cpu_read_bandwidth(1 << 30)).map_err(Error::DoesNotFit)?
                / 1e9,
        };
        let mut missing = Vec::new();
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
        Ok(Report {
            schema_version: 1,
            version,
            targets: Target::ALL.map(Target::name).to_vec(),
            cpu,
            driver,
            nvrtc,
            missing,
        })
    }
}

fn version((major, minor): (i32, i32)) -> String {
    format!("{major}.{minor}")
}

impl Report {
    fn table(&self) -> String {
        let mut rows = vec![
            ("smelt", format!("{}, compiles for {}", self.version, self.targets.join(", "))),
            (
                "cpu",
                format!(
                    "{}, {} threads, {} instructions, reads {:.1} GB/s",
                    self.cpu.architecture, self.cpu.threads, self.cpu.instruction_set, self.cpu.read_bandwidth_gb_s
                ),
            ),
        ];
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
        for missing in &self.missing {
            rows.push(("missing", format!("{}: {} (`{}`)", missing.what, missing.reason, missing.install)));
        }
        rows.into_iter().map(|(name, value)| format!("{name:<8} {value}\n")).collect()
    }
}
