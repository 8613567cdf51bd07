//! PostgreSQL for a bench: a server of its own, ended with it, and a plain loop of SKIP LOCKED on
//! it as the peer.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Connections of the peer: as many as calls that the store's load has under way, in effect.
const CLIENTS: &str = "32";

/// A running server.
pub(super) struct Server {
    child: Child,
    place: PathBuf,
    port: u16,
}

impl Server {
    /// Makes a cluster under `place` and starts it, with the settings that PostgreSQL comes with.
    ///
    /// # Errors
    /// If there is no PostgreSQL, or it does not start.
    pub(super) fn start(place: &Path) -> Result<Server, String> {
        let io = |error: std::io::Error| format!("{}: {error}", place.display());
        fs::create_dir_all(place).map_err(io)?;
        if let Some((uid, gid)) = other_user()? {
            chown(place, Some(uid), Some(gid)).map_err(io)?;
        }
        let data = place.join("data");
        let mut initdb = program("initdb")?;
        initdb.arg("-D").arg(&data).args(["-U", "maitred", "-A", "trust", "-E", "UTF8"]);
        said(initdb.arg("--locale=C"))?;
        let listener = TcpListener::bind("127.0.0.1:0").map_err(io)?;
        let port = listener.local_addr().map_err(io)?.port();
        drop(listener);
        let mut postgres = program("postgres")?;
        postgres.arg("-D").arg(&data).arg("-k").arg(place).arg("-p").arg(port.to_string());
        postgres.args(["-c", "listen_addresses=127.0.0.1", "-c", "log_min_messages=fatal"]);
        let child = postgres.stdin(Stdio::null()).stderr(Stdio::null()).spawn().map_err(io)?;
        let server = Server { child, place: place.to_owned(), port };
        let start = Instant::now();
        while said(program("pg_isready")?.args(["-h", "127.0.0.1", "-p", &port.to_string()]))
            .is_err()
            || TcpStream::connect(("127.0.0.1", port)).is_err()
        {
            if start.elapsed() > Duration::from_secs(60) {
                return Err("PostgreSQL does not start".into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    /// A connection string.
    pub(super) fn url(&self) -> String {
        format!("postgres://maitred@127.0.0.1:{}/postgres", self.port)
    }

    /// What a queue in one table does, one job at a time over many connections: inserts, then
    /// claims (`FOR UPDATE SKIP LOCKED`) and deletions, per second.
    ///
    /// # Errors
    /// If pgbench cannot be run.
    pub(super) fn plain_loop(&self, seconds: &str) -> Result<(f64, f64), String> {
        let table = "CREATE TABLE job (id bigserial PRIMARY KEY, state smallint NOT NULL, \
                     payload bytea);
                     CREATE INDEX job_ready ON job (id) WHERE state = 0";
        said(self.client("psql")?.args(["-q", "-d", "postgres", "-c", table]))?;
        let insert = "INSERT INTO job (state, payload) VALUES (0, repeat('x', 100)::bytea);\n";
        let work = "WITH c AS (SELECT id FROM job WHERE state = 0 ORDER BY id LIMIT 1 \
                    FOR UPDATE SKIP LOCKED) UPDATE job SET state = 1 FROM c WHERE job.id = c.id \
                    RETURNING job.id \\gset\nDELETE FROM job WHERE id = :id;\n";
        let rate = |name: &str, script: &str| {
            let file = self.place.join(name);
            fs::write(&file, script).map_err(|error| format!("{}: {error}", file.display()))?;
            let mut pgbench = self.client("pgbench")?;
            pgbench.args(["-n", "-M", "prepared", "-c", CLIENTS, "-j", "2", "-T", seconds, "-f"]);
            tps(&said(pgbench.arg(&file).arg("postgres"))?)
        };
        Ok((rate("insert.sql", insert)?, rate("work.sql", work)?))
    }

    fn client(&self, name: &str) -> Result<Command, String> {
        let mut command = program(name)?;
        command.args(["-h", "127.0.0.1", "-U", "maitred", "-p", &self.port.to_string()]);
        Ok(command)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // setpriv became the server: it is the one to be told.
        let _ = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}

/// `tps = 1234.5 (without …)`.
fn tps(text: &str) -> Result<f64, String> {
    let word = text.lines().find_map(|line| line.strip_prefix("tps = "));
    let number = word.and_then(|rest| rest.split(' ').next()).and_then(|n| n.parse().ok());
    number.ok_or_else(|| format!("pgbench said no rate: {text}"))
}

fn program(name: &str) -> Result<Command, String> {
    let advice = "install the Debian package postgresql";
    let entries = fs::read_dir("/usr/lib/postgresql").map_err(|_| advice.to_owned())?;
    let mut versions: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_string_lossy().parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    versions.sort();
    let (_, bin) = versions.pop().ok_or(advice)?;
    let path = bin.join(name);
    let Some((uid, gid)) = other_user()? else { return Ok(Command::new(path)) };
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}"));
    command.arg("--clear-groups").arg(path).current_dir("/");
    Ok(command)
}

/// PostgreSQL does not run as root: somebody else's numbers, if we are.
fn other_user() -> Result<Option<(u32, u32)>, String> {
    let number = |args: [&str; 2]| {
        let text = said(Command::new("id").args(args))?;
        text.trim().parse::<u32>().map_err(|error| format!("id: {error}"))
    };
    if number(["-u", "--real"])? != 0 {
        return Ok(None);
    }
    Ok(Some((number(["-u", "postgres"])?, number(["-g", "postgres"])?)))
}

/// What a command said on standard output, if it went well.
fn said(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)))
}
