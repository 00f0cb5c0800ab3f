//! The effective configuration, written as a configuration file.

use std::fmt::Write;

use super::Settings;
use super::table::{FileKey, SETTINGS};

impl Settings {
    /// A file that sets every setting to its present value, each with where the value comes from. Secrets are left out,
    /// and so are passwords.
    pub(crate) fn print(&self) -> String {
        let version = env!("CARGO_PKG_VERSION");
        let mut text = format!(
            "# The effective configuration of kiteq {version}. Saved to a file it can be used with\n\
             # kiteq --config=FILE; behind each value stands where it comes from.\n"
        );
        self.print_where(&mut text, FileKey::RegistryHosts);
        text.push_str("\n[clusters.effective]\nenv = \"effective\"\n");
        for setting in SETTINGS {
            if let FileKey::Cluster(..) = setting.file {
                self.print_where(&mut text, setting.file);
            }
        }
        if !self.broker.secrets.is_empty() {
            let mut groups: Vec<&String> = self.broker.secrets.keys().collect();
            groups.sort();
            text.push_str("\n# Secrets are not shown.\n[clusters.effective.secrets]\n");
            for group in groups {
                // Writing to a string cannot fail.
                writeln!(text, "{} = \"***\"", toml::Value::from(group.as_str())).ok();
            }
        }
        text
    }

    fn print_where(&self, text: &mut String, file: FileKey) {
        let Some(setting) = SETTINGS.iter().find(|setting| setting.file == file) else { return };
        let origin = self.origins.get(setting.flag).map_or_else(|| "default".to_owned(), ToString::to_string);
        let line = match (setting.kind.show_toml(self), file) {
            (Some(value), FileKey::RegistryHosts) => {
                format!("[registry.effective]\nhosts = {value}  # {origin}\n")
            }
            (Some(value), FileKey::Cluster(key, _)) => format!("{key} = {value}  # {origin}\n"),
            (None, _) => format!("# {} is not set\n", setting.file_name()),
        };
        text.push_str(&line);
    }
}
