//! A real PostgreSQL server, for these tests only: its own files, its own port, ended with them.

use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

use crate::keeper::Keeper;

const ADVICE: &str = "the Debian package postgresql brings it; `cargo xtask test` installs it";

pub(crate) struct Server {
    keeper: Mutex<Option<Keeper>>,
    root: PathBuf,
    port: u16,
}

/// The one server that tests share which do nothing to it.
pub(crate) fn shared() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    SHARED.get_or_init(Server::start)
}

impl Server {
    pub(crate) fn start() -> Server {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("maitred-pg-{}-{number}", process::id());
        let shared = Path::new("/dev/shm");
        let parent = if shared.is_dir() { shared.to_owned() } else { env::temp_dir() };
        let root = parent.join(name);
        fs::create_dir_all(&root).expect("a directory");
        if let Some((uid, gid)) = other_user() {
            chown(&root, Some(uid), Some(gid)).expect("a directory of that user");
        }
        let server = Server { keeper: Mutex::new(None), port: free_port(), root };
        let data = server.root.join("data");
        let mut initdb = server.command("initdb");
        initdb.arg("-D").arg(&data).args(["-U", "maitred", "-A", "trust", "-E", "UTF8"]);
        initdb.args(["--locale=C", "--no-sync", "--data-checksums"]);
        run(&mut initdb);
        server.resume();
        server
    }

    /// Starts the server, or again after [`kill_9`](Server::kill_9).
    pub(crate) fn resume(&self) {
        let mut postgres = self.command("postgres");
        postgres.arg("-D").arg(self.root.join("data")).arg("-k").arg(&self.root);
        postgres.arg("-p").arg(self.port.to_string());
        for setting in [
            "listen_addresses=127.0.0.1",
            "max_connections=80",
            "shared_buffers=64MB",
            "log_min_messages=fatal",
            // Nothing of a killed server stays outside its files.
            "dynamic_shared_memory_type=mmap",
        ] {
            postgres.arg("-c").arg(setting);
        }
        // At once, but in order.
        let keeper = Keeper::run(&postgres, "INT", &self.root);
        *self.keeper.lock().unwrap_or_else(PoisonError::into_inner) = Some(keeper);
        let start = Instant::now();
        let port = self.port.to_string();
        while !self
            .command("pg_isready")
            .args(["-q", "-h", "127.0.0.1", "-p", &port])
            .status()
            .is_ok_and(|status| status.success())
        {
            let log = fs::read_to_string(self.root.join("log")).unwrap_or_default();
            assert!(start.elapsed() < Duration::from_secs(60), "no server: {log}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends the server without a word to anybody: SIGKILL to all of its processes.
    pub(crate) fn kill_9(&self) {
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        keeper.expect("a running server").signal("KILL");
        // A process that lives on would keep the next server from starting.
        loop {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            let _ = Command::new("kill").arg("-9").args(left).stderr(Stdio::null()).status();
        }
    }

    /// All processes of the server: they stand in its data.
    fn processes(&self) -> Vec<String> {
        let data = self.root.join("data");
        let ours = |entry: fs::DirEntry| {
            let there = fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == data);
            there.then(|| entry.file_name().to_string_lossy().into_owned())
        };
        fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(ours).collect()
    }

    /// A new empty database, by its connection string.
    pub(crate) fn database(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.psql("postgres", &format!("CREATE DATABASE {name}"));
        self.url(&name, self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self, database: &str, port: u16) -> String {
        format!("postgres://maitred@127.0.0.1:{port}/{database}")
    }

    /// Runs SQL in a database and returns what it says, bare.
    pub(crate) fn psql(&self, database: &str, sql: &str) -> String {
        let mut psql = self.command("psql");
        psql.args(["-qAtX", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "maitred"]);
        psql.args(["-p", &self.port.to_string(), "-d", database, "-c", sql]);
        run(&mut psql)
    }

    /// The same in the database of a connection string of [`database`](Server::database).
    pub(crate) fn psql_at(&self, url: &str, sql: &str) -> String {
        let name = url.rsplit_once('/').map_or(url, |(_, name)| name);
        self.psql(name, sql)
    }

    /// A program of PostgreSQL's.
    fn command(&self, program: &str) -> Command {
        as_other_user(&binaries().join(program))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take());
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// PgBouncer before a server, with fewer sessions than it has clients.
pub(crate) struct Pooler {
    child: Child,
    root: PathBuf,
    port: u16,
}

impl Pooler {
    pub(crate) fn to(server: &Server) -> Pooler {
        let root = server.root.join(format!("pooler-{}", free_port()));
        let port = free_port();
        fs::create_dir_all(&root).expect("a directory");
        let users = root.join("users");
        fs::write(&users, "\"maitred\" \"\"\n").expect("a file");
        let settings = root.join("settings");
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nauth_type = trust\nauth_file = {}\npool_mode = transaction\n\
             default_pool_size = 2\nunix_socket_dir =\n",
            server.port,
            users.display(),
        );
        fs::write(&settings, text).expect("a file");
        let mut command = as_other_user(Path::new("/usr/sbin/pgbouncer"));
        let child = command.arg("-q").arg(&settings).stderr(Stdio::null()).spawn();
        let child = child.expect("pgbouncer: the Debian package of that name brings it");
        let start = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(start.elapsed() < Duration::from_secs(20), "pgbouncer does not listen");
            thread::sleep(Duration::from_millis(10));
        }
        Pooler { child, root, port }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// A program, as a user that it agrees to run as.
fn as_other_user(program: &Path) -> Command {
    let Some((uid, gid)) = other_user() else { return Command::new(program) };
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}"));
    command.arg("--clear-groups").arg(program).current_dir("/");
    command
}

fn binaries() -> PathBuf {
    let debian = Path::new("/usr/lib/postgresql");
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir(debian)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_string_lossy().parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, bin)| bin.join("initdb").exists())
        .collect();
    versions.sort();
    versions
        .pop()
        .map(|(_, bin)| bin)
        .unwrap_or_else(|| panic!("no PostgreSQL server under {}: {ADVICE}", debian.display()))
}

/// PostgreSQL does not run as root: somebody else's numbers, if we are.
fn other_user() -> Option<(u32, u32)> {
    static USER: OnceLock<Option<(u32, u32)>> = OnceLock::new();
    let number = |args: [&str; 2]| {
        let output = Command::new("id").args(args).output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse::<u32>().ok()
    };
    *USER.get_or_init(|| {
        let me = number(["-u", "--real"])?;
        if me != 0 {
            return None;
        }
        let user = ["postgres", "nobody"].into_iter().find(|name| number(["-u", name]).is_some());
        let user = user.expect("a user postgres or nobody to run the server as");
        Some((number(["-u", user])?, number(["-g", user])?))
    })
}

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its number").port()
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; {ADVICE}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}
