//! `[[paranoid_pirate]]`: queues of the Paranoid Pirate pattern, each a front end for clients and a
//! back end for workers of one service.

use std::collections::BTreeMap;

use bytes::Bytes;
use engine::{ServiceConfig, Span};
use sessions::{Dialect, Pair, ShardConfig, Speaks, is_reserved};

use super::{Endpoint, Fault, Lasting, Mechanism, Rules, Scheme};

/// One queue as it is written.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    frontend: Endpoint,
    backend: Endpoint,
    service: String,
    /// How peers of both ends are asked who they are.
    pub(super) mechanism: Option<Mechanism>,
    /// Permissions of ends that are sockets in the file system.
    mode: Option<u32>,
    /// The old examples' own, 1 s: between their beats and ours lies one interval of theirs.
    heartbeat: Option<Lasting>,
    liveness: Option<u32>,
    #[serde(default)]
    when_idle: WhenIdle,
}

impl Written {
    /// Gives the mode to whichever end can have one; `false` if none can, or not such a one.
    fn apply_mode(&mut self) -> bool {
        let Some(given) = self.mode else { return true };
        let mut taken = false;
        for endpoint in [&mut self.frontend, &mut self.backend] {
            if let Scheme::Ipc { mode } = &mut endpoint.scheme {
                (*mode, taken) = (given, true);
            }
        }
        taken && given <= 0o777
    }
}

/// What becomes of requests while no worker is free.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum WhenIdle {
    /// They wait under the rules of their service.
    #[default]
    Queue,
    /// The front end is not read, as the old queue did.
    Pause,
}

/// One queue, checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Queue {
    pub(crate) frontend: Endpoint,
    pub(crate) backend: Endpoint,
    pub(crate) service: String,
    pub(crate) mechanism: Mechanism,
}

impl Queue {
    /// Both endpoints.
    pub(super) fn ends(&self) -> [&Endpoint; 2] {
        [&self.frontend, &self.backend]
    }

    /// Both endpoints of the queue that stands at `place`, with what is spoken there.
    pub(crate) fn listeners(&self, place: usize) -> [(&Endpoint, Dialect); 2] {
        let dialect =
            |speaks| Dialect { speaks, door: self.mechanism.door(), ..Dialect::default() };
        [
            (&self.frontend, dialect(Speaks::PirateFront(place))),
            (&self.backend, dialect(Speaks::PirateBack(place))),
        ]
    }
}

/// Checks the queues and puts their rules into `shard`. `taken`: endpoints of other listeners.
pub(super) fn settings(
    written: Vec<Written>,
    taken: &[&Endpoint],
    rules: &BTreeMap<String, Rules>,
    shard: &mut ShardConfig,
) -> Result<Vec<Queue>, Fault> {
    let mut taken: Vec<Endpoint> = taken.iter().map(|endpoint| (*endpoint).clone()).collect();
    let mut idle_by_service: BTreeMap<String, WhenIdle> = BTreeMap::new();
    let mut queues = Vec::new();
    for (place, mut one) in written.into_iter().enumerate() {
        let place = place.to_string();
        let fault = |key: &str, expected: &str| {
            let mut fault = Fault::new(&["paranoid_pirate", &place, key], "");
            fault.message = format!("paranoid_pirate.{key} {expected}");
            fault
        };
        if !one.apply_mode() {
            return Err(fault("mode", "is for ipc:// alone, and from 0o000 to 0o777"));
        }
        for (key, endpoint) in [("frontend", &one.frontend), ("backend", &one.backend)] {
            // With port 0 each gets one of its own.
            if !endpoint.address.ends_with(":0") && taken.contains(endpoint) {
                let text = format!("{endpoint} is listened on already: each needs its own");
                return Err(fault(key, &text));
            }
            taken.push(endpoint.clone());
        }
        if one.service.is_empty() || one.service.len() > shard.limits.name_bytes {
            return Err(fault("service", "must have from 1 to 255 octets"));
        }
        if is_reserved(one.service.as_bytes()) {
            return Err(fault(
                "service",
                "must not begin with mmi. or maitred., which are the broker's own",
            ));
        }
        let pair = pair(&one);
        if !(Span::from_millis(10)..=Span::from_millis(3_600_000)).contains(&pair.heartbeat) {
            return Err(fault("heartbeat", "must be from 10ms to 1h"));
        }
        if !(1..=1_000).contains(&pair.liveness) {
            return Err(fault("liveness", "must be from 1 to 1000"));
        }
        let before = idle_by_service.insert(one.service.clone(), one.when_idle);
        if before.is_some_and(|before| before != one.when_idle) {
            return Err(fault("when_idle", "must be the same in all queues of one service"));
        }
        if one.when_idle == WhenIdle::Pause {
            let own = rules.get(&one.service).and_then(|rules| rules.queue_max);
            if own.is_some_and(|max| max != 0) {
                let text = "is \"pause\", so that nobody waits in the line of this service: \
                            leave out its queue_max";
                return Err(fault("when_idle", text));
            }
            let config = ServiceConfig { queue_max: 0, ..*shard.engine.service(&pair.service) };
            shard.engine.by_name.insert(one.service.as_bytes().into(), config);
        }
        shard.pairs.push(pair);
        let mechanism = one.mechanism.unwrap_or_default();
        let Written { frontend, backend, service, .. } = one;
        queues.push(Queue { frontend, backend, service, mechanism });
    }
    Ok(queues)
}

fn pair(one: &Written) -> Pair {
    Pair {
        service: Bytes::copy_from_slice(one.service.as_bytes()),
        heartbeat: one.heartbeat.map_or(Span::from_secs(1), |Lasting(span)| span),
        liveness: one.liveness.unwrap_or(3),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Overrides, read};
    use super::*;

    fn queue(rest: &str) -> String {
        format!(
            "[[paranoid_pirate]]\nfrontend = \"tcp://127.0.0.1:5570\"\n\
             backend = \"tcp://127.0.0.1:5571\"\n{rest}"
        )
    }

    #[test]
    fn bad_queues_are_refused_with_line_and_advice() {
        let refused = |text: &str| match read("m.toml", text, Path::new("."), &Overrides::default())
        {
            Ok(_) => "accepted".into(),
            Err(error) => error.to_string(),
        };
        let two = queue("service = \"echo\"\n") + &queue("service = \"echo\"\n");
        let contrary = queue("service = \"echo\"\n")
            + "[[paranoid_pirate]]\nfrontend = \"tcp://127.0.0.1:1\"\n\
               backend = \"tcp://127.0.0.1:2\"\nservice = \"echo\"\nwhen_idle = \"pause\"";
        let line =
            queue("service = \"echo\"\nwhen_idle = \"pause\"\n") + "[services.echo]\nqueue_max = 5";
        let cases = [
            (queue("service = \"echo\""), "accepted"),
            (queue("service = \"echo\"\nheartbeat = \"2s\"\nliveness = 5"), "accepted"),
            (queue("service = \"echo\"\nwhen_idle = \"pause\""), "accepted"),
            (queue("service = \"echo\"").replace("5571", "0").replace("5570", "0"), "accepted"),
            (queue(""), "m.toml:1: missing field `service`"),
            (queue("service = \"\""), "m.toml:4: paranoid_pirate.service must have"),
            (queue("service = \"mmi.x\""), "m.toml:4: paranoid_pirate.service must not begin"),
            (queue("service = \"x\"\nheartbeat = \"1ms\""), "m.toml:5: paranoid_pirate.heartbeat"),
            (queue("service = \"x\"\nliveness = 0"), "m.toml:5: paranoid_pirate.liveness must"),
            (queue("service = \"x\"\nwhen_idle = \"stop\""), "m.toml:5: unknown variant `stop`"),
            (queue("service = \"x\"\nmode = 0o660"), "m.toml:5: paranoid_pirate.mode is for ipc"),
            (
                queue("service = \"x\"\nmode = 0o660").replace("tcp://127.0.0.1:5570", "ipc://x"),
                "accepted",
            ),
            (queue("service = \"x\"\nwhen = 1"), "m.toml:5: unknown field `when`"),
            (
                queue("service = \"x\"").replace("5571", "5570"),
                "m.toml:3: paranoid_pirate.backend tcp://127.0.0.1:5570 is listened on already",
            ),
            (
                queue("service = \"x\"").replace("5571", "5555"),
                "m.toml:3: paranoid_pirate.backend tcp://127.0.0.1:5555 is listened on already",
            ),
            (two, "m.toml:6: paranoid_pirate.frontend tcp://127.0.0.1:5570 is listened on"),
            (contrary, "m.toml:9: paranoid_pirate.when_idle must be the same in all queues"),
            (line, "m.toml:5: paranoid_pirate.when_idle is \"pause\", so that nobody waits"),
        ];
        for (text, expected) in cases {
            let got = refused(&text);
            assert!(got.starts_with(expected), "{text}\n  gave {got}\n  not  {expected}");
        }
    }

    #[test]
    fn a_paused_service_has_no_line_and_keeps_its_other_rules() {
        let text = queue("service = \"a.b\"\nwhen_idle = \"pause\"\n")
            + "[services.\"a.*\"]\nmax_deliveries = 7";
        let settings =
            read("m.toml", &text, Path::new("."), &Overrides::default()).expect("it is accepted");
        let rules = settings.shard.engine.service(b"a.b");
        assert_eq!((rules.queue_max, rules.max_deliveries), (0, 7));
        assert_eq!(settings.shard.engine.service(b"a.c").queue_max, 1_000_000);
        let pair = &settings.shard.pairs[0];
        assert_eq!((pair.heartbeat, pair.liveness), (Span::from_secs(1), 3));
    }
}
