//! How brokers that share a database tell each other what is to be [`Said`].
//!
//! A connection of its own listens (`LISTEN maitred`) and says (`pg_notify`), outside of every
//! transaction that matters, because transactions that notify commit one after the other. All of it
//! is a hint. A pooler that gives every transaction another session loses it; behind it stands a
//! look every two seconds at which types have ready tasks, which needs no session.

use std::future::poll_fn;
use std::time::Duration;

use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client, Config, Error, NoTls};

use super::sql::{COLUMNS, read};
use crate::api::Notice;
use crate::rows::Tell;
use crate::said::{Said, concerns_others};

/// How often is looked for what nobody told.
const LOOK: Duration = Duration::from_secs(2);
/// What happens within so long is told at once.
const GAP: Duration = Duration::from_millis(50);
/// The server answers within this, or is tried anew.
const ANSWER: Duration = Duration::from_secs(10);
/// Waits between tries to connect.
const AGAIN: Duration = Duration::from_secs(1);
/// Batches of notices that wait to be told; further ones are lost, as hints may be.
const WAITING: usize = 1_024;
/// Entries of one message: with names of 255 bytes it stays below the server's 8,000.
const ENTRIES: usize = 24;
/// Types that one look finds.
const KINDS: i64 = 1_024;

/// The way to the other brokers. Dropping it ends it.
pub(super) struct Hearing {
    config: Config,
    me: u64,
    says: Sender<Vec<Notice>>,
    waiting: Option<Receiver<Vec<Notice>>>,
}

impl Hearing {
    pub(super) fn new(config: Config, me: u64) -> Hearing {
        let (says, waiting) = channel(WAITING);
        Hearing { config, me, says, waiting: Some(waiting) }
    }

    /// Begins; without a thread for it only what this broker does itself is heard.
    pub(super) fn start(&mut self, tell: Tell) {
        let Some(waiting) = self.waiting.take() else { return };
        let (config, me) = (self.config.clone(), self.me);
        let thread = std::thread::Builder::new().name("store hears".into());
        let _ = thread.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            if let Ok(runtime) = runtime {
                runtime.block_on(serve(&config, me, waiting, &tell));
            }
        });
    }

    /// Tells the others what concerns them.
    pub(super) fn pass_on(&self, notices: &[Notice]) {
        let concerns = notices.iter().filter(|notice| concerns_others(notice));
        let notices: Vec<Notice> = concerns.cloned().collect();
        if !notices.is_empty() {
            let _ = self.says.try_send(notices);
        }
    }
}

/// Until the store is closed.
async fn serve(config: &Config, me: u64, mut waiting: Receiver<Vec<Notice>>, tell: &Tell) {
    while session(config, me, &mut waiting, tell).await.is_err() {
        sleep(AGAIN).await;
        // What waited is old; the look at the start of the next session finds it.
        while waiting.try_recv().is_ok() {}
        if waiting.is_closed() {
            return;
        }
    }
}

/// Why a session ended before the store did.
enum Ended {
    Server,
    Silence,
}

impl From<Error> for Ended {
    fn from(_: Error) -> Ended {
        Ended::Server
    }
}

impl From<tokio::time::error::Elapsed> for Ended {
    fn from(_: tokio::time::error::Elapsed) -> Ended {
        Ended::Silence
    }
}

async fn session(
    config: &Config,
    me: u64,
    waiting: &mut Receiver<Vec<Notice>>,
    tell: &Tell,
) -> Result<(), Ended> {
    let (client, mut connection) = timeout(ANSWER, config.connect(NoTls)).await??;
    let (hears, mut heard) = channel(WAITING);
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notification(notification) = message {
                let _ = hears.try_send(notification.payload().to_owned());
            }
        }
    });
    timeout(ANSWER, client.batch_execute("LISTEN maitred")).await??;
    let mut look = Instant::now();
    let mut spoke = Instant::now() - GAP;
    loop {
        tokio::select! {
            notices = waiting.recv() => {
                let Some(notices) = notices else { return Ok(()) };
                sleep_until(spoke + GAP).await;
                say(&client, me, notices, waiting).await?;
                spoke = Instant::now();
            }
            payload = heard.recv() => {
                let Some(payload) = payload else { return Err(Ended::Server) };
                let Ok(said) = serde_json::from_str::<Said>(&payload) else { continue };
                if said.from != me {
                    tell(timeout(ANSWER, understand(&client, said)).await??);
                }
            }
            () = sleep_until(look) => {
                let found = timeout(ANSWER, ready(&client)).await??;
                if !found.is_empty() {
                    tell(found);
                }
                // Brokers that were started together do not look together.
                look = Instant::now() + LOOK + Duration::from_millis(me % 500);
            }
        }
    }
}

/// Says these and what else waits.
async fn say(
    client: &Client,
    me: u64,
    notices: Vec<Notice>,
    waiting: &mut Receiver<Vec<Notice>>,
) -> Result<(), Ended> {
    let mut said = Said::by(me);
    let mut next = Some(notices);
    while let Some(notices) = next {
        for notice in notices {
            said.add(notice);
            if said.entries() >= ENTRIES {
                send(client, &said).await?;
                said = Said::by(me);
            }
        }
        next = waiting.try_recv().ok();
    }
    if said.entries() > 0 {
        send(client, &said).await?;
    }
    Ok(())
}

async fn send(client: &Client, said: &Said) -> Result<(), Ended> {
    let payload = said.text();
    let sql = "SELECT pg_notify('maitred', $1)";
    timeout(ANSWER, client.query_typed(sql, &[(&payload, Type::TEXT)])).await??;
    Ok(())
}

/// What another broker said, as notices of this one.
async fn understand(client: &Client, said: Said) -> Result<Vec<Notice>, Error> {
    let mut ended = Vec::new();
    if !said.ended.is_empty() {
        let ids: Vec<i64> = said.ended.iter().map(|id| *id as i64).collect();
        let sql = format!("SELECT {COLUMNS} FROM maitred.task AS t WHERE id = ANY ($1)");
        for columns in client.query_typed(&sql, &[(&ids, Type::INT8_ARRAY)]).await? {
            ended.push(read(&columns)?);
        }
    }
    Ok(said.notices(ended))
}

/// Types with ready tasks: from one to the next through the index, however many tasks there are.
const READY: &str = "WITH RECURSIVE k AS ( \
    (SELECT kind FROM maitred.task WHERE state = 0 ORDER BY kind LIMIT 1) \
    UNION ALL \
    SELECT (SELECT kind FROM maitred.task WHERE state = 0 AND kind > k.kind \
            ORDER BY kind LIMIT 1) FROM k WHERE k.kind IS NOT NULL) \
    SELECT kind FROM k WHERE kind IS NOT NULL LIMIT $1";

async fn ready(client: &Client) -> Result<Vec<Notice>, Error> {
    let found = client.query_typed(READY, &[(&KINDS, Type::INT8)]).await?;
    let kind = |columns: &tokio_postgres::Row| Ok(Notice::Ready { task_type: columns.try_get(0)? });
    found.iter().map(kind).collect()
}
