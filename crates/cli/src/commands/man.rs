//! `smelt man`

use clap::{Args, CommandFactory};

use crate::failure::Failure;
use crate::output::print;

/// Prints the manual page.
#[derive(Debug, Args)]
#[command(
    after_help = "To read it: smelt man | man -l -\nTo install it: smelt man > /usr/local/share/man/man1/smelt.1"
)]
pub struct Man;

impl Man {
    pub fn run<C: CommandFactory>(self) -> Result<(), Failure> {
        let mut page = Vec::new();
        let command = C::command();
        let man = clap_mangen::Man::new(command.clone());
        man.render(&mut page)?;
        // the options of every command, which are of no use apart
        for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = format!("smelt {}", command.get_name());
            let man = clap_mangen::Man::new(command.clone().bin_name(&name).display_name(&name));
            page.extend_from_slice(format!(".SH \"{}\"\n", name.to_uppercase()).as_bytes());
            man.render_synopsis_section(&mut page)?;
            man.render_description_section(&mut page)?;
            man.render_options_section(&mut page)?;
        }
        print(&String::from_utf8_lossy(&page))
    }
}
