//! Store URIs: `SCHEME://PLACE?NAME=VALUE&...`, read strictly.

use std::time::Duration;

use crate::dedupe::DedupeLimits;
use crate::error::OpenError;

/// A taken-apart URI. Every parameter must be asked for before [`StoreUri::finish`]; what is left over is an error.
#[derive(Debug)]
pub(crate) struct StoreUri<'a> {
    text: &'a str,
    pub(crate) scheme: &'a str,
    pub(crate) place: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    asked: Vec<&'static str>,
}

impl<'a> StoreUri<'a> {
    pub(crate) fn parse(text: &'a str) -> Result<Self, OpenError> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(OpenError {
                uri: without_secrets(text),
                reason: "no scheme; write for example mmap:///var/lib/kiteq or memory://".to_owned(),
            });
        };
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut uri = Self { text, scheme, place, parameters: Vec::new(), asked: Vec::new() };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) =
                pair.split_once('=').ok_or_else(|| uri.error(format!("{pair:?} is not NAME=VALUE")))?;
            if uri.parameters.iter().any(|(known, _)| *known == name) {
                return Err(uri.error(format!("parameter {name:?} is given twice")));
            }
            uri.parameters.push((name, value));
        }
        Ok(uri)
    }

    pub(crate) fn error(&self, reason: impl Into<String>) -> OpenError {
        OpenError { uri: without_secrets(self.text), reason: reason.into() }
    }

    /// Takes a parameter's text out.
    pub(crate) fn text(&mut self, name: &'static str) -> Option<&'a str> {
        self.asked.push(name);
        let position = self.parameters.iter().position(|(known, _)| *known == name)?;
        Some(self.parameters.remove(position).1)
    }

    /// Takes a number between `min` and `max` out.
    pub(crate) fn number(
        &mut self,
        name: &'static str,
        default: u64,
        min: u64,
        max: u64,
    ) -> Result<u64, OpenError> {
        let Some(text) = self.text(name) else { return Ok(default) };
        match text.parse() {
            Ok(number) if (min..=max).contains(&number) => Ok(number),
            _ => Err(self.error(format!("{name}={text}: expected a whole number from {min} to {max}"))),
        }
    }

    /// Takes a size such as `64MiB` out.
    pub(crate) fn bytes(
        &mut self,
        name: &'static str,
        default: u64,
        min: u64,
        max: u64,
    ) -> Result<u64, OpenError> {
        let Some(text) = self.text(name) else { return Ok(default) };
        match parse_bytes(text) {
            Some(bytes) if (min..=max).contains(&bytes) => Ok(bytes),
            Some(_) => Err(self.error(format!("{name}={text}: must be between {min} and {max} bytes"))),
            None => Err(self.error(format!("{name}={text}: expected bytes, such as 64MiB or 1048576"))),
        }
    }

    /// Takes a time such as `100ms` out.
    pub(crate) fn duration(&mut self, name: &'static str, default: Duration) -> Result<Duration, OpenError> {
        let Some(text) = self.text(name) else { return Ok(default) };
        parse_duration(text)
            .ok_or_else(|| self.error(format!("{name}={text}: expected a time, such as 100ms, 60s or 5m")))
    }

    /// Takes out what every backend knows: for how long settled ids are remembered, and how many of them.
    pub(crate) fn dedupe(&mut self) -> Result<DedupeLimits, OpenError> {
        let default = DedupeLimits::default();
        Ok(DedupeLimits {
            window: self.duration("dedupeWindow", default.window)?,
            ids_max: usize::try_from(self.number(
                "dedupeIds",
                default.ids_max as u64,
                0,
                u64::from(u32::MAX),
            )?)
            .unwrap_or(usize::MAX),
        })
    }

    /// Takes out those of `names` that are there: parameters that mean nothing any more.
    pub(crate) fn retired(&mut self, names: &[&'static str]) -> Vec<&'static str> {
        let known = self.asked.len();
        let found = names.iter().filter(|name| self.text(name).is_some()).copied().collect();
        // They are accepted, but nobody is led to them.
        self.asked.truncate(known);
        found
    }

    /// Fails when a parameter was never asked for.
    pub(crate) fn finish(self) -> Result<(), OpenError> {
        let Some((unknown, _)) = self.parameters.first() else { return Ok(()) };
        Err(self.error(format!(
            "unknown parameter {unknown:?}{}; known are {}",
            did_you_mean(unknown, &self.asked),
            self.asked.join(", ")
        )))
    }
}

/// `; did you mean "X"?` for the known word nearest to an unknown one.
pub(crate) fn did_you_mean(unknown: &str, known: &[&str]) -> String {
    let unknown = unknown.to_lowercase();
    let distance = |word: &str| strsim::damerau_levenshtein(&unknown, &word.to_lowercase());
    known
        .iter()
        .min_by_key(|word| distance(word))
        .map_or_else(String::new, |word| format!(", did you mean {word:?}?"))
}

/// The URI with passwords struck out, for logs and errors.
fn without_secrets(text: &str) -> String {
    let Some((place, query)) = text.split_once('?') else { return strike_userinfo(text) };
    let query: Vec<String> = query
        .split('&')
        .map(|pair| match pair.split_once('=') {
            Some((name, _)) if name.to_lowercase().contains("pass") => format!("{name}=***"),
            _ => pair.to_owned(),
        })
        .collect();
    format!("{}?{}", strike_userinfo(place), query.join("&"))
}

fn strike_userinfo(place: &str) -> String {
    match (place.split_once("://"), place.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://***@{host}"),
        _ => place.to_owned(),
    }
}

fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let factor: u64 = match &text[digits..] {
        "" | "B" => 1,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(factor)
}

pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let number = text[..digits].parse::<u64>().ok()?;
    let millis: u64 = match &text[digits..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" if number == 0 => 1,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(millis)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_have_units() {
        assert_eq!(parse_bytes("64MiB"), Some(64 << 20));
        assert_eq!(parse_bytes("4096"), Some(4096));
        assert_eq!(parse_bytes("2G"), Some(2 << 30));
        for bad in ["", "MiB", "64MB", "-1", "1.5MiB", "99999999999999999999", "99999999999GiB"] {
            assert_eq!(parse_bytes(bad), None, "{bad:?}");
        }
        assert_eq!(parse_duration("100ms"), Some(Duration::from_millis(100)));
        assert_eq!(parse_duration("5m"), Some(Duration::from_secs(300)));
        assert_eq!(parse_duration("0"), Some(Duration::ZERO));
        for bad in ["", "100", "s", "1d", "-1s", "999999999999999999h"] {
            assert_eq!(parse_duration(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn an_unknown_parameter_is_an_error_that_names_the_nearest() {
        let mut uri = StoreUri::parse("memory://.?maxcpa=5").unwrap();
        uri.number("maxcap", 1, 1, 10).unwrap();
        uri.number("initcap", 1, 1, 10).unwrap();
        let error = uri.finish().unwrap_err().to_string();
        assert!(error.contains("\"maxcpa\", did you mean \"maxcap\"?"), "{error}");
    }

    #[test]
    fn malformed_queries_are_errors() {
        for bad in ["memory", "memory://?maxcap", "memory://?maxcap=1&maxcap=2"] {
            assert!(StoreUri::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn errors_show_no_secrets() {
        let uri = StoreUri::parse("mysql://root:hunter2@h:3306?db=kite&password=hunter2").unwrap();
        let shown = uri.error("no").uri;
        assert_eq!(shown, "mysql://***@h:3306?db=kite&password=***");
    }
}
