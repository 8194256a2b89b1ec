//! Zeroed memory for arenas, KV pools and random weights. The system allocates pages when they are first touched, so a
//! large KV pool costs only what is used.

use memmap2::MmapMut;
use plan::{DType, Layout, RandomPart};
use rayon::prelude::*;

/// Anonymous memory, zeroed, aligned to pages.
#[derive(Debug)]
pub(crate) struct Memory {
    map: MmapMut,
}

impl Memory {
    pub fn zeroed(bytes: u64) -> Result<Memory, String> {
        let size = usize::try_from(bytes.max(1)).map_err(|_| format!("{bytes} bytes do not fit this machine"))?;
        let map = MmapMut::map_anon(size).map_err(|error| format!("{bytes} bytes of memory: {error}"))?;
        #[cfg(target_os = "linux")]
        // Fewer page-table walks while weights stream; errors of systems without huge pages are ignored.
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Memory { map })
    }

    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.map.as_mut_ptr()
    }

    /// Some of the bytes.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn part(&mut self, offset: u64, bytes: u64) -> &mut [u8] {
        &mut self.map[offset as usize..][..bytes as usize]
    }

    /// The memory as f32 values.
    pub fn floats(&self) -> &[f32] {
        // SAFETY: pages are aligned, and any bits are an f32.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast(), self.map.len() / size_of::<f32>()) }
    }

    /// Writes random weights from an offset on, part after part. Parts of packed values have an even size.
    pub fn fill_random(&mut self, offset: u64, dtype: DType, layout: Layout, parts: &[RandomPart]) {
        let mut rest: &mut [u8] = &mut self.map[offset as usize..];
        if layout == Layout::Packed {
            return fill_packed(rest, parts);
        }
        let width = dtype.bytes() as usize;
        for part in parts {
            let (bytes, tail) = rest.split_at_mut(part.elements as usize * width);
            rest = tail;
            const PIECE: usize = 1 << 20;
            bytes.par_chunks_mut(PIECE).enumerate().for_each(|(index, piece)| {
                let first = (index * PIECE / width) as u64;
                dtype.encode((first..).map(|index| part.value(index)), piece);
            });
        }
    }
}

fn fill_packed(mut rest: &mut [u8], parts: &[RandomPart]) {
    for part in parts {
        let (bytes, tail) = rest.split_at_mut(part.elements as usize / 2);
        rest = tail;
        bytes.par_iter_mut().with_min_len(1 << 16).enumerate().for_each(|(index, byte)| {
            let (first, mut pair) = (2 * index as u64, [0; 2]);
            DType::I4.encode([first, first + 1].map(|index| part.value(index)), &mut pair);
            *byte = pair[0] & 0xf | pair[1] << 4;
        });
    }
}

/// Bytes that this process may still allocate, swap included, if the system says so: the limit of the machine, or of
/// its control group if that is lower.
pub fn available() -> Option<u64> {
    let machine = of_machine(&std::fs::read_to_string("/proc/meminfo").ok()?)?;
    // a group without a limit has a word there, or an absurd number
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limits = limits.iter().filter_map(|path| std::fs::read_to_string(path).ok()?.trim().parse().ok());
    Some(limits.fold(machine, u64::min))
}

/// Available memory by `/proc/meminfo`.
fn of_machine(info: &str) -> Option<u64> {
    let kib = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    Some((kib("MemAvailable")? + kib("SwapFree").unwrap_or(0)) << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read_with_swap() {
        let info =
            "MemTotal:       16384 kB\nMemFree:  1 kB\nMemAvailable:    1024 kB\nSwapTotal: 9 kB\nSwapFree:  512 kB\n";
        assert_eq!(of_machine(info), Some(1536 << 10));
        assert_eq!(of_machine("MemTotal: 1 kB\n"), None);
    }
}
