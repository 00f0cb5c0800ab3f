//! How far a service is, for its HTTP handlers: they answer from the first moment on, long before there is a service.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

enum Phase<T> {
    /// What is being done.
    Starting(&'static str),
    Serving(Arc<T>),
    Stopping(Arc<T>),
}

/// How far the service `T` is. Clones are handles to the same one.
pub struct Stage<T> {
    phase: Arc<RwLock<Phase<T>>>,
    begun: Instant,
}

impl<T> Clone for Stage<T> {
    fn clone(&self) -> Self {
        Self { phase: Arc::clone(&self.phase), begun: self.begun }
    }
}

impl<T> Stage<T> {
    /// Nothing is there yet; `what` is being done.
    #[must_use]
    pub fn new(what: &'static str) -> Self {
        Self { phase: Arc::new(RwLock::new(Phase::Starting(what))), begun: Instant::now() }
    }

    fn enter(&self, phase: Phase<T>) {
        *self.phase.write().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    /// Says what is being done before the service serves.
    pub fn starting(&self, what: &'static str) {
        self.enter(Phase::Starting(what));
    }

    /// From now on it serves.
    pub fn set_serving(&self, service: &Arc<T>) {
        self.enter(Phase::Serving(Arc::clone(service)));
    }

    /// From now on it is not ready any more, but still there to be asked.
    pub fn set_stopping(&self, service: &Arc<T>) {
        self.enter(Phase::Stopping(Arc::clone(service)));
    }

    /// The service, or why there is none.
    ///
    /// # Errors
    /// What is being done before it serves.
    pub fn serving(&self) -> Result<Arc<T>, String> {
        match &*self.phase.read().unwrap_or_else(PoisonError::into_inner) {
            Phase::Starting(what) => Err(format!("starting: {what}")),
            Phase::Serving(service) | Phase::Stopping(service) => Ok(Arc::clone(service)),
        }
    }

    /// Whether it is stopping.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        matches!(&*self.phase.read().unwrap_or_else(PoisonError::into_inner), Phase::Stopping(_))
    }

    /// How long ago the process began to start it.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.begun.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_can_be_asked_from_its_start_to_its_end() {
        let stage = Stage::new("thinking");
        assert_eq!(stage.serving(), Err("starting: thinking".to_owned()));
        stage.starting("building");
        assert_eq!(stage.clone().serving(), Err("starting: building".to_owned()));
        let service = Arc::new(5);
        stage.set_serving(&service);
        assert_eq!((stage.serving(), stage.is_stopping()), (Ok(Arc::clone(&service)), false));
        stage.set_stopping(&service);
        assert_eq!((stage.serving(), stage.is_stopping()), (Ok(service), true));
    }
}
