//! `[security] tls_cert` and `tls_key`: what listeners at `tls://` show who they are with.

use std::path::Path;
use std::sync::Arc;

use super::security::Written;
use super::{Fault, Scheme};
use crate::secret;
use crate::tls::{Part, server};

/// Reads both files, named from `base`. `used` are the schemes of all listeners.
pub(super) fn settings(
    security: &Written,
    base: &Path,
    mut used: impl Iterator<Item = Scheme>,
) -> Result<Option<Arc<rustls::ServerConfig>>, Fault> {
    let told = |key: &str, message: String| Fault::told(&["security", key], message);
    let (chain, key) = match (&security.tls_cert, &security.tls_key) {
        (Some(chain), Some(key)) => (base.join(chain), base.join(key)),
        (None, None) => {
            if used.any(|scheme| scheme == Scheme::Tls) {
                let message = "security.tls_cert and security.tls_key are missing: a listener at \
                               tls:// needs a certificate and its key, in PEM";
                return Err(told("tls_cert", message.into()));
            }
            return Ok(None);
        }
        (Some(_), None) => {
            return Err(told("tls_cert", "security.tls_cert needs its tls_key".into()));
        }
        (None, Some(_)) => {
            return Err(told("tls_key", "security.tls_key needs its tls_cert".into()));
        }
    };
    let word = secret::read(&key).map_err(|message| told("tls_key", message))?;
    let name = chain.display();
    let octets = std::fs::read(&chain)
        .map_err(|error| told("tls_cert", format!("cannot read {name}: {error}")))?;
    let config = server(&octets, &word).map_err(|(part, why)| match part {
        Part::Chain => told("tls_cert", format!("{name} {why}")),
        Part::Key => told("tls_key", format!("{} {why}", key.display())),
    })?;
    Ok(Some(config))
}
