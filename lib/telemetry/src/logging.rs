//! Structured logs: always to stderr, and with a directory to rotated files too.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::str::FromStr;

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::rotation::RotatingFile;

/// Size at which a log file is rotated.
pub const LOG_FILE_BYTES_MAX: u64 = 64 << 20;
/// Rotated files that are kept beside the current one.
pub const LOG_FILES_KEPT: usize = 9;
/// Lines that may wait for the disk of the log directory; further ones are dropped, so that a slow disk slows nobody.
pub const LOG_LINES_WAITING_MAX: usize = 64_000;

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("log format is text or json, not {text:?}")),
        }
    }
}

impl std::fmt::Display for LogFormat {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// What is logged, how, and where besides stderr.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// `error`, `warn`, `info`, `debug`, `trace` or `off`, or directives such as `info,kiteq_store=debug`.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
    /// Where rotated files go, if anywhere.
    pub directory: Option<PathBuf>,
    /// Name of the current file in `directory`.
    pub file_name: String,
}

impl LogConfig {
    /// Text at level info to stderr alone; files, once a directory is set, are called `{binary}.log`.
    #[must_use]
    pub fn for_binary(binary: &str) -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::Text,
            directory: None,
            file_name: format!("{binary}.log"),
        }
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level is not understood.
    #[error(
        "log level {level:?}: {reason}; give error, warn, info, debug, trace or off, \
         or directives such as info,kiteq_store=debug"
    )]
    Level {
        /// As given.
        level: String,
        /// What is wrong.
        reason: String,
    },
    /// The directory cannot be written to.
    #[error(
        "log directory {directory:?}: {source}; create it, make it writable, or give another with -logPath"
    )]
    Directory {
        /// As given.
        directory: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Something in this process has set up logging before.
    #[error("logging is set up already: {reason}")]
    Twice {
        /// The cause.
        reason: String,
    },
}

/// Writes out, on drop, what still waits for the log directory.
#[must_use = "lines that wait for the log file are lost unless this lives until the end"]
#[derive(Debug)]
pub struct LogGuard {
    _file_worker: Option<WorkerGuard>,
}

/// Checks a level as [`init`] would.
///
/// # Errors
/// When it is not understood.
pub fn check_level(level: &str) -> Result<(), LogError> {
    parse_level(level).map(drop)
}

/// Sets up logging for the whole process, panics included.
///
/// # Errors
/// When the level is not understood, the directory cannot be written, or logging is set up already.
pub fn init(config: &LogConfig) -> Result<LogGuard, LogError> {
    let filter = parse_level(&config.level)?;
    let colours = io::stderr().is_terminal();
    let mut layers = vec![line_layer(config.format, colours, io::stderr)];
    let mut file_worker = None;
    if let Some(directory) = &config.directory {
        let file = RotatingFile::open(directory, &config.file_name, LOG_FILE_BYTES_MAX, LOG_FILES_KEPT)
            .map_err(|source| LogError::Directory { directory: directory.clone(), source })?;
        let (writer, worker) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(LOG_LINES_WAITING_MAX)
            .thread_name("log-file")
            .finish(file);
        layers.push(line_layer(config.format, false, writer));
        file_worker = Some(worker);
    }
    Registry::default()
        .with(layers.with_filter(filter))
        .try_init()
        .map_err(|error| LogError::Twice { reason: error.to_string() })?;
    log_panics();
    Ok(LogGuard { _file_worker: file_worker })
}

fn parse_level(level: &str) -> Result<EnvFilter, LogError> {
    let refuse = |reason: String| LogError::Level { level: level.to_owned(), reason };
    let known = ["error", "warn", "info", "debug", "trace", "off"];
    let directives: Vec<&str> = level.split(',').map(str::trim).collect();
    // A bare word that is no level would be taken for the name of a target, and nothing would be logged.
    for directive in directives.iter().filter(|directive| !directive.contains(['=', '['])) {
        if !known.contains(&directive.to_ascii_lowercase().as_str()) {
            return Err(refuse(format!("{directive:?} is no level")));
        }
    }
    EnvFilter::try_new(directives.join(",")).map_err(|error| refuse(error.to_string()))
}

fn line_layer<W>(format: LogFormat, colours: bool, writer: W) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(colours);
    match format {
        LogFormat::Text => lines.with_target(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    }
}

/// Sends panics to the log instead of printing them in a form of their own.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic_message(panic.payload());
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
        tracing::error!(place, thread, "panic: {message}");
    }));
}

/// What a panic said.
pub(crate) fn panic_message(payload: &(dyn std::any::Any + Send)) -> &str {
    let text = payload.downcast_ref::<&'static str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_accepted() {
        for level in ["info", "DEBUG", "off", "info,kiteq_store=debug", "warn, kiteq_broker=trace"] {
            check_level(level).unwrap();
        }
    }

    #[test]
    fn a_word_that_is_no_level_is_refused_with_the_levels() {
        let error = check_level("verbose").unwrap_err().to_string();
        assert!(error.contains("verbose") && error.contains("debug, trace"), "{error}");
        assert!(check_level("").is_err());
    }

    #[test]
    fn a_log_directory_that_cannot_be_made_is_an_error_that_names_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("taken");
        std::fs::write(&file, "").unwrap();
        let config = LogConfig { directory: Some(file.clone()), ..LogConfig::for_binary("kiteq") };
        let error = init(&config).unwrap_err().to_string();
        assert!(error.contains(file.to_str().unwrap()) && error.contains("-logPath"), "{error}");
    }
}
