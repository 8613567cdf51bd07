//! Calls the service `echo` without async, once and then many times at once: `blocking_client
//! [ENDPOINT]`.

use maitred_client::Error;
use maitred_client::blocking::Client;

fn main() -> Result<(), Error> {
    let endpoint = std::env::args().nth(1).unwrap_or_else(|| "tcp://127.0.0.1:5555".into());
    let client = Client::connect([endpoint])?;
    println!("{}", client.call("echo", "hello")?.text());

    let calls: Vec<_> = (0..1000).map(|i| client.send("echo", i.to_string())).collect();
    for (i, call) in calls.into_iter().enumerate() {
        assert_eq!(call.recv()?, i.to_string().into());
    }
    println!("and 1000 more");
    Ok(())
}
