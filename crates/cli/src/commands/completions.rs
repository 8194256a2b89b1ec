//! `smelt completions`

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::failure::Failure;
use crate::output::print;

/// Prints shell completions.
#[derive(Debug, Args)]
#[command(after_help = INSTALL)]
pub struct Completions {
    /// The shell.
    shell: Shell,
}

const INSTALL: &str = "To install them:
  bash        smelt completions bash > ~/.local/share/bash-completion/completions/smelt
  zsh         smelt completions zsh > \"${fpath[1]}/_smelt\"
  fish        smelt completions fish > ~/.config/fish/completions/smelt.fish
  elvish      smelt completions elvish >> ~/.config/elvish/rc.elv
  powershell  smelt completions powershell >> $PROFILE";

impl Completions {
    pub fn run<C: CommandFactory>(self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut C::command(), "smelt", &mut script);
        print(&String::from_utf8_lossy(&script))
    }
}
