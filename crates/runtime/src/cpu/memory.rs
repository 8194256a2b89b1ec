//! Zeroed memory for arenas, KV pools and random weights. Pages are taken from the system when they are first
//! touched, so a large KV pool costs what is used of it.

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
        // Fewer page-table walks while weights stream; a system without huge pages says no, which is fine.
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Memory { map })
    }

    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.map.as_mut_ptr()
    }

    /// The memory as f32 values.
    pub fn floats(&self) -> &[f32] {
        // SAFETY: pages are aligned, and any bits are an f32.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast(), self.map.len() / size_of::<f32>()) }
    }

    /// Fills the memory with random weights, one part behind the other. Parts of packed codes have an even size.
    pub fn fill_random(&mut self, dtype: DType, layout: Layout, parts: &[RandomPart]) {
        if layout == Layout::Packed {
            return self.fill_packed(parts);
        }
        let width = dtype.bytes() as usize;
        let mut rest: &mut [u8] = &mut self.map;
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

    fn fill_packed(&mut self, parts: &[RandomPart]) {
        let mut rest: &mut [u8] = &mut self.map;
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
}
