//! Memory planning: offsets of buffers in the arena, from their sizes and lifetimes. Knows no device.
//!
//! A result never reuses the bytes of an operand that dies in the same step. That would not make any arena of the
//! models in this repository smaller: all are fullest where a product is wider than its operands.

mod buffers;
mod search;

use std::cmp::Reverse;
use std::collections::BTreeMap;

pub(crate) use buffers::Buffers;
use search::search;

/// A buffer to place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its size.
    pub bytes: u64,
    /// First and last step of its lifetime, inclusive.
    pub live: (u32, u32),
}

/// The placement of buffers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// An offset for each request.
    pub offsets: Vec<u64>,
    /// End of the last buffer.
    pub bytes: u64,
}

/// Bytes above the lower bound that are accepted without a search, in 64ths of it.
const SLACK: [u64; 4] = [0, 1, 2, 4];

/// Places buffers so that no two with overlapping lifetimes overlap. Offsets are multiples of `align`.
///
/// Largest first, each in the smallest gap that fits. If that takes more than the lower bound, a search tries to do
/// better.
pub fn place(requests: &[Request], align: u64) -> Placement {
    let mut by_size: Vec<usize> = (0..requests.len()).collect();
    by_size.sort_by_key(|index| (Reverse(requests[*index].bytes), requests[*index].live, *index));
    let padded = |request: &Request| Request { bytes: request.bytes.next_multiple_of(align), ..*request };
    let requests: Vec<Request> = requests.iter().map(padded).collect();
    let greedy = place_in_order(&requests, &by_size);
    let bound = lower_bound(&requests);
    for slack in SLACK {
        let limit = (bound + bound / 64 * slack) / align * align;
        if limit >= greedy.bytes {
            break;
        }
        if let Some(offsets) = search(&requests, limit) {
            let ends = offsets.iter().zip(&requests).map(|(offset, request)| offset + request.bytes);
            return Placement { bytes: ends.max().unwrap_or(0), offsets };
        }
    }
    greedy
}

fn place_in_order(requests: &[Request], order: &[usize]) -> Placement {
    let mut offsets = vec![0; requests.len()];
    let mut steps = Steps::new(requests);
    let mut bytes = 0;
    for &index in order {
        let Request { bytes: size, live } = requests[index];
        let mut taken: Vec<(u64, u64)> =
            steps.meeting(live).map(|other| (offsets[other], offsets[other] + requests[other].bytes)).collect();
        taken.sort_unstable();
        offsets[index] = best_gap(&taken, size);
        bytes = bytes.max(offsets[index] + size);
        steps.add(index, live);
    }
    Placement { offsets, bytes }
}

/// The maximum of live bytes over all steps: a lower bound for any placement.
fn lower_bound(requests: &[Request]) -> u64 {
    let mut changes: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    for request in requests {
        changes.entry(request.live.0).or_default().0 += request.bytes;
        changes.entry(request.live.1 + 1).or_default().1 += request.bytes;
    }
    let mut alive = 0;
    let sums = changes.values().map(|(begin, end)| {
        alive = alive + begin - end;
        alive
    });
    sums.max().unwrap_or(0)
}

/// Placed buffers by step. Most live for a few of thousands of steps: lookups are by lifetime.
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

    /// Those live in some of these steps, each once.
    fn meeting(&self, (first, last): (u32, u32)) -> impl Iterator<Item = usize> + '_ {
        let later = self.starting[first as usize..=last as usize].iter().skip(1);
        self.alive[first as usize].iter().chain(later.flatten()).copied()
    }
}

/// The start of the smallest gap between ranges that fits `size`, or the end of the last range.
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
        assert_eq!(placement.bytes, 100);
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
        let padded: Vec<Request> =
            requests.iter().map(|request| Request { bytes: request.bytes.next_multiple_of(64), ..*request }).collect();
        let bound = lower_bound(&padded);
        assert!(placement.bytes >= bound);
        assert!(placement.bytes as f64 <= 1.05 * bound as f64, "{} of {bound}", placement.bytes);
    }

    /// Largest-first places all large buffers at the bottom, which leaves no room for longer-lived ones next to them.
    #[test]
    fn layers_take_no_more_than_is_alive_at_once() {
        let layer = |first: u32| {
            [
                (8, 0, 4),
                (4, 0, 1),
                (16, 1, 2),
                (8, 2, 3),
                (8, 3, 4),
                (8, 4, 9),
                (4, 4, 5),
                (16, 5, 6),
                (4, 6, 7),
                (4, 7, 8),
                (8, 8, 9),
            ]
            .map(|(bytes, from, to)| request(bytes, first + from, first + to))
        };
        for layers in [1, 2, 3, 30] {
            let requests: Vec<Request> = (0..layers).flat_map(|index| layer(9 * index)).collect();
            assert_eq!((place(&requests, 1).bytes, lower_bound(&requests)), (32, 32));
        }
    }
}
