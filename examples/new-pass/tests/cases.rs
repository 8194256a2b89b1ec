//! The cases, tested as smelt tests its own.

use tests::Suite;

tests::filetests!(Suite { folder: concat!(env!("CARGO_MANIFEST_DIR"), "/cases").into(), driver: new_pass::driver() });
