//! Which store, and opening it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use store::{Clock, Level, Settings, Store, nats, postgres, sqlite};

/// Where tasks are kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum StoreUrl {
    /// Nowhere.
    Off,
    /// In this file.
    Sqlite(PathBuf),
    /// In a PostgreSQL database.
    Postgres(String),
    /// In NATS JetStream.
    Nats(String),
}

impl FromStr for StoreUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<StoreUrl, String> {
        let (scheme, rest) = text.split_once(':').unwrap_or((text, ""));
        match (scheme, rest) {
            ("off", "") => Ok(StoreUrl::Off),
            ("sqlite", path) if !path.trim_start_matches('/').is_empty() => {
                let path = path.strip_prefix("//").unwrap_or(path);
                Ok(StoreUrl::Sqlite(path.into()))
            }
            ("postgres" | "postgresql", rest) if rest.len() > 2 => {
                Ok(StoreUrl::Postgres(text.into()))
            }
            ("nats", rest) if rest.len() > 2 => Ok(StoreUrl::Nats(text.into())),
            _ => Err(format!(
                "{text:?} is no store: expected sqlite:PATH, postgres://…, nats://… or off"
            )),
        }
    }
}

impl fmt::Display for StoreUrl {
    /// Without the password that may stand in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = |text: &str| text.rsplit_once('@').map_or(text, |(_, host)| host).to_owned();
        match self {
            StoreUrl::Off => f.write_str("off"),
            StoreUrl::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            StoreUrl::Postgres(url) => {
                write!(f, "postgres://{}", server(url.rsplit("://").next().unwrap_or(url)))
            }
            StoreUrl::Nats(url) => {
                write!(f, "nats://{}", server(url.rsplit("://").next().unwrap_or(url)))
            }
        }
    }
}

impl StoreUrl {
    /// The same, with a relative path read from `base`.
    pub(crate) fn rooted(self, base: &Path) -> StoreUrl {
        match self {
            StoreUrl::Sqlite(path) => StoreUrl::Sqlite(base.join(path)),
            other @ (StoreUrl::Off | StoreUrl::Postgres(_) | StoreUrl::Nats(_)) => other,
        }
    }
}

/// How a store is opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Options {
    pub(crate) settings: Settings,
    /// Answer before the fsync.
    pub(crate) os_level: bool,
}

/// An open store.
pub(crate) struct Opened {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Clock,
    /// What it is and what was found in it, for people.
    pub(crate) found: String,
}

/// Why there is no store.
#[derive(Debug)]
pub(crate) struct Unopened {
    pub(crate) message: String,
    /// The place cannot be used, whatever is in it: it may be another's, or not writable.
    pub(crate) no_place: bool,
}

/// Opens a store; `None` if it is off.
///
/// # Errors
/// Says what is in the way.
pub(crate) fn open_store(url: &StoreUrl, options: Options) -> Result<Option<Opened>, Unopened> {
    match url {
        StoreUrl::Off => Ok(None),
        StoreUrl::Sqlite(path) => open_sqlite(url, path, options).map(Some),
        StoreUrl::Postgres(text) => open_postgres(url, text, options).map(Some),
        StoreUrl::Nats(text) => open_nats(url, text, options).map(Some),
    }
}

fn open_sqlite(url: &StoreUrl, path: &Path, options: Options) -> Result<Opened, Unopened> {
    let clock = Clock::new();
    let Options { settings, os_level } = options;
    let opened = sqlite::open(path, &clock, sqlite::Options { settings, os_level });
    let (engine, recovered) = opened.map_err(|refused| {
        use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        use store::sqlite::Refused;
        let no_place = match &refused {
            Refused::InUse(_) | Refused::NetworkFileSystem { .. } => true,
            Refused::Io { error, .. } => {
                matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem)
            }
            Refused::OldSqlite(_)
            | Refused::Newer { .. }
            | Refused::Damaged { .. }
            | Refused::Unusable(_) => false,
        };
        Unopened { message: format!("cannot open the store {url}: {refused}"), no_place }
    })?;
    let level = level_name(engine.capabilities().level);
    let end = if recovered.unclean { ", after an unclean end" } else { "" };
    let found = format!(
        "store {url} level {level}: {} tasks, {} leases given back, in {} ms{end}",
        recovered.tasks, recovered.leases, recovered.took_ms
    );
    Ok(Opened { store: Arc::new(engine), clock, found })
}

fn open_postgres(url: &StoreUrl, text: &str, options: Options) -> Result<Opened, Unopened> {
    let clock = Clock::new();
    let Options { settings, os_level } = options;
    let opened = postgres::open(text, &clock, postgres::Options { settings, os_level });
    let (engine, recovered) = opened.map_err(|refused| unopened(url, &refused))?;
    let level = level_name(engine.capabilities().level);
    let postgres::Recovered { tasks, leases, took_ms, server, warnings } = recovered;
    warnings.iter().for_each(|warning| tracing::warn!("the store {url}: {warning}"));
    let found = format!(
        "store {url} (PostgreSQL {server}) level {level}: {tasks} tasks, {leases} leases out, in \
         {took_ms} ms"
    );
    Ok(Opened { store: Arc::new(engine), clock, found })
}

fn open_nats(url: &StoreUrl, text: &str, options: Options) -> Result<Opened, Unopened> {
    let clock = Clock::new();
    let settings = options.settings;
    let opened = nats::open(text, &clock, nats::Options { settings, ..nats::Options::default() });
    let (engine, recovered) = opened.map_err(|refused| unopened(url, &refused))?;
    let level = level_name(engine.capabilities().level);
    let nats::Recovered { ready, timed, took_ms, server, warnings } = recovered;
    warnings.iter().for_each(|warning| tracing::warn!("the store {url}: {warning}"));
    let found = format!(
        "store {url} (NATS {server}) level {level}: {ready} tasks ready, {timed} with a time of \
         their own, in {took_ms} ms"
    );
    Ok(Opened { store: Arc::new(engine), clock, found })
}

fn unopened(url: &StoreUrl, refused: &dyn fmt::Display) -> Unopened {
    Unopened { message: format!("cannot open the store {url}: {refused}"), no_place: false }
}

/// A level as it is written everywhere.
pub(crate) fn level_name(level: Level) -> &'static str {
    match level {
        Level::Memory => "memory",
        Level::Os => "os",
        Level::Durable => "durable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_named_by_url() {
        let read = |text: &str| text.parse::<StoreUrl>().map(|url| url.to_string());
        let cases = [
            ("off", Ok("off")),
            ("sqlite:tasks.db", Ok("sqlite:tasks.db")),
            ("sqlite:///var/lib/tasks.db", Ok("sqlite:/var/lib/tasks.db")),
            ("sqlite:/var/lib/tasks.db", Ok("sqlite:/var/lib/tasks.db")),
            ("postgres://me:secret@db.example/tasks", Ok("postgres://db.example/tasks")),
            ("postgresql://db/tasks", Ok("postgres://db/tasks")),
            ("nats://127.0.0.1:4222", Ok("nats://127.0.0.1:4222")),
            ("sqlite:", Err("\"sqlite:\" is no store")),
            ("sqlite://", Err("\"sqlite://\" is no store")),
            ("tasks.db", Err("\"tasks.db\" is no store")),
            ("redis://x", Err("\"redis://x\" is no store")),
            ("", Err("\"\" is no store")),
        ];
        for (text, expected) in cases {
            match (read(text), expected) {
                (Ok(got), Ok(expected)) => assert_eq!(got, expected),
                (Err(got), Err(expected)) => assert!(got.starts_with(expected), "{got}"),
                (got, expected) => panic!("{text:?} gave {got:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn a_server_that_is_not_there_is_told_without_secrets() {
        let options = Options { settings: Settings::default(), os_level: false };
        // Port 1 on loopback: nobody listens there.
        for text in ["postgres://me:secret@127.0.0.1:1/tasks", "nats://me:secret@127.0.0.1:1/t"] {
            let url: StoreUrl = text.parse().expect("a store");
            let refused = open_store(&url, options).err().expect("nobody is there");
            assert!(refused.message.contains("cannot be reached"), "{}", refused.message);
            assert!(!refused.message.contains("secret"), "{}", refused.message);
        }
    }
}
