//! What is wrong with a configuration.

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}")]
pub struct ConfigError {
    /// `FILE:LINE`, a flag or an environment variable.
    pub place: String,
    /// What is wrong, and what is expected.
    pub what: String,
}

impl ConfigError {
    /// What is wrong at a place.
    pub fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { place: place.into(), what: what.into() }
    }
}

/// Everything that is wrong, at least one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    /// In the order of the file.
    pub errors: Vec<ConfigError>,
}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self { errors: vec![error] }
    }
}

impl std::error::Error for ConfigErrors {}

impl std::fmt::Display for ConfigErrors {
    /// The first one, and how many more there are, on one line.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.errors.as_slice() {
            [] => formatter.write_str("the configuration is wrong"),
            [only] => only.fmt(formatter),
            [first, rest @ ..] => write!(formatter, "{first} (and {} more, which --check lists)", rest.len()),
        }
    }
}
