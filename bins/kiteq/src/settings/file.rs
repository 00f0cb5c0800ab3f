//! The TOML file of existing installations, read strictly: every key of every cluster is checked, wherever it stands.

use std::collections::BTreeMap;
use std::path::Path;

use kiteq_settings::{ConfigError, FileReader, Key, Loaded, Origin, in_order, known_keys};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Settings;
use super::registry::registry_uri;

const ENV_KEY: &str = "env";
const SECRETS_KEY: &str = "secrets";

/// Reads every cluster of `file`, and gives the one named `wanted`, or the only one.
pub(crate) fn read(
    reader: &mut FileReader<'_>,
    file: &DeTable<'_>,
    wanted: Option<&str>,
) -> Result<Loaded<Settings>, ConfigError> {
    let found = ClusterReader { reader }.clusters(file);
    choose(reader.path(), found, wanted)
}

fn choose(
    path: &Path,
    mut found: BTreeMap<String, Loaded<Settings>>,
    wanted: Option<&str>,
) -> Result<Loaded<Settings>, ConfigError> {
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

struct ClusterReader<'reader, 'file> {
    reader: &'reader mut FileReader<'file>,
}

impl ClusterReader<'_, '_> {
    /// Reads everything; what is wrong goes into `errors`.
    fn clusters(&mut self, file: &DeTable<'_>) -> BTreeMap<String, Loaded<Settings>> {
        let mut registries = BTreeMap::new();
        let mut found = BTreeMap::new();
        for (key, value) in file {
            match &**key.get_ref() {
                "registry" => registries = self.registries(key, value),
                "clusters" => {}
                _ => self.reader.unknown(key, "the file", &["registry", "clusters"]),
            }
        }
        if let Some((key, value)) = file.iter().find(|(key, _)| &**key.get_ref() == "clusters") {
            let clusters = self.reader.table_at(key, value, "[clusters.NAME]");
            for (name, cluster) in clusters.into_iter().flatten() {
                if let Some(table) = self.reader.table_at(name, cluster, "[clusters.NAME]") {
                    found.insert(name.get_ref().to_string(), self.cluster(name, table, &registries));
                }
            }
        }
        found
    }

    fn registries(
        &mut self,
        key: &Key<'_>,
        value: &Spanned<DeValue<'_>>,
    ) -> BTreeMap<String, (String, String)> {
        let mut found = BTreeMap::new();
        let environments = self.reader.table_at(key, value, "[registry.ENV]");
        for (name, value) in environments.into_iter().flatten() {
            let Some(table) = self.reader.table_at(name, value, "[registry.ENV]") else { continue };
            let context = format!("registry.{}", name.get_ref());
            let mut hosts = None;
            for (key, value) in table {
                match (&**key.get_ref(), value.get_ref()) {
                    ("hosts", DeValue::String(text)) => match registry_uri(text) {
                        Ok(uri) => hosts = Some((uri, self.reader.place_of(key))),
                        Err(reason) => {
                            hosts = Some((String::new(), String::new()));
                            self.reader.refuse(key, format!("{context}.hosts: {reason}"));
                        }
                    },
                    ("hosts", other) => {
                        let what =
                            format!("{context}.hosts: expected a string in quotes, not {}", other.type_str());
                        self.reader.refuse(key, what);
                    }
                    _ => self.reader.unknown(key, &context, &["hosts"]),
                }
            }
            match hosts {
                Some(hosts) => drop(found.insert(name.get_ref().to_string(), hosts)),
                None => self
                    .reader
                    .refuse(name, format!("{context} has no hosts, such as hosts=\"zk://localhost:2181\"")),
            }
        }
        found
    }

    fn cluster(
        &mut self,
        name: &Key<'_>,
        table: &DeTable<'_>,
        registries: &BTreeMap<String, (String, String)>,
    ) -> Loaded<Settings> {
        let mut settings = Loaded::default();
        let context = format!("clusters.{}", name.get_ref());
        for (key, value) in in_order(table) {
            let text: &str = key.get_ref();
            if text == ENV_KEY {
                self.environment(key, value.get_ref(), &context, registries, &mut settings);
            } else if text == SECRETS_KEY {
                self.secrets(key, value, &context, &mut settings);
            } else if !self.reader.setting(&mut settings, key, value.get_ref(), &format!("{context}.")) {
                let known: Vec<_> =
                    [ENV_KEY, SECRETS_KEY].into_iter().chain(known_keys::<Settings>()).collect();
                self.reader.unknown(key, &context, &known);
            }
        }
        settings
    }

    fn environment(
        &mut self,
        key: &Key<'_>,
        value: &DeValue<'_>,
        context: &str,
        registries: &BTreeMap<String, (String, String)>,
        settings: &mut Loaded<Settings>,
    ) {
        let Some(environment) = value.as_str() else {
            let what = format!("{context}.env: expected a string in quotes, not {}", value.type_str());
            return self.reader.refuse(key, what);
        };
        match registries.get(environment) {
            Some((uri, place)) => {
                uri.clone_into(&mut settings.registry);
                settings.set_origin("registry", Origin::File(place.clone()));
            }
            None => {
                let known: Vec<&str> = registries.keys().map(String::as_str).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                let what = format!(
                    "{context}.env: there is no [registry.{environment}] in this file; there is {known}"
                );
                self.reader.refuse(key, what);
            }
        }
    }

    fn secrets(
        &mut self,
        key: &Key<'_>,
        value: &Spanned<DeValue<'_>>,
        context: &str,
        settings: &mut Loaded<Settings>,
    ) {
        let groups = self.reader.table_at(key, value, "[clusters.NAME.secrets]");
        for (group, secret) in groups.into_iter().flatten() {
            match secret.get_ref() {
                DeValue::String(secret) if !secret.is_empty() => {
                    settings.broker.secrets.insert(group.get_ref().to_string(), secret.to_string());
                }
                _ => {
                    let what =
                        format!("{context}.secrets.{}: expected a string that is not empty", group.get_ref());
                    self.reader.refuse(group, what);
                }
            }
        }
    }
}
