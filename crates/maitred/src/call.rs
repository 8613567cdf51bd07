//! `maitred call`: one request, one answer.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use client::{Client, Error, Message, Protocol};
use serde_json::json;

use crate::config::Lasting;
use crate::{Door, Failure, Proof};

/// What to call, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the service
    service: String,
    /// Body, one frame each; `-` reads standard input; nothing is one empty frame
    body: Vec<String>,
    #[command(flatten)]
    door: Door,
    /// How long to wait for the answer
    #[arg(long, default_value = "10s")]
    timeout: Lasting,
    /// Print JSON: the frames of the reply, and how long it took
    #[arg(long)]
    json: bool,
}

/// Exit code when no answer came in time.
const TIMED_OUT: u8 = 3;
/// Exit code when the broker refused.
const REFUSED: u8 = 4;
/// Exit code when the worker said that it failed.
const FAILED: u8 = 5;

/// Runs `maitred call`.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let mut frames: Vec<Vec<u8>> = Vec::new();
    for body in &args.body {
        frames.push(if body == "-" { read_stdin()? } else { body.clone().into_bytes() });
    }
    let proof = args.door.proof()?;
    let authorities = args.door.authorities()?;
    let runtime = crate::current_thread_runtime()?;
    let start = Instant::now();
    let timeout = args.timeout.0.into();
    let reply = runtime.block_on(async {
        let mut builder = Client::builder([args.door.endpoint()]).protocol(args.door.protocol());
        builder = match &proof {
            Proof::Nothing => builder,
            Proof::Curve { server, keys } => builder.curve(*server, keys.clone()),
            Proof::Plain { user, password } => builder.plain(user, password),
        };
        if let Some(pem) = authorities {
            builder = builder.tls_ca(pem);
        }
        let client = builder.connect()?;
        let reply = client.call(&args.service, Message::frames(frames)).timeout(timeout).await;
        match reply {
            Err(Error::Timeout { .. }) if args.door.protocol() != Protocol::Ppp => {
                Err(Error::Timeout {
                    service: hint(&client, &args.service).await.into(),
                    after: timeout,
                })
            }
            other => other,
        }
    });
    let reply = reply.map_err(|error| explain(&args.service, error))?;
    print_reply(&reply, start.elapsed(), args.json)
        .map_err(|error| Failure::new(format!("cannot write the reply: {error}")))
}

/// Says of a service that did not answer whether anybody serves it.
async fn hint(client: &Client, service: &str) -> String {
    let known = client.call("mmi.service", service).timeout(Duration::from_secs(1)).await;
    match known {
        Ok(code) if &code.first()[..] == b"404" => format!("{service} (no worker serves it)"),
        Ok(_) | Err(_) => service.to_owned(),
    }
}

fn explain(service: &str, error: Error) -> Failure {
    let code = if matches!(error, Error::Timeout { .. } | Error::Unreachable { .. }) {
        TIMED_OUT
    } else if matches!(error, Error::Refused { .. }) {
        REFUSED
    } else if matches!(error, Error::Failed { .. }) {
        FAILED
    } else {
        1
    };
    Failure { code, message: format!("calling {service}: {error}") }
}

fn read_stdin() -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    std::io::stdin()
        .read_to_end(&mut body)
        .map_err(|error| Failure::new(format!("cannot read standard input: {error}")))?;
    Ok(body)
}

fn print_reply(reply: &Message, took: Duration, json: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        let frames: Vec<serde_json::Value> = reply.iter().map(|f| frame_to_json(f)).collect();
        let took_ms = took.as_micros() as f64 / 1e3;
        return writeln!(out, "{}", json!({ "frames": frames, "took_ms": took_ms }));
    }
    for frame in reply.iter() {
        out.write_all(frame)?;
        if !frame.ends_with(b"\n") {
            out.write_all(b"\n")?;
        }
    }
    out.flush()
}

/// A frame as JSON: a string if it is UTF-8, else `{"hex": "…"}`.
pub(crate) fn frame_to_json(frame: &[u8]) -> serde_json::Value {
    match std::str::from_utf8(frame) {
        Ok(text) => json!(text),
        Err(_) => {
            let hex: String = frame.iter().map(|octet| format!("{octet:02x}")).collect();
            json!({ "hex": hex })
        }
    }
}

/// The other way round.
pub(crate) fn frame_from_json(value: &serde_json::Value) -> Result<Vec<u8>, String> {
    if let Some(text) = value.as_str() {
        return Ok(text.as_bytes().to_vec());
    }
    let hex = value["hex"].as_str().ok_or("a frame is a string or {\"hex\": \"…\"}")?;
    if !hex.is_ascii() || hex.len() % 2 == 1 {
        return Err("hex has two digits for each octet".into());
    }
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16))
        .collect::<Result<_, _>>()
        .map_err(|_| "hex digits are 0-9 and a-f".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_json() {
        for frame in [&b""[..], b"hello", b"\xff\x00\x7f", "gr\u{fc}n".as_bytes()] {
            assert_eq!(frame_from_json(&frame_to_json(frame)).as_deref(), Ok(frame));
        }
        assert!(frame_from_json(&json!(7)).is_err());
        assert!(frame_from_json(&json!({ "hex": "abc" })).is_err());
        assert!(frame_from_json(&json!({ "hex": "zz" })).is_err());
    }
}
