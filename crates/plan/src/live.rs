//! What is alive when, from the lifetimes of a program's buffers.

use std::collections::BTreeMap;

use crate::{Buffer, Program, WEIGHT_ALIGN};

/// The step of a program in which most bytes are alive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FullestStep {
    /// The first such step.
    pub step: u32,
    /// Bytes alive in it, each buffer padded as an arena pads it: no arena is smaller.
    pub bytes: u64,
}

impl Program {
    /// The step in which most bytes are alive.
    pub fn fullest_step(&self) -> FullestStep {
        let mut changes: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
        for buffer in &self.buffers {
            let bytes = buffer.bytes.next_multiple_of(WEIGHT_ALIGN);
            changes.entry(buffer.live.0).or_default().0 += bytes;
            changes.entry(buffer.live.1 + 1).or_default().1 += bytes;
        }
        let mut fullest = FullestStep::default();
        let mut alive = 0;
        for (step, (begins, ends)) in changes {
            alive = alive + begins - ends;
            if alive > fullest.bytes {
                fullest = FullestStep { step, bytes: alive };
            }
        }
        fullest
    }

    /// The buffers that are alive in a step, in the order in which they are defined.
    pub fn alive(&self, step: u32) -> impl Iterator<Item = &Buffer> {
        self.buffers.iter().filter(move |buffer| (buffer.live.0..=buffer.live.1).contains(&step))
    }
}
