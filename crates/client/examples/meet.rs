//! Meets another process at a match line, then runs under a lock of a regulator:
//! `meet [ENDPOINT] [ask|ask_r] [VALUE]`. The broker needs a match line `matchmaking` and a
//! regulator `database`; start one `meet` with `ask` and another with `ask_r`.

use std::time::Duration;

use maitred_client::{Client, Error};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let endpoint = args.next().unwrap_or_else(|| "tcp://127.0.0.1:5555".into());
    let asks_back = args.next().is_some_and(|side| side == "ask_r");
    let value = args.next().unwrap_or_else(|| "somebody".into());
    let client = Client::connect([endpoint])?;

    let line = client.match_line("matchmaking")?;
    let ask = if asks_back { line.ask_r(value) } else { line.ask(value) };
    let met = ask.timeout(Duration::from_secs(30)).await?;
    let other = String::from_utf8_lossy(&met.value);
    println!("met {other} after {:?} ({} us)", met.sojourn, met.relative_us);

    // Only as many at a time as the regulator lets run.
    let mut lock = client.regulator("database")?.acquire().await?;
    println!("running after {:?}", lock.sojourn());
    lock.go_on().await?;
    lock.done().await?;
    println!("done");
    Ok(())
}
