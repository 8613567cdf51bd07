//! Where a broker listens: `tcp://host:port`, `tls://host:port` or `ipc://path`.

use std::fmt;
use std::path::PathBuf;

use crate::error::Error;

/// A broker's address, checked but not resolved: names are looked up anew at each connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Endpoint {
    text: Box<str>,
    address: Address,
}

/// What to connect to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Address {
    /// A host, without brackets, and a port.
    Tcp(Box<str>, u16),
    /// The same, with TLS; the certificate must be for this host.
    Tls(Box<str>, u16),
    /// A socket's file.
    Ipc(PathBuf),
}

impl Endpoint {
    /// Reads `ipc://path`, `tcp://host:port` or `tls://host:port`; the host is a name, an IPv4 address, or an IPv6 address in
    /// brackets.
    pub(crate) fn parse(text: &str) -> Result<Endpoint, Error> {
        let wrong = |problem| Error::Endpoint { endpoint: text.into(), problem };
        if let Some(path) = text.strip_prefix("ipc://") {
            if path.is_empty() || path.starts_with('@') {
                return Err(wrong("it names no file"));
            }
            return Ok(Endpoint { text: text.into(), address: Address::Ipc(path.into()) });
        }
        let tls = text.strip_prefix("tls://");
        let address = tls
            .or(text.strip_prefix("tcp://"))
            .ok_or_else(|| wrong("it does not start with tcp://, tls:// or ipc://"))?;
        let (host, port) = match address.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) =
                    rest.split_once(']').ok_or_else(|| wrong("the bracket is never closed"))?;
                if host.parse::<std::net::Ipv6Addr>().is_err() {
                    return Err(wrong("what stands in brackets is not an IPv6 address"));
                }
                (host, rest.strip_prefix(':').ok_or_else(|| wrong("it has no port"))?)
            }
            None => address.rsplit_once(':').ok_or_else(|| wrong("it has no port"))?,
        };
        if host.is_empty() || host == "*" {
            return Err(wrong("it names no host to connect to"));
        }
        if host.contains(':') && !address.starts_with('[') {
            return Err(wrong("an IPv6 address needs brackets"));
        }
        if host.contains(['/', '@', ' ']) {
            return Err(wrong("the host is not a host name"));
        }
        let port = port.parse().ok().filter(|&port| port != 0);
        let port = port.ok_or_else(|| wrong("the port is not a number from 1 to 65535"))?;
        let address = match tls {
            Some(_) => Address::Tls(host.into(), port),
            None => Address::Tcp(host.into(), port),
        };
        Ok(Endpoint { text: text.into(), address })
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<(&str, u16), &'static str>) {
        let expected = expected.map(|(host, port)| Address::Tcp(host.into(), port));
        check_address(text, expected);
    }

    #[track_caller]
    fn check_address(text: &str, expected: Result<Address, &'static str>) {
        let endpoint = Endpoint::parse(text);
        let got = match &endpoint {
            Ok(endpoint) => Ok(endpoint.address().clone()),
            Err(Error::Endpoint { problem, .. }) => Err(*problem),
            Err(other) => panic!("{text}: {other}"),
        };
        assert_eq!(got, expected, "{text}");
    }

    #[test]
    fn endpoints_are_read_or_refused_with_a_reason() {
        check("tcp://127.0.0.1:5555", Ok(("127.0.0.1", 5555)));
        check("tcp://broker.example:1", Ok(("broker.example", 1)));
        check("tcp://[::1]:65535", Ok(("::1", 65535)));
        check_address("tls://a.b:1", Ok(Address::Tls("a.b".into(), 1)));
        check_address("tls://[::1]:1", Ok(Address::Tls("::1".into(), 1)));
        check_address("tls://a.b", Err("it has no port"));
        check("127.0.0.1:5555", Err("it does not start with tcp://, tls:// or ipc://"));
        check_address("ipc:///tmp/x", Ok(Address::Ipc("/tmp/x".into())));
        check_address("ipc://x", Ok(Address::Ipc("x".into())));
        check("ipc://", Err("it names no file"));
        check("ipc://@x", Err("it names no file"));
        check("inproc://x", Err("it does not start with tcp://, tls:// or ipc://"));
        check("tcp://localhost", Err("it has no port"));
        check("tcp://[::1]", Err("it has no port"));
        check("tcp://[::1:5555", Err("the bracket is never closed"));
        check("tcp://[nonsense]:1", Err("what stands in brackets is not an IPv6 address"));
        check("tcp://::1:5555", Err("an IPv6 address needs brackets"));
        check("tcp://*:5555", Err("it names no host to connect to"));
        check("tcp://:5555", Err("it names no host to connect to"));
        check("tcp://a/b:5555", Err("the host is not a host name"));
        for port in ["0", "65536", "x", ""] {
            let text = format!("tcp://localhost:{port}");
            check(&text, Err("the port is not a number from 1 to 65535"));
        }
    }
}
