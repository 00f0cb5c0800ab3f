//! Which business an element goes to.

use hashbrown::HashMap;

use crate::element::put_tail;

/// What stands for a business that is not served.
const DEFAULT: &[u8] = b"default";

/// Where an element goes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Route<'r> {
    /// To the business that has its name: its own business and log type.
    Own(&'r Own),
    /// To one that stands for others.
    Default(usize),
}

/// A business and log type that together are the name of a business that is served.
#[derive(Debug)]
pub(crate) struct Own {
    log_type: Box<[u8]>,
    /// Which business.
    pub(crate) place: usize,
    /// What an event's body has at its end, for elements whose business needs no escapes.
    pub(crate) tail: Box<[u8]>,
}

/// The businesses that are served.
#[derive(Debug)]
pub(crate) struct Routes {
    names: Vec<String>,
    /// By what an element calls its business, then by its log type: a name that ends with digits is found by each way to cut it, so that
    /// no element's name has to be put together.
    places: HashMap<Box<[u8]>, Vec<Own>>,
    /// Those that stand for others, by what follows the word.
    defaults: HashMap<Box<[u8]>, usize>,
}

impl Routes {
    /// Names that occur twice count once.
    pub(crate) fn new(businesses: &[String]) -> Self {
        let mut routes = Self { names: Vec::new(), places: HashMap::new(), defaults: HashMap::new() };
        for name in businesses {
            if routes.names.contains(name) {
                continue;
            }
            let place = routes.names.len();
            if let Some(log_type) = name.as_bytes().strip_prefix(DEFAULT) {
                routes.defaults.insert(log_type.into(), place);
            }
            for (business, log_type) in cuts(name.as_bytes()) {
                let mut tail = Vec::new();
                put_tail(&mut tail, business, log_type);
                let own = Own { log_type: log_type.into(), place, tail: tail.into() };
                routes.places.entry(business.into()).or_default().push(own);
            }
            routes.names.push(name.clone());
        }
        routes
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// Where an element of this business and log type goes, if anywhere.
    #[inline]
    pub(crate) fn find(&self, business: &[u8], log_type: &[u8]) -> Option<Route<'_>> {
        let by_log_type = self.places.get(business);
        let own = by_log_type.and_then(|all| all.iter().find(|own| *own.log_type == *log_type));
        own.map(Route::Own).or_else(|| self.defaults.get(log_type).map(|place| Route::Default(*place)))
    }
}

/// Whatever business and log type make this name: the log type is a number or missing.
fn cuts(name: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let digits = name.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let first = name.len() - digits;
    let is_negative = digits > 0 && name[..first].ends_with(b"-");
    (first - usize::from(is_negative)..=name.len()).map(|at| name.split_at(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    enum Found {
        Own(usize),
        Default(usize),
    }

    fn found(routes: &Routes, business: &str, log_type: &str) -> Option<Found> {
        Some(match routes.find(business.as_bytes(), log_type.as_bytes())? {
            Route::Own(own) => Found::Own(own.place),
            Route::Default(place) => Found::Default(place),
        })
    }

    #[test]
    fn a_business_with_its_log_type_then_the_default_of_that_log_type_then_nowhere() {
        let names = ["feed", "feed3", "default3", "default", "feed"].map(str::to_owned);
        let routes = Routes::new(&names);
        let find = |business: &str, log_type: &str| found(&routes, business, log_type);
        assert_eq!(find("feed", ""), Some(Found::Own(0)));
        assert_eq!(find("feed", "3"), Some(Found::Own(1)));
        assert_eq!(find("feed3", ""), Some(Found::Own(1)));
        assert_eq!(find("feed", "4"), None);
        assert_eq!(find("other", "3"), Some(Found::Default(2)));
        assert_eq!(find("other", ""), Some(Found::Default(3)));
        assert_eq!(routes.names().len(), 4);
    }

    #[test]
    fn a_name_is_found_however_business_and_log_type_make_it() {
        let names = ["a10", "a-7", "b-", "5", "-5", "", "default-1"].map(str::to_owned);
        let routes = Routes::new(&names);
        for business in ["", "a", "a1", "a10", "a-", "a-7", "b", "b-", "5", "-", "-5", "default", "default-1"]
        {
            for log_type in ["", "0", "10", "7", "-7", "5", "-5", "-1"] {
                let name = format!("{business}{log_type}");
                let own = names.iter().position(|other| *other == name).map(Found::Own);
                let or_default = names.iter().position(|other| *other == format!("default{log_type}"));
                let expected = own.or(or_default.map(Found::Default));
                assert_eq!(found(&routes, business, log_type), expected, "{business:?} {log_type:?}");
            }
        }
    }
}
