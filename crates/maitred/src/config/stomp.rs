//! `[stomp]`: where STOMP peers come in.

use engine::Span;
use sessions::{Dialect, ShardConfig, Speaks};

use super::{Endpoint, Fault, Lasting, Mechanism, Overrides, Scheme};

/// The table as it is written.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Written {
    /// `off` for none.
    listen: Option<String>,
    mechanism: Option<Mechanism>,
    /// Shortest interval of beats that a client is granted, in both directions.
    heartbeat: Option<Lasting>,
    subscriptions: Option<usize>,
}

/// Where it is listened, and how its peers are asked who they are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Door {
    pub(crate) endpoint: Endpoint,
    pub(crate) dialect: Dialect,
}

/// Checks the table and puts its rules into `shard`. `overrides` may say where to listen;
/// `mechanism` is that of listeners that say nothing else; `taken` are endpoints of others.
pub(super) fn settings(
    written: &Written,
    overrides: &Overrides,
    mechanism: Mechanism,
    taken: &[&Endpoint],
    shard: &mut ShardConfig,
) -> Result<Option<Door>, Fault> {
    let fault = |key: &str, expected: &str| Fault::new(&["stomp", key], expected);
    let zmtp = &shard.zmtp;
    shard.stomp.limits.body_bytes_max = zmtp.frame_bytes_max.min(zmtp.message_bytes_max);
    if let Some(Lasting(span)) = written.heartbeat {
        if !(Span::from_millis(10)..=Span::from_millis(3_600_000)).contains(&span) {
            return Err(fault("heartbeat", "must be from 10ms to 1h"));
        }
        let millis = u32::try_from(span.as_millis()).unwrap_or(u32::MAX);
        let beat = &mut shard.stomp.heart_beat;
        (beat.send_ms, beat.receive_ms) = (millis, millis);
    }
    if let Some(most) = written.subscriptions {
        if most == 0 {
            return Err(fault("subscriptions", "must be at least 1"));
        }
        shard.limits.subscriptions = most;
    }
    let mechanism = match (written.mechanism, mechanism) {
        (Some(Mechanism::Curve), _) => {
            return Err(fault("mechanism", "takes null or plain: STOMP knows no CURVE"));
        }
        // Who locks the house does not leave this door open: then a login is asked for.
        (None, Mechanism::Curve) => Mechanism::Plain,
        (Some(own), _) => own,
        (None, usual) => usual,
    };
    let endpoint: Endpoint = match overrides.stomp.as_deref().or(written.listen.as_deref()) {
        Some("off") => return Ok(None),
        Some(text) => text.parse().map_err(|message| Fault::told(&["stomp", "listen"], message))?,
        None => Endpoint { scheme: Scheme::Tcp, address: "127.0.0.1:61613".into() },
    };
    if endpoint.scheme == Scheme::Tls {
        return Err(fault("listen", "takes tcp:// or ipc://: there is no STOMP over TLS yet"));
    }
    if !endpoint.address.ends_with(":0") && taken.contains(&&endpoint) {
        let text = format!("{endpoint} is listened on already: each needs its own");
        return Err(fault("listen", &text));
    }
    let door = mechanism.door();
    let dialect = Dialect { speaks: Speaks::Stomp, door, ..Dialect::default() };
    Ok(Some(Door { endpoint, dialect }))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{ConfigError, Overrides, Settings, read};

    fn load(text: &str, flag: Option<&str>) -> Result<Settings, ConfigError> {
        let overrides = Overrides { stomp: flag.map(str::to_owned), ..Overrides::default() };
        read("m.toml", text, Path::new("."), &overrides)
    }

    #[test]
    fn bad_tables_are_refused_with_line_and_advice() {
        for (text, expected) in [
            ("[stomp]\nlisten = \"61613\"", "m.toml:2: \"61613\" is not an endpoint"),
            ("[stomp]\nlisten = \"tls://127.0.0.1:1\"", "m.toml:2: stomp.listen takes tcp://"),
            ("[stomp]\nmechanism = \"curve\"", "m.toml:2: stomp.mechanism takes null or plain"),
            ("[stomp]\nheartbeat = \"1ms\"", "m.toml:2: stomp.heartbeat must be from 10ms"),
            ("[stomp]\nsubscriptions = 0", "m.toml:2: stomp.subscriptions must be at least 1"),
            ("[stomp]\nport = 1", "m.toml:2: unknown field `port`"),
            (
                "[stomp]\nlisten = \"tcp://127.0.0.1:5555\"",
                "m.toml:2: stomp.listen tcp://127.0.0.1:5555 is listened on already",
            ),
        ] {
            let got = load(text, None).expect_err(text).to_string();
            assert!(got.starts_with(expected), "{text:?}\n  gave {got:?}\n  not  {expected:?}");
        }
    }

    #[test]
    fn it_is_on_by_default_and_can_be_moved_and_shut() {
        for (text, flag, expected) in [
            ("", None, Some(("tcp://127.0.0.1:61613", 0))),
            ("[stomp]\nlisten = \"off\"", None, None),
            ("[stomp]\nlisten = \"tcp://[::1]:7\"", None, Some(("tcp://[::1]:7", 0))),
            ("[stomp]\nlisten = \"off\"", Some("tcp://[::1]:0"), Some(("tcp://[::1]:0", 0))),
            ("", Some("off"), None),
            ("[stomp]\nmechanism = \"plain\"", None, Some(("tcp://127.0.0.1:61613", 1))),
            ("[security]\nmechanism = \"plain\"", None, Some(("tcp://127.0.0.1:61613", 1))),
        ] {
            let settings = load(text, flag).expect(text);
            let got = settings.stomp.map(|door| (door.endpoint.to_string(), door.dialect.door));
            let expected = expected.map(|(endpoint, door)| (endpoint.to_owned(), door));
            assert_eq!(got, expected, "{text:?} {flag:?}");
        }
    }

    #[test]
    fn its_limits_are_those_of_the_house() {
        let text = "[stomp]\nheartbeat = \"2s\"\nsubscriptions = 7\n\
                    [limits]\nframe_bytes = 1000\nmessage_bytes = 500";
        let shard = load(text, None).expect(text).shard;
        let beat = shard.stomp.heart_beat;
        assert_eq!((beat.send_ms, beat.receive_ms), (2_000, 2_000));
        assert_eq!((shard.limits.subscriptions, shard.stomp.limits.body_bytes_max), (7, 500));
    }
}
