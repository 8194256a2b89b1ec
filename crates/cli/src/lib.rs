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

/// Ahead-of-time compiler and runtime for language models.
#[derive(Debug, Parser)]
#[command(name = "smelt", version, long_version = long_version(), max_term_width = 100, after_help = failure::EXIT_CODES)]
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
    NewPass(commands::new_pass::NewPass),
    Doctor(commands::doctor::Doctor),
    Completions(commands::completions::Completions),
    Man(commands::man::Man),
}

/// The version with what distinguishes builds: the revision, the plans that it reads, the targets that it compiles for.
fn long_version() -> String {
    let revision = env!("SMELT_REVISION");
    let revision = if revision.is_empty() { String::new() } else { format!(" ({revision})") };
    let targets = smelt::Target::ALL.map(smelt::Target::name).join(", ");
    let (version, format) = (env!("CARGO_PKG_VERSION"), smelt::plans::FORMAT_VERSION);
    format!("{version}{revision}\nplan format {format}\ntargets {targets}")
}

/// Runs the command line of this process.
pub fn run(driver: Driver) -> ExitCode {
    signals::install();
    flags::install(&Cli::command());
    #[cfg(unix)]
    cut::install();
    let driver = driver.cuda_folders(environment::cuda_folders);
    let args = args::with_dashes(std::env::args_os());
    let json = args::wants_json(&args);
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return output::print_usage(&error, json),
    };
    let done = match cli.command {
        _ if cli.list.wanted() => cli.list.run(&driver, cli.json),
        None => output::print(&Cli::command().render_help().to_string()),
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
        Some(Command::NewPass(command)) => command.run(&driver),
        Some(Command::Doctor(command)) => command.run(&driver),
        Some(Command::Completions(command)) => command.run::<Cli>(),
        Some(Command::Man(command)) => command.run::<Cli>(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => output::print_failure(failure, json),
    }
}
