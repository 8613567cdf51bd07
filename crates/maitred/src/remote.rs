//! Commands that talk to a running broker over HTTP.

use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::Failure;
use crate::view::{Matches, Regulators, Services, Workers};

/// Which broker, and how to print.
#[derive(Debug, clap::Args)]
pub(crate) struct Target {
    /// HTTP address of the broker
    #[arg(long, env = "MAITRED_HTTP", default_value = "http://127.0.0.1:8080", value_name = "URL")]
    http: String,
    /// Bearer token, if the broker wants one
    #[arg(long, env = "MAITRED_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl Target {
    /// Whoever is at this address, without a token.
    pub(crate) fn at(http: &str) -> Target {
        Target { http: http.into(), token: None, json: false }
    }
}

/// `maitred services`.
pub(crate) fn services(target: &Target) -> Result<(), Failure> {
    let body = get(target, "/v1/services")?;
    if target.json {
        print!("{body}");
        return Ok(());
    }
    let Services { services, total } = parse(&body)?;
    let shown = services.len();
    let header = [
        "SERVICE",
        "WORKERS",
        "OFFERS",
        "WAITING",
        "LEASED",
        "REQUESTS",
        "REFUSED",
        "REDELIVERED",
        "P99",
    ];
    let rows = services.into_iter().map(|s| {
        let p99 = s.sojourn_p99_us.map_or("-".into(), show_us);
        [
            s.name,
            s.workers.to_string(),
            s.offers.to_string(),
            s.waiting.to_string(),
            s.leased.to_string(),
            s.requests.to_string(),
            s.refusals.to_string(),
            s.redeliveries.to_string(),
            p99,
        ]
    });
    print_table(header, rows.collect());
    if shown < total {
        println!("the {shown} busiest of {total}");
    }
    Ok(())
}

/// `maitred workers`.
pub(crate) fn workers(target: &Target) -> Result<(), Failure> {
    let body = get(target, "/v1/workers")?;
    if target.json {
        print!("{body}");
        return Ok(());
    }
    let Workers { workers } = parse(&body)?;
    let header =
        ["WORKER", "SERVICE", "REMOTE", "PROTOCOL", "HOLDS", "OF", "HANDLED", "AGE", "QUIET"];
    let seconds = |ms: i64| format!("{:.1}s", ms as f64 / 1e3);
    let rows = workers.into_iter().map(|w| {
        [
            w.id,
            w.service,
            w.remote.unwrap_or_else(|| "-".into()),
            w.protocol,
            w.holds.to_string(),
            w.concurrency.to_string(),
            w.handled.to_string(),
            seconds(w.age_ms),
            seconds(w.quiet_ms),
        ]
    });
    print_table(header, rows.collect());
    Ok(())
}

/// `maitred places`.
pub(crate) fn places(target: &Target) -> Result<(), Failure> {
    let bodies = [get(target, "/v1/match")?, get(target, "/v1/regulators")?];
    if target.json {
        let [matches, regulators]: [serde_json::Value; 2] =
            [parse(&bodies[0])?, parse(&bodies[1])?];
        let both = serde_json::json!({ "match": matches, "regulators": regulators });
        println!("{both}");
        return Ok(());
    }
    let Matches { matches, total } = parse(&bodies[0])?;
    let (shown, header) = (
        matches.len(),
        ["MATCH", "ASK", "ASK_R", "MATCHED", "RETRIES", "WITHDRAWN", "DROPPED", "LIVE"],
    );
    let yes = |yes: bool| if yes { "yes" } else { "-" }.to_owned();
    let rows = matches.into_iter().map(|m| {
        [
            m.name,
            m.ask.waiting.to_string(),
            m.ask_r.waiting.to_string(),
            m.matched.to_string(),
            m.ends.retries.to_string(),
            m.ends.withdrawn.to_string(),
            m.ends.drops.to_string(),
            yes(m.live),
        ]
    });
    print_table(header, rows.collect());
    if shown < total {
        println!("the {shown} busiest of {total}");
    }
    let Regulators { regulators, total } = parse(&bodies[1])?;
    let (shown, header) = (
        regulators.len(),
        [
            "REGULATOR",
            "WAITING",
            "RUNNING",
            "OPEN",
            "ADMITTED",
            "RETRIES",
            "WITHDRAWN",
            "DROPPED",
            "LIVE",
        ],
    );
    let rows = regulators.into_iter().map(|r| {
        [
            r.name,
            r.line.waiting.to_string(),
            r.running.to_string(),
            yes(r.open),
            r.admitted.to_string(),
            r.ends.retries.to_string(),
            r.ends.withdrawn.to_string(),
            r.ends.drops.to_string(),
            yes(r.live),
        ]
    });
    println!();
    print_table(header, rows.collect());
    if shown < total {
        println!("the {shown} busiest of {total}");
    }
    Ok(())
}

/// `maitred drain`.
pub(crate) fn drain(target: &Target) -> Result<(), Failure> {
    post(target, "/v1/drain")?;
    println!("draining: the broker stops once the last request ended");
    Ok(())
}

/// `maitred reload`.
pub(crate) fn reload(target: &Target) -> Result<(), Failure> {
    let body = post(target, "/v1/reload")?;
    if target.json {
        println!("{body}");
        return Ok(());
    }
    let answer: serde_json::Value = parse(&body)?;
    println!("applied");
    for key in answer["needs_restart"].as_array().into_iter().flatten() {
        println!("{} changed: counts from the next start on", key.as_str().unwrap_or("?"));
    }
    Ok(())
}

fn get(target: &Target, path: &str) -> Result<String, Failure> {
    Ask::new("GET", path).send(target)
}

fn post(target: &Target, path: &str) -> Result<String, Failure> {
    Ask::new("POST", path).send(target)
}

/// Something to be asked of a broker.
pub(crate) struct Ask {
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Option<Vec<u8>>,
    timeout: Duration,
}

impl Ask {
    pub(crate) fn new(method: &'static str, path: impl Into<String>) -> Ask {
        let (headers, timeout) = (Vec::new(), Duration::from_secs(30));
        Ask { method, path: path.into(), headers, body: None, timeout }
    }

    pub(crate) fn body(mut self, body: Vec<u8>) -> Ask {
        self.body = Some(body);
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Ask {
        self.headers.push((name, value.into()));
        self
    }

    /// The broker may take so much longer.
    pub(crate) fn patience(mut self, more: Duration) -> Ask {
        self.timeout += more;
        self
    }

    /// The body of a good answer.
    pub(crate) fn send(self, target: &Target) -> Result<String, Failure> {
        let Ask { method, path, headers, body, timeout } = self;
        let url = format!("{}{path}", target.http.trim_end_matches('/'));
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(timeout))
            .build()
            .into();
        let mut request = ureq::http::Request::builder().method(method).uri(&url);
        if let Some(token) = &target.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let cannot = |error: &dyn std::fmt::Display| {
            Failure::new(format!("{url}: {error}; is a broker running there? (--http URL)"))
        };
        let sent = match body {
            Some(body) => {
                request.body(body).map_err(ureq::Error::from).and_then(|all| agent.run(all))
            }
            None => request.body(()).map_err(ureq::Error::from).and_then(|all| agent.run(all)),
        };
        let mut response = sent.map_err(|error| cannot(&error))?;
        let status = response.status();
        let limit = 1 << 30;
        let body = response.body_mut().with_config().limit(limit).read_to_string();
        let body = body.map_err(|error| cannot(&error))?;
        if status.is_success() {
            return Ok(body);
        }
        let refusal: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        let message = refusal["message"].as_str().unwrap_or(&body).to_owned();
        Err(Failure::new(format!("{url}: {status}: {message}")))
    }
}

/// A part of a path or query, written so that it stays one.
pub(crate) fn escape(part: &str) -> String {
    let mut escaped = String::with_capacity(part.len());
    for octet in part.bytes() {
        match octet {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(char::from(octet));
            }
            _ => escaped.push_str(&format!("%{octet:02X}")),
        }
    }
    escaped
}

pub(crate) fn parse<T: DeserializeOwned>(body: &str) -> Result<T, Failure> {
    serde_json::from_str(body)
        .map_err(|error| Failure::new(format!("the broker's answer is not understood: {error}")))
}

/// A bound of a histogram; the last bucket has none.
fn show_us(us: u64) -> String {
    match us {
        0..1_000 => format!("{us}us"),
        1_000..10_000_000 => format!("{:.1}ms", us as f64 / 1e3),
        u64::MAX => ">67s".into(),
        _ => format!("{:.1}s", us as f64 / 1e6),
    }
}

pub(crate) fn print_table<const N: usize>(header: [&str; N], rows: Vec<[String; N]>) {
    let mut widths = header.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let print = |cells: [&str; N]| {
        let line = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        println!("{}", line.collect::<Vec<_>>().join("  ").trim_end());
    };
    print(header);
    for row in &rows {
        print(row.each_ref().map(String::as_str));
    }
}
