//! What a binary states about its configuration.

use kiteq_telemetry::LogConfig;
use toml::de::DeTable;

use crate::{ConfigError, FileReader, Loaded, RetiredKey, Setting};

/// What a binary is called, and what its help says.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// Its name on the command line.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// What the names of its environment variables begin with, such as `KITEQ_`.
    pub variable_prefix: &'static str,
    /// What it is, at the top of the help.
    pub about: &'static str,
    /// Examples, at the end of the long help.
    pub examples: &'static str,
}

/// A flag that chooses one of several configurations in a file.
#[derive(Debug, Clone, Copy)]
pub struct Section {
    /// Its name without dashes, which is also what such a configuration is called.
    pub flag: &'static str,
    /// Its name in existing installations.
    pub alias: &'static str,
    /// What it is for.
    pub help: &'static str,
}

/// The values that a binary is configured with.
pub trait Configuration: Default + Sized + 'static {
    /// What the binary is called.
    const PROGRAM: Program;
    /// Every setting, in the order of the help.
    const TABLE: &'static [Setting<Self>];
    /// Keys of existing files that are accepted and said once in the log.
    const RETIRED: &'static [RetiredKey] = &[];
    /// How one of several configurations in a file is chosen; `None` when a file holds one.
    const SECTION: Option<Section> = None;

    /// How to log.
    fn log(&self) -> &LogConfig;

    /// The same, for the settings that change it.
    fn log_mut(&mut self) -> &mut LogConfig;

    /// Reads a parsed file; what is wrong in it goes into `reader`. `section` is what the command line chose.
    ///
    /// # Errors
    /// When there is nothing to choose, or several to choose from. It counts only when `reader` found nothing.
    fn read_file(
        reader: &mut FileReader<'_>,
        file: &DeTable<'_>,
        section: Option<&str>,
    ) -> Result<Loaded<Self>, ConfigError> {
        let _ = section;
        Ok(reader.flat(file))
    }

    /// Checks what no single value can get wrong.
    ///
    /// # Errors
    /// The first thing that is wrong.
    fn check(loaded: &Loaded<Self>) -> Result<(), ConfigError> {
        let _ = loaded;
        Ok(())
    }

    /// Checks what only matters to somebody who wants to run it, as a part of `--check` too, but not of `--print-config`.
    ///
    /// # Errors
    /// The first thing that is wrong.
    fn check_to_run(loaded: &Loaded<Self>) -> Result<(), ConfigError> {
        let _ = loaded;
        Ok(())
    }

    /// The effective configuration as a file that can be used.
    fn print(loaded: &Loaded<Self>) -> String {
        loaded.print_flat()
    }

    /// What else is worth saying in the log at the start, a line each.
    fn remarks(&self) -> Vec<String> {
        Vec::new()
    }

    /// Files and connections that the binary may have open at once, and the setting that would lower them: what the
    /// limit of open files is compared with.
    fn open_files(&self) -> (usize, &'static str);
}
