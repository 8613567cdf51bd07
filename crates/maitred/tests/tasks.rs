//! The Rust library against the built broker: tasks enqueued, worked and found again after a kill.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use client::tasks::{Claim, NewTask};
use client::{Client, Error};

/// A broker with its store in a directory of its own; both end with it.
struct Broker {
    child: Child,
    endpoint: String,
    directory: PathBuf,
}

impl Broker {
    fn start(directory: &Path) -> Broker {
        let mut child = Command::new(env!("CARGO_BIN_EXE_maitred"))
            .args(["serve", "--mdp", "tcp://127.0.0.1:0", "--stomp", "off", "--http", "off"])
            .arg("--data")
            .arg(directory)
            .env_remove("MAITRED_CONFIG")
            .env_remove("MAITRED_STORE")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the built broker");
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let mut endpoint = String::new();
        for line in lines.map(|line| line.expect("text")) {
            if let Some(at) = line.strip_prefix("listening mdp ") {
                at.clone_into(&mut endpoint);
            } else if line == "ready" {
                // What it prints from here on nobody reads, and that must not end it.
                break;
            }
        }
        Broker { child, endpoint, directory: directory.to_owned() }
    }

    /// kill -9, and another one on the same store.
    fn again(mut self) -> Broker {
        self.child.kill().expect("a living broker");
        self.child.wait().expect("its end");
        Broker::start(&self.directory)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn reason(error: Error) -> String {
    let Error::Task { reason, .. } = error else { panic!("not refused by the store: {error}") };
    reason.into()
}

#[test]
fn the_library_works_tasks_through_a_kill() {
    let directory = std::env::temp_dir().join(format!("maitred-tasks-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&directory);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let broker = Broker::start(&directory);
        let tasks = Client::connect([broker.endpoint.clone()]).expect("a client").tasks();
        let new = || NewTask::new("mail", "to: all").key("order 7").priority(3);
        let id = tasks.enqueue(new()).await.expect("it is taken");
        assert_eq!(tasks.enqueue(new()).await, Ok(id));
        let bad = tasks.enqueue(new().set("prio", 1)).await.expect_err("no such setting");
        assert_eq!(reason(bad), "invalid");

        let broker = broker.again();
        let tasks = Client::connect([broker.endpoint.clone()]).expect("a client").tasks();
        let claim = Claim::of(["sms", "mail"]).max(5).wait(Duration::from_secs(5)).worker("w");
        let leases = tasks.claim(&claim).await.expect("an answer");
        assert_eq!((leases.len(), &leases[0].payload[..]), (1, &b"to: all"[..]));
        let token = leases[0].token.clone();
        let left = tasks.extend(&token, Some(Duration::from_secs(90))).await.expect("it is held");
        assert!(left > Duration::from_secs(60));
        tasks.fail(&token, "not today", Some(Duration::ZERO)).await.expect("it counts");
        let late = tasks.complete(&token, "sent").await.expect_err("that lease ended");
        assert_eq!(reason(late), "stale_lease");

        let leases = tasks.claim(&claim).await.expect("an answer");
        assert_eq!(leases[0].attempt, 2);
        tasks.release(&leases[0].token).await.expect("it goes back");
        let leases = tasks.claim(&claim).await.expect("an answer");
        assert_eq!(leases[0].attempt, 2, "a release is no attempt");
        tasks.complete(&leases[0].token, "sent").await.expect("it counts");
        tasks.complete(&leases[0].token, "sent").await.expect("it may be repeated");
        let shown = tasks.show(id).await.expect("it is kept for a while");
        assert!(String::from_utf8_lossy(&shown).contains("\"state\":\"done\""));
        assert_eq!(tasks.cancel(id).await, Ok(false));
        let none = tasks.claim(&Claim::of(["mail"])).await;
        assert_eq!(none, Ok(Vec::new()));
    });
    let _ = std::fs::remove_dir_all(&directory);
}
