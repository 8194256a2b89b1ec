//! What a GPU does while something else is measured: its clocks, power and temperature, through NVML.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};

/// Time between two looks.
const PERIOD: Duration = Duration::from_millis(100);

/// The smallest and the largest value that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The smallest.
    pub min: u32,
    /// The largest.
    pub max: u32,
}

impl Range {
    fn with(range: Option<Range>, value: u32) -> Option<Range> {
        let range = range.unwrap_or(Range { min: value, max: value });
        Some(Range { min: range.min.min(value), max: range.max.max(value) })
    }
}

/// What was seen of a device. What the driver does not tell is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clocks {
    /// Version of the driver, such as `580.95.05`.
    pub driver_version: Option<String>,
    /// Clock of the multiprocessors, in MHz.
    pub sm_mhz: Option<Range>,
    /// Clock of the memory, in MHz.
    pub memory_mhz: Option<Range>,
    /// Power, in watts.
    pub power_w: Option<Range>,
    /// Temperature, in degrees Celsius.
    pub temperature_c: Option<Range>,
}

/// Looks at a device until it is asked what it saw.
#[derive(Debug)]
pub struct Monitor {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Clocks>,
}

impl Monitor {
    /// Begins with the device of this UUID; nothing where NVML or the device is not to be had.
    pub fn start(uuid: &str) -> Option<Monitor> {
        let nvml = Nvml::init().ok()?;
        nvml.device_by_uuid(uuid).ok()?;
        let (stop, uuid) = (Arc::new(AtomicBool::new(false)), uuid.to_owned());
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || watch(&nvml, &uuid, &stopped));
        Some(Monitor { stop, thread })
    }

    /// Ends and says what was seen.
    pub fn finish(self) -> Clocks {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        self.thread.join().unwrap_or_default()
    }
}

fn watch(nvml: &Nvml, uuid: &str, stop: &AtomicBool) -> Clocks {
    let mut clocks = Clocks { driver_version: nvml.sys_driver_version().ok(), ..Clocks::default() };
    let Ok(device) = nvml.device_by_uuid(uuid) else { return clocks };
    loop {
        let seen = |range: &mut Option<Range>, value: Option<u32>| {
            *range = value.map_or(*range, |value| Range::with(*range, value));
        };
        seen(&mut clocks.sm_mhz, device.clock_info(Clock::SM).ok());
        seen(&mut clocks.memory_mhz, device.clock_info(Clock::Memory).ok());
        seen(&mut clocks.power_w, device.power_usage().ok().map(|milliwatts| milliwatts / 1000));
        seen(&mut clocks.temperature_c, device.temperature(TemperatureSensor::Gpu).ok());
        if stop.load(Ordering::Relaxed) {
            return clocks;
        }
        std::thread::park_timeout(PERIOD);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_grows_with_what_is_seen() {
        let seen = [1500, 1980, 1200].into_iter().fold(None, Range::with);
        assert_eq!(seen, Some(Range { min: 1200, max: 1980 }));
    }

    #[test]
    fn a_device_that_is_not_there_is_not_watched() {
        assert!(Monitor::start("GPU-00000000-0000-0000-0000-000000000000").is_none());
    }
}
