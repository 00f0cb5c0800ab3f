//! The TOML file of existing installations, read strictly: every key of every cluster is checked, wherever it stands.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::address::registry_uri;
use super::table::{FileKey, RETIRED_KEYS, SETTINGS, Setting};
use super::{ConfigError, ConfigErrors, Origin, Settings, line_of, nearest};

/// Larger than any configuration, small enough not to hurt.
const FILE_BYTES_MAX: u64 = 4 << 20;
const ENV_KEY: &str = "env";
const SECRETS_KEY: &str = "secrets";

/// Applies the cluster named `wanted`, or the only one, of the file at `path`.
pub(crate) fn load(path: &Path, wanted: Option<&str>, settings: &mut Settings) -> Result<(), ConfigErrors> {
    let text = read(path)?;
    let table = DeTable::parse(&text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        ConfigError::new(line_of(path, &text, offset), format!("no TOML: {}", one_line(error.message())))
    })?;
    let mut reader = Reader { path, text: &text, errors: Vec::new() };
    let found = reader.clusters(table.get_ref());
    if !reader.errors.is_empty() {
        reader.errors.sort_by_key(|(offset, _)| *offset);
        return Err(ConfigErrors { errors: reader.errors.into_iter().map(|(_, error)| error).collect() });
    }
    let chosen = choose(path, found, wanted)?;
    *settings = chosen;
    Ok(())
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

fn choose(
    path: &Path,
    mut found: BTreeMap<String, Settings>,
    wanted: Option<&str>,
) -> Result<Settings, ConfigError> {
    let names = found.keys().cloned().collect::<Vec<_>>().join(", ");
    let place = path.display().to_string();
    match wanted {
        Some(name) => found
            .remove(name)
            .ok_or_else(|| ConfigError::new(place, format!("has no cluster {name:?}; it has {names}"))),
        None => match found.pop_first() {
            Some((_, only)) if found.is_empty() => Ok(only),
            Some(_) => {
                let what = format!(
                    "has several clusters; choose one with --cluster=NAME (-clusterName=NAME): {names}"
                );
                Err(ConfigError::new(place, what))
            }
            None => Err(ConfigError::new(
                place,
                "has no [clusters.NAME]; conf/cluster.toml is an example".to_owned(),
            )),
        },
    }
}

/// The first line of a message, for errors that are one line.
fn one_line(message: &str) -> &str {
    message.lines().next().unwrap_or(message)
}

struct Reader<'text> {
    path: &'text Path,
    text: &'text str,
    errors: Vec<(usize, ConfigError)>,
}

type Key<'text> = Spanned<std::borrow::Cow<'text, str>>;

impl<'text> Reader<'text> {
    fn refuse(&mut self, offset: usize, what: impl Into<String>) {
        let place = line_of(self.path, self.text, offset);
        self.errors.push((offset, ConfigError::new(place, what)));
    }

    fn place_of(&self, key: &Key<'_>) -> String {
        line_of(self.path, self.text, key.span().start)
    }

    fn unknown(&mut self, key: &Key<'_>, context: &str, known: &[&'static str]) {
        let name = key.get_ref();
        let hint = match nearest(name, known.iter().copied()) {
            Some(meant) => format!("did you mean {meant}?"),
            None => format!("known are {}", known.join(", ")),
        };
        self.refuse(key.span().start, format!("unknown key {name} in {context}; {hint}"));
    }

    fn table_at<'table>(
        &mut self,
        key: &Key<'text>,
        value: &'table Spanned<DeValue<'text>>,
        example: &str,
    ) -> Option<&'table DeTable<'text>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.refuse(key.span().start, format!("{} must be a table, such as {example}", key.get_ref()));
        }
        table
    }

    /// Reads everything; what is wrong goes into `errors`.
    fn clusters(&mut self, file: &DeTable<'text>) -> BTreeMap<String, Settings> {
        let mut registries = BTreeMap::new();
        let mut found = BTreeMap::new();
        for (key, value) in file {
            match &**key.get_ref() {
                "registry" => registries = self.registries(key, value),
                "clusters" => {}
                _ => self.unknown(key, "the file", &["registry", "clusters"]),
            }
        }
        if let Some((key, value)) = file.iter().find(|(key, _)| &**key.get_ref() == "clusters") {
            let clusters = self.table_at(key, value, "[clusters.NAME]");
            for (name, cluster) in clusters.into_iter().flatten() {
                if let Some(table) = self.table_at(name, cluster, "[clusters.NAME]") {
                    found.insert(name.get_ref().to_string(), self.cluster(name, table, &registries));
                }
            }
        }
        found
    }

    fn registries(
        &mut self,
        key: &Key<'text>,
        value: &Spanned<DeValue<'text>>,
    ) -> BTreeMap<String, (String, String)> {
        let mut found = BTreeMap::new();
        let environments = self.table_at(key, value, "[registry.ENV]");
        for (name, value) in environments.into_iter().flatten() {
            let Some(table) = self.table_at(name, value, "[registry.ENV]") else { continue };
            let context = format!("registry.{}", name.get_ref());
            let mut hosts = None;
            for (key, value) in table {
                match (&**key.get_ref(), value.get_ref()) {
                    ("hosts", DeValue::String(text)) => match registry_uri(text) {
                        Ok(uri) => hosts = Some((uri, self.place_of(key))),
                        Err(reason) => {
                            hosts = Some((String::new(), String::new()));
                            self.refuse(key.span().start, format!("{context}.hosts: {reason}"));
                        }
                    },
                    ("hosts", other) => {
                        let what =
                            format!("{context}.hosts: expected a string in quotes, not {}", other.type_str());
                        self.refuse(key.span().start, what);
                    }
                    _ => self.unknown(key, &context, &["hosts"]),
                }
            }
            match hosts {
                Some(hosts) => drop(found.insert(name.get_ref().to_string(), hosts)),
                None => self.refuse(
                    name.span().start,
                    format!("{context} has no hosts, such as hosts=\"zk://localhost:2181\""),
                ),
            }
        }
        found
    }

    fn cluster(
        &mut self,
        name: &Key<'text>,
        table: &DeTable<'text>,
        registries: &BTreeMap<String, (String, String)>,
    ) -> Settings {
        let mut settings = Settings::default();
        let context = format!("clusters.{}", name.get_ref());
        // In the order of the file, so that what is wrong is said of the later of two.
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            let text: &str = key.get_ref();
            if text == ENV_KEY {
                self.environment(key, value.get_ref(), &context, registries, &mut settings);
            } else if text == SECRETS_KEY {
                self.secrets(key, value, &context, &mut settings);
            } else if let Some(retired) = RETIRED_KEYS.iter().find(|retired| retired.key == text) {
                let place = self.place_of(key);
                settings.notes.push(format!("{place}: {text} means nothing any more: {}", retired.instead));
            } else if let Some(setting) = SETTINGS.iter().find(|setting| setting.is_cluster_key(text)) {
                self.value(setting, key, value.get_ref(), &context, &mut settings);
            } else {
                self.unknown(key, &context, &cluster_keys());
            }
        }
        settings
    }

    fn value(
        &mut self,
        setting: &'static Setting,
        key: &Key<'text>,
        value: &DeValue<'text>,
        context: &str,
        settings: &mut Settings,
    ) {
        let origin = Origin::File(self.place_of(key));
        if let Some(other) = settings.origins.insert(setting.flag, origin) {
            let what = format!("{context}.{} sets again what {other} sets; keep one", key.get_ref());
            self.refuse(key.span().start, what);
        } else if let Err(reason) = setting.kind.apply_file(settings, value) {
            self.refuse(key.span().start, format!("{context}.{}: {reason}", key.get_ref()));
        }
    }

    fn environment(
        &mut self,
        key: &Key<'text>,
        value: &DeValue<'text>,
        context: &str,
        registries: &BTreeMap<String, (String, String)>,
        settings: &mut Settings,
    ) {
        let Some(environment) = value.as_str() else {
            let what = format!("{context}.env: expected a string in quotes, not {}", value.type_str());
            return self.refuse(key.span().start, what);
        };
        match registries.get(environment) {
            Some((uri, place)) => {
                uri.clone_into(&mut settings.registry);
                settings.origins.insert("registry", Origin::File(place.clone()));
            }
            None => {
                let known: Vec<&str> = registries.keys().map(String::as_str).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                let what = format!(
                    "{context}.env: there is no [registry.{environment}] in this file; there is {known}"
                );
                self.refuse(key.span().start, what);
            }
        }
    }

    fn secrets(
        &mut self,
        key: &Key<'text>,
        value: &Spanned<DeValue<'text>>,
        context: &str,
        settings: &mut Settings,
    ) {
        let groups = self.table_at(key, value, "[clusters.NAME.secrets]");
        for (group, secret) in groups.into_iter().flatten() {
            match secret.get_ref() {
                DeValue::String(secret) if !secret.is_empty() => {
                    settings.broker.secrets.insert(group.get_ref().to_string(), secret.to_string());
                }
                _ => {
                    let what =
                        format!("{context}.secrets.{}: expected a string that is not empty", group.get_ref());
                    self.refuse(group.span().start, what);
                }
            }
        }
    }
}

/// Keys of a cluster to offer for a misspelled one.
fn cluster_keys() -> Vec<&'static str> {
    let settings =
        SETTINGS.iter().filter(|setting| setting.file != FileKey::RegistryHosts).map(Setting::file_name);
    [ENV_KEY, SECRETS_KEY].into_iter().chain(settings).collect()
}
