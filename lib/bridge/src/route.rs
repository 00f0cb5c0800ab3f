//! Which business an element goes to.

use hashbrown::HashMap;

/// What stands for a business that is not served.
const DEFAULT: &[u8] = b"default";

/// The businesses that are served, by name.
#[derive(Debug)]
pub(crate) struct Routes {
    names: Vec<String>,
    places: HashMap<Box<[u8]>, usize>,
    /// Those that stand for others, by what follows the word.
    defaults: HashMap<Box<[u8]>, usize>,
}

impl Routes {
    /// Names that occur twice count once.
    pub(crate) fn new(businesses: &[String]) -> Self {
        let mut routes = Self { names: Vec::new(), places: HashMap::new(), defaults: HashMap::new() };
        for name in businesses {
            let key: Box<[u8]> = name.as_bytes().into();
            if routes.places.contains_key(&key) {
                continue;
            }
            let place = routes.names.len();
            if let Some(log_type) = key.strip_prefix(DEFAULT) {
                routes.defaults.insert(log_type.into(), place);
            }
            routes.places.insert(key, place);
            routes.names.push(name.clone());
        }
        routes
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// The business called `name`, which is the element's business and log type, or else the default one of that log type.
    #[inline]
    pub(crate) fn find(&self, name: &[u8], log_type: &[u8]) -> Option<usize> {
        self.places.get(name).or_else(|| self.defaults.get(log_type)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_business_with_its_log_type_then_the_default_of_that_log_type_then_nowhere() {
        let names = ["feed", "feed3", "default3", "default", "feed"].map(str::to_owned);
        let routes = Routes::new(&names);
        let find = |business: &str, log_type: &str| {
            let name = format!("{business}{log_type}");
            routes.find(name.as_bytes(), log_type.as_bytes()).map(|place| routes.names()[place].as_str())
        };
        assert_eq!(find("feed", ""), Some("feed"));
        assert_eq!(find("feed", "3"), Some("feed3"));
        assert_eq!(find("feed", "4"), None);
        assert_eq!(find("other", "3"), Some("default3"));
        assert_eq!(find("other", ""), Some("default"));
        assert_eq!(routes.names().len(), 4);
    }
}
