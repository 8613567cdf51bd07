//! Listeners and streams: TCP, TLS over it, and sockets in the file system.

use std::fs;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, ToSocketAddrs};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mio::event::Source;
use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Interest, Registry, Token};

use crate::Failure;
use crate::config::{Endpoint, Scheme};
use crate::tls::TlsStream;

/// Connections that wait to be accepted, if the system allows so many.
const BACKLOG: i32 = 4_096;

/// Where connections come in.
pub(crate) enum Listener {
    Tcp(TcpListener),
    Tls(TcpListener),
    /// With the file that stands for it, which goes when it does.
    Ipc {
        listener: UnixListener,
        _file: SocketFile,
    },
}

/// One connection.
pub(crate) enum Stream {
    Tcp(TcpStream),
    Tls(TlsStream),
    Ipc(UnixStream),
}

/// Where a listener can be reached, for people.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Place {
    Tcp(SocketAddr),
    Tls(SocketAddr),
    Ipc(PathBuf),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Tcp(address) => write!(f, "tcp://{address}"),
            Place::Tls(address) => write!(f, "tls://{address}"),
            Place::Ipc(path) => write!(f, "ipc://{}", path.display()),
        }
    }
}

/// A socket's file, removed with its listener if it is still ours.
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and number.
    node: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|data| (data.dev(), data.ino()) == self.node);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket");
        }
    }
}

/// Binds an endpoint. `is_guarded`: whoever comes has to prove who they are, over a channel that
/// nobody can read, or the operator said that the network is trusted.
pub(crate) fn listen(endpoint: &Endpoint, is_guarded: bool) -> Result<(Listener, Place), Failure> {
    match endpoint.scheme {
        Scheme::Tcp | Scheme::Tls => {
            let listener = bind_tcp(&endpoint.address, &endpoint.to_string(), is_guarded)?;
            let address = local_address(&listener)?;
            listener.set_nonblocking(true).map_err(|error| cannot_listen(endpoint, &error))?;
            let listener = TcpListener::from_std(listener);
            Ok(match endpoint.scheme {
                Scheme::Tls => (Listener::Tls(listener), Place::Tls(address)),
                Scheme::Tcp | Scheme::Ipc { .. } => (Listener::Tcp(listener), Place::Tcp(address)),
            })
        }
        Scheme::Ipc { mode } => bind_ipc(Path::new(&endpoint.address), mode)
            .map_err(|error| cannot_listen(endpoint, &error)),
    }
}

fn cannot_listen(endpoint: &dyn std::fmt::Display, error: &io::Error) -> Failure {
    Failure::new(format!("cannot listen on {endpoint}: {error}"))
}

/// Binds a TCP address, which `endpoint` is called in errors.
pub(crate) fn bind_tcp(
    address: &str,
    endpoint: &str,
    is_guarded: bool,
) -> Result<std::net::TcpListener, Failure> {
    let addresses: Vec<SocketAddr> = address
        .to_socket_addrs()
        .map_err(|error| Failure::new(format!("cannot resolve {endpoint}: {error}")))?
        .collect();
    let open = addresses.iter().find(|address| !address.ip().is_loopback());
    if let Some(open) = open.filter(|_| !is_guarded) {
        return Err(Failure::config(format!(
            "{endpoint} ({open}) is not a loopback address and nobody would have to prove who they \
             are: give it `mechanism = \"curve\"`, or \"plain\" at tls://, listen on 127.0.0.1 or \
             [::1], or write `insecure = true` if you trust the network"
        )));
    }
    let listener = std::net::TcpListener::bind(&addresses[..])
        .map_err(|error| cannot_listen(&endpoint, &error))?;
    // The standard library asks for 128: thousands that reconnect at once would lose their SYNs.
    rustix::net::listen(&listener, BACKLOG)
        .map_err(|error| cannot_listen(&endpoint, &error.into()))?;
    Ok(listener)
}

pub(crate) fn local_address(listener: &std::net::TcpListener) -> Result<SocketAddr, Failure> {
    listener.local_addr().map_err(|error| Failure::new(format!("no local address: {error}")))
}

/// Binds a socket in the file system. Who may connect is settled before anybody can.
fn bind_ipc(path: &Path, mode: u32) -> io::Result<(Listener, Place)> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    remove_stale(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    let data = fs::symlink_metadata(path)?;
    let file = SocketFile { path: path.into(), node: (data.dev(), data.ino()) };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    rustix::net::listen(&socket, BACKLOG)?;
    let listener = UnixListener::from_std(socket.into());
    Ok((Listener::Ipc { listener, _file: file }, Place::Ipc(path.into())))
}

/// A socket nobody listens on was left behind by a process that was killed.
fn remove_stale(path: &Path) -> io::Result<()> {
    let data = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let taken = |what| Err(io::Error::new(io::ErrorKind::AddrInUse, what));
    if !data.file_type().is_socket() {
        return taken("there is a file that is no socket; move it away");
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => taken("another process listens there"),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

impl Listener {
    pub(crate) fn is_tls(&self) -> bool {
        matches!(self, Listener::Tls(_))
    }

    /// The next connection, and where it comes from if that has an address. `tls` is what those
    /// at `tls://` are shown.
    pub(crate) fn accept(
        &self,
        tls: Option<&Arc<rustls::ServerConfig>>,
    ) -> io::Result<(Stream, Option<SocketAddr>)> {
        match self {
            Listener::Tcp(listener) => {
                listener.accept().map(|(stream, from)| (Stream::Tcp(stream), Some(from)))
            }
            Listener::Tls(listener) => {
                let (stream, from) = listener.accept()?;
                let config = tls.expect("no listener is bound without its certificate");
                Ok((Stream::Tls(TlsStream::new(stream, config.clone())?), Some(from)))
            }
            Listener::Ipc { listener, .. } => {
                listener.accept().map(|(stream, _)| (Stream::Ipc(stream), None))
            }
        }
    }

    fn source(&mut self) -> &mut dyn Source {
        match self {
            Listener::Tcp(listener) | Listener::Tls(listener) => listener,
            Listener::Ipc { listener, .. } => listener,
        }
    }
}

impl Stream {
    /// Small messages leave at once, and a vanished host is found even when its peer speaks ZMTP
    /// 3.0 and cannot be PINGed.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        let stream = match self {
            Stream::Tcp(stream) => Some(stream),
            Stream::Tls(stream) => Some(stream.tcp()),
            Stream::Ipc(_) => None,
        };
        if let Some(stream) = stream {
            stream.set_nodelay(true)?;
            if let Err(error) = rustix::net::sockopt::set_socket_keepalive(stream, true) {
                tracing::debug!(%error, "no TCP keepalive");
            }
        }
        Ok(())
    }

    /// Tells the peer that nothing more comes.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Tls(stream) => stream.finish(),
            Stream::Ipc(stream) => stream.shutdown(Shutdown::Write),
        }
    }

    fn source(&mut self) -> &mut dyn Source {
        match self {
            Stream::Tcp(stream) => stream,
            Stream::Tls(stream) => stream.tcp_mut(),
            Stream::Ipc(stream) => stream,
        }
    }

    /// TLS, if that is spoken.
    pub(crate) fn tls(&mut self) -> Option<&mut TlsStream> {
        match self {
            Stream::Tls(stream) => Some(stream),
            Stream::Tcp(_) | Stream::Ipc(_) => None,
        }
    }

    /// Whether nothing can be read or written yet but a handshake below ZMTP.
    pub(crate) fn is_shaking(&self) -> bool {
        matches!(self, Stream::Tls(stream) if stream.is_shaking())
    }

    /// Whether a read that came up short left something behind all the same.
    pub(crate) fn has_more(&self) -> bool {
        matches!(self, Stream::Tls(stream) if stream.has_more())
    }

    /// Whether something that was taken by a write has not reached the socket.
    pub(crate) fn is_behind(&self) -> bool {
        matches!(self, Stream::Tls(stream) if stream.is_behind())
    }

    /// Brings it there.
    pub(crate) fn push(&mut self) -> io::Result<()> {
        self.tls().map_or(Ok(()), TlsStream::push)
    }

    /// Reads into the spare capacity of `to`.
    pub(crate) fn read_into(&mut self, to: &mut Vec<u8>) -> io::Result<usize> {
        use rustix::buffer::spare_capacity;
        match self {
            Stream::Tcp(stream) => Ok(rustix::io::read(&*stream, spare_capacity(to))?),
            Stream::Tls(stream) => stream.read_into(to),
            Stream::Ipc(stream) => Ok(rustix::io::read(&*stream, spare_capacity(to))?),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buf),
            Stream::Tls(stream) => stream.read(buf),
            Stream::Ipc(stream) => stream.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(buf),
            Stream::Tls(stream) => stream.write(buf),
            Stream::Ipc(stream) => stream.write(buf),
        }
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write_vectored(pieces),
            Stream::Tls(stream) => stream.write_vectored(pieces),
            Stream::Ipc(stream) => stream.write_vectored(pieces),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

macro_rules! delegate_source {
    ($type:ty) => {
        impl Source for $type {
            fn register(&mut self, to: &Registry, token: Token, of: Interest) -> io::Result<()> {
                self.source().register(to, token, of)
            }

            fn reregister(&mut self, to: &Registry, token: Token, of: Interest) -> io::Result<()> {
                self.source().reregister(to, token, of)
            }

            fn deregister(&mut self, from: &Registry) -> io::Result<()> {
                self.source().deregister(from)
            }
        }
    };
}

delegate_source!(Listener);
delegate_source!(Stream);
