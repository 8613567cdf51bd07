//! Keeps a server for as long as this process lives, and no longer.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A shell between us and the server: it ends the server and removes its files when our end of
/// its standard input closes, however this process went.
pub(crate) struct Keeper(Child);

impl Keeper {
    /// Runs `server`, which ends in order by this signal, and keeps its files under `root`.
    pub(crate) fn run(server: &Command, signal: &str, root: &Path) -> Keeper {
        let words: Vec<String> = std::iter::once(server.get_program())
            .chain(server.get_args())
            .map(|word| format!("'{}'", word.to_string_lossy()))
            .collect();
        let script = format!(
            "cd /; {} >'{root}/log' 2>&1 </dev/null & server=$!\n\
             while read -r word; do kill -$word $server; wait $server; exit; done\n\
             kill -{signal} $server; wait $server; rm -rf '{root}'",
            words.join(" "),
            root = root.display(),
        );
        let keeper = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        Keeper(keeper.expect("a shell"))
    }

    /// Ends the server with a signal of another name, and keeps its files.
    pub(crate) fn signal(mut self, signal: &str) {
        let word = format!("{signal}\n");
        self.0.stdin.take().expect("a pipe").write_all(word.as_bytes()).expect("a word");
        self.0.wait().expect("its end");
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
