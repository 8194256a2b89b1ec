//! Which buffers are live at the same time, and whether they overlap.

use std::collections::BTreeMap;

use crate::{Buffer, Program};

impl Program {
    /// Pairs of buffers that are live at the same time and overlap: at most one pair per buffer, and at least one if
    /// there is any.
    pub fn clashes(&self) -> impl Iterator<Item = (&Buffer, &Buffer)> {
        let mut begins: Vec<&Buffer> = self.buffers.iter().filter(|buffer| buffer.bytes > 0).collect();
        begins.sort_by_key(|buffer| buffer.live.0);
        let mut ends = begins.clone();
        ends.sort_by_key(|buffer| buffer.live.1);
        let mut ends = ends.into_iter().peekable();
        // live buffers without a clash, by start offset
        let mut alive: BTreeMap<u64, &Buffer> = BTreeMap::new();
        begins.into_iter().filter_map(move |buffer| {
            while let Some(ended) = ends.next_if(|other| other.live.1 < buffer.live.0) {
                if alive.get(&ended.offset).is_some_and(|other| std::ptr::eq(*other, ended)) {
                    alive.remove(&ended.offset);
                }
            }
            let end = buffer.offset.saturating_add(buffer.bytes);
            // they are disjoint, so the last that begins before the end is the last that ends
            let before = alive.range(..end).next_back().map(|(_, other)| *other);
            match before.filter(|other| other.offset.saturating_add(other.bytes) > buffer.offset) {
                Some(other) => Some((other, buffer)),
                None => {
                    alive.insert(buffer.offset, buffer);
                    None
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Dim, ProgramKind, RandomPart};

    fn program(buffers: Vec<Buffer>) -> Program {
        Program {
            name: "p".to_owned(),
            kind: ProgramKind::Mixed,
            symbols: Vec::new(),
            buffers,
            arena_bytes: u64::MAX,
            inputs: Vec::new(),
            outputs: Vec::new(),
            steps: Vec::new(),
        }
    }

    fn buffer(name: u64, offset: u64, bytes: u64, live: (u32, u32)) -> Buffer {
        let shape = vec![Dim::from(bytes)];
        Buffer { name: name.to_string(), dtype: DType::I8, shape, offset, bytes, live }
    }

    /// Compared with all pairs, over small rectangles of time and bytes: most of the lists have a clash, some have
    /// none.
    #[test]
    fn clashes_are_those_of_pairs() {
        let numbers = RandomPart::named("rectangles", 0, 0.0, 1.0);
        let mut clean = 0;
        for round in 0..2000 {
            let mut next = (0..).map(|index| numbers.value(round * 100 + index).to_bits() as u64 >> 3);
            let mut below = |end: u64| next.next().map_or(0, |number| number % end);
            let buffers = (0..2 + round % 6).map(|name| {
                let first = below(12) as u32;
                buffer(name, below(30), 1 + below(5), (first, first + below(4) as u32))
            });
            let program = program(buffers.collect());
            let meet = |a: &Buffer, b: &Buffer| {
                let time = a.live.0 <= b.live.1 && b.live.0 <= a.live.1;
                time && a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes
            };
            let pairs = program.buffers.iter().enumerate();
            let any = pairs.clone().any(|(index, a)| program.buffers[index + 1..].iter().any(|b| meet(a, b)));
            let found: Vec<_> = program.clashes().collect();
            assert_eq!(any, !found.is_empty(), "{:?}", program.buffers);
            assert!(found.iter().all(|(a, b)| meet(a, b)), "{:?}", program.buffers);
            clean += usize::from(!any);
        }
        assert!((200..1800).contains(&clean), "{clean}");
    }

    #[test]
    fn many_buffers_in_one_place_take_no_time() {
        let program = program((0..200_000).map(|name| buffer(name, 0, 1, (0, 1))).collect());
        assert_eq!(program.clashes().count(), 199_999);
    }
}
