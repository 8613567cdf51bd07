//! Serves the service `echo` until its standard input ends: `hello_worker [ENDPOINT]`.

use std::time::Duration;

use maitred_client::{Error, Message, Request, Worker};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let endpoint = std::env::args().nth(1).unwrap_or_else(|| "tcp://127.0.0.1:5555".into());
    let worker = Worker::builder(&endpoint).serve("echo", 16, echo)?;
    worker.connected().await;
    println!("serving echo at {endpoint}; end the input (Ctrl-D) to stop");
    let _ =
        tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()))
            .await;
    let cut_off = worker.stop(Duration::from_secs(10)).await;
    println!("stopped; {cut_off} requests were left to other workers");
    Ok(())
}

async fn echo(request: Request) -> Result<Message, Error> {
    Ok(request.body)
}
