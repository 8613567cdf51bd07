//! Whom to believe at `tls://`: brokers whose certificate an authority of ours has signed, for the
//! name we connect to. The system's authorities are not asked: they vouch for web sites.

use std::io;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::endpoint::{Address, Endpoint};
use crate::error::Error;

/// What connections at `tls://` check the broker's certificate with.
#[derive(Clone, Debug)]
pub(crate) struct Trust(Arc<ClientConfig>);

impl Trust {
    /// Of the authorities whose certificates `pem` holds.
    pub(crate) fn in_authorities(pem: &[u8]) -> Result<Trust, Error> {
        let unfit = |why: String| Error::Tls { why: why.into() };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| {
                unfit(format!("the authority's certificate is no PEM: {error}"))
            })?;
            roots.add(certificate).map_err(|error| {
                unfit(format!("the authority's certificate cannot be used: {error}"))
            })?;
        }
        if roots.is_empty() {
            return Err(unfit("there is no certificate of an authority in the PEM".into()));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| unfit(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Trust(Arc::new(config)))
    }

    /// What `endpoints` need: nothing, unless one of them is at `tls://`.
    pub(crate) fn for_endpoints<'a>(
        pem: Option<&[u8]>,
        mut endpoints: impl Iterator<Item = &'a Endpoint>,
    ) -> Result<Option<Trust>, Error> {
        if let Some(pem) = pem {
            return Trust::in_authorities(pem).map(Some);
        }
        match endpoints.find(|endpoint| matches!(endpoint.address(), Address::Tls(..))) {
            None => Ok(None),
            Some(endpoint) => Err(Error::Tls {
                why: format!(
                    "{endpoint} needs the certificate of the authority that vouches for the \
                     broker: give it to tls_ca"
                )
                .into(),
            }),
        }
    }

    /// Shakes hands with the host called `name`.
    pub(crate) async fn shake_hands(
        &self,
        stream: TcpStream,
        name: &str,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let shaken = TlsConnector::from(self.0.clone()).connect(name, stream).await;
        shaken.map_err(|error| io::Error::new(error.kind(), explain(&error)))
    }
}

/// What to look at when a handshake fails.
fn explain(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "the broker's certificate was not signed by an authority we were told to trust".into()
        }
        Some(rustls::Error::InvalidCertificate(problem)) => {
            format!("the broker's certificate: {problem}")
        }
        Some(rustls::Error::InvalidMessage(_)) => {
            "the broker does not speak TLS there: is it tcp:// instead of tls://?".into()
        }
        _ if error.kind() == io::ErrorKind::UnexpectedEof => {
            "hung up on in the TLS handshake: does the broker speak TLS there?".into()
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(endpoint: &str, pem: Option<&str>, expected: Result<bool, &str>) {
        let endpoint = Endpoint::parse(endpoint).expect("it is an endpoint");
        let trust = Trust::for_endpoints(pem.map(str::as_bytes), [&endpoint].into_iter());
        match (trust, expected) {
            (Ok(trust), Ok(there)) => assert_eq!(trust.is_some(), there),
            (Err(error), Err(told)) => assert!(error.to_string().contains(told), "{error}"),
            (got, _) => panic!("{endpoint}, {pem:?}: {got:?}"),
        }
    }

    #[test]
    fn nobody_is_believed_without_an_authority() {
        let begun = "-----BEGIN CERTIFICATE-----\nAAAA\n";
        let junk = format!("{begun}-----END CERTIFICATE-----\n");
        check("tcp://broker.example:1", None, Ok(false));
        check("tls://broker.example:1", None, Err("tls://broker.example:1 needs the certificate"));
        check("tls://broker.example:1", Some(""), Err("no certificate of an authority"));
        check("tls://broker.example:1", Some("tea"), Err("no certificate of an authority"));
        check("tls://broker.example:1", Some(begun), Err("is no PEM"));
        check("tls://broker.example:1", Some(&junk), Err("cannot be used"));
    }
}
