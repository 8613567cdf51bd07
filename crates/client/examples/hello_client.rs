//! Calls the service `echo`: `hello_client [ENDPOINT] [TEXT]`.

use maitred_client::{Client, Error};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let endpoint = args.next().unwrap_or_else(|| "tcp://127.0.0.1:5555".into());
    let text = args.next().unwrap_or_else(|| "hello".into());
    let client = Client::connect([endpoint])?;
    let reply = client.call("echo", text).await?;
    println!("{}", reply.text());
    Ok(())
}
