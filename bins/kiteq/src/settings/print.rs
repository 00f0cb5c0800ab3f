//! The effective configuration, written as a configuration file.

use std::fmt::Write;

use kiteq_settings::{FileKey, Loaded, Setting};

use super::Settings;
use super::table::SETTINGS;

/// A file that sets every setting to its present value, each with where the value comes from. Secrets are left out, and
/// so are passwords.
pub(crate) fn print(settings: &Loaded<Settings>) -> String {
    let is_elsewhere = |setting: &&Setting<Settings>| matches!(setting.file, FileKey::Elsewhere(_));
    let lines = |elsewhere: bool| {
        let chosen = SETTINGS.iter().filter(move |setting| is_elsewhere(setting) == elsewhere);
        chosen.map(|setting| settings.print_setting(setting)).collect::<String>()
    };
    let mut text = settings.print_header();
    text += "[registry.effective]\n";
    text += &lines(true);
    text += "\n[clusters.effective]\nenv = \"effective\"\n";
    text += &lines(false);
    if !settings.broker.secrets.is_empty() {
        let mut groups: Vec<&String> = settings.broker.secrets.keys().collect();
        groups.sort();
        text.push_str("\n# Secrets are not shown.\n[clusters.effective.secrets]\n");
        for group in groups {
            // Writing to a string cannot fail.
            writeln!(text, "{} = \"***\"", toml::Value::from(group.as_str())).ok();
        }
    }
    text
}
