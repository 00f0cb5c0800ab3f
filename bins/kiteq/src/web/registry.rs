//! The registry that this broker keeps itself.

use std::sync::Arc;

use kiteq_registry::EmbeddedRegistry;
use kiteq_telemetry::{Request, Response, Routes};

pub(super) fn mount(routes: Routes, registry: Arc<EmbeddedRegistry>) -> Routes {
    routes.prefix("/registry/", move |request| {
        let registry = Arc::clone(&registry);
        async move {
            let Request { method, path, query, body } = request;
            let query = (!query.is_empty()).then_some(query.as_str());
            match registry.handle(method.as_str(), &path, query, &body).await {
                Some(reply) => Response::with_type(reply.status, reply.content_type, reply.body),
                None => Response::text(404, format!("{path} is not known\n")),
            }
        }
    })
}
