//! Messages of the compiler: resources of a kernel, and warnings that mean slow code.

/// Resource usage of a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Registers per thread.
    pub registers: u32,
    /// Bytes of static shared memory per block.
    pub static_shared_bytes: u32,
}

/// Messages of ptxas about correct but slow code.
const SLOW: [(&str, &str); 5] = [
    ("C7508", "setmaxnreg was ignored"),
    ("C7511", "wgmma was serialised for lack of registers"),
    ("C7514", "wgmma was serialised, an accumulator is used by other instructions"),
    ("C7517", "wgmma was serialised by a wait that the compiler put in"),
    ("C7519", "wgmma was serialised by an arrival that the compiler put in"),
];

/// The resource usage in a log of `--ptxas-options=-v`.
pub(super) fn usage(log: &str) -> Usage {
    Usage {
        registers: numbers_before(log, "registers").max().unwrap_or(0),
        static_shared_bytes: numbers_before(log, "bytes smem").max().unwrap_or(0),
    }
}

/// Why a kernel is slower than it should be, if a log says so.
pub(super) fn slow(log: &str) -> Option<String> {
    if let Some((code, meaning)) = SLOW.iter().find(|(code, _)| log.contains(code)) {
        return Some(format!("{meaning} ({code})"));
    }
    let amounts = ["bytes stack frame", "bytes spill stores", "bytes spill loads"];
    let mut amounts = amounts.into_iter().map(|what| (what, numbers_before(log, what).sum::<u32>()));
    amounts.find(|(_, bytes)| *bytes > 0).map(|(what, bytes)| format!("it has {bytes} {what}"))
}

/// The numbers before these words.
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
        assert_eq!((usage(LOG), slow(LOG)), (Usage { registers: 14, static_shared_bytes: 16 }, None));
        assert_eq!((usage(""), slow("")), (Usage::default(), None));
    }

    #[test]
    fn slow_kernels_are_known() {
        let spills = LOG.replace("0 bytes spill stores", "24 bytes spill stores");
        assert_eq!(slow(&spills), Some("it has 24 bytes spill stores".to_owned()));
        let stack = LOG.replace("0 bytes stack frame", "8 bytes stack frame");
        assert_eq!(slow(&stack), Some("it has 8 bytes stack frame".to_owned()));
        let serialised = format!("{LOG}ptxas info    : (C7514) Potential Performance Loss: wgmma.mma_async ...\n");
        assert!(slow(&serialised).is_some_and(|reason| reason.contains("C7514")));
    }
}
