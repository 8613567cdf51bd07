//! Files that hold secrets: read only if nobody else can read them, written so that nobody can.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use zeroize::Zeroizing;
use zmtp::{KeyPair, PublicKey, SecretKey};

/// No secret of ours is longer.
const BYTES_MAX: u64 = 4_096;

/// The text of a secret file, without white space around it.
///
/// # Errors
/// If it cannot be read, or others than its owner may.
pub(crate) fn read(path: &Path) -> Result<Zeroizing<String>, String> {
    let name = path.display();
    let cannot = |error: std::io::Error| format!("cannot read {name}: {error}");
    let file = File::open(path).map_err(cannot)?;
    let data = file.metadata().map_err(cannot)?;
    let mode = data.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!(
            "{name} holds a secret and its permissions are {mode:03o}: chmod 600 {name}"
        ));
    }
    let (owner, us) = (data.uid(), rustix::process::geteuid().as_raw());
    if owner != us && owner != 0 {
        return Err(format!("{name} holds a secret and belongs to user {owner}, not to {us}"));
    }
    let mut text = Zeroizing::new(String::with_capacity(BYTES_MAX as usize));
    file.take(BYTES_MAX + 1).read_to_string(&mut text).map_err(cannot)?;
    if text.len() as u64 > BYTES_MAX {
        return Err(format!("{name} has more than {BYTES_MAX} bytes: it is no secret of ours"));
    }
    Ok(Zeroizing::new(text.trim().to_owned()))
}

/// The key pair of a secret key's file, as [`write_key`] makes it.
///
/// # Errors
/// As [`read`], or if it holds something else.
pub(crate) fn read_key(path: &Path) -> Result<KeyPair, String> {
    let text = read(path)?;
    let secret =
        SecretKey::from_z85(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(KeyPair::new(secret))
}

/// A password or token: anything but nothing, and short enough for PLAIN.
///
/// # Errors
/// As [`read`], or if it is empty or too long.
pub(crate) fn read_word(path: &Path) -> Result<Zeroizing<String>, String> {
    let text = read(path)?;
    let name = path.display();
    match text.len() {
        0..8 => Err(format!("{name} is too short: use at least 8 characters")),
        8..=255 => Ok(text),
        _ => Err(format!("{name} is too long: at most 255 characters")),
    }
}

/// Writes a new key pair: the secret key to `path`, for its owner alone, the public key to
/// `path.pub`. Nothing is overwritten.
///
/// # Errors
/// If either file is there already or cannot be written.
pub(crate) fn write_key(path: &Path, keys: &KeyPair) -> Result<(), String> {
    let public = public_path(path);
    for path in [path, &public] {
        if path.symlink_metadata().is_ok() {
            return Err(format!("{} is there already: nothing was written", path.display()));
        }
    }
    write_new(path, 0o600, keys.secret().to_z85().as_bytes())?;
    write_new(&public, 0o644, keys.public().to_string().as_bytes())
}

/// Where the public key of the secret key at `path` is written.
pub(crate) fn public_path(path: &Path) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}

/// A public key: 40 characters of Z85, or the name of a file that holds them.
///
/// # Errors
/// If it is neither.
pub(crate) fn public_key(text: &str) -> Result<PublicKey, String> {
    let Err(error) = PublicKey::from_z85(text) else {
        return PublicKey::from_z85(text).map_err(|error| error.to_string());
    };
    match std::fs::read_to_string(text) {
        Ok(held) => PublicKey::from_z85(held.trim()).map_err(|error| format!("{text}: {error}")),
        Err(_) => Err(format!("{text:?} is neither a key nor a file that holds one: {error}")),
    }
}

fn write_new(path: &Path, mode: u32, text: &[u8]) -> Result<(), String> {
    let cannot = |error: std::io::Error| format!("cannot write {}: {error}", path.display());
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(mode).open(path).map_err(cannot)?;
    file.write_all(text).and_then(|()| file.write_all(b"\n")).map_err(cannot)?;
    file.sync_all().map_err(cannot)
}
