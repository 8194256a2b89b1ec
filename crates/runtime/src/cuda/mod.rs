//! NVIDIA GPUs, through the driver alone: detection, and plans on them.

mod driver;
mod executor;
mod failure;
mod launch;
mod monitor;
mod profile;
mod session;
mod weights;

pub use executor::CudaExecutor;
pub use monitor::{Clocks, Monitor, Range};

/// The CUDA major version of plans' cubins: older drivers do not load them.
pub(crate) const CUDA_MAJOR: i32 = 13;

/// The driver and its devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    /// Newest CUDA version it supports, such as (13, 0).
    pub cuda_version: (i32, i32),
    /// Devices, in the driver's order.
    pub devices: Vec<Device>,
}

/// A GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Such as `NVIDIA H200`.
    pub name: String,
    /// Compute capability, such as (9, 0).
    pub compute_capability: (i32, i32),
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Its name among all devices, such as `GPU-5f4e…`.
    pub uuid: String,
}

impl Driver {
    /// The index of the first device that runs plans for `sm_90a`, or why there is none.
    pub fn device_for_plans(&self) -> Result<i32, String> {
        let (major, minor) = self.cuda_version;
        match self.devices.iter().position(|device| device.compute_capability == (9, 0)) {
            Some(_) if major < CUDA_MAJOR => {
                Err(format!("the driver supports CUDA {major}.{minor}, plans for sm_90a need {CUDA_MAJOR}.0 or later"))
            }
            Some(index) => Ok(index as i32),
            None if self.devices.is_empty() => Err("the driver reports no device".to_owned()),
            None => {
                let devices = self.devices.iter().map(|Device { name, compute_capability: (major, minor), .. }| {
                    format!("{name} has {major}.{minor}")
                });
                let devices: Vec<String> = devices.collect();
                Err(format!("plans for sm_90a need a device of compute capability 9.0, {}", devices.join(", ")))
            }
        }
    }
}

/// Probes the driver. On a machine without one it returns an error, and never panics.
pub fn probe() -> Result<Driver, String> {
    use cudarc::driver::{result, sys};
    // cudarc panics if a library is missing: it must not be called before this check.
    // SAFETY: opening a library runs its initializers; the driver's have no preconditions.
    if !unsafe { sys::is_culib_present() } {
        return Err("libcuda.so was not found".to_owned());
    }
    result::init().map_err(|error| format!("it cannot be initialized: {error}"))?;
    let mut version = 0;
    // SAFETY: the pointer is valid for the call.
    let status = unsafe { sys::cuDriverGetVersion(&mut version) };
    status.result().map_err(|error| format!("it does not report its version: {error}"))?;
    let count = result::device::get_count().map_err(|error| format!("it reports no device: {error}"))?;
    let devices = (0..count).map(device).collect::<Result<_, _>>()?;
    Ok(Driver { cuda_version: (version / 1000, version % 1000 / 10), devices })
}

fn device(ordinal: i32) -> Result<Device, String> {
    use cudarc::driver::result;
    use cudarc::driver::sys::CUdevice_attribute as Attribute;
    let failed = |error| format!("device {ordinal}: {error}");
    let device = result::device::get(ordinal).map_err(failed)?;
    let name = result::device::get_name(device).map_err(failed)?;
    // SAFETY: `device` came from the driver.
    let attribute = |attribute| unsafe { result::device::get_attribute(device, attribute) }.map_err(failed);
    let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    // SAFETY: `device` came from the driver.
    let memory_bytes = unsafe { result::device::total_mem(device) }.map_err(failed)? as u64;
    let uuid = result::device::get_uuid(device).map_err(failed)?;
    Ok(Device {
        name,
        compute_capability: (major, minor),
        memory_bytes,
        uuid: uuid_text(uuid.bytes.map(|byte| byte as u8)),
    })
}

/// A UUID as NVIDIA's tools print it.
fn uuid_text(bytes: [u8; 16]) -> String {
    let groups = [0..4, 4..6, 6..8, 8..10, 10..16].map(|group| {
        let digits: String = bytes[group].iter().map(|byte| format!("{byte:02x}")).collect();
        digits
    });
    format!("GPU-{}", groups.join("-"))
}
