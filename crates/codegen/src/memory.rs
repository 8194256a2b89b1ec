//! Offsets of buffers in the arena, from their sizes and lifetimes. Knows no device.

use std::collections::BTreeMap;

/// A buffer to place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its size.
    pub bytes: u64,
    /// First and last step during which it holds a value, both included.
    pub live: (u32, u32),
}

/// Where buffers were placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// An offset for each request.
    pub offsets: Vec<u64>,
    /// End of the last buffer.
    pub bytes: u64,
    /// The most bytes alive at one step: no placement is smaller.
    pub lower_bound: u64,
}

/// Places buffers so that no two that live at the same time overlap: the largest first, each in the smallest gap that
/// holds it. Offsets are multiples of `align`.
pub fn place(requests: &[Request], align: u64) -> Placement {
    let mut by_size: Vec<usize> = (0..requests.len()).collect();
    by_size.sort_by_key(|index| (std::cmp::Reverse(requests[*index].bytes), requests[*index].live, *index));
    let mut offsets = vec![0; requests.len()];
    let mut steps = Steps::new(requests);
    let mut bytes = 0;
    for index in by_size {
        let size = requests[index].bytes.next_multiple_of(align);
        let taken = |other: usize| (offsets[other], offsets[other] + requests[other].bytes.next_multiple_of(align));
        let mut taken: Vec<(u64, u64)> = steps.meeting(requests[index].live).map(taken).collect();
        taken.sort_unstable();
        offsets[index] = best_gap(&taken, size);
        bytes = bytes.max(offsets[index] + size);
        steps.add(index, requests[index].live);
    }
    Placement { offsets, bytes, lower_bound: lower_bound(requests, align) }
}

/// Placed buffers by step. Most live for a few of thousands of steps: those that one meets are found where it lives.
struct Steps {
    alive: Vec<Vec<usize>>,
    starting: Vec<Vec<usize>>,
}

impl Steps {
    fn new(requests: &[Request]) -> Steps {
        let steps = requests.iter().map(|request| request.live.1 as usize + 1).max().unwrap_or(0);
        Steps { alive: vec![Vec::new(); steps], starting: vec![Vec::new(); steps] }
    }

    fn add(&mut self, index: usize, (first, last): (u32, u32)) {
        self.starting[first as usize].push(index);
        self.alive[first as usize..=last as usize].iter_mut().for_each(|alive| alive.push(index));
    }

    /// Those alive at some of these steps, each once.
    fn meeting(&self, (first, last): (u32, u32)) -> impl Iterator<Item = usize> + '_ {
        let later = self.starting[first as usize..=last as usize].iter().skip(1);
        self.alive[first as usize].iter().chain(later.flatten()).copied()
    }
}

/// The start of the smallest gap between taken ranges that holds `size`, or the end of the last range.
fn best_gap(taken: &[(u64, u64)], size: u64) -> u64 {
    let mut best: Option<(u64, u64)> = None;
    let mut end = 0;
    for (start, stop) in taken {
        if *start > end {
            let gap = start - end;
            if gap >= size && best.is_none_or(|(smallest, _)| gap < smallest) {
                best = Some((gap, end));
            }
        }
        end = end.max(*stop);
    }
    best.map_or(end, |(_, start)| start)
}

/// The largest sum of what is alive at one step.
fn lower_bound(requests: &[Request], align: u64) -> u64 {
    let mut changes: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    for request in requests {
        let size = request.bytes.next_multiple_of(align);
        changes.entry(request.live.0).or_default().0 += size;
        changes.entry(request.live.1 + 1).or_default().1 += size;
    }
    let mut alive = 0;
    let sums = changes.values().map(|(begin, end)| {
        alive = alive + begin - end;
        alive
    });
    sums.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(bytes: u64, first: u32, last: u32) -> Request {
        Request { bytes, live: (first, last) }
    }

    fn overlap(a: (u32, u32), b: (u32, u32)) -> bool {
        a.0 <= b.1 && b.0 <= a.1
    }

    #[test]
    fn buffers_that_never_meet_share_bytes() {
        let placement = place(&[request(100, 0, 1), request(60, 2, 3), request(40, 2, 3)], 1);
        assert_eq!(placement.offsets, [0, 0, 60]);
        assert_eq!((placement.bytes, placement.lower_bound), (100, 100));
    }

    #[test]
    fn touching_lifetimes_do_not_share() {
        let placement = place(&[request(8, 0, 1), request(8, 1, 2)], 256);
        assert_eq!(placement.offsets, [0, 256]);
        assert_eq!(placement.bytes, 512);
    }

    #[test]
    fn no_two_live_buffers_overlap() {
        // a fixed linear congruential sequence: the same lifetimes in every run
        let mut state = 7u64;
        let mut next = |limit: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % limit
        };
        let requests: Vec<Request> = (0..200)
            .map(|_| {
                let first = next(60) as u32;
                request(1 + next(5000), first, first + next(12) as u32)
            })
            .collect();
        let placement = place(&requests, 64);
        for (i, a) in requests.iter().enumerate() {
            for (j, b) in requests.iter().enumerate().skip(i + 1) {
                let apart = placement.offsets[i] + a.bytes <= placement.offsets[j]
                    || placement.offsets[j] + b.bytes <= placement.offsets[i];
                assert!(apart || !overlap(a.live, b.live), "{i} and {j} overlap");
            }
        }
        assert!(placement.bytes >= placement.lower_bound);
        assert!(placement.bytes as f64 <= 1.3 * placement.lower_bound as f64, "{placement:?}");
    }
}
