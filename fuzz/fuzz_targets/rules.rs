//! Any text is a list of rules, or is refused with the places of what is wrong.

#![no_main]

use ir::OpSet;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|source: &str| {
    if let Err(errors) = passes::rules::parse(source, &OpSet::standard()) {
        assert!(!errors.is_empty());
        errors.iter().for_each(|error| drop(error.to_string()));
    }
});
