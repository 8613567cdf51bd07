//! The book without connections: the test is the driver, and time is what it says.

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::mdp::{Part, Protocol, ReplyHead};

struct Book {
    calls: Calls,
    now: Instant,
}

impl Book {
    /// All lines are up.
    fn new(lines: &[&str], config: CallsConfig) -> Book {
        let calls = Calls::new(lines.iter().map(|&line| line.into()), config);
        let mut book = Book { calls, now: Instant::now() };
        for line in 0..lines.len() {
            book.calls.line_up(line, book.now);
        }
        book
    }

    fn submit(&mut self, body: &str) -> u64 {
        self.submit_request(body, true, false)
    }

    fn submit_request(&mut self, body: &str, retry: bool, streaming: bool) -> u64 {
        let request =
            Request { service: "s".into(), body: body.into(), retry, streaming, urgent: false };
        self.calls.submit(request, self.now)
    }

    /// Sends all a line has to send; returns the last frames, the bodies.
    fn send(&mut self, line: usize) -> Vec<String> {
        let mut bodies = Vec::new();
        let mut out = Vec::new();
        while self.calls.put_next(line, self.now, &mut out) {
            let (_, body) = zmtp::raw_frames(&out).last().unwrap();
            bodies.push(String::from_utf8(body.into()).unwrap());
            out.clear();
        }
        bodies
    }

    fn reply(&mut self, line: usize, id: u64, part: Part, body: impl Into<Message>) {
        let head = ReplyHead { id: Some(id), part, body_from: 0 };
        self.calls.reply(line, head, body.into(), self.now);
    }

    fn poll(&mut self, id: u64) -> Poll<Result<Message, Error>> {
        self.calls.poll_reply(id, &Context::from_waker(Waker::noop()))
    }

    fn pass(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
    }

    fn in_flight(&self) -> Vec<usize> {
        self.calls.lines.iter().map(|line| line.in_flight).collect()
    }
}

const CONFIG: CallsConfig =
    CallsConfig { protocol: Protocol::V02, pipelined: true, window: 100, replies_bytes_max: 10 };

#[test]
fn a_call_that_is_dropped_before_it_is_sent_never_is() {
    let mut book = Book::new(&["one"], CONFIG);
    let ids = ["a", "b", "c"].map(|body| book.submit(body));
    book.calls.forget(ids[1], book.now);
    assert_eq!(book.send(0), ["a", "c"]);
    assert_eq!(book.in_flight(), [2]);
}

#[test]
fn what_exceeds_the_window_waits_in_order() {
    let mut book = Book::new(&["one"], CallsConfig { window: 2, ..CONFIG });
    let ids = ["a", "b", "c", "d", "e"].map(|body| book.submit(body));
    assert_eq!(book.send(0), ["a", "b"]);
    book.reply(0, ids[1], Part::Final, "B");
    assert_eq!(book.poll(ids[1]), Poll::Ready(Ok("B".into())));
    assert_eq!(book.send(0), ["c"]);
    book.calls.forget(ids[3], book.now);
    book.calls.forget(ids[0], book.now);
    assert_eq!(book.send(0), ["e"]);
}

#[test]
fn calls_of_a_lost_line_go_elsewhere_oldest_first() {
    let mut book = Book::new(&["one"], CONFIG);
    let sent = ["a", "b", "c"].map(|body| book.submit(body));
    let once = book.submit_request("once", false, false);
    book.send(0);
    book.submit("unsent");
    book.submit_request("unsent, once", false, false);
    book.reply(0, sent[1], Part::Final, "B");
    book.calls.line_lost(0, "gone".into(), book.now);
    assert_eq!(book.in_flight(), [0]);
    let lost = Error::ConnectionLost { endpoint: "one".into(), why: "gone".into() };
    assert_eq!(book.poll(once), Poll::Ready(Err(lost)));
    assert_eq!(book.poll(sent[1]), Poll::Ready(Ok("B".into())));
    book.submit("new");
    book.calls.line_up(0, book.now);
    assert_eq!(book.send(0), ["a", "c", "unsent", "unsent, once", "new"]);
}

#[test]
fn a_call_that_starts_over_forgets_its_partial_replies() {
    let mut book = Book::new(&["one"], CONFIG);
    let call = book.submit("a");
    let stream = book.submit_request("b", true, true);
    book.send(0);
    book.reply(0, call, Part::Partial, "1");
    book.reply(0, stream, Part::Partial, "1");
    book.calls.line_lost(0, "gone".into(), book.now);
    book.calls.line_up(0, book.now);
    assert_eq!(book.send(0), ["a"]);
    book.reply(0, call, Part::Final, "2");
    assert_eq!(book.poll(call), Poll::Ready(Ok("2".into())));

    let mut poll_part = || book.calls.poll_part(stream, &Context::from_waker(Waker::noop()));
    assert_eq!(poll_part(), Poll::Ready((Ok("1".into()), Part::Partial)));
    let Poll::Ready((Err(Error::ConnectionLost { .. }), Part::Final)) = poll_part() else {
        panic!("a stream that had begun was begun again");
    };
}

#[test]
fn a_reply_on_another_line_or_a_second_one_is_dropped() {
    let mut book = Book::new(&["one"], CONFIG);
    let id = book.submit("a");
    book.reply(0, id, Part::Final, "before it was sent");
    book.send(0);
    book.reply(0, id, Part::Final, "right");
    book.reply(0, id, Part::Final, "second");
    book.reply(0, 77, Part::Final, "to nobody");
    assert_eq!(book.in_flight(), [0]);
    assert_eq!(book.poll(id), Poll::Ready(Ok("right".into())));
}

#[test]
fn partial_replies_nobody_takes_are_bounded() {
    let mut book = Book::new(&["one"], CONFIG);
    let id = book.submit("a");
    book.send(0);
    book.reply(0, id, Part::Partial, "12345");
    book.reply(0, id, Part::Partial, "12345");
    assert_eq!(book.poll(id), Poll::Pending);
    book.reply(0, id, Part::Partial, "1");
    assert_eq!(book.poll(id), Poll::Ready(Err(Error::RepliesTooLarge { limit: 10 })));
    book.reply(0, id, Part::Final, "late");
    assert_eq!(book.in_flight(), [0]);
}

#[test]
fn of_two_lines_the_better_is_taken_and_the_unknown_is_tried() {
    let mut book = Book::new(&["one", "two"], CONFIG);
    // Nothing is known: one call each.
    let ids = [book.submit("a"), book.submit("b")];
    assert_eq!(book.in_flight(), [1, 1]);
    let line_of_a = usize::from(book.send(0) != ["a"]);
    let line_of_b = 1 - line_of_a;
    book.send(1);
    book.pass(1);
    book.reply(line_of_a, ids[0], Part::Final, "A");
    book.pass(9);
    book.reply(line_of_b, ids[1], Part::Final, "B");
    // 1 ms against 10 ms: the slower one is better once the faster has ten.
    let mut expected = [0, 0];
    for _ in 0..9 {
        book.submit("x");
        expected[line_of_a] += 1;
        assert_eq!(book.in_flight(), expected);
    }
    for _ in 0..33 {
        book.submit("x");
    }
    assert!((3..=4).contains(&book.in_flight()[line_of_b]), "{:?}", book.in_flight());
}

#[test]
fn a_line_that_answers_nothing_and_one_that_refuses_are_bad() {
    for refuse in [false, true] {
        let mut book = Book::new(&["one", "two"], CONFIG);
        let mut good = 0;
        for _ in 0..50 {
            let id = book.submit("x");
            book.pass(1);
            match book.send(0).len() {
                1 if refuse => {
                    let refused = Message::frames(["MAITRED-REFUSED", "overload"]);
                    book.reply(0, id, Part::Final, refused);
                    assert_eq!(book.send(1), ["x"]);
                }
                1 => {
                    book.pass(1000);
                    book.calls.forget(id, book.now);
                    continue;
                }
                _ => {
                    book.send(1);
                    good += 1;
                }
            }
            book.pass(1);
            book.reply(1, id, Part::Final, "X");
            assert_eq!(book.poll(id), Poll::Ready(Ok("X".into())));
        }
        assert!(good >= 45, "{good}");
    }
}

#[test]
fn without_ids_a_line_has_one_call_and_a_dropped_one_ends_it() {
    let config = CallsConfig { protocol: Protocol::V01, pipelined: false, window: 1, ..CONFIG };
    let mut book = Book::new(&["one"], config);
    let ids = ["a", "b", "c"].map(|body| book.submit(body));
    assert_eq!(book.send(0), ["a"]);
    book.reply(0, 0, Part::Final, "A");
    assert_eq!(book.poll(ids[0]), Poll::Ready(Ok("A".into())));
    assert_eq!(book.send(0), ["b"]);
    book.calls.forget(ids[1], book.now);
    assert!(book.calls.must_hang_up(0));
    assert_eq!(book.send(0), [""; 0]);
    book.reply(0, 0, Part::Final, "B");
    assert_eq!(book.poll(ids[2]), Poll::Pending);
    book.calls.line_lost(0, "hung up".into(), book.now);
    book.calls.line_up(0, book.now);
    assert_eq!(book.send(0), ["c"]);
}

#[test]
fn an_average_jumps_to_what_is_worse_and_sinks_slowly() {
    let mut now = Instant::now();
    let mut cost = Cost { nanos: 0.0, at: now };
    let ms = |cost: &Cost, now| (cost.at(now) / 1e6).round();
    cost.observe(Duration::from_millis(100), now);
    assert_eq!(ms(&cost, now), 100.0);
    cost.observe(Duration::from_millis(10), now);
    assert_eq!(ms(&cost, now), 100.0);
    now += Duration::from_secs(10);
    assert_eq!(ms(&cost, now), 37.0);
    cost.observe(Duration::from_millis(10), now);
    assert_eq!(ms(&cost, now), 43.0);
    cost.observe_at_least(Duration::from_millis(1), now);
    assert_eq!(ms(&cost, now), 43.0);
    cost.observe_at_least(Duration::from_millis(200), now);
    assert_eq!(ms(&cost, now), 200.0);
}
