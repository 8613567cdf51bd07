//! An HTTP server that sheds load: `cargo run -p matching --features tower --example tower_503`.
//!
//! Two requests are worked on at a time, the others wait in a line that aims for 20 ms. Who is
//! turned away gets 503 with `Retry-After` and the reason, while `/health` is always answered.
//! Try it with more callers than it can carry:
//!
//! ```text
//! $ seq 500 | xargs -P 50 -I{} curl -so /dev/null -w '%{http_code}\n' 127.0.0.1:8081 |
//!     sort | uniq -c
//! ```

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use axum::Router;
use axum::error_handling::HandleErrorLayer;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use matching::live::tower::ShedLayer;
use matching::live::{Refused, Regulator};
use matching::{QueueConfig, Span, ValveConfig};

/// Routes of which one waits for `regulator` before it does its `work`.
pub(crate) fn app<F>(
    regulator: Regulator,
    work: impl Fn() -> F + Clone + Send + Sync + 'static,
) -> Router
where
    F: Future<Output = String> + Send + 'static,
{
    // The layer refuses with an error; the one before it makes a response of that.
    let shed = (HandleErrorLayer::new(refuse), ShedLayer::new(regulator));
    Router::new().route("/", get(work)).layer(shed).route("/health", get(async || "well"))
}

/// 503, when to try again and why.
async fn refuse(refused: Refused<Infallible>) -> Response {
    // A handler cannot fail, so nothing else is left.
    let Refused::Shed(shed) = refused;
    let retry_after = HeaderValue::from(shed.retry_after_secs());
    let head = [(header::RETRY_AFTER, retry_after)];
    (StatusCode::SERVICE_UNAVAILABLE, head, format!("{shed}\n")).into_response()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let line = QueueConfig::aim(Span::from_millis(20), Span::from_millis(500)).with_max(1_000);
    let regulator = Regulator::new(line, ValveConfig::limit(2))?;
    let work = async || {
        tokio::time::sleep(Duration::from_millis(10)).await;
        String::from("done\n")
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8081").await?;
    println!("http://{}", listener.local_addr()?);
    axum::serve(listener, app(regulator, work)).await?;
    Ok(())
}
