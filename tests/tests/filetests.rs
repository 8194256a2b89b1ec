//! Every case below `cases/`, a test for each command. `SMELT_CASE=part-of-a-name` runs some of them only.

macro_rules! commands {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            tests::run(stringify!($name));
        })*

        #[test]
        fn every_command_has_a_test() {
            let names: Vec<&str> = tests::COMMANDS.iter().map(|command| command.name()).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

commands![roundtrip, verify, pass, pipeline, eval, select, plan, trace, rules, run, run_device, cuda, nvrtc];
