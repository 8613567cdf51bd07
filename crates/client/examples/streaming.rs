//! A worker that counts in partial replies, and a client that prints them as they come: `streaming
//! [ENDPOINT]`.

use maitred_client::{Client, Error, Request, Worker};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let endpoint = std::env::args().nth(1).unwrap_or_else(|| "tcp://127.0.0.1:5555".into());
    let worker = Worker::builder(&endpoint).serve("count", 4, count)?;
    worker.connected().await;

    let client = Client::connect([endpoint])?;
    let mut replies = client.stream("count", "5");
    while let Some(reply) = replies.next().await {
        println!("{}", reply?.text());
    }
    Ok(())
}

async fn count(request: Request) -> Result<&'static str, Box<dyn std::error::Error + Send + Sync>> {
    for i in 1..=request.body.text().parse()? {
        let i: u32 = i;
        request.partial(i.to_string()).await?;
    }
    Ok("done")
}
