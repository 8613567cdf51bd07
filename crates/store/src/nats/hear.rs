//! How brokers that share a bucket tell each other what is to be [`Said`], and how each learns
//! when something is to be done about a task by itself.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::kv::{self, Operation};
use futures_util::StreamExt as _;

use super::later::{self, Later};
use super::link::{Link, lost};
use super::record;
use crate::api::Notice;
use crate::rows::{Fault, Tell};
use crate::said::{Said, concerns_others};

/// The entry that says where a broker's index begins to be whole; no task has its number.
const MARK: &str = "0.later";
/// A watch that ended begins anew after so long.
const AGAIN: Duration = Duration::from_secs(1);

/// Reads the index, and follows it from then on.
pub(super) fn follow(link: &Link, index: &Arc<Mutex<Later>>) -> Result<(), Fault> {
    let (bucket, index) = (link.bucket.clone(), Arc::clone(index));
    let (whole, known) = tokio::sync::oneshot::channel();
    let mark = link.run(link.put(MARK, Vec::new()))?;
    link.runtime.spawn(async move {
        let mut whole = Some((mark, whole));
        loop {
            // Ends with the runtime, which ends with the store.
            let _ = watch(&bucket, &index, &mut whole).await;
            tokio::time::sleep(AGAIN).await;
        }
    });
    let ended = |_| Fault::Lost("the bucket cannot be watched".into());
    link.run(async { known.await.map_err(ended) })
}

async fn watch(
    bucket: &kv::Store,
    index: &Mutex<Later>,
    whole: &mut Option<(u64, tokio::sync::oneshot::Sender<()>)>,
) -> Result<(), Fault> {
    let mut entries = bucket.watch_with_history("*.later").await.map_err(|error| lost(&error))?;
    while let Some(entry) = entries.next().await {
        let entry = entry.map_err(|error| lost(&error))?;
        if entry.key == MARK {
            if let Some((_, known)) = whole.take_if(|(mark, _)| entry.revision >= *mark) {
                let _ = known.send(());
            }
            continue;
        }
        let id = entry.key.strip_suffix(".later").and_then(|id| id.parse().ok());
        if let (Some(id), Operation::Put, Some((due, wall))) =
            (id, entry.operation, later::read(&entry.value))
        {
            let mut index = index.lock().unwrap_or_else(PoisonError::into_inner);
            index.set(id, due, wall, entry.revision);
        }
    }
    Ok(())
}

/// Tells listeners what other brokers say.
pub(super) fn start(link: &Link, tell: Tell) {
    let (client, bucket, me) = (link.client.clone(), link.bucket.clone(), link.me);
    let subject = subject(&link.name);
    // `Tell` may be called from any thread, but from one at a time.
    let tell = Mutex::new(tell);
    link.runtime.spawn(async move {
        // Without it only what this broker does itself is heard.
        let Ok(mut heard) = client.subscribe(subject).await else { return };
        while let Some(message) = heard.next().await {
            let Ok(said) = serde_json::from_slice::<Said>(&message.payload) else { continue };
            if said.from == me {
                continue;
            }
            let mut ended = Vec::new();
            for id in &said.ended {
                if let Ok(Some(entry)) = bucket.entry(format!("{id}.task")).await {
                    ended.extend(record::read(&entry.value));
                }
            }
            let notices = said.notices(ended);
            if !notices.is_empty() {
                tell.lock().unwrap_or_else(PoisonError::into_inner)(notices);
            }
        }
    });
}

/// Tells other brokers what concerns them.
pub(super) fn pass_on(link: &Link, notices: &[Notice]) {
    let mut said = Said::by(link.me);
    notices.iter().filter(|notice| concerns_others(notice)).cloned().for_each(|n| said.add(n));
    if said.entries() > 0 {
        let sent = link.client.publish(subject(&link.name), said.text().into());
        let _ = link.runtime.block_on(sent);
    }
}

fn subject(name: &str) -> String {
    format!("maitred.{name}.said")
}
