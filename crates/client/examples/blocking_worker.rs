//! Serves the service `echo` without async, for ever: `blocking_worker [ENDPOINT]`.

use maitred_client::Error;
use maitred_client::blocking::Worker;

fn main() -> Result<(), Error> {
    let endpoint = std::env::args().nth(1).unwrap_or_else(|| "tcp://127.0.0.1:5555".into());
    let mut worker = Worker::connect(endpoint, "echo")?;
    let mut reply = None;
    loop {
        let request = worker.recv(reply)?;
        reply = Some(request);
    }
}
