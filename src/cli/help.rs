//! `completions` and `man`: what a shell and man(1) are told of the command line, made from its own definition.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::Arguments;
use super::error::CliError;

const NAME: &str = "roundsman";

#[derive(Debug, Args)]
#[command(after_help = "Put the output where the shell looks, for example:\n  \
    roundsman completions bash >/etc/bash_completion.d/roundsman\n  \
    roundsman completions zsh >/usr/local/share/zsh/site-functions/_roundsman\n  \
    roundsman completions fish >~/.config/fish/completions/roundsman.fish")]
pub struct Completions {
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl Completions {
    /// # Errors
    /// The output is closed.
    pub(super) fn run(&self) -> Result<(), CliError> {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut Arguments::command(), NAME, &mut text);
        Ok(std::io::stdout().lock().write_all(&text)?)
    }
}

#[derive(Debug, Args)]
pub struct Man {
    /// Write a page for each command into this directory, such as /usr/local/share/man/man1; else the first page goes to stdout
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

impl Man {
    /// # Errors
    /// [`CliError::Failed`] when the directory cannot be written to.
    pub(super) fn run(&self) -> Result<(), CliError> {
        let Some(folder) = &self.folder else {
            let mut text = Vec::new();
            clap_mangen::Man::new(Arguments::command()).render(&mut text)?;
            return Ok(std::io::stdout().lock().write_all(&text)?);
        };
        write_all(folder)
            .map_err(|error| CliError::failed(format!("cannot write to {}: {error}", folder.display())))
    }
}

fn write_all(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    clap_mangen::generate_to(Arguments::command(), folder)
}
