//! The connection to a server: made, lost, made again; and what its errors mean.

use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, Error, NoTls};

use super::{Refused, schema};
use crate::rows::Fault;

/// Nothing is waited for longer than this; the server itself gives up earlier (`BEGIN`).
const ANSWER: Duration = Duration::from_secs(10);
/// A connection is there after so long, or is tried again.
const CONNECT: Duration = Duration::from_secs(5);
/// How long calls wait for a server that went away before they are answered so: a restart takes
/// less, and goes unnoticed.
const PATIENCE: Duration = Duration::from_secs(5);
/// Waits between tries, doubled from the first to the last.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// A connection that is made again when it is lost.
pub(super) struct Link {
    runtime: Runtime,
    config: Config,
    live: Option<Live>,
    /// Since when there is none, as far as anybody tried.
    down: Option<Down>,
}

struct Live {
    client: Client,
    /// Moves its bytes; ends with it.
    pump: JoinHandle<()>,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

struct Down {
    pause: Duration,
    again: Instant,
    reason: String,
}

/// What a connection string says.
///
/// # Errors
/// If it is none, or wants what is not there.
pub(super) fn config(url: &str) -> Result<Config, Refused> {
    let mut config: Config = url.parse().map_err(|error| Refused::BadUrl(say(&error)))?;
    if config.get_ssl_mode() == SslMode::Require {
        return Err(Refused::Tls);
    }
    // Also with `prefer`, as by default: there is nothing to prefer.
    config.ssl_mode(SslMode::Disable);
    if config.get_application_name().is_none() {
        config.application_name("maitred");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(ANSWER);
    }
    Ok(config)
}

impl Link {
    pub(super) fn open(config: Config) -> Result<Link, Refused> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Refused::Unusable(format!("tokio's runtime: {error}")))?;
        let mut link = Link { runtime, config, live: None, down: None };
        let live = link.connect().map_err(Refused::Unreachable)?;
        link.live = Some(live);
        Ok(link)
    }

    fn connect(&self) -> Result<Live, String> {
        self.runtime.block_on(async {
            // The string's own limit is for each address, and ends before the server speaks.
            let connect = tokio::time::timeout(ANSWER, self.config.connect(NoTls)).await;
            let connect = connect.map_err(|_| silence())?;
            let (client, connection) = connect.map_err(|error| say(&error))?;
            // Why it ended is what the next call is told.
            let pump = tokio::spawn(async move { drop(connection.await) });
            Ok(Live { client, pump })
        })
    }

    /// Brings the tables up to date.
    pub(super) fn migrate(&mut self) -> Result<(), Refused> {
        let unusable = |error| Refused::Unusable(say(&error));
        let Some(live) = &mut self.live else {
            return Err(Refused::Unreachable("the connection ended".into()));
        };
        let newer = self.runtime.block_on(schema::migrate(&mut live.client)).map_err(unusable)?;
        match newer {
            Some(found) => Err(Refused::Newer { found, known: schema::VERSION }),
            None => Ok(()),
        }
    }

    /// There is a connection when this returns: at once, or after some tries.
    pub(super) fn require(&mut self) -> Result<(), Fault> {
        if self.live.as_ref().is_some_and(|live| !live.client.is_closed()) {
            return Ok(());
        }
        self.live = None;
        let start = Instant::now();
        let patience = if self.down.is_some() { Duration::ZERO } else { PATIENCE };
        loop {
            if let Some(down) = &self.down {
                let wait = down.again.saturating_duration_since(Instant::now());
                if start.elapsed() + wait > patience && !wait.is_zero() {
                    return Err(Fault::Lost(format!("no server: {}", down.reason)));
                }
                std::thread::sleep(wait);
            }
            match self.connect() {
                Ok(live) => {
                    self.live = Some(live);
                    self.down = None;
                    return Ok(());
                }
                Err(reason) => {
                    let before = self.down.as_ref().map_or(PAUSE.0 / 2, |down| down.pause);
                    let pause = (before * 2).min(PAUSE.1);
                    let again = Instant::now() + pause;
                    self.down = Some(Down { pause, again, reason: reason.clone() });
                    if start.elapsed() >= patience {
                        return Err(Fault::Lost(format!("no server: {reason}")));
                    }
                }
            }
        }
    }

    /// Drops the connection: what it was asked may have happened.
    pub(super) fn cut(&mut self) {
        self.live = None;
    }

    /// Asks the server and waits for what it says. A connection that failed at it is given up.
    pub(super) fn ask<T>(
        &mut self,
        question: impl AsyncFnOnce(&Client) -> Result<T, Error>,
    ) -> Result<T, Fault> {
        let Some(live) = &self.live else {
            return Err(Fault::Lost("the connection to the server ended".into()));
        };
        let asked = async { tokio::time::timeout(ANSWER, question(&live.client)).await };
        let fault = match self.runtime.block_on(asked) {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => meaning(&error),
            Err(_) => Fault::Lost(silence()),
        };
        if let Fault::Lost(_) = fault {
            self.cut();
        }
        Err(fault)
    }
}

fn silence() -> String {
    format!("the server said nothing for {} s", ANSWER.as_secs())
}

/// An error with all its causes.
pub(super) fn say(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        let more = next.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = next.source();
    }
    text
}

/// What an error of the server or on the way to it means.
pub(super) fn meaning(error: &Error) -> Fault {
    let text = say(error);
    let Some(code) = error.code() else {
        // Not the server's word: the connection ended, or what was said is not understood.
        return Fault::Lost(text);
    };
    if *code == SqlState::DISK_FULL {
        return Fault::Full(text);
    }
    let in_the_way = [
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::UNIQUE_VIOLATION,
    ];
    if in_the_way.contains(code) {
        return Fault::Again(text);
    }
    // A server that shuts down or starts up, one that became a standby, a session that was ended.
    let gone = ["57P", "08", "25006", "25P03"];
    if gone.iter().any(|class| code.code().starts_with(class)) {
        return Fault::Lost(text);
    }
    Fault::Failed(text)
}
