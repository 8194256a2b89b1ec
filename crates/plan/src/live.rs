//! Liveness over time, from the lifetimes of a program's buffers.

use std::collections::BTreeMap;

use crate::{Buffer, Program, WEIGHT_ALIGN};

/// The step of a program with the most live bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FullestStep {
    /// The first such step.
    pub step: u32,
    /// Live bytes in it, each buffer padded as in an arena: a lower bound for any arena.
    pub bytes: u64,
}

impl Program {
    /// The step with the most live bytes.
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

    /// The live buffers of a step, in order of definition.
    pub fn alive(&self, step: u32) -> impl Iterator<Item = &Buffer> {
        self.buffers.iter().filter(move |buffer| (buffer.live.0..=buffer.live.1).contains(&step))
    }
}
