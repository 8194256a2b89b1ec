//! The command line of smelt. A program with passes, ops or kernels of its own calls [`run`] with a driver that
//! contains them, and gets every subcommand.

mod args;
mod choice;
mod commands;
#[cfg(unix)]
mod cut;
mod emit;
mod environment;
mod failure;
mod flags;
mod inputs;
mod load;
mod model;
mod output;
mod progress;
mod prompts;
mod repro;
mod signals;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use smelt::Driver;

use failure::Failure;

/// Ahead-of-time compiler and runtime for language models.
#[derive(Debug, Parser)]
#[command(name = "smelt", version, max_term_width = 100, after_help = failure::EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    list: commands::list::List,
    /// Prints the list as JSON.
    #[arg(long, requires = "list")]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Compile(Box<commands::compile::Compile>),
    Build(commands::build::Build),
    Calibrate(commands::calibrate::Calibrate),
    Generate(commands::generate::Generate),
    #[command(alias = "benchmark")]
    Bench(Box<commands::bench::Bench>),
    Eval(commands::eval::Eval),
    Inspect(commands::inspect::Inspect),
    Quantize(commands::quantize::Quantize),
    #[command(subcommand)]
    Plan(commands::plan::PlanCommand),
    Opt(commands::opt::Opt),
    #[command(subcommand)]
    Debug(commands::debug::Debug),
    Doctor(commands::doctor::Doctor),
    Completions(commands::completions::Completions),
}

/// Runs the command line of this process.
pub fn run(driver: Driver) -> ExitCode {
    failure::install();
    signals::install();
    flags::install(&Cli::command());
    #[cfg(unix)]
    cut::install();
    let driver = driver.cuda_folders(environment::cuda_folders);
    let cli = match Cli::try_parse_from(args::with_dashes(std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) => return output::print_usage(&error),
    };
    let done = match cli.command {
        _ if cli.list.wanted() => cli.list.run(&driver, cli.json),
        None => Err(Failure::usage("expected a command, such as `smelt generate models/demo --prompt \"…\"`")),
        Some(Command::Compile(command)) => command.run(&driver),
        Some(Command::Build(command)) => command.run(&driver),
        Some(Command::Calibrate(command)) => command.run(&driver),
        Some(Command::Generate(command)) => command.run(&driver),
        Some(Command::Bench(command)) => command.run(&driver),
        Some(Command::Eval(command)) => command.run(&driver),
        Some(Command::Inspect(command)) => command.run(),
        Some(Command::Quantize(command)) => command.run(&driver),
        Some(Command::Plan(command)) => command.run(),
        Some(Command::Opt(command)) => command.run(&driver),
        Some(Command::Debug(command)) => command.run(&driver),
        Some(Command::Doctor(command)) => command.run(&driver),
        Some(Command::Completions(command)) => command.run::<Cli>(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => output::print_failure(failure),
    }
}
