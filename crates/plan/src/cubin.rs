//! Validation of a cubin: the driver is not told how long an image is, and trusts its header.

/// `EM_CUDA` of the ELF machine list.
const EM_CUDA: u16 = 190;
const HEADER_BYTES: usize = 64;

/// Checks that an image is a 64-bit little-endian ELF file for CUDA whose program and section tables are within it.
pub(crate) fn check(image: &[u8]) -> Result<(), &'static str> {
    let Some(header) = image.get(..HEADER_BYTES).filter(|header| header.starts_with(b"\x7fELF\x02\x01")) else {
        return Err("it is not a 64-bit ELF file");
    };
    let half = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let word = |at: usize| header[at..at + 8].iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    if half(18) != EM_CUDA {
        return Err("it is not an ELF file for CUDA");
    }
    // offset, and bytes and number of entries: of segments, and of sections
    let tables = [(word(32), half(54), half(56)), (word(40), half(58), half(60))];
    let inside = |(offset, bytes, count): (u64, u16, u16)| {
        let end = offset.checked_add(u64::from(bytes) * u64::from(count));
        end.is_some_and(|end| end <= image.len() as u64)
    };
    match tables.into_iter().all(inside) {
        true => Ok(()),
        false => Err("it is truncated"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header, followed by one segment and no sections.
    fn image() -> Vec<u8> {
        let mut image = vec![0; HEADER_BYTES + 56];
        image[..6].copy_from_slice(b"\x7fELF\x02\x01");
        image[18] = 190;
        (image[32], image[54], image[56]) = (64, 56, 1);
        image
    }

    #[test]
    fn images_are_whole_and_for_cuda() {
        assert_eq!(check(&image()), Ok(()));
        let changed = |at: usize, byte: u8| {
            let mut image = image();
            image[at] = byte;
            check(&image)
        };
        assert_eq!(changed(1, b'e'), Err("it is not a 64-bit ELF file"));
        assert_eq!(changed(4, 1), Err("it is not a 64-bit ELF file"));
        assert_eq!(changed(18, 62), Err("it is not an ELF file for CUDA"));
        assert_eq!(changed(56, 2), Err("it is truncated"));
        assert_eq!(changed(39, 0xff), Err("it is truncated"));
        assert_eq!(changed(47, 0xff), Err("it is truncated"));
        assert_eq!(check(&image()[..HEADER_BYTES]), Err("it is truncated"));
        assert_eq!(check(&image()[..HEADER_BYTES - 1]), Err("it is not a 64-bit ELF file"));
        assert_eq!(check(&[]), Err("it is not a 64-bit ELF file"));
    }
}
