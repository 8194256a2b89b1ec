//! `tie_word_embeddings` compared with what is stored: one matrix for table and lm_head, under either name, or two.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::model_tensors::{EMBEDDING, HEAD};
use crate::report::Report;
use crate::surplus::Ignored;
use crate::tensors::Tensors;

/// Whether lm_head is the embedding table. As in transformers 5, a stored lm_head is used if it differs from the table;
/// one that is equal or to be ignored is dropped, and one without a table is the table.
pub(crate) fn is_tied(tensors: &mut Tensors, ignored: &mut Ignored, report: &mut Report) -> bool {
    let (table, head) = (format!("{EMBEDDING}.weight"), format!("{HEAD}.weight"));
    if tensors.shape(&table).is_some() && tensors.shape(&head).is_some() && ignored.matches(&head) {
        tensors.forget(|name| name == head);
    }
    match (tensors.bytes(&table), tensors.bytes(&head)) {
        (_, None) => {}
        (None, Some(_)) => tensors.rename(&head, &table),
        (Some(a), Some(b)) if tensors.alike(&table, &head) && equal(a, b) => {
            tensors.forget(|name| name == head);
        }
        (Some(_), Some(_)) => {
            report.warning(format!(
                "{}: `tie_word_embeddings` is true, but `{head}` differs from `{table}`: both are used, as in \
                 transformers 5",
                tensors.path().display()
            ));
            return false;
        }
    }
    true
}

/// Whether bytes are the same. Different matrices differ at once; equal ones are read to their end, by all cores, since
/// they may still be on disk.
fn equal(a: &[u8], b: &[u8]) -> bool {
    const PIECE: usize = 4 << 20;
    if a.len() != b.len() {
        return false;
    }
    let pieces = a.len().div_ceil(PIECE);
    let (next, same) = (AtomicUsize::new(0), AtomicBool::new(true));
    let compare = || {
        while same.load(Ordering::Relaxed) {
            let start = next.fetch_add(1, Ordering::Relaxed) * PIECE;
            let end = a.len().min(start.saturating_add(PIECE));
            if start >= end {
                break;
            }
            if a[start..end] != b[start..end] {
                same.store(false, Ordering::Relaxed);
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(pieces);
    thread::scope(|scope| {
        (1..threads).for_each(|_| drop(scope.spawn(compare)));
        compare();
    });
    same.into_inner()
}

#[cfg(test)]
mod tests {
    use super::equal;

    #[test]
    fn a_byte_anywhere_makes_a_difference() {
        let whole = vec![7u8; (9 << 20) + 3];
        assert!(equal(&[], &[]) && equal(&whole, &whole.clone()) && !equal(&whole, &whole[1..]));
        for place in [0, (4 << 20) - 1, 4 << 20, whole.len() - 1] {
            let mut other = whole.clone();
            other[place] = 8;
            assert!(!equal(&whole, &other), "{place}");
        }
    }
}
