//! `[security]` and `[principals]`: how peers are asked who they are, whom to believe, and what
//! whoever it is may do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::{Class, Patterns, Principal, Quota, Rights};
use sessions::{Credentials, ShardConfig};
use zeroize::Zeroizing;
use zmtp::Security;

use super::{Fault, Scheme, Size};
use crate::secret;

/// How a listener's peers are asked who they are.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mechanism {
    /// Not at all.
    #[default]
    Null,
    /// By name and password, which everybody on the way can read.
    Plain,
    /// By key; nobody on the way can read anything.
    Curve,
}

impl Mechanism {
    /// Whether peers have to prove who they are, and nobody on the way learns what with.
    pub(crate) fn guards(self, scheme: Scheme) -> bool {
        match self {
            Mechanism::Null => false,
            Mechanism::Plain => scheme == Scheme::Tls,
            Mechanism::Curve => true,
        }
    }

    /// The place of its door among the shard's.
    pub(super) fn door(self) -> u8 {
        match self {
            Mechanism::Null => 0,
            Mechanism::Plain => 1,
            Mechanism::Curve => 2,
        }
    }
}

/// `[security]` as it is written.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Written {
    /// Of listeners that say nothing else.
    pub(super) mechanism: Mechanism,
    server_key: Option<PathBuf>,
    /// Of listeners at `tls://`.
    pub(super) tls_cert: Option<PathBuf>,
    pub(super) tls_key: Option<PathBuf>,
}

/// One of `[principals]` as it is written.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WrittenPrincipal {
    keys: Vec<String>,
    password_file: Option<PathBuf>,
    token_file: Option<PathBuf>,
    call: Vec<String>,
    serve: Vec<String>,
    enqueue: Vec<String>,
    administer: bool,
    rate: Option<u32>,
    burst: Option<u32>,
    in_flight: Option<u64>,
    in_flight_bytes: Option<Size>,
    class: ClassWord,
}

/// How soon a principal is served where classes take turns.
#[derive(Clone, Copy, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum ClassWord {
    High,
    #[default]
    Normal,
    Low,
}

/// Who bears which token over HTTP: the token, and the name of its principal.
pub(crate) type Tokens = Arc<Vec<(Zeroizing<String>, Box<str>)>>;

/// Checks all of it and puts it into `shard`. Files are named from `base`; `used` are the
/// mechanisms of the listeners.
pub(super) fn settings(
    security: &Written,
    principals: &BTreeMap<String, WrittenPrincipal>,
    base: &Path,
    used: &[Mechanism],
    shard: &mut ShardConfig,
) -> Result<Tokens, Fault> {
    shard.doors = vec![Security::Null, Security::PlainServer];
    match &security.server_key {
        Some(path) => {
            let keys = secret::read_key(&base.join(path))
                .map_err(|message| Fault::told(&["security", "server_key"], message))?;
            shard.doors.push(Security::CurveServer(keys));
        }
        None if used.contains(&Mechanism::Curve) => {
            let expected = "is missing: a listener with mechanism = \"curve\" needs the key that \
                            `maitred keygen FILE` makes";
            return Err(Fault::new(&["security", "server_key"], expected));
        }
        None => {}
    }
    let mut tokens = Vec::new();
    shard.credentials = Credentials::default();
    for (name, written) in principals {
        let rules = principal(name, written)?;
        shard.engine.principals.insert(name.as_str().into(), rules);
        add_credentials(name, written, base, &mut shard.credentials, &mut tokens)?;
    }
    Ok(Arc::new(tokens))
}

fn principal(name: &str, written: &WrittenPrincipal) -> Result<Principal, Fault> {
    let fault = |key: &str, expected: &str| Err(Fault::new(&["principals", name, key], expected));
    if name.is_empty() || name.len() > 255 || name == engine::HOUSE {
        let expected = "is no name: from 1 to 255 octets, and not \"house\", which is the broker";
        return Err(Fault::new(&["principals", name], expected));
    }
    let positive = [
        ("rate", written.rate.map(u64::from)),
        ("burst", written.burst.map(u64::from)),
        ("in_flight", written.in_flight),
        ("in_flight_bytes", written.in_flight_bytes.map(|Size(bytes)| bytes)),
    ];
    if let Some((key, _)) = positive.iter().find(|(_, value)| *value == Some(0)) {
        return fault(key, "must be at least 1; leave it out for no bound");
    }
    if written.burst.is_some() && written.rate.is_none() {
        return fault("burst", "means nothing without a rate");
    }
    if written.rate.is_some_and(|rate| rate > 1_000_000_000) {
        return fault("rate", "must be at most 1000000000 a second");
    }
    let patterns = |texts: &[String]| Patterns::new(texts.iter().map(String::as_str));
    let free = Quota::default();
    let (rate, burst) = match written.rate {
        // A tenth of a second's worth: enough for a peer that sends in gulps.
        Some(rate) => (rate, written.burst.unwrap_or(rate / 10).max(1)),
        None => (free.rate, free.burst),
    };
    Ok(Principal {
        rights: Rights {
            call: patterns(&written.call),
            serve: patterns(&written.serve),
            enqueue: patterns(&written.enqueue),
            administer: written.administer,
        },
        quota: Quota {
            rate,
            burst,
            in_flight: written.in_flight.unwrap_or(free.in_flight),
            bytes: written.in_flight_bytes.map_or(free.bytes, |Size(bytes)| bytes),
        },
        class: match written.class {
            ClassWord::High => Class::High,
            ClassWord::Normal => Class::Normal,
            ClassWord::Low => Class::Low,
        },
    })
}

fn add_credentials(
    name: &str,
    written: &WrittenPrincipal,
    base: &Path,
    credentials: &mut Credentials,
    tokens: &mut Vec<(Zeroizing<String>, Box<str>)>,
) -> Result<(), Fault> {
    let told = |key: &str, message: String| Fault::told(&["principals", name, key], message);
    let proofs =
        !written.keys.is_empty() || written.password_file.is_some() || written.token_file.is_some();
    if name == engine::ANONYMOUS && proofs {
        let message = "anonymous is whoever proves nothing: it has no keys, passwords or tokens";
        return Err(Fault::told(&["principals", name], message.into()));
    }
    for text in &written.keys {
        let key = zmtp::PublicKey::from_z85(text)
            .map_err(|error| told("keys", format!("{text:?}: {error}")))?;
        if let Some(other) = credentials.add_key(key, name) {
            return Err(told("keys", format!("{text} is the key of {other}, too")));
        }
    }
    if let Some(path) = &written.password_file {
        let word =
            secret::read_word(&base.join(path)).map_err(|text| told("password_file", text))?;
        credentials.set_password(name, word.as_bytes());
    }
    if let Some(path) = &written.token_file {
        let word = secret::read_word(&base.join(path)).map_err(|text| told("token_file", text))?;
        if tokens.iter().any(|(other, _)| *other == word) {
            return Err(told("token_file", "holds the token of another principal, too".into()));
        }
        tokens.push((word, name.into()));
    }
    Ok(())
}
