//! `maitred work`: a shell command as a worker.
//!
//! By default the command runs once for each request: the body on its standard input, the reply
//! from its standard output, and an exit code other than 0 is a failed request. With `--persistent`
//! it runs once and speaks one line of JSON for each request and reply.

use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use client::{Message, Protocol, Request, Worker};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, mpsc};

use crate::call::{frame_from_json, frame_to_json};
use crate::config::Lasting;
use crate::{Door, Failure, Proof};

/// What of a failed command's standard error is told to the client.
const STDERR_MAX: usize = 2_048;
/// A process that ends is started again after this long, doubling while it keeps ending.
const RESTART_MIN: Duration = Duration::from_millis(100);
const RESTART_MAX: Duration = Duration::from_secs(10);

/// Silent intervals after which the broker is given up.
const LIVENESS: u32 = 3;

/// What to serve, and with what.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the service
    service: String,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
    #[command(flatten)]
    door: Door,
    /// Time between heartbeats, as at the broker's end [default: 3s, with --ppp 1s]
    #[arg(long, value_name = "SPAN")]
    heartbeat: Option<Lasting>,
    /// Requests at a time, each with a process of its own
    #[arg(short = 'n', long, default_value_t = 1, value_name = "N")]
    concurrency: usize,
    /// Keep the processes running: one line of JSON for each request and reply
    #[arg(long)]
    persistent: bool,
    /// Kill a command that takes longer; its request fails
    #[arg(long, default_value = "never")]
    timeout: Lasting,
    /// When told to stop, how long to wait for requests in hand
    #[arg(long, default_value = "30s")]
    grace: Lasting,
}

/// Runs `maitred work` until SIGINT or SIGTERM.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    if args.concurrency > 1 && args.door.protocol() == Protocol::Ppp {
        return Err(Failure::config(
            "a Paranoid Pirate worker takes one request at a time: start several instead of -n",
        ));
    }
    if args.concurrency == 0 {
        return Err(Failure::config("--concurrency must be at least 1"));
    }
    crate::current_thread_runtime()?.block_on(serve(args))
}

async fn serve(args: Args) -> Result<(), Failure> {
    let cannot = |error: client::Error| Failure::new(error.to_string());
    let command = Arc::new(args.command);
    let timeout: Duration = args.timeout.0.into();
    let endpoint = args.door.endpoint();
    let mut builder = Worker::builder(endpoint).protocol(args.door.protocol());
    builder = match args.door.proof()? {
        Proof::Nothing => builder,
        Proof::Curve { server, keys } => builder.curve(server, keys),
        Proof::Plain { user, password } => builder.plain(&user, &password),
    };
    if let Some(pem) = args.door.authorities()? {
        builder = builder.tls_ca(pem);
    }
    if let Some(Lasting(interval)) = args.heartbeat {
        builder = builder.heartbeat(interval.into(), LIVENESS);
    }
    let worker = if args.persistent {
        let pool = Arc::new(Pool::new(command, args.concurrency));
        builder.serve(&args.service, args.concurrency, move |request| {
            let pool = pool.clone();
            async move { pool.handle(request, timeout).await }
        })
    } else {
        builder.serve(&args.service, args.concurrency, move |request| {
            run_once(command.clone(), request.body, timeout)
        })
    }
    .map_err(cannot)?;

    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
        return Err(Failure::new("cannot listen to signals"));
    };
    let service = &args.service;
    tokio::select! {
        () = worker.connected() => eprintln!("serving {service} at {endpoint}"),
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
        () = tell_trouble(&worker, endpoint) => {}
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    match worker.stop(args.grace.0.into()).await {
        0 => Ok(()),
        cut => Err(Failure::new(format!("stopped with {cut} requests unfinished"))),
    }
}

/// Says why there is no connection as long as there is none.
async fn tell_trouble(worker: &Worker, endpoint: &str) {
    let mut told = None;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let trouble = worker.status().trouble;
        if trouble != told {
            let why = trouble.as_deref().unwrap_or("no answer yet");
            eprintln!("maitred: not connected to {endpoint}: {why}; trying again");
            told = trouble;
        }
    }
}

/// One process for one request.
async fn run_once(
    command: Arc<Vec<String>>,
    body: Message,
    timeout: Duration,
) -> Result<Message, String> {
    let mut child = spawn(&command, Stdio::piped())?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async move {
        if let Some(mut stdin) = stdin {
            for frame in body.iter() {
                // A command need not read its input: a closed pipe is no failure.
                if stdin.write_all(frame).await.is_err() {
                    break;
                }
            }
        }
    };
    let finish = async {
        let ((), reply, complaint) = tokio::join!(feed, read_all(stdout), read_all(stderr));
        (child.wait().await, reply, complaint)
    };
    let finished = tokio::time::timeout(timeout, finish).await;
    let Ok((status, reply, complaint)) = finished else {
        kill(&mut child).await;
        return Err(format!("{}: killed after {timeout:?}", command[0]));
    };
    let status = status.map_err(|error| format!("{}: {error}", command[0]))?;
    if status.success() {
        return Ok(Message::from(reply));
    }
    Err(complain(&command[0], status, &complaint))
}

fn complain(program: &str, status: ExitStatus, complaint: &[u8]) -> String {
    let tail = &complaint[complaint.len().saturating_sub(STDERR_MAX)..];
    let tail = String::from_utf8_lossy(tail);
    format!("{program}: {status}: {}", tail.trim()).trim_end_matches(": ").to_owned()
}

async fn read_all(pipe: Option<impl tokio::io::AsyncRead + Unpin>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // What came before an error is what there is.
        let _ = pipe.read_to_end(&mut bytes).await;
    }
    bytes
}

/// Starts the command in a process group of its own, so that it can be killed whole.
fn spawn(command: &[String], stderr: Stdio) -> Result<Child, String> {
    Command::new(&command[0])
        .args(&command[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot run {}: {error}", command[0]))
}

async fn kill(child: &mut Child) {
    if let Some(pid) = child.id().and_then(|id| rustix::process::Pid::from_raw(id as i32)) {
        // It may have ended in the meantime.
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
    let _ = child.wait().await;
}

/// Processes that live from request to request.
struct Pool {
    command: Arc<Vec<String>>,
    idle: Mutex<mpsc::Receiver<Process>>,
    back: mpsc::Sender<Process>,
}

/// A place in the pool; its process is started with the first request.
struct Process {
    running: Option<Running>,
    backoff: Duration,
}

struct Running {
    child: Child,
    stdin: ChildStdin,
    lines: tokio::io::Lines<BufReader<ChildStdout>>,
}

impl Pool {
    fn new(command: Arc<Vec<String>>, size: usize) -> Pool {
        let (back, idle) = mpsc::channel(size);
        for _ in 0..size {
            // There is a place for each.
            let _ = back.try_send(Process { running: None, backoff: RESTART_MIN });
        }
        Pool { command, idle: Mutex::new(idle), back }
    }

    async fn handle(&self, request: Request, timeout: Duration) -> Result<Message, String> {
        let mut process = self.idle.lock().await.recv().await.ok_or("the pool is closed")?;
        let answer = tokio::time::timeout(timeout, process.ask(&self.command, &request)).await;
        let answer = answer.unwrap_or_else(|_| {
            Err(Trouble::Process(format!("{}: no reply within {timeout:?}", self.command[0])))
        });
        if let Err(Trouble::Process(_)) = &answer
            && let Some(mut running) = process.running.take()
        {
            kill(&mut running.child).await;
        }
        // There is a place for each.
        let _ = self.back.try_send(process);
        answer.map_err(|(Trouble::Request(why) | Trouble::Process(why))| why)
    }
}

/// Whose fault it was: a request may fail and the process live on.
enum Trouble {
    Request(String),
    Process(String),
}

impl Process {
    async fn ask(&mut self, command: &[String], request: &Request) -> Result<Message, Trouble> {
        if self.running.is_none() {
            self.running = Some(self.start(command).await.map_err(Trouble::Process)?);
        }
        let Some(running) = &mut self.running else {
            return Err(Trouble::Process("no process".into()));
        };
        let program = &command[0];
        let ended = |what: &str| Trouble::Process(format!("{program}: {what}"));
        let frames: Vec<Value> = request.body.iter().map(|frame| frame_to_json(frame)).collect();
        let line = format!("{}\n", json!({ "frames": frames }));
        let written = running.stdin.write_all(line.as_bytes()).await;
        written.map_err(|_| ended("ended before the request"))?;
        loop {
            let line =
                running.lines.next_line().await.map_err(|error| ended(&error.to_string()))?;
            let line = line.ok_or_else(|| ended("ended without a reply"))?;
            let said: Value = serde_json::from_str(&line)
                .map_err(|error| ended(&format!("said something that is no JSON: {error}")))?;
            let reply = read_line(&said).map_err(|why| ended(&why))?;
            match reply {
                Line::Partial(reply) => {
                    request.partial(reply).await.map_err(|error| ended(&error.to_string()))?;
                }
                Line::Reply(reply) => {
                    self.backoff = RESTART_MIN;
                    return Ok(reply);
                }
                Line::Failure(why) => return Err(Trouble::Request(why)),
            }
        }
    }

    async fn start(&mut self, command: &[String]) -> Result<Running, String> {
        if self.backoff > RESTART_MIN {
            tokio::time::sleep(self.backoff).await;
        }
        self.backoff = (self.backoff * 2).min(RESTART_MAX);
        let mut child = spawn(command, Stdio::inherit())?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(stdin), Some(stdout)) => {
                Ok(Running { child, stdin, lines: BufReader::new(stdout).lines() })
            }
            _ => Err(format!("{}: no pipes", command[0])),
        }
    }
}

/// What a persistent process says.
enum Line {
    Partial(Message),
    Reply(Message),
    Failure(String),
}

fn read_line(said: &Value) -> Result<Line, String> {
    if let Some(why) = said["error"].as_str() {
        return Ok(Line::Failure(why.to_owned()));
    }
    let frames = said["frames"]
        .as_array()
        .ok_or("said a line that is neither {\"frames\": […]} nor {\"error\": \"…\"}".to_owned())?;
    let frames: Result<Vec<Vec<u8>>, String> = frames.iter().map(frame_from_json).collect();
    let reply = Message::frames(frames?);
    let partial = said["partial"].as_bool().unwrap_or(false);
    Ok(if partial { Line::Partial(reply) } else { Line::Reply(reply) })
}
