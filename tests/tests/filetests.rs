//! Every case below `cases/`, one test per command. `SMELT_CASE=part-of-a-name` runs only some of them.

tests::filetests!(tests::Suite::standard());
