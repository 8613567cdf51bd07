"""Certificates made on the spot, and peers that speak ZMTP over TLS by hand."""

import datetime
import ipaddress
import socket
import ssl
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from rawpeer import Closed, RawPeer

DAY = datetime.timedelta(days=1)


class Authority:
    """Signs certificates; its own is in `path`."""

    def __init__(self, directory, name="authority"):
        self.directory = directory
        self.directory.mkdir(exist_ok=True)
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.timezone.utc)
        unsigned = self._builder(self.name, self.key.public_key(), now - DAY, now + DAY)
        constraint = x509.BasicConstraints(ca=True, path_length=None)
        self.certificate = unsigned.add_extension(constraint, critical=True).sign(
            self.key, hashes.SHA256()
        )
        self.path = directory / f"{name}.pem"
        self.path.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name="broker", *, hosts=("localhost", "127.0.0.1", "::1"), days=1, kind="ec"):
        """A certificate that is good until in so many days; its files' paths."""
        if kind == "ec":
            key = ec.generate_private_key(ec.SECP256R1())
        else:
            key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        now = datetime.datetime.now(datetime.timezone.utc)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        until = now + days * DAY
        unsigned = self._builder(subject, key.public_key(), until - 5 * DAY, until)
        names = x509.SubjectAlternativeName([as_general_name(host) for host in hosts])
        certificate = unsigned.add_extension(names, critical=False).sign(self.key, hashes.SHA256())
        chain, secret = self.directory / f"{name}.crt", self.directory / f"{name}.key"
        chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        secret.touch(mode=0o600)
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return chain, secret

    def _builder(self, subject, key, since, until):
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self.name)
        builder = builder.public_key(key).serial_number(x509.random_serial_number())
        return builder.not_valid_before(since).not_valid_after(until)

    def context(self):
        """For a client that trusts this authority and looks at names."""
        return ssl.create_default_context(cafile=str(self.path))


def as_general_name(host):
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


class TlsPeer(RawPeer):
    """ZMTP by hand over Python's TLS. `certificate` is what the broker showed, in DER."""

    def __init__(self, endpoint, context, **keywords):
        self.context = context
        super().__init__(endpoint, **keywords)

    def connect(self, host, port, timeout):
        plain = socket.create_connection((host, port), timeout=timeout)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wrapped = self.context.wrap_socket(plain, server_hostname=host)
        self.certificate = wrapped.getpeercert(binary_form=True)
        return wrapped

    def _fill(self, deadline):
        try:
            super()._fill(deadline)
        except ssl.SSLError as error:
            raise Closed from error


def client_hello(context, host="127.0.0.1"):
    """The first record of a handshake as this context would begin it."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_hostname=host)
    try:
        session.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def open_socket(endpoint, timeout=5.0):
    url = urlsplit(endpoint)
    return socket.create_connection((url.hostname, url.port), timeout=timeout)


def serial_of(chain_path):
    return x509.load_pem_x509_certificate(chain_path.read_bytes()).serial_number


def serial_of_der(octets):
    return x509.load_der_x509_certificate(octets).serial_number
