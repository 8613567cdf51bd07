//! The configuration file: TOML, every key optional, everything checked before anything is used.
//!
//! An unknown key or a bad value is refused with file, line and what is accepted. Flags and the
//! environment override the file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use engine::{ServiceConfig, Span};
use serde::de::{Deserialize, Deserializer, Error as _, Visitor};
use sessions::{Dialect, ShardConfig};

mod lines;
mod meetings;
mod ppp;
mod security;
mod stomp;
mod tasks;
mod tls;

pub(crate) use lines::Rules;
pub(crate) use meetings::read_place;
pub(crate) use ppp::Queue;
pub(crate) use security::{Mechanism, Tokens};
pub(crate) use tasks::Tasks;

/// The file as it is written.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    insecure: bool,
    security: security::Written,
    principals: BTreeMap<String, security::WrittenPrincipal>,
    mdp: Mdp,
    paranoid_pirate: Vec<ppp::Written>,
    stomp: stomp::Written,
    http: HttpFile,
    limits: LimitsFile,
    defaults: Rules,
    services: BTreeMap<String, Rules>,
    #[serde(rename = "match")]
    matches: BTreeMap<String, meetings::Match>,
    regulator: BTreeMap<String, meetings::Regulator>,
    store: tasks::Written,
    titanic: tasks::WrittenTitanic,
    drain: DrainFile,
    log: LogFile,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Mdp {
    heartbeat: Option<Lasting>,
    liveness: Option<u32>,
    listen: Option<Vec<Listen>>,
}

#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Listen {
    endpoint: Endpoint,
    mechanism: Option<Mechanism>,
    /// Permissions of a socket in the file system.
    mode: Option<u32>,
    #[serde(default = "yes")]
    mdp02_service_frame: bool,
}

fn yes() -> bool {
    true
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct HttpFile {
    listen: Option<String>,
    token: Option<String>,
    hosts: Vec<String>,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LimitsFile {
    frame_bytes: Option<Size>,
    message_bytes: Option<Size>,
    frames: Option<u32>,
    connections: Option<usize>,
    handshake: Option<Lasting>,
    handshakes: Option<usize>,
    idle: Option<Lasting>,
    out_bytes: Option<Size>,
    services: Option<usize>,
    places: Option<usize>,
    concurrency: Option<u32>,
    service_idle: Option<Lasting>,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct DrainFile {
    timeout: Option<Lasting>,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LogFile {
    level: Option<String>,
    format: Option<LogFormat>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What an endpoint's address is one of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Scheme {
    /// Host and port.
    Tcp,
    /// Host and port, with TLS.
    Tls,
    /// A file that has these permissions.
    Ipc { mode: u32 },
}

/// A `tcp://host:port`, `tls://host:port` or `ipc://path` endpoint to listen on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Endpoint {
    pub(crate) scheme: Scheme,
    /// As given, without the scheme.
    pub(crate) address: String,
}

/// Its owner may connect, and nobody else.
const IPC_MODE: u32 = 0o600;

impl std::str::FromStr for Endpoint {
    type Err = String;
    fn from_str(text: &str) -> Result<Endpoint, String> {
        if let Some(path) = text.strip_prefix("ipc://") {
            if path.is_empty() || path.starts_with('@') {
                return Err(format!("{text:?} names no file: expected ipc://PATH"));
            }
            return Ok(Endpoint { scheme: Scheme::Ipc { mode: IPC_MODE }, address: path.into() });
        }
        let tcp = text.strip_prefix("tcp://").map(|address| (Scheme::Tcp, address));
        let tls = || text.strip_prefix("tls://").map(|address| (Scheme::Tls, address));
        let (scheme, address) = tcp.or_else(tls).ok_or_else(|| {
            format!(
                "{text:?} is not an endpoint: expected tcp://HOST:PORT, such as \
                 tcp://127.0.0.1:5555, tls://HOST:PORT, or ipc://PATH"
            )
        })?;
        let address = address.replacen("*:", "0.0.0.0:", usize::from(address.starts_with("*:")));
        let port = address.rsplit_once(':').map(|(_, port)| port);
        if port.is_none_or(|port| port.parse::<u16>().is_err()) {
            return Err(format!("{text:?} has no port from 0 to 65535 (0 lets the system choose)"));
        }
        Ok(Endpoint { scheme, address })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scheme {
            Scheme::Tcp => write!(f, "tcp://{}", self.address),
            Scheme::Tls => write!(f, "tls://{}", self.address),
            Scheme::Ipc { .. } => write!(f, "ipc://{}", self.address),
        }
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Endpoint, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A span of time: `"250ms"`, `"3s"`, `"5m"`, `"1h"`, or `"never"`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Lasting(pub(crate) Span);

impl std::str::FromStr for Lasting {
    type Err = String;
    fn from_str(text: &str) -> Result<Lasting, String> {
        let expected = || {
            format!(
                "{text:?} is not a duration: expected a number with us, ms, s, m or h, \
                 such as \"250ms\", or \"never\""
            )
        };
        if text == "never" {
            return Ok(Lasting(Span::MAX));
        }
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let count: i64 = text[..digits].parse().map_err(|_| expected())?;
        let nanos = match &text[digits..] {
            "us" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(expected()),
        };
        Ok(Lasting(Span::from_nanos(count.checked_mul(nanos).ok_or_else(expected)?)))
    }
}

impl<'de> Deserialize<'de> for Lasting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Lasting, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A number of bytes: a plain number, or `"64KiB"`, `"8MiB"`, `"1GiB"`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Size(pub(crate) u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
        struct SizeVisitor;
        impl Visitor<'_> for SizeVisitor {
            type Value = Size;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes, such as 65536 or \"64KiB\" (KiB, MiB, GiB)")
            }
            fn visit_i64<E: serde::de::Error>(self, n: i64) -> Result<Size, E> {
                u64::try_from(n).map(Size).map_err(|_| E::custom("a size cannot be negative"))
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Size, E> {
                let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
                let shift = match &text[digits..] {
                    "" | "B" => 0,
                    "KiB" => 10,
                    "MiB" => 20,
                    "GiB" => 30,
                    _ => return Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                };
                let count: Option<u64> = text[..digits].parse().ok();
                count
                    .and_then(|n| n.checked_mul(1 << shift))
                    .map(Size)
                    .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &SizeVisitor))
            }
        }
        deserializer.deserialize_any(SizeVisitor)
    }
}

/// Everything `serve` needs, checked.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Addresses other than loopback may be listened on.
    pub(crate) insecure: bool,
    pub(crate) shard: ShardConfig,
    pub(crate) mdp: Vec<(Endpoint, Mechanism, Dialect)>,
    /// What listeners at `tls://` show who they are with.
    pub(crate) tls: Option<Arc<rustls::ServerConfig>>,
    /// Who bears which token over HTTP.
    pub(crate) tokens: Tokens,
    /// Paranoid Pirate queues, in the order of the shard's pairs.
    pub(crate) ppp: Vec<Queue>,
    /// `None` = no STOMP.
    pub(crate) stomp: Option<stomp::Door>,
    /// `None` = no HTTP.
    pub(crate) http: Option<String>,
    pub(crate) http_token: Option<String>,
    /// Host names beside the listening address under which the HTTP port may be addressed.
    pub(crate) http_hosts: Vec<String>,
    pub(crate) tasks: Tasks,
    pub(crate) drain_timeout: Duration,
    pub(crate) log_level: String,
    pub(crate) log_format: LogFormat,
}

/// What flags and the environment override.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overrides {
    pub(crate) mdp: Vec<String>,
    pub(crate) stomp: Option<String>,
    pub(crate) http: Option<String>,
    /// Where tasks are kept.
    pub(crate) store: Option<String>,
    pub(crate) log_format: Option<LogFormat>,
    /// Wait to aim for, of every service the file says nothing else about.
    pub(crate) aim: Option<Lasting>,
    /// Longest wait, of every service the file says nothing else about.
    pub(crate) give_up: Option<Lasting>,
}

/// A refused configuration: where, what, and what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("{}: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{place}: {message}")]
    Refused { place: String, message: String },
}

impl Settings {
    /// Reads `path`, or takes the defaults without one, and applies what overrides it.
    pub(crate) fn load(
        path: Option<&Path>,
        overrides: &Overrides,
    ) -> Result<Settings, ConfigError> {
        let Some(path) = path else { return read("flags", "", Path::new("."), overrides) };
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.into(), source })?;
        let base = path.parent().unwrap_or(Path::new("."));
        read(&path.display().to_string(), &text, base, overrides)
    }
}

/// Reads the text of a file that errors call `name`; other files are named from `base`.
fn read(
    name: &str,
    text: &str,
    base: &Path,
    overrides: &Overrides,
) -> Result<Settings, ConfigError> {
    let file = parse(name, text)?;
    settings(file, base, overrides).map_err(|Fault { key, message }| {
        let place = match line_of(text, &key) {
            Some(line) => format!("{name}:{line}"),
            None => name.to_owned(),
        };
        ConfigError::Refused { place, message }
    })
}

/// A value that parses but makes no broker.
#[derive(Debug)]
struct Fault {
    /// The key, one part each.
    key: Vec<String>,
    message: String,
}

impl Fault {
    fn new(key: &[&str], expected: &str) -> Fault {
        let message = format!("{} {expected}", key.join("."));
        Fault::told(key, message)
    }

    /// The message says all there is to say.
    fn told(key: &[&str], message: String) -> Fault {
        Fault { key: key.iter().map(|part| (*part).to_owned()).collect(), message }
    }
}

impl From<String> for Fault {
    fn from(message: String) -> Fault {
        Fault { key: Vec::new(), message }
    }
}

/// The line where `key`, or as much of it as is there, is written. A number is a place in an array.
fn line_of(text: &str, key: &[String]) -> Option<usize> {
    let document = toml::de::DeTable::parse(text).ok()?;
    let mut table = document.get_ref();
    let mut line = None;
    let mut parts = key.iter();
    while let Some(part) = parts.next() {
        let Some(mut value) = table.get(part.as_str()) else { break };
        if let Some(array) = value.get_ref().as_array()
            && let Some(inner) =
                parts.next().and_then(|place| array.get(place.parse::<usize>().ok()?))
        {
            value = inner;
        }
        line = Some(text[..value.span().start].matches('\n').count() + 1);
        let Some(inner) = value.get_ref().as_table() else { break };
        table = inner;
    }
    line
}

/// Parses the text of a file that errors call `name`.
fn parse(name: &str, text: &str) -> Result<File, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        let message = error.message().replace('\n', " ");
        ConfigError::Refused { place: format!("{name}:{line}"), message }
    })
}

fn settings(mut file: File, base: &Path, overrides: &Overrides) -> Result<Settings, Fault> {
    let mut shard = ShardConfig::default();
    let limits = &file.limits;
    set_size(&mut shard.zmtp.frame_bytes_max, limits.frame_bytes);
    set_size(&mut shard.zmtp.message_bytes_max, limits.message_bytes);
    set(&mut shard.zmtp.frames_max, limits.frames);
    set(&mut shard.limits.connections, limits.connections);
    set_span(&mut shard.limits.handshake, limits.handshake);
    set(&mut shard.limits.handshakes, limits.handshakes);
    set_span(&mut shard.limits.idle, limits.idle);
    if let Some(Size(bytes)) = limits.out_bytes {
        shard.limits.out_bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    }
    set(&mut shard.engine.services_max, limits.services);
    set(&mut shard.engine.concurrency_max, limits.concurrency);
    set_span(&mut shard.engine.service_idle, limits.service_idle);
    set_span(&mut shard.heartbeat, file.mdp.heartbeat);
    set(&mut shard.liveness, file.mdp.liveness);
    let mut usual = ServiceConfig::default();
    set_span(&mut usual.aim, overrides.aim);
    set_span(&mut usual.give_up, overrides.give_up);
    shard.engine.defaults = rules(usual, &file.defaults, &["defaults"])?;
    set_span(&mut shard.engine.defaults.aim, overrides.aim);
    set_span(&mut shard.engine.defaults.give_up, overrides.give_up);
    for (name, own) in &file.services {
        let config = rules(shard.engine.defaults, own, &["services", name])?;
        match name.strip_suffix('*') {
            Some(prefix) => shard.engine.by_prefix.push((prefix.as_bytes().into(), config)),
            None => {
                shard.engine.by_name.insert(name.as_bytes().into(), config);
            }
        }
    }
    shard.engine.meetings =
        meetings::settings(&file.matches, &file.regulator, shard.limits.name_bytes)?;
    set(&mut shard.engine.meetings.places_max, limits.places);
    check(&shard)?;
    let mechanism = file.security.mechanism;
    let mdp = endpoints(&file.mdp, mechanism, overrides)?;
    let taken: Vec<&Endpoint> = mdp.iter().map(|(endpoint, ..)| endpoint).collect();
    for queue in &mut file.paranoid_pirate {
        queue.mechanism.get_or_insert(mechanism);
    }
    let ppp = ppp::settings(file.paranoid_pirate, &taken, &file.services, &mut shard)?;
    let taken: Vec<&Endpoint> = ppp.iter().flat_map(Queue::ends).chain(taken).collect();
    let stomp = stomp::settings(&file.stomp, overrides, mechanism, &taken, &mut shard)?;
    let used = mdp.iter().map(|(_, mechanism, _)| *mechanism);
    let used: Vec<Mechanism> = used.chain(ppp.iter().map(|queue| queue.mechanism)).collect();
    let tokens = security::settings(&file.security, &file.principals, base, &used, &mut shard)?;
    let endpoints = mdp.iter().map(|(endpoint, ..)| endpoint);
    let endpoints = endpoints.chain(ppp.iter().flat_map(Queue::ends));
    let tls = tls::settings(&file.security, base, endpoints.map(|endpoint| endpoint.scheme))?;
    let tasks = tasks::settings(&file.store, &file.titanic, base, overrides)?;
    let http = overrides.http.clone().or(file.http.listen).unwrap_or("127.0.0.1:8080".into());
    let http = (http != "off").then(|| http.trim_start_matches("http://").to_owned());
    if let Some(token) = &file.http.token
        && token.len() < 8
    {
        return Err(Fault::new(&["http", "token"], "is too short: use at least 8 characters"));
    }
    Ok(Settings {
        insecure: file.insecure,
        shard,
        mdp,
        tls,
        tokens,
        ppp,
        stomp,
        http,
        http_token: file.http.token,
        http_hosts: file.http.hosts,
        tasks,
        drain_timeout: file
            .drain
            .timeout
            .map_or(Duration::from_secs(30), |Lasting(span)| span.into()),
        log_level: file.log.level.unwrap_or("info".into()),
        log_format: overrides.log_format.or(file.log.format).unwrap_or_default(),
    })
}

fn endpoints(
    mdp: &Mdp,
    mechanism: Mechanism,
    overrides: &Overrides,
) -> Result<Vec<(Endpoint, Mechanism, Dialect)>, Fault> {
    let dialect = |mechanism: Mechanism| Dialect { door: mechanism.door(), ..Dialect::default() };
    if overrides.mdp.iter().any(|endpoint| endpoint == "off") {
        return Ok(Vec::new());
    }
    if !overrides.mdp.is_empty() {
        let parse = |text: &String| Ok((text.parse()?, mechanism, dialect(mechanism)));
        return overrides.mdp.iter().map(parse).collect();
    }
    let Some(listen) = &mdp.listen else {
        let endpoint = Endpoint { scheme: Scheme::Tcp, address: "127.0.0.1:5555".into() };
        return Ok(vec![(endpoint, mechanism, dialect(mechanism))]);
    };
    let mut endpoints = Vec::new();
    for (place, one) in listen.iter().enumerate() {
        let mechanism = one.mechanism.unwrap_or(mechanism);
        let dialect =
            Dialect { mdp02_service_frame: one.mdp02_service_frame, ..dialect(mechanism) };
        let mut endpoint = one.endpoint.clone();
        match (&mut endpoint.scheme, one.mode) {
            (_, None) => {}
            (Scheme::Ipc { mode }, Some(given)) if given <= 0o777 => *mode = given,
            (Scheme::Ipc { .. } | Scheme::Tcp | Scheme::Tls, Some(_)) => {
                let message = "mdp.listen.mode is for ipc:// alone, and from 0o000 to 0o777";
                let key = ["mdp", "listen", &place.to_string(), "mode"];
                return Err(Fault::told(&key, message.into()));
            }
        }
        endpoints.push((endpoint, mechanism, dialect));
    }
    Ok(endpoints)
}

fn rules(base: ServiceConfig, own: &Rules, table: &[&str]) -> Result<ServiceConfig, Fault> {
    let mut config = base;
    set(&mut config.max_deliveries, own.max_deliveries);
    set(&mut config.queue_max, own.queue_max);
    set_size(&mut config.queue_bytes, own.queue_bytes);
    set_span(&mut config.give_up, own.give_up);
    set_span(&mut config.aim, own.aim);
    set_span(&mut config.execution_limit, own.execution_limit);
    set(&mut config.answer_refusals, own.answer_refusals);
    check_rules(table, &config)?;
    let applied = own.apply(&mut config);
    applied.map_err(|(key, message)| Fault::new(&[table, &[key]].concat(), &message))?;
    Ok(config)
}

/// What the rules of one service come to where nothing else is said.
///
/// # Errors
/// Names the key that is wrong, and why.
pub(crate) fn rules_alone(own: &Rules) -> Result<ServiceConfig, String> {
    rules(ServiceConfig::default(), own, &[]).map_err(|fault| fault.message)
}

/// Values that parse but make no broker.
fn check(shard: &ShardConfig) -> Result<(), Fault> {
    let (shortest, longest) = (Span::from_millis(10), Span::from_millis(3_600_000));
    let lasting = |span: Span| (shortest..=longest).contains(&span);
    let (zmtp, limits, engine) = (&shard.zmtp, &shard.limits, &shard.engine);
    let checks: [(bool, [&str; 2], &str); 11] = [
        (lasting(shard.heartbeat), ["mdp", "heartbeat"], "must be from 10ms to 1h"),
        ((1..=1_000).contains(&shard.liveness), ["mdp", "liveness"], "must be from 1 to 1000"),
        (zmtp.frames_max > 0, ["limits", "frames"], "must be at least 1"),
        (zmtp.frame_bytes_max > 0, ["limits", "frame_bytes"], "must be at least 1"),
        (zmtp.message_bytes_max < 1 << 31, ["limits", "message_bytes"], "must be below 2GiB"),
        (limits.out_bytes >= 64 * 1024, ["limits", "out_bytes"], "must be at least 64KiB"),
        (lasting(limits.handshake), ["limits", "handshake"], "must be from 10ms to 1h"),
        (limits.connections > 0, ["limits", "connections"], "must be at least 1"),
        (limits.handshakes > 0, ["limits", "handshakes"], "must be at least 1"),
        (engine.services_max > 0, ["limits", "services"], "must be at least 1"),
        (
            (1..=1_000_000).contains(&engine.concurrency_max),
            ["limits", "concurrency"],
            "must be from 1 to 1000000",
        ),
    ];
    if let Some((_, key, expected)) = checks.iter().find(|(holds, ..)| !holds) {
        return Err(Fault::new(key, expected));
    }
    check_rules(&["defaults"], &shard.engine.defaults)
}

fn check_rules(table: &[&str], config: &ServiceConfig) -> Result<(), Fault> {
    let span = "must be longer than nothing, or \"never\"";
    let checks = [
        (config.max_deliveries > 0, "max_deliveries", "must be at least 1 (1 = never run twice)"),
        (config.give_up > Span::ZERO, "give_up", span),
        (config.aim > Span::ZERO, "aim", span),
        (config.execution_limit > Span::ZERO, "execution_limit", span),
    ];
    match checks.iter().find(|(holds, ..)| !holds) {
        None => Ok(()),
        Some((_, key, expected)) => Err(Fault::new(&[table, &[*key]].concat(), expected)),
    }
}

fn set<T: Copy>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn set_size(place: &mut u64, value: Option<Size>) {
    set(place, value.map(|Size(bytes)| bytes));
}

fn set_span(place: &mut Span, value: Option<Lasting>) {
    set(place, value.map(|Lasting(span)| span));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        match read("m.toml", text, Path::new("."), &Overrides::default()) {
            Ok(_) => "accepted".into(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn bad_files_are_refused_with_line_and_advice() {
        let cases = [
            ("", "accepted"),
            ("[mdp]\nheartbeat = \"3s\"", "accepted"),
            ("[limits]\nframe_bytes = 1024\nmessage_bytes = \"1MiB\"", "accepted"),
            ("[services.\"img.*\"]\ngive_up = \"never\"", "accepted"),
            ("[mdp]\n\nheartbeet = \"3s\"", "m.toml:3: unknown field `heartbeet`"),
            ("[mdp]\nheartbeat = 3", "m.toml:2: invalid type: integer `3`"),
            ("[mdp]\nheartbeat = \"3 fortnights\"", "m.toml:2: \"3 fortnights\" is not a duration"),
            ("[mdp]\nheartbeat = \"1ms\"", "m.toml:2: mdp.heartbeat must be from 10ms"),
            ("[limits]\nframes = -1", "m.toml:2: invalid value: integer `-1`"),
            ("[limits]\nframe_bytes = \"lots\"", "m.toml:2: invalid value: string \"lots\""),
            (
                "[defaults]\nmax_deliveries = 0",
                "m.toml:2: defaults.max_deliveries must be at least 1",
            ),
            ("[services.x]\nmax_deliveries = 0", "m.toml:2: services.x.max_deliveries must be"),
            (
                "[[mdp.listen]]\nendpoint = \"udp://x:1\"",
                "m.toml:2: \"udp://x:1\" is not an endpoint",
            ),
            ("[[mdp.listen]]\nendpoint = \"tcp://x\"", "m.toml:2: \"tcp://x\" has no port"),
            ("[http]\ntoken = \"abc\"", "m.toml:2: http.token is too short"),
            ("[defaults]\ndiscipline = \"codel\"\ntarget = \"5ms\"", "accepted"),
            ("[services.x]\nvalve = { kind = \"rate\", limit = 9, interval = \"1s\" }", "accepted"),
            (
                "[services.x]\nvalve = { kind = \"breaker\" }\nfair = \"header\"\nkeep = 2",
                "accepted",
            ),
            (
                "[services.x]\naim = \"5ms\"\norder = \"adaptive\"\nworkers = \"most_recent\"",
                "accepted",
            ),
            (
                "[services.x]\nalarm = { wait = \"1s\", lasting = \"9s\" }\n\
                 protect = { target = \"1s\" }",
                "accepted",
            ),
            (
                "[services.x]\n\ndiscipline = \"codel\"",
                "m.toml:3: services.x.discipline = \"codel\" needs a target",
            ),
            ("[defaults]\ntarget = \"5ms\"", "m.toml:2: defaults.target counts only with"),
            (
                "[defaults]\ndiscipline = \"aim\"",
                "m.toml:2: defaults.discipline = \"aim\" needs an aim",
            ),
            ("[defaults]\nkeep = 1\norder = \"random\"", "m.toml:3: unknown variant `random`"),
            ("[defaults]\nkeep = 1\nkeap = 1", "m.toml:3: unknown field `keap`"),
            (
                "[services.x]\nvalve = { kind = \"concurrency\", max = 0 }",
                "m.toml:2: services.x.valve with a max of 0 lets nobody through",
            ),
            ("[services.x]\nkeep = 1\nvalve = { kind = \"concurrency\", mux = 1 }", "m.toml:3: "),
            (
                "[services.x]\naim = \"5ms\"\ngive_up = \"1ms\"",
                "m.toml:2: services.x.aim makes no line",
            ),
        ];
        for (text, expected) in cases {
            let got = refusal(text);
            assert!(got.starts_with(expected), "{text:?}\n  gave {got:?}\n  not  {expected:?}");
        }
    }
}
