//! A TOML file, read strictly: every key is known, every value has its type, and each error has its line.

use std::fs;
use std::io;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::{ConfigError, ConfigErrors, Configuration, FileKey, Loaded, Origin, Setting, nearest};

/// Larger than any configuration, small enough not to hurt.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// A key, with its place in the text.
pub type Key<'text> = Spanned<std::borrow::Cow<'text, str>>;

/// Reads the file at `path`, the configuration called `section` of it where a file holds several.
pub(crate) fn load<C: Configuration>(path: &Path, section: Option<&str>) -> Result<Loaded<C>, ConfigErrors> {
    let text = read(path)?;
    let table = DeTable::parse(&text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        ConfigError::new(line_of(path, &text, offset), format!("no TOML: {}", one_line(error.message())))
    })?;
    let mut reader = FileReader { path, text: &text, errors: Vec::new() };
    let loaded = C::read_file(&mut reader, table.get_ref(), section);
    if !reader.errors.is_empty() {
        reader.errors.sort_by_key(|(offset, _)| *offset);
        return Err(ConfigErrors { errors: reader.errors.into_iter().map(|(_, error)| error).collect() });
    }
    Ok(loaded?)
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let refuse = |reason: String| ConfigError::new(path.display().to_string(), reason);
    let size = fs::metadata(path).and_then(|metadata| {
        if metadata.is_dir() { Err(io::ErrorKind::IsADirectory.into()) } else { Ok(metadata.len()) }
    });
    let size =
        size.map_err(|error| refuse(format!("cannot be read: {error}; give another with --config=FILE")))?;
    if size > FILE_BYTES_MAX {
        return Err(refuse(format!("is {size} bytes long, which no configuration is")));
    }
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(refuse("is not UTF-8 text".to_owned()))
        }
        Err(error) => Err(refuse(format!("cannot be read: {error}"))),
    }
}

/// The first line of a message, for errors that are one line.
fn one_line(message: &str) -> &str {
    message.lines().next().unwrap_or(message)
}

/// `FILE:LINE`.
fn line_of(path: &Path, text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    format!("{}:{}", path.display(), before.matches('\n').count() + 1)
}

/// Reads tables of one file and collects what is wrong in it.
#[derive(Debug)]
pub struct FileReader<'file> {
    path: &'file Path,
    text: &'file str,
    errors: Vec<(usize, ConfigError)>,
}

impl FileReader<'_> {
    /// The file, for errors about the whole of it.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.path
    }

    /// Says what is wrong at `key`.
    pub fn refuse(&mut self, key: &Key<'_>, what: impl Into<String>) {
        self.errors.push((key.span().start, ConfigError::new(self.place_of(key), what)));
    }

    /// `FILE:LINE` of `key`.
    #[must_use]
    pub fn place_of(&self, key: &Key<'_>) -> String {
        line_of(self.path, self.text, key.span().start)
    }

    /// Says that nobody knows `key`, and which of the known ones was probably meant.
    pub fn unknown(&mut self, key: &Key<'_>, context: &str, known: &[&'static str]) {
        let name = key.get_ref();
        let hint = match nearest(name, known.iter().copied()) {
            Some(meant) => format!("did you mean {meant}?"),
            None => format!("known are {}", known.join(", ")),
        };
        self.refuse(key, format!("unknown key {name} in {context}; {hint}"));
    }

    /// The table at `key`, or an error that shows one.
    pub fn table_at<'table, 'text>(
        &mut self,
        key: &Key<'_>,
        value: &'table Spanned<DeValue<'text>>,
        example: &str,
    ) -> Option<&'table DeTable<'text>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.refuse(key, format!("{} must be a table, such as {example}", key.get_ref()));
        }
        table
    }

    /// Takes a setting, or a retired key, into `loaded`. False when `key` is neither. `prefix` is what stands before the
    /// key in the name that people know.
    pub fn setting<C: Configuration>(
        &mut self,
        loaded: &mut Loaded<C>,
        key: &Key<'_>,
        value: &DeValue<'_>,
        prefix: &str,
    ) -> bool {
        let name: &str = key.get_ref();
        if let Some(retired) = C::RETIRED.iter().find(|retired| retired.key == name) {
            let place = self.place_of(key);
            loaded.notes.push(format!("{place}: {name} means nothing any more: {}", retired.instead));
            return true;
        }
        let Some(setting) = C::TABLE.iter().find(|setting| setting.is_key(name)) else { return false };
        let origin = Origin::File(self.place_of(key));
        if let Some(other) = loaded.set_origin(setting.flag, origin) {
            self.refuse(key, format!("{prefix}{name} sets again what {other} sets; keep one"));
        } else if let Err(reason) = setting.kind.apply_file(loaded, value) {
            self.refuse(key, format!("{prefix}{name}: {reason}"));
        }
        true
    }

    /// A file whose keys are the settings.
    pub(crate) fn flat<C: Configuration>(&mut self, file: &DeTable<'_>) -> Loaded<C> {
        let mut loaded = Loaded::default();
        for (key, value) in in_order(file) {
            if !self.setting(&mut loaded, key, value.get_ref(), "") {
                self.unknown(key, "the file", &known_keys::<C>().collect::<Vec<_>>());
            }
        }
        loaded
    }
}

/// A table's entries in the order of the file, so that what is wrong is said of the later of two.
pub fn in_order<'table, 'text>(
    table: &'table DeTable<'text>,
) -> Vec<(&'table Key<'text>, &'table Spanned<DeValue<'text>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

/// Keys to offer for a misspelled one.
pub fn known_keys<C: Configuration>() -> impl Iterator<Item = &'static str> {
    C::TABLE.iter().filter(|setting| matches!(setting.file, FileKey::Key(..))).map(Setting::file_name)
}
