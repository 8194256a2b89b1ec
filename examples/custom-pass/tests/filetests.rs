//! The cases of this example, tested as smelt tests its own.

use tests::Suite;

tests::filetests!(Suite {
    folder: concat!(env!("CARGO_MANIFEST_DIR"), "/cases").into(),
    driver: custom_pass::driver(&custom_pass::CountFlops::default()),
});
