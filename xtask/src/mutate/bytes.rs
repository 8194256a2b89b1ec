//! Damage to any file: bits, ranges, lengths.

use super::random::Random;

/// Bytes at the ends of ranges, and the marks of longer integers in bincode.
const EDGES: [u8; 12] = [0, 1, 2, 9, 10, 27, 127, 128, 250, 251, 253, 255];

/// Numbers at the ends of ranges, as words of 8 bytes.
const WORDS: [u64; 9] = [0, 1, 255, 1 << 16, (1 << 31) - 1, 1 << 32, 1 << 40, (1 << 63) - 1, u64::MAX];

/// The file with one to three damages.
pub fn mutate(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let edits = if random.once_in(2) { 1 } else { 1 + random.below(3) };
    for _ in 0..edits {
        damage(&mut bytes, random);
    }
    bytes
}

fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    if bytes.is_empty() {
        return bytes.push(*random.pick(&EDGES));
    }
    let at = random.below(bytes.len());
    let end = bytes.len().min(at + 1 + random.below(16));
    match random.below(10) {
        0..3 => bytes[at] ^= 1 << random.below(8),
        3 => bytes[at] = *random.pick(&EDGES),
        4 => bytes[at] = bytes[at].wrapping_add(if random.once_in(2) { 1 } else { 255 }),
        5 => drop(bytes.drain(at..end)),
        6 => {
            // another place of the same file
            let from = random.below(bytes.len());
            let piece = bytes[from..bytes.len().min(from + 1 + random.below(64))].to_vec();
            let replaced = if random.once_in(2) { at..at } else { at..bytes.len().min(at + piece.len()) };
            drop(bytes.splice(replaced, piece));
        }
        7 => bytes.truncate(at),
        8 => bytes[at..end].fill(if random.once_in(2) { 0 } else { 255 }),
        _ => {
            let word = random.pick(&WORDS).to_le_bytes();
            let width = [2, 4, 8][random.below(3)];
            let end = bytes.len().min(at + width);
            bytes[at..end].copy_from_slice(&word[..end - at]);
        }
    }
}
