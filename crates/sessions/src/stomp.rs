//! The words of STOMP: where a frame is for, how it is to be acknowledged, and what of a SEND goes
//! with it through the house.
//!
//! | destination | SEND | SUBSCRIBE |
//! |---|---|---|
//! | `/service/N` | asks the service N; with `reply-to` the answer comes back | serves N |
//! | `/queue/N` | puts a message into the line of the service called `/queue/N` | takes from it |
//! | `/topic/N` | a copy to whoever listens at this moment | listens; `*` and `>` are wildcards |
//! | `/temp-queue/N` | to oneself | where answers come |
//! | `/reply/K` | answers the request whose MESSAGE said `reply-to:/reply/K` | – |
//!
//! A queue is a service whose requests nobody waits for and whose workers' answers are their ACKs:
//! line, bounds, leases, redelivery and rights are the engine's.
//!
//! What a request carries beside its body stands in its payload between envelope and body: names
//! and values of headers in turn, a NUL behind each.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use engine::Reason;
use stomp::Frame;

/// Where a frame is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Destination<'a> {
    /// A service, by its name.
    Service(&'a str),
    /// A queue, by the whole of its destination, which is also the name of its service.
    Queue(&'a str),
    /// A topic, by its name.
    Topic(&'a str),
    /// What is this connection's alone, by the whole of its destination.
    Own(&'a str),
    /// A request that this connection holds.
    Reply(u64),
}

/// Why a frame is refused: a stable word for programs, and what to do.
pub(crate) type Refused = (&'static str, String);

impl<'a> Destination<'a> {
    /// Reads a destination, whose name may have `name_bytes` octets.
    pub(crate) fn parse(text: &'a str, name_bytes: usize) -> Result<Destination<'a>, Refused> {
        let (kind, name) = text
            .strip_prefix('/')
            .and_then(|rest| rest.split_once('/'))
            .ok_or_else(|| unknown(text))?;
        if name.is_empty() || text.len() > name_bytes {
            let text = "a destination has a name, and at most as many octets as limits.name_bytes";
            return Err(("bad_destination", text.into()));
        }
        match kind {
            "service" if crate::is_reserved(name.as_bytes()) => {
                let text = "services whose names begin with mmi. or maitred. are the broker's own \
                            and speak Majordomo";
                Err(("bad_destination", text.into()))
            }
            "service" => Ok(Destination::Service(name)),
            "queue" => Ok(Destination::Queue(text)),
            "topic" => Ok(Destination::Topic(name)),
            "temp-queue" => Ok(Destination::Own(text)),
            "reply" => name.parse().map(Destination::Reply).map_err(|_| unknown(text)),
            "task" => {
                let text = "tasks are not reached over STOMP yet; enqueue them over HTTP or \
                            Majordomo";
                Err(("not_supported", text.into()))
            }
            _ => Err(unknown(text)),
        }
    }
}

fn unknown(text: &str) -> Refused {
    let shown: String = text.chars().take(80).collect();
    let text = alloc::format!(
        "{shown:?} is no destination; write /service/NAME, /queue/NAME, /topic/NAME or \
         /temp-queue/NAME"
    );
    ("bad_destination", text)
}

/// How a subscription acknowledges.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum AckMode {
    /// What was written is done.
    #[default]
    Auto,
    /// An ACK is for all before it, too.
    Client,
    /// An ACK is for one message.
    Each,
}

impl AckMode {
    pub(crate) fn parse(text: Option<&str>) -> Result<AckMode, Refused> {
        match text {
            None | Some("auto") => Ok(AckMode::Auto),
            Some("client") => Ok(AckMode::Client),
            Some("client-individual") => Ok(AckMode::Each),
            Some(_) => {
                Err(("bad_header", "ack takes auto, client or client-individual".to_string()))
            }
        }
    }
}

/// How many messages a subscription takes before it acknowledges; `None` if it does not say.
/// RabbitMQ's and ActiveMQ's names are taken, too.
pub(crate) fn prefetch(frame: &Frame<'_>) -> Result<Option<u32>, Refused> {
    let names = ["prefetch", "prefetch-count", "activemq.prefetchSize"];
    let Some(text) = names.into_iter().find_map(|name| frame.get(name)) else { return Ok(None) };
    match text.parse() {
        Ok(0) | Err(_) => Err(("bad_header", "prefetch takes a number from 1 on".to_string())),
        Ok(count) => Ok(Some(count)),
    }
}

/// Wishes that would be broken in silence if they were not refused.
pub(crate) fn check_wishes(frame: &Frame<'_>) -> Result<(), Refused> {
    let is_true = |name| frame.get(name).is_some_and(|value| value == "true");
    let durable = is_true("persistent")
        || is_true("durable")
        || frame.get("activemq.subscriptionName").is_some()
        || frame.get("durable-subscription-name").is_some();
    if durable {
        let text = "STOMP's messages and subscriptions are not kept in the store yet; leave the \
                    header out to have them in memory, or enqueue a task over HTTP or Majordomo";
        return Err(("not_supported", text.to_string()));
    }
    if frame.get("selector").is_some() {
        let text = "there are no selectors; use a destination of its own for what is to be told \
                    apart";
        return Err(("not_supported", text.to_string()));
    }
    Ok(())
}

/// The return envelope: where the answer is for, and what it is to be known by.
pub(crate) fn put_envelope(out: &mut Vec<u8>, reply_to: &str, correlation: Option<&str>) {
    out.extend_from_slice(reply_to.as_bytes());
    if let Some(correlation) = correlation {
        out.push(0);
        out.extend_from_slice(correlation.as_bytes());
    }
}

/// What [`put_envelope`] wrote.
pub(crate) fn read_envelope(envelope: &[u8]) -> (&str, Option<&str>) {
    let mut parts = envelope.splitn(2, |octet| *octet == 0).map(core::str::from_utf8);
    let reply_to = parts.next().and_then(Result::ok).unwrap_or_default();
    (reply_to, parts.next().and_then(Result::ok))
}

/// Keeps the headers of a SEND that are for whoever gets the message.
pub(crate) fn put_headers(out: &mut Vec<u8>, frame: &Frame<'_>) {
    for (name, value) in frame.headers() {
        let is_ours = stomp::is_servers_own(&name) || name.starts_with("maitred-");
        if !is_ours && !name.contains('\0') && !value.contains('\0') {
            for part in [name, value] {
                out.extend_from_slice(part.as_bytes());
                out.push(0);
            }
        }
    }
}

/// What [`put_headers`] wrote.
pub(crate) fn read_headers(block: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    let mut parts =
        block.split(|octet| *octet == 0).map_while(|part| core::str::from_utf8(part).ok());
    core::iter::from_fn(move || {
        let name = parts.next().filter(|name| !name.is_empty())?;
        Some((name, parts.next()?))
    })
}

/// What a refusal says in `status`: the same numbers as over HTTP.
pub(crate) fn status_of(reason: Reason) -> &'static str {
    match reason {
        Reason::NoWorkers => "404",
        Reason::Denied => "403",
        Reason::QueueFull
        | Reason::Expired
        | Reason::Overload
        | Reason::Draining
        | Reason::WorkersFailed => "503",
    }
}

/// Whether the words of `pattern`, divided by dots, stand for those of `name`: `*` for any one, `>`
/// or `#` at the end for all that follow, none included.
pub(crate) fn is_match(pattern: &str, name: &str) -> bool {
    let (mut wanted, mut given) = (pattern.split('.'), name.split('.'));
    loop {
        match (wanted.next(), given.next()) {
            (Some(">" | "#"), _) | (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(one), Some(other)) if one == other => {}
            (Some(_), _) | (None, Some(_)) => return false,
        }
    }
}

/// Whether a topic to listen to stands for others.
pub(crate) fn is_pattern(name: &str) -> bool {
    name.split('.').any(|word| matches!(word, "*" | ">" | "#"))
}
