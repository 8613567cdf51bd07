//! `maitred keygen`: a new key pair for CURVE.

use std::path::PathBuf;

use zeroize::Zeroizing;
use zmtp::{KEY_BYTES, KeyPair, SecretKey};

use crate::{Failure, secret};

/// Where to put the keys.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// File for the secret key, readable by you alone; the public key goes to FILE.pub
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Runs `maitred keygen`: prints the public key.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let mut octets = Zeroizing::new([0; KEY_BYTES]);
    getrandom::fill(&mut *octets)
        .map_err(|error| Failure::new(format!("the system has no randomness: {error}")))?;
    let keys = KeyPair::new(SecretKey::from_bytes(*octets));
    secret::write_key(&args.file, &keys).map_err(Failure::new)?;
    println!("{}", keys.public());
    let public = secret::public_path(&args.file);
    eprintln!("secret key: {}, for nobody else", args.file.display());
    eprintln!("public key: {}, as printed, for everybody", public.display());
    Ok(())
}
