//! Which handler answers which path.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use hyper::Method;

use super::{Request, Response};

type Handler = Arc<dyn Fn(Request) -> BoxFuture<'static, Response> + Send + Sync>;

/// Exact paths, each with its methods, and prefixes that take every method. An exact path wins over a prefix, a longer
/// prefix over a shorter one.
#[derive(Clone, Default)]
pub struct Routes {
    exact: BTreeMap<String, Vec<(Method, Handler)>>,
    prefixes: Vec<(String, Handler)>,
}

impl Routes {
    /// Nothing is found yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers GET (and HEAD) of `path`.
    #[must_use]
    pub fn get<H, F>(self, path: &str, handler: H) -> Self
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        self.on(Method::GET, path, handler)
    }

    /// Answers one method of `path`.
    #[must_use]
    pub fn on<H, F>(mut self, method: Method, path: &str, handler: H) -> Self
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        self.exact.entry(path.to_owned()).or_default().push((method, boxed(handler)));
        self
    }

    /// Answers every method of every path that starts with `prefix`.
    #[must_use]
    pub fn prefix<H, F>(mut self, prefix: &str, handler: H) -> Self
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        self.prefixes.push((prefix.to_owned(), boxed(handler)));
        self.prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        self
    }

    /// Finds who answers `method` of `path`, or the answer that says why nobody does.
    pub(super) fn find(&self, method: &Method, path: &str) -> Result<Handler, Response> {
        if let Some(handlers) = self.exact.get(path) {
            let wanted = if method == Method::HEAD { &Method::GET } else { method };
            let found = handlers.iter().find(|(known, _)| known == wanted);
            return found.map(|(_, handler)| Arc::clone(handler)).ok_or_else(|| {
                let known: Vec<&str> = handlers.iter().map(|(known, _)| known.as_str()).collect();
                Response::text(405, format!("{path} takes {}, not {method}\n", known.join(", ")))
            });
        }
        let found = self.prefixes.iter().find(|(prefix, _)| path.starts_with(prefix.as_str()));
        found.map(|(_, handler)| Arc::clone(handler)).ok_or_else(|| self.not_found())
    }

    fn not_found(&self) -> Response {
        let exact = self.exact.keys().cloned();
        let prefixes = self.prefixes.iter().map(|(prefix, _)| format!("{prefix}..."));
        let known: Vec<String> = exact.chain(prefixes).collect();
        Response::text(404, format!("not found; there is {}\n", known.join(", ")))
    }
}

fn boxed<H, F>(handler: H) -> Handler
where
    H: Fn(Request) -> F + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    Arc::new(move |request| Box::pin(handler(request)))
}

impl std::fmt::Debug for Routes {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let prefixes: Vec<&String> = self.prefixes.iter().map(|(prefix, _)| prefix).collect();
        formatter
            .debug_struct("Routes")
            .field("exact", &self.exact.keys())
            .field("prefixes", &prefixes)
            .finish()
    }
}

/// The answer for something that is not there yet.
#[must_use]
pub fn unavailable(reason: &str) -> Response {
    Response::text(503, format!("{reason}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use std::future::ready;

    async fn answer(routes: &Routes, method: Method, path: &str) -> (u16, String) {
        let request = Request {
            method: method.clone(),
            path: path.to_owned(),
            query: String::new(),
            body: Bytes::new(),
        };
        let response = match routes.find(&method, path) {
            Ok(handler) => handler(request).await,
            Err(response) => response,
        };
        (response.status, String::from_utf8(response.body.to_vec()).unwrap())
    }

    fn says(text: &'static str) -> impl Fn(Request) -> std::future::Ready<Response> {
        move |_| ready(Response::text(200, text))
    }

    #[tokio::test]
    async fn exact_paths_win_over_prefixes_and_long_prefixes_over_short_ones() {
        let routes = Routes::new()
            .prefix("/a/", says("short"))
            .prefix("/a/b/", says("long"))
            .get("/a/b/c", says("exact"));
        for (path, text) in [("/a/b/c", "exact"), ("/a/b/d", "long"), ("/a/x", "short")] {
            assert_eq!(answer(&routes, Method::GET, path).await, (200, text.to_owned()));
        }
        assert_eq!(answer(&routes, Method::HEAD, "/a/b/c").await.0, 200);
    }

    #[tokio::test]
    async fn what_is_not_there_is_answered_with_what_is() {
        let routes = Routes::new().get("/healthz", says("ok")).prefix("/registry/", says("tree"));
        let (status, text) = answer(&routes, Method::GET, "/").await;
        assert_eq!((status, text.as_str()), (404, "not found; there is /healthz, /registry/...\n"));
        let (status, text) = answer(&routes, Method::POST, "/healthz").await;
        assert_eq!((status, text.as_str()), (405, "/healthz takes GET, not POST\n"));
    }
}
