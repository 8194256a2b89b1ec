//! A backtracking search for a placement below a limit: buffers in the order in which their lifetimes begin.
//!
//! A conflict is caused by overlapping buffers, and by the causes of their own conflicts: the search backjumps to the
//! last of them, not to the last placed buffer. Few buffers are live at a time, so that it rarely goes back far.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::Request;

/// Attempts per buffer before the search is given up. Layers of all sizes that were tried took 3.
const TRIES: usize = 32;

/// Offsets at which all buffers end below `limit`, if found.
pub(super) fn search(requests: &[Request], limit: u64) -> Option<Vec<u64>> {
    let mut order: Vec<usize> = (0..requests.len()).collect();
    // of those that begin together the longest first: short-lived ones are easier to fit
    order.sort_by_key(|index| {
        let Request { bytes, live } = requests[*index];
        (live.0, Reverse(live.1), Reverse(bytes), *index)
    });
    let ordered: Vec<Request> = order.iter().map(|index| requests[*index]).collect();
    let placed = search_in_order(&ordered, limit)?;
    let mut offsets = vec![0; requests.len()];
    order.into_iter().zip(placed).for_each(|(index, offset)| offsets[index] = offset);
    Some(offsets)
}

fn search_in_order(requests: &[Request], limit: u64) -> Option<Vec<u64>> {
    let meets = meets(requests);
    let mut offsets = vec![0; requests.len()];
    let mut untried: Vec<Vec<u64>> = vec![Vec::new(); requests.len()];
    // for each buffer, the earlier ones in conflict with it
    let mut blamed: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); requests.len()];
    let mut tries = TRIES * requests.len();
    let (mut at, mut arrived) = (0, true);
    while at < requests.len() {
        if arrived {
            let range = |other: &usize| (offsets[*other], offsets[*other] + requests[*other].bytes);
            let mut taken: Vec<(u64, u64)> = meets[at].iter().map(range).collect();
            taken.sort_unstable();
            untried[at] = places(&taken, requests[at].bytes, limit);
            blamed[at] = meets[at].iter().copied().collect();
        }
        tries = tries.checked_sub(1)?;
        arrived = match untried[at].pop() {
            Some(offset) => {
                offsets[at] = offset;
                at += 1;
                true
            }
            None => {
                let mut blame = std::mem::take(&mut blamed[at]);
                at = blame.pop_last()?;
                blamed[at].append(&mut blame);
                false
            }
        };
    }
    Some(offsets)
}

/// For each buffer, the earlier ones that are live when it begins.
fn meets(requests: &[Request]) -> Vec<Vec<usize>> {
    let mut alive: Vec<usize> = Vec::new();
    let mut meets = Vec::with_capacity(requests.len());
    for (index, request) in requests.iter().enumerate() {
        alive.retain(|other| requests[*other].live.1 >= request.live.0);
        meets.push(alive.clone());
        alive.push(index);
    }
    meets
}

/// Both ends of every gap that fits `size`, those of the smallest gap last.
fn places(taken: &[(u64, u64)], size: u64, limit: u64) -> Vec<u64> {
    let mut gaps: Vec<(u64, u64, u64)> = Vec::new();
    let mut end = 0;
    for (start, stop) in taken.iter().copied().chain([(limit, limit)]) {
        if start >= end + size {
            gaps.push((start - end, end, start - size));
        }
        end = end.max(stop);
    }
    gaps.sort_unstable();
    let ends = gaps.into_iter().rev().flat_map(|(_, low, high)| [high, low]);
    let mut places: Vec<u64> = ends.collect();
    places.dedup();
    places
}
