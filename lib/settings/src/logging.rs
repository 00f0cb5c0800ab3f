//! The settings of the log, which every binary has.

use kiteq_telemetry::logging;

use crate::{Configuration, FileKey, Kind, Setting};

const HEADING: &str = "Logging";

/// `--log-level`.
#[must_use]
pub const fn log_level<C: Configuration>() -> Setting<C> {
    Setting {
        flag: "log-level",
        aliases: &[],
        file: FileKey::Key("logLevel", &[]),
        heading: HEADING,
        value_name: "LEVEL",
        help: "error, warn, info, debug, trace or off, or directives such as info,kiteq_store=debug",
        kind: Kind::Text {
            set: |settings, text| {
                logging::check_level(text).map_err(|error| error.to_string())?;
                text.clone_into(&mut settings.log_mut().level);
                Ok(())
            },
            get: |settings| Some(settings.log().level.clone()),
        },
    }
}

/// `--log-format`.
#[must_use]
pub const fn log_format<C: Configuration>() -> Setting<C> {
    Setting {
        flag: "log-format",
        aliases: &[],
        file: FileKey::Key("logFormat", &[]),
        heading: HEADING,
        value_name: "FORMAT",
        help: "text or json",
        kind: Kind::Text {
            set: |settings, text| text.parse().map(|format| settings.log_mut().format = format),
            get: |settings| Some(settings.log().format.to_string()),
        },
    }
}

/// `--log-path`, with the names that it has in existing installations.
#[must_use]
pub const fn log_path<C: Configuration>(aliases: &'static [&'static str]) -> Setting<C> {
    Setting {
        flag: "log-path",
        aliases,
        file: FileKey::Key("logPath", &[]),
        heading: HEADING,
        value_name: "DIR",
        help: "Write the log to rotated files in this directory as well",
        kind: Kind::Text {
            set: |settings, text| {
                settings.log_mut().directory = Some(text.into());
                if text.is_empty() { Err("expected a directory".to_owned()) } else { Ok(()) }
            },
            get: |settings| Some(settings.log().directory.as_ref()?.display().to_string()),
        },
    }
}
