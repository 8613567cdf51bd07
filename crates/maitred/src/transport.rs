//! Listeners and streams: TCP, and sockets in the file system.

use std::fs;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mio::event::Source;
use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Interest, Registry, Token};

use crate::Failure;
use crate::config::{Endpoint, Scheme};

/// Connections that wait to be accepted, if the system allows so many.
const BACKLOG: i32 = 4_096;

/// Where connections come in.
pub(crate) enum Listener {
    Tcp(TcpListener),
    /// With the file that stands for it, which goes when it does.
    Ipc {
        listener: UnixListener,
        _file: SocketFile,
    },
}

/// One connection.
pub(crate) enum Stream {
    Tcp(TcpStream),
    Ipc(UnixStream),
}

/// Where a listener can be reached, for people.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Place {
    Tcp(SocketAddr),
    Ipc(PathBuf),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Tcp(address) => write!(f, "tcp://{address}"),
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
        Scheme::Tcp => {
            let listener = bind_tcp(&endpoint.address, &endpoint.to_string(), is_guarded)?;
            let place = Place::Tcp(local_address(&listener)?);
            listener.set_nonblocking(true).map_err(|error| cannot_listen(endpoint, &error))?;
            Ok((Listener::Tcp(TcpListener::from_std(listener)), place))
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
             are: give it `mechanism = \"curve\"`, listen on 127.0.0.1 or [::1], or write \
             `insecure = true` if you trust the network"
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
    /// The next connection, and where it comes from if that has an address.
    pub(crate) fn accept(&self) -> io::Result<(Stream, Option<SocketAddr>)> {
        match self {
            Listener::Tcp(listener) => {
                listener.accept().map(|(stream, from)| (Stream::Tcp(stream), Some(from)))
            }
            Listener::Ipc { listener, .. } => {
                listener.accept().map(|(stream, _)| (Stream::Ipc(stream), None))
            }
        }
    }

    fn source(&mut self) -> &mut dyn Source {
        match self {
            Listener::Tcp(listener) => listener,
            Listener::Ipc { listener, .. } => listener,
        }
    }
}

impl Stream {
    /// Small messages leave at once, and a vanished host is found even when its peer speaks ZMTP
    /// 3.0 and cannot be PINGed.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        if let Stream::Tcp(stream) = self {
            stream.set_nodelay(true)?;
            if let Err(error) = rustix::net::sockopt::set_socket_keepalive(stream, true) {
                tracing::debug!(%error, "no TCP keepalive");
            }
        }
        Ok(())
    }

    /// Tells the peer that nothing more comes.
    pub(crate) fn finish(&self) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Ipc(stream) => stream.shutdown(Shutdown::Write),
        }
    }

    fn source(&mut self) -> &mut dyn Source {
        match self {
            Stream::Tcp(stream) => stream,
            Stream::Ipc(stream) => stream,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buf),
            Stream::Ipc(stream) => stream.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(buf),
            Stream::Ipc(stream) => stream.write(buf),
        }
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write_vectored(pieces),
            Stream::Ipc(stream) => stream.write_vectored(pieces),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Ipc(stream) => stream.as_fd(),
        }
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
