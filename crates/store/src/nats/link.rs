//! The server, the bucket and the queue, and what their errors mean.
//!
//! | where | what |
//! |---|---|
//! | bucket, `ID.task` | a task's record; its revision is what a change must have seen |
//! | bucket, `ID.body` | a large payload |
//! | bucket, `ID.later` | when something is to be done about it by itself |
//! | bucket, `unique.TYPE.KEY` | the task that has a unique key |
//! | bucket, `number` `fence` | numbers for tasks and leases |
//! | queue, `TYPE` | a message for each task that became ready: whoever gets it may lease it |

use std::collections::HashMap;
use std::fmt::Display;
use std::future::Future;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::consumer::{AckPolicy, Consumer};
use async_nats::jetstream::kv::{self, UpdateErrorKind};
use async_nats::jetstream::stream::{self, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, Message};
use async_nats::{Client, ConnectOptions};
use futures_util::StreamExt as _;
use futures_util::stream::iter;
use tokio::runtime::{Builder, Runtime};

use super::Refused;
use crate::limits;
use crate::row::Row;
use crate::rows::Fault;
use crate::said::Said;

/// Nothing is waited for longer than this.
const ANSWER: Duration = Duration::from_secs(10);
/// A message that was taken and not leased within this goes to somebody else.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// A repeated message of one revision is known as such for so long.
const DUPLICATES: Duration = Duration::from_secs(120);
/// Bytes of a record beside a payload or a result, at most: attributes, a chain, an error.
const BESIDE: usize = 512 << 10;
/// Calls under way at a time.
const UNDER_WAY: usize = 256;

pub(super) type Queue = Consumer<pull::Config>;

/// A connection, which comes back by itself.
pub(super) struct Link {
    pub(super) runtime: Runtime,
    pub(super) client: Client,
    pub(super) name: String,
    pub(super) bucket: kv::Store,
    /// This broker, among those that share the bucket.
    pub(super) me: u64,
    context: jetstream::Context,
    work: stream::Stream,
    queues: HashMap<String, Queue>,
}

/// `nats://HOST:PORT/NAME` as a server's address and a name.
pub(super) fn parse(url: &str) -> Result<(String, String), Refused> {
    let bad = |what: &str| Refused::BadUrl(format!("{url:?} {what}"));
    let (scheme, rest) = url.split_once("://").ok_or_else(|| bad("has no scheme"))?;
    if !["nats", "tls"].contains(&scheme) {
        return Err(bad("is not nats:// or tls://"));
    }
    let (server, name) = rest.split_once('/').unwrap_or((rest, ""));
    let name = if name.is_empty() { "maitred" } else { name };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if !name.bytes().all(plain) || name.len() > 64 {
        return Err(bad("names a store with more than letters, digits, - and _"));
    }
    Ok((format!("{scheme}://{server}"), name.to_owned()))
}

impl Link {
    pub(super) fn open(server: &str, name: &str, replicas: usize) -> Result<Link, Refused> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime =
            runtime.map_err(|error| Refused::Unusable(format!("tokio's runtime: {error}")))?;
        let unreachable = |error: &dyn Display| Refused::Unreachable(error.to_string());
        let unusable = |error: &dyn Display| Refused::Unusable(error.to_string());
        let (client, context, bucket, work) = runtime.block_on(async {
            let options = ConnectOptions::new().name("maitred").connection_timeout(ANSWER);
            let client = options.connect(server).await.map_err(|error| unreachable(&error))?;
            let mut context = jetstream::new(client.clone());
            context.set_timeout(ANSWER);
            // As `create_key_value` would make it, which does not understand what older servers
            // say of an account.
            let bucket = stream::Config {
                name: format!("KV_{name}"),
                description: Some("maitred: tasks".into()),
                subjects: vec![format!("$KV.{name}.>")],
                max_messages_per_subject: 1,
                allow_rollup: true,
                deny_delete: true,
                allow_direct: true,
                discard: DiscardPolicy::New,
                storage: StorageType::File,
                num_replicas: replicas,
                ..stream::Config::default()
            };
            context.get_or_create_stream(bucket).await.map_err(|error| unusable(&error))?;
            let bucket = context.get_key_value(name).await.map_err(|error| unusable(&error))?;
            let work = stream::Config {
                name: format!("{name}-ready"),
                description: Some("maitred: numbers of tasks that are ready".into()),
                subjects: vec![format!("maitred.{name}.ready.*")],
                retention: RetentionPolicy::WorkQueue,
                storage: StorageType::File,
                num_replicas: replicas,
                duplicate_window: DUPLICATES,
                ..stream::Config::default()
            };
            let work =
                context.get_or_create_stream(work).await.map_err(|error| unusable(&error))?;
            Ok((client, context, bucket, work))
        })?;
        let (name, queues) = (name.to_owned(), HashMap::new());
        let me = Said::draw_name();
        Ok(Link { runtime, client, name, bucket, me, context, work, queues })
    }

    /// The server's clock (Unix ms), and how long asking took.
    pub(super) fn server_time(&self) -> Result<(u64, u64), Fault> {
        let start = Instant::now();
        let entry = self.run(async {
            self.put("clock", Vec::new()).await?;
            self.bucket.entry("clock").await.map_err(|error| lost(&error))
        })?;
        let took = start.elapsed().as_millis() as u64;
        let entry = entry.ok_or_else(|| Fault::Failed("what was written is not there".into()))?;
        Ok(((entry.created.unix_timestamp_nanos() / 1_000_000) as u64, took))
    }

    /// Bytes of a payload that fit into one message with what is beside it.
    pub(super) fn payload_limit(&self) -> usize {
        let message = self.client.server_info().max_payload;
        message.saturating_sub(BESIDE).min(limits::PAYLOAD)
    }

    /// Waits for what the server says.
    pub(super) fn run<T>(&self, asked: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        self.runtime.block_on(async {
            match tokio::time::timeout(ANSWER, asked).await {
                Ok(answer) => answer,
                Err(_) => Err(Fault::Lost(silence())),
            }
        })
    }

    /// Records by number, and their revisions.
    pub(super) async fn read(&self, ids: &[u64]) -> Result<Vec<(Row, u64)>, Fault> {
        let one = async |id: &u64| {
            let entry = self.bucket.entry(format!("{id}.task")).await.map_err(|e| lost(&e))?;
            let Some(entry) = entry else { return Ok(None) };
            let row = super::record::read(&entry.value).ok_or_else(|| {
                Fault::Failed(format!("the record of task {id} is not one of ours"))
            })?;
            Ok(Some((row, entry.revision)))
        };
        let read: Vec<_> = iter(ids).map(one).buffered(UNDER_WAY).collect().await;
        read.into_iter().filter_map(Result::transpose).collect()
    }

    pub(super) async fn text(&self, key: &str) -> Result<Option<(Vec<u8>, u64)>, Fault> {
        let entry = self.bucket.entry(key).await.map_err(|error| lost(&error))?;
        Ok(entry.map(|entry| (entry.value.to_vec(), entry.revision)))
    }

    pub(super) async fn put(&self, key: &str, value: Vec<u8>) -> Result<u64, Fault> {
        self.bucket.put(key, value.into()).await.map_err(|error| lost(&error))
    }

    /// Writes many, in no order.
    pub(super) async fn put_all(&self, entries: &[(String, Vec<u8>)]) -> Result<Vec<u64>, Fault> {
        let put = async |(key, value): &(String, Vec<u8>)| self.put(key, value.clone()).await;
        let done: Vec<_> = iter(entries).map(put).buffered(UNDER_WAY).collect().await;
        done.into_iter().collect()
    }

    /// Writes where what is there has this revision (0: nothing); none if it has another.
    pub(super) async fn swap(
        &self,
        key: &str,
        value: Vec<u8>,
        revision: u64,
    ) -> Result<Option<u64>, Fault> {
        match self.bucket.update(key, value.into(), revision).await {
            Ok(revision) => Ok(Some(revision)),
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Ok(None),
            Err(error) => Err(lost(&error)),
        }
    }

    /// The same for many records.
    pub(super) async fn swap_all(&self, rows: &[(Row, u64)]) -> Result<Vec<Option<u64>>, Fault> {
        let swap = async |(row, revision): &(Row, u64)| {
            let bytes = super::record::write(row)
                .map_err(|error| Fault::Failed(format!("a record cannot be written: {error}")))?;
            self.swap(&format!("{}.task", row.id), bytes, *revision).await
        };
        let done: Vec<_> = iter(rows).map(swap).buffered(UNDER_WAY).collect().await;
        done.into_iter().collect()
    }

    /// Removes keys, without a trace that would stay for ever.
    pub(super) async fn remove(&self, patterns: &[String]) -> Result<(), Fault> {
        let remove = async |pattern: &String| {
            let subject = format!("{}{pattern}", self.bucket.prefix);
            self.bucket.stream.purge().filter(subject).await.map_err(|error| lost(&error))
        };
        let done: Vec<_> = iter(patterns).map(remove).buffered(UNDER_WAY).collect().await;
        done.into_iter().try_for_each(|done| done.map(drop))
    }

    /// Tells the queue that tasks are ready: number, type, and the revision that made them so,
    /// which is how the server knows a repetition.
    pub(super) async fn dispatch(&self, ready: &[(u64, String, u64)]) -> Result<(), Fault> {
        let send = async |(id, kind, revision): &(u64, String, u64)| {
            let subject = format!("maitred.{}.ready.{}", self.name, hex(kind));
            let message = jetstream::message::PublishMessage::build()
                .message_id(format!("{id}.{revision}"))
                .payload(id.to_string().into());
            let sent = self.context.send_publish(subject, message).await;
            sent.map_err(|error| lost(&error))?.await.map_err(|error| lost(&error))
        };
        let done: Vec<_> = iter(ready).map(send).buffered(UNDER_WAY).collect().await;
        done.into_iter().try_for_each(|done| done.map(drop))
    }

    /// The queue of a type.
    pub(super) async fn queue(&mut self, kind: &str) -> Result<Queue, Fault> {
        if let Some(queue) = self.queues.get(kind) {
            return Ok(queue.clone());
        }
        let hex = hex(kind);
        // Names of consumers are short; a type's name need not be.
        let name = format!("{:08x}{:08x}", crc32fast::hash(hex.as_bytes()), hex.len());
        let config = pull::Config {
            durable_name: Some(name.clone()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_ack_pending: -1,
            filter_subject: format!("maitred.{}.ready.{hex}", self.name),
            ..pull::Config::default()
        };
        let queue = self.work.get_or_create_consumer(&name, config).await;
        let queue = queue.map_err(|error| lost(&error))?;
        self.queues.insert(kind.to_owned(), queue.clone());
        Ok(queue)
    }

    /// Ready messages of the server's, if it has any now.
    pub(super) async fn waiting(&self) -> Result<u64, Fault> {
        let info = self.work.get_info().await.map_err(|error| lost(&error))?;
        Ok(info.state.messages)
    }
}

/// Takes up to so many messages that wait.
pub(super) async fn fetch(queue: &Queue, limit: usize) -> Result<Vec<Message>, Fault> {
    let messages = queue.fetch().max_messages(limit).messages().await;
    let mut messages = messages.map_err(|error| lost(&error))?;
    let mut fetched = Vec::new();
    while let Some(message) = messages.next().await {
        fetched.push(message.map_err(|error| Fault::Lost(error.to_string()))?);
    }
    Ok(fetched)
}

fn silence() -> String {
    format!("the server said nothing for {} s", ANSWER.as_secs())
}

/// An error of the server's or of the way to it: what was asked may have happened.
pub(super) fn lost(error: &dyn std::error::Error) -> Fault {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let more = next.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = next.source();
    }
    // JetStream's numbers of what is full: 10023 a stream, 10047 the store.
    if text.contains("insufficient storage") || text.contains("maximum bytes exceeded") {
        return Fault::Full(text);
    }
    Fault::Lost(text)
}

/// A name as a part of a subject.
pub(super) fn hex(name: &str) -> String {
    name.bytes().map(|byte| format!("{byte:02x}")).collect()
}
