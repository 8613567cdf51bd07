//! A tower layer that keeps a line before any service. Feature `tower`.
//!
//! Requests wait in `call`, not in `poll_ready`: tower's usual back-pressure would hide them from
//! the line, which could then neither time nor shed them. The service is always ready; a request
//! that is shed ends as [`Refused::Shed`], which an HTTP server answers with 503 and a
//! `Retry-After` of `retry_after`.

use alloc::boxed::Box;
use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;

use super::{Permit, Refused, Regulator};

/// Puts a [`Regulator`]'s line before services. All share one line and one valve.
#[derive(Clone, Debug)]
pub struct ShedLayer {
    regulator: Regulator,
}

impl ShedLayer {
    /// A layer before which requests wait for this regulator.
    #[must_use]
    pub fn new(regulator: Regulator) -> ShedLayer {
        ShedLayer { regulator }
    }
}

impl<S> Layer<S> for ShedLayer {
    type Service = ShedService<S>;

    fn layer(&self, inner: S) -> ShedService<S> {
        ShedService { inner, regulator: self.regulator.clone() }
    }
}

/// A service with a line before it.
#[derive(Clone, Debug)]
pub struct ShedService<S> {
    inner: S,
    regulator: Regulator,
}

impl<S, Q> Service<Q> for ShedService<S>
where
    S: Service<Q> + Clone + Send + 'static,
    S::Future: Send,
    S::Response: Send,
    S::Error: Send,
    Q: Send + 'static,
{
    type Response = S::Response;
    type Error = Refused<S::Error>;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, Refused<S::Error>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Q) -> Self::Future {
        let (mut inner, regulator) = (self.inner.clone(), self.regulator.clone());
        Box::pin(async move {
            let mut running = Running(Some(regulator.acquire().await.map_err(Refused::Shed)?));
            let answer = match poll_fn(|cx| inner.poll_ready(cx)).await {
                Ok(()) => inner.call(request).await,
                Err(error) => Err(error),
            };
            match (running.0.take(), &answer) {
                (Some(permit), Err(_)) => permit.failed(),
                (permit, _) => drop(permit),
            }
            answer.map_err(Refused::Failed)
        })
    }
}

/// A request that runs. If its future is dropped, nobody knows how it would have ended.
struct Running(Option<Permit>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(permit) = self.0.take() {
            if std::thread::panicking() { permit.failed() } else { permit.lost() }
        }
    }
}
