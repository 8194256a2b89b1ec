//! Every case below `cases/`, a test for each command. `SMELT_CASE=part-of-a-name` runs some of them only.

tests::filetests!(tests::Suite::standard());
