//! A line before a tower service. Time is paused and jumps to whoever sleeps next.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use matching::live::tower::ShedLayer;
use matching::live::{Refused, Regulator};
use matching::{Breaker, QueueConfig, Reason, Rule, Span, ValveConfig};
use tower_layer::Layer;
use tower_service::Service;

/// Takes as many milliseconds as it is asked to; fails when that is none.
#[derive(Clone)]
struct Slow;

impl Service<u64> for Slow {
    type Response = u64;
    type Error = &'static str;
    type Future = Pin<Box<dyn Future<Output = Result<u64, &'static str>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, millis: u64) -> Self::Future {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            if millis == 0 { Err("no time") } else { Ok(millis) }
        })
    }
}

#[tokio::test(start_paused = true)]
async fn requests_wait_in_the_line_and_are_shed_there() {
    let line = QueueConfig::timeout(Span::from_millis(30));
    let regulator = Regulator::new(line, ValveConfig::limit(1)).expect("a good configuration");
    let mut service = ShedLayer::new(regulator.clone()).layer(Slow);
    let calls: Vec<_> = (0..3).map(|_| tokio::spawn(service.call(20))).collect();
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.expect("no panic"));
    }
    assert_eq!(answers[..2], [Ok(20), Ok(20)]);
    let Err(Refused::Shed(shed)) = answers[2] else { panic!("{:?}", answers[2]) };
    assert_eq!((shed.reason, shed.sojourn), (Reason::Expired, Span::from_millis(30)));
    let snapshot = regulator.snapshot();
    assert_eq!((snapshot.permits, snapshot.waiting, snapshot.shed.expired), (0, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_fails_breaks_the_circuit() {
    let breaker = Breaker { failures: 2, ..Breaker::default() };
    let valve = ValveConfig { rule: Rule::Breaker(breaker), ..ValveConfig::default() };
    let regulator = Regulator::new(QueueConfig::default().with_max(0), valve);
    let regulator = regulator.expect("a good configuration");
    let mut service = ShedLayer::new(regulator).layer(Slow);
    assert_eq!(service.call(0).await, Err(Refused::Failed("no time")));
    assert_eq!(service.call(0).await, Err(Refused::Failed("no time")));
    let Err(Refused::Shed(shed)) = service.call(1).await else { panic!("the circuit is whole") };
    assert_eq!(shed.reason, Reason::QueueFull);
}
