//! What the compiler says beside an exit code: resources of a kernel, and messages that mean a silent slowdown.

/// What a kernel takes of a multiprocessor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of static shared memory of a block.
    pub static_shared_bytes: u32,
}

/// Messages of ptxas that leave a kernel right but slow.
const SLOW: [(&str, &str); 5] = [
    ("C7508", "setmaxnreg was ignored"),
    ("C7511", "wgmma was serialised for want of registers"),
    ("C7514", "wgmma was serialised, an accumulator is used by other instructions"),
    ("C7517", "wgmma was serialised by a wait that the compiler put in"),
    ("C7519", "wgmma was serialised by an arrival that the compiler put in"),
];

/// The resources that a log of `--ptxas-options=-v` names, or what makes the kernel slower than it should be.
pub(super) fn read(log: &str) -> Result<Usage, String> {
    if let Some((code, meaning)) = SLOW.iter().find(|(code, _)| log.contains(code)) {
        return Err(format!("{meaning} ({code})"));
    }
    for what in ["bytes stack frame", "bytes spill stores", "bytes spill loads"] {
        let bytes: u32 = numbers_before(log, what).sum();
        if bytes > 0 {
            return Err(format!("it has {bytes} {what}"));
        }
    }
    Ok(Usage {
        registers: numbers_before(log, "registers").max().unwrap_or(0),
        static_shared_bytes: numbers_before(log, "bytes smem").max().unwrap_or(0),
    })
}

/// The numbers that stand before these words.
fn numbers_before<'a>(log: &'a str, words: &'a str) -> impl Iterator<Item = u32> + 'a {
    log.match_indices(words).filter_map(|(at, _)| log[..at].trim_end().rsplit([' ', ',']).next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "ptxas info    : Function properties for k\n\
        ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
        ptxas info    : Used 14 registers, used 1 barriers, 16 bytes smem\n";

    #[test]
    fn resources_are_read() {
        assert_eq!(read(LOG), Ok(Usage { registers: 14, static_shared_bytes: 16 }));
        assert_eq!(read(""), Ok(Usage::default()));
    }

    #[test]
    fn slow_kernels_are_refused() {
        let spills = LOG.replace("0 bytes spill stores", "24 bytes spill stores");
        assert_eq!(read(&spills), Err("it has 24 bytes spill stores".to_owned()));
        let stack = LOG.replace("0 bytes stack frame", "8 bytes stack frame");
        assert_eq!(read(&stack), Err("it has 8 bytes stack frame".to_owned()));
        let serialised = format!("{LOG}ptxas info    : (C7514) Potential Performance Loss: wgmma.mma_async ...\n");
        assert!(read(&serialised).is_err_and(|reason| reason.contains("C7514")));
    }
}
