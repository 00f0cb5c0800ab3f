//! One setting: its names, its meaning, its type and range, and its place.

use crate::{Configuration, Kind};

/// Where in a file a setting stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKey {
    /// A key of the table that holds the settings, and other spellings of it.
    Key(&'static str, &'static [&'static str]),
    /// Elsewhere: what people call the place, which the binary reads and prints itself.
    Elsewhere(&'static str),
}

/// One setting of the configuration `C`.
pub struct Setting<C> {
    /// The name on the command line, without dashes; the environment's is made from it.
    pub flag: &'static str,
    /// Other names on the command line that are in use.
    pub aliases: &'static [&'static str],
    /// Its place in a file.
    pub file: FileKey,
    /// The heading in the help. Settings of the table's first heading are always said in the log.
    pub heading: &'static str,
    /// What stands for the value in the help.
    pub value_name: &'static str,
    /// What it is for.
    pub help: &'static str,
    /// Type, range and place.
    pub kind: Kind<C>,
}

impl<C: Configuration> Setting<C> {
    /// The name of its environment variable.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("{}{}", C::PROGRAM.variable_prefix, self.flag.replace('-', "_").to_ascii_uppercase())
    }

    /// The name in a file, for people.
    #[must_use]
    pub fn file_name(&self) -> &'static str {
        match self.file {
            FileKey::Key(name, _) | FileKey::Elsewhere(name) => name,
        }
    }

    /// Whether `key` of the table that holds the settings means this one.
    #[must_use]
    pub fn is_key(&self, key: &str) -> bool {
        match self.file {
            FileKey::Key(name, others) => name == key || others.contains(&key),
            FileKey::Elsewhere(_) => false,
        }
    }
}

/// A key of existing installations that means nothing any more.
#[derive(Debug, Clone, Copy)]
pub struct RetiredKey {
    /// As it stands in the file.
    pub key: &'static str,
    /// Why, and what to use instead.
    pub instead: &'static str,
}

/// A number as a length; one that does not fit becomes the largest.
#[must_use]
pub fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
