//! Values put together from all sources, and where each comes from.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;

use crate::{ConfigError, ConfigErrors, Configuration, FileKey, Setting, file, nearest};

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A line of the file.
    File(String),
    /// An environment variable.
    Variable(String),
    /// A flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::File(place) | Self::Variable(place) | Self::Flag(place)) = self;
        formatter.write_str(place)
    }
}

/// What the command line and the environment ask for.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The configuration file.
    pub file: Option<PathBuf>,
    /// Which configuration in it, where a file holds several.
    pub section: Option<String>,
    /// Settings from flags: the setting's name, and the value.
    pub flags: Vec<(&'static str, String)>,
    /// Environment variables whose names begin with the program's prefix.
    pub variables: BTreeMap<String, String>,
}

/// A configuration, with where its values come from. It can be used as the configuration itself.
#[derive(Debug, Clone, Default)]
pub struct Loaded<C> {
    values: C,
    /// What is to be said once in the log: keys that mean nothing any more, variables that look misspelled.
    pub notes: Vec<String>,
    origins: BTreeMap<&'static str, Origin>,
}

impl<C> Deref for Loaded<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.values
    }
}

impl<C> DerefMut for Loaded<C> {
    fn deref_mut(&mut self) -> &mut C {
        &mut self.values
    }
}

impl<C: Configuration> Loaded<C> {
    /// Puts all sources together and checks the whole.
    ///
    /// # Errors
    /// Everything that is wrong in the file, or else the first thing that is wrong elsewhere.
    pub fn load(sources: &Sources) -> Result<Self, ConfigErrors> {
        let mut loaded = match (&sources.file, &sources.section, C::SECTION) {
            (Some(path), section, _) => file::load(path, section.as_deref())?,
            (None, Some(name), Some(section)) => {
                let what = format!(
                    "{} {name:?} is in a configuration file, and none is given: add --config=FILE \
                     (-configPath=FILE)",
                    section.flag
                );
                return Err(ConfigError::new(format!("--{}", section.flag), what).into());
            }
            (None, ..) => Self::default(),
        };
        loaded.apply_variables(&sources.variables)?;
        for (flag, value) in &sources.flags {
            let place = format!("--{flag}");
            loaded.apply(flag, value, Origin::Flag(place))?;
        }
        C::check(&loaded)?;
        Ok(loaded)
    }

    /// The values alone.
    #[must_use]
    pub fn into_values(self) -> C {
        self.values
    }

    fn apply(&mut self, flag: &str, value: &str, origin: Origin) -> Result<(), ConfigError> {
        let Some(setting) = C::TABLE.iter().find(|setting| setting.flag == flag) else {
            return Err(ConfigError::new(origin.to_string(), "is not known".to_owned()));
        };
        let applied = setting.kind.apply_text(&mut self.values, value);
        applied.map_err(|reason| ConfigError::new(origin.to_string(), reason))?;
        self.origins.insert(setting.flag, origin);
        Ok(())
    }

    fn apply_variables(&mut self, variables: &BTreeMap<String, String>) -> Result<(), ConfigError> {
        let known: Vec<String> = C::TABLE.iter().map(Setting::variable).collect();
        for (name, value) in variables {
            if let Some(setting) = C::TABLE.iter().find(|setting| &setting.variable() == name) {
                self.apply(setting.flag, value, Origin::Variable(name.clone()))?;
                continue;
            }
            // Not an error: orchestrators set variables of their own for a service of this name.
            if let Some(meant) = nearest(name, known.iter().map(String::as_str)) {
                self.notes
                    .push(format!("environment variable {name} is not known and ignored; there is {meant}"));
            }
        }
        Ok(())
    }

    /// Notes where the value of the setting `flag` comes from; gives what it had come from before.
    pub fn set_origin(&mut self, flag: &'static str, origin: Origin) -> Option<Origin> {
        self.origins.insert(flag, origin)
    }

    /// Where the value of the setting `flag` comes from, for people.
    #[must_use]
    pub fn origin(&self, flag: &str) -> String {
        self.origins.get(flag).map_or_else(|| "default".to_owned(), ToString::to_string)
    }

    /// An error about the value of the setting `flag`, at the place that it comes from.
    #[must_use]
    pub fn error_at(&self, flag: &str, what: impl Into<String>) -> ConfigError {
        let place = self.origins.get(flag).map_or_else(|| format!("--{flag}"), ToString::to_string);
        ConfigError::new(place, what)
    }

    /// One line for each setting that says where things are, and for each other one that is not the default.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let default = C::default();
        let first_heading = C::TABLE.first().map(|setting| setting.heading);
        let shown = C::TABLE.iter().filter_map(|setting| {
            let value = setting.kind.show_text(&self.values)?;
            let worth_it = Some(setting.heading) == first_heading
                || setting.kind.show_text(&default).as_ref() != Some(&value);
            worth_it.then(|| format!("{} = {value} ({})", setting.flag, self.origin(setting.flag)))
        });
        shown.chain(self.values.remarks()).collect()
    }

    /// The comment at the top of a printed configuration.
    #[must_use]
    pub fn print_header(&self) -> String {
        let (name, version) = (C::PROGRAM.name, C::PROGRAM.version);
        format!(
            "# The effective configuration of {name} {version}. Saved to a file it can be used with\n\
             # {name} --config=FILE; behind each value stands where it comes from.\n"
        )
    }

    /// A setting as a line of a file, with where its value comes from, or a comment that it is not set.
    #[must_use]
    pub fn print_setting(&self, setting: &Setting<C>) -> String {
        let key = match setting.file {
            FileKey::Key(key, _) => key,
            FileKey::Elsewhere(place) => place.rsplit('.').next().unwrap_or(place),
        };
        match setting.kind.show_toml(&self.values) {
            Some(value) => format!("{key} = {value}  # {}\n", self.origin(setting.flag)),
            None => format!("# {} is not set\n", setting.file_name()),
        }
    }

    /// A file with every setting at its present value, below the headings of the help.
    #[must_use]
    pub(crate) fn print_flat(&self) -> String {
        let mut text = self.print_header();
        let mut heading = "";
        for setting in C::TABLE {
            if setting.heading != heading {
                heading = setting.heading;
                // Writing to a string cannot fail.
                writeln!(text, "\n# {heading}").ok();
            }
            text.push_str(&self.print_setting(setting));
        }
        text
    }
}
