//! Configuration of a binary, from one table of its settings.
//!
//! A binary implements [`Configuration`] for its struct of values: a [`Program`], and a table with one [`Setting`] for
//! everything that can be set. The command line in both forms (`--batch-age 1s` and `-batch-age=1s`), the environment
//! variables, the strict TOML file, the help, `--check`, `--print-config` and what the log says at the start are all made
//! from that table, and [`main`] is its whole `main`. A flag wins over its environment variable, that over the file, that
//! over the default.

pub mod address;
mod cli;
mod configuration;
mod entry;
mod error;
mod file;
mod kind;
mod loaded;
mod logging;
mod nearest;
mod setting;
pub mod units;

pub use cli::{Action, command, parse};
pub use configuration::{Configuration, Program, Section};
pub use entry::main;
pub use error::{ConfigError, ConfigErrors};
pub use file::{FileReader, Key, in_order, known_keys};
pub use kind::Kind;
pub use loaded::{Loaded, Origin, Sources};
pub use logging::{log_format, log_level, log_path};
pub use nearest::nearest;
pub use setting::{FileKey, RetiredKey, Setting, to_usize};
