//! CURVE (RFC 25, RFC 26): two keys each, four commands, then boxes.
//!
//! ```text
//!  client                                      server
//!  HELLO     C', box of zeros        ────────▶  does not answer what it cannot open
//!            ◀──────── WELCOME    S', cookie    remembers nothing but the cookie's key
//!  INITIATE  cookie, C, vouch, who   ────────▶  opens the cookie: C' and s' are back
//!            ◀──────── READY      who
//! ```
//!
//! Whatever costs more than a few microseconds is a [`Work`]: the connection says that there is
//! some, the caller runs it wherever it likes, with randomness of its own, and brings the result
//! back. Between WELCOME and INITIATE the server holds one key of 32 octets per connection; since
//! it is the connection's own, neither a cookie nor an INITIATE can be replayed on another one.

use alloc::boxed::Box;
use alloc::vec::Vec;

use dryoc::classic::crypto_box::{
    Mac, Nonce, crypto_box_detached_afternm_inplace, crypto_box_open_detached_afternm_inplace,
};
use zeroize::Zeroizing;

use crate::connection::{Config, Security};
use crate::error::Error;
use crate::frame::put_command;
use crate::handshake::properties;
use crate::keys::{KEY_BYTES, KeyPair, PublicKey, SecretKey};

/// Octets a box is longer than what is in it.
pub(crate) const MAC_BYTES: usize = 16;

/// Octets of each command's data, its name not counted.
pub(crate) const HELLO_BYTES: usize = 194;
pub(crate) const WELCOME_BYTES: usize = 160;
const COOKIE_BYTES: usize = 96;
const VOUCH_BYTES: usize = 96;
/// Without metadata.
const INITIATE_BYTES_MIN: usize = COOKIE_BYTES + 8 + MAC_BYTES + KEY_BYTES + VOUCH_BYTES;

/// A step of the handshake that takes long: about a tenth of a millisecond.
#[derive(Debug)]
pub struct Work(Task);

#[derive(Debug)]
enum Task {
    /// A client makes its HELLO.
    Start,
    /// A server looks at a HELLO.
    Hello { client: PublicKey, nonce: u64, sealed: [u8; 64 + MAC_BYTES] },
    /// A client looks at a WELCOME.
    Welcome { hello: Box<Hello>, nonce: [u8; 16], sealed: [u8; 128 + MAC_BYTES] },
    /// A server looks at an INITIATE.
    Initiate { cookie_key: SecretKey, cookie: [u8; COOKIE_BYTES], nonce: u64, sealed: Box<[u8]> },
}

/// What came of a [`Work`].
#[derive(Debug)]
pub struct Worked(pub(crate) Result<Product, Error>);

#[derive(Debug)]
pub(crate) enum Product {
    /// A client's HELLO, and what it must remember.
    Started { data: Box<[u8]>, hello: Box<Hello> },
    /// A server's WELCOME, and what it must remember.
    Welcomed { data: Box<[u8]>, cookie_key: SecretKey },
    /// A client's INITIATE, and the session's key.
    Initiated { data: Box<[u8]>, key: SecretKey },
    /// Who a client says it is, as proved, and the session's key.
    Claimed { client: PublicKey, metadata: Box<[u8]>, key: SecretKey, nonce: u64 },
}

/// What a client remembers of its HELLO.
#[derive(Debug)]
pub(crate) struct Hello {
    short: KeyPair,
    /// Of its short key and the server's long one.
    key: SecretKey,
}

/// Random octets, as many as the slice has.
pub type Random<'a> = &'a mut dyn FnMut(&mut [u8]);

impl Work {
    pub(crate) fn start() -> Work {
        Work(Task::Start)
    }

    /// Takes a HELLO's data apart. Says the client's nonce as well.
    pub(crate) fn hello(data: &[u8]) -> Result<(Work, u64), Error> {
        let data: &[u8; HELLO_BYTES] =
            data.try_into().map_err(|_| bad("a HELLO that has not 200 octets"))?;
        if data[..2] != [1, 0] {
            return Err(bad("a HELLO of another version than 1.0"));
        }
        let (client, rest) = take::<KEY_BYTES>(&data[2 + 72..]);
        let (nonce, rest) = take::<8>(rest);
        let (sealed, _) = take(rest);
        let (client, nonce) = (PublicKey::from_bytes(client), u64::from_be_bytes(nonce));
        Ok((Work(Task::Hello { client, nonce, sealed }), nonce))
    }

    pub(crate) fn welcome(hello: Box<Hello>, data: &[u8]) -> Result<Work, Error> {
        let data: &[u8; WELCOME_BYTES] =
            data.try_into().map_err(|_| bad("a WELCOME that has not 168 octets"))?;
        let (nonce, rest) = take::<16>(data);
        let (sealed, _) = take(rest);
        Ok(Work(Task::Welcome { hello, nonce, sealed }))
    }

    /// Takes an INITIATE's data apart; `heard` is the nonce of the HELLO before it.
    pub(crate) fn initiate(cookie_key: SecretKey, heard: u64, data: &[u8]) -> Result<Work, Error> {
        if data.len() < INITIATE_BYTES_MIN {
            return Err(bad("an INITIATE that is too short"));
        }
        let (cookie, rest) = take::<COOKIE_BYTES>(data);
        let (nonce, sealed) = take::<8>(rest);
        let nonce = u64::from_be_bytes(nonce);
        if nonce <= heard {
            return Err(Error::Nonce);
        }
        Ok(Work(Task::Initiate { cookie_key, cookie, nonce, sealed: sealed.into() }))
    }

    /// Whether a server should do this before other work: its peer showed that it gets our answers.
    pub fn is_urgent(&self) -> bool {
        matches!(self.0, Task::Initiate { .. })
    }

    /// Does it. `config` is the one of the connection; `random` must be fit for keys.
    pub fn run(self, config: &Config, random: Random<'_>) -> Worked {
        Worked(match (self.0, &config.security) {
            (Task::Start, Security::CurveClient { server, .. }) => start(server, random),
            (Task::Hello { client, nonce, sealed }, Security::CurveServer(keys)) => {
                welcome(keys, &client, nonce, sealed, random)
            }
            (Task::Welcome { hello, nonce, sealed }, Security::CurveClient { server, keys }) => {
                let metadata = properties(config);
                initiate(&hello, server, keys, &nonce, sealed, &metadata, random)
            }
            (Task::Initiate { cookie_key, cookie, nonce, sealed }, Security::CurveServer(keys)) => {
                claim(keys, &cookie_key, cookie, nonce, sealed)
            }
            (
                Task::Start | Task::Hello { .. } | Task::Welcome { .. } | Task::Initiate { .. },
                Security::Null
                | Security::PlainServer
                | Security::PlainClient { .. }
                | Security::CurveServer(_)
                | Security::CurveClient { .. },
            ) => unreachable!("work is run with the configuration of its connection"),
        })
    }
}

/// A client's HELLO.
fn start(server: &PublicKey, random: Random<'_>) -> Result<Product, Error> {
    let short = fresh(random);
    let key = short.secret().shared_with(server).ok_or(bad("a server key that is no key"))?;
    let mut data = Vec::with_capacity(HELLO_BYTES);
    data.extend_from_slice(&[1, 0]);
    data.resize(2 + 72, 0);
    data.extend_from_slice(short.public().as_bytes());
    data.extend_from_slice(&1_u64.to_be_bytes());
    put_box(&mut data, &[&[0; 64]], &short_nonce(HELLO, 1), &key);
    Ok(Product::Started { data: data.into(), hello: Box::new(Hello { short, key }) })
}

/// A server's answer to a HELLO.
fn welcome(
    keys: &KeyPair,
    client: &PublicKey,
    nonce: u64,
    mut sealed: [u8; 64 + MAC_BYTES],
    random: Random<'_>,
) -> Result<Product, Error> {
    const WRONG: Error = Error::BadBox { what: "HELLO: the client has another server key" };
    let key = keys.secret().shared_with(client).ok_or(WRONG)?;
    let zeros = open_box(&mut sealed, &short_nonce(HELLO, nonce), &key).ok_or(WRONG)?;
    if zeros.iter().any(|octet| *octet != 0) {
        return Err(bad("a HELLO whose box holds anything but zeros"));
    }
    let short = fresh(random);
    let (mut cookie_key, mut nonces) = (Zeroizing::new([0; KEY_BYTES]), [0; 32]);
    random(&mut *cookie_key);
    random(&mut nonces);
    let cookie_key = SecretKey::from_bytes(*cookie_key);
    let (cookie_nonce, welcome_nonce) = (take::<16>(&nonces).0, take::<16>(&nonces[16..]).0);

    let mut cookie = Vec::with_capacity(COOKIE_BYTES);
    cookie.extend_from_slice(&cookie_nonce);
    let kept: [&[u8]; 2] = [client.as_bytes(), short.secret().as_bytes()];
    put_box(&mut cookie, &kept, &long_nonce(COOKIE, &cookie_nonce), &cookie_key);

    let mut data = Vec::with_capacity(WELCOME_BYTES);
    data.extend_from_slice(&welcome_nonce);
    let said: [&[u8]; 2] = [short.public().as_bytes(), &cookie];
    put_box(&mut data, &said, &long_nonce(WELCOME, &welcome_nonce), &key);
    Ok(Product::Welcomed { data: data.into(), cookie_key })
}

/// A client's answer to a WELCOME.
fn initiate(
    hello: &Hello,
    server: &PublicKey,
    keys: &KeyPair,
    nonce: &[u8; 16],
    mut sealed: [u8; 128 + MAC_BYTES],
    metadata: &[u8],
    random: Random<'_>,
) -> Result<Product, Error> {
    const WRONG: Error = Error::BadBox { what: "WELCOME: the server has another key" };
    let said = open_box(&mut sealed, &long_nonce(WELCOME, nonce), &hello.key).ok_or(WRONG)?;
    let (short, cookie) = take::<KEY_BYTES>(said);
    let short = PublicKey::from_bytes(short);
    let key = hello.short.secret().shared_with(&short).ok_or(WRONG)?;
    let vouch_key = keys.secret().shared_with(&short).ok_or(WRONG)?;

    let mut vouch_nonce = [0; 16];
    random(&mut vouch_nonce);
    let mut vouch = Vec::with_capacity(VOUCH_BYTES);
    vouch.extend_from_slice(&vouch_nonce);
    let vouched: [&[u8]; 2] = [hello.short.public().as_bytes(), server.as_bytes()];
    put_box(&mut vouch, &vouched, &long_nonce(VOUCH, &vouch_nonce), &vouch_key);

    let mut data = Vec::with_capacity(INITIATE_BYTES_MIN + metadata.len());
    data.extend_from_slice(cookie);
    data.extend_from_slice(&2_u64.to_be_bytes());
    let who: [&[u8]; 3] = [keys.public().as_bytes(), &vouch, metadata];
    put_box(&mut data, &who, &short_nonce(INITIATE, 2), &key);
    Ok(Product::Initiated { data: data.into(), key })
}

/// What a server learns from an INITIATE.
fn claim(
    keys: &KeyPair,
    cookie_key: &SecretKey,
    mut cookie: [u8; COOKIE_BYTES],
    nonce: u64,
    mut sealed: Box<[u8]>,
) -> Result<Product, Error> {
    const STALE: Error = Error::BadBox { what: "INITIATE: not our cookie for this connection" };
    const WRONG: Error = Error::BadBox { what: "INITIATE" };
    const VOUCHED: Error = Error::BadBox { what: "INITIATE: the vouch" };
    let (cookie_nonce, boxed) = cookie.split_at_mut(16);
    let cookie_nonce = take::<16>(cookie_nonce).0;
    let kept = open_box(boxed, &long_nonce(COOKIE, &cookie_nonce), cookie_key).ok_or(STALE)?;
    let (client_short, short) = take::<KEY_BYTES>(kept);
    let client_short = PublicKey::from_bytes(client_short);
    let short = SecretKey::from_bytes(take(short).0);
    let key = short.shared_with(&client_short).ok_or(WRONG)?;
    let who = open_box(&mut sealed, &short_nonce(INITIATE, nonce), &key).ok_or(WRONG)?;
    let (client, rest) = take::<KEY_BYTES>(who);
    let client = PublicKey::from_bytes(client);
    let (mut vouch, metadata) = take::<VOUCH_BYTES>(rest);
    let (vouch_nonce, boxed) = vouch.split_at_mut(16);
    let vouch_nonce = take::<16>(vouch_nonce).0;
    let vouch_key = short.shared_with(&client).ok_or(VOUCHED)?;
    let vouched = open_box(boxed, &long_nonce(VOUCH, &vouch_nonce), &vouch_key).ok_or(VOUCHED)?;
    if vouched != [*client_short.as_bytes(), *keys.public().as_bytes()].concat() {
        return Err(Error::BadBox { what: "INITIATE: the vouch is for another connection" });
    }
    Ok(Product::Claimed { client, metadata: metadata.into(), key, nonce })
}

/// Writes a server's READY.
pub(crate) fn put_ready(out: &mut Vec<u8>, key: &SecretKey, nonce: u64, metadata: &[u8]) {
    let mut data = Vec::with_capacity(8 + MAC_BYTES + metadata.len());
    data.extend_from_slice(&nonce.to_be_bytes());
    put_box(&mut data, &[metadata], &short_nonce(READY, nonce), key);
    put_command(out, b"READY", &[&data]);
}

/// Opens a server's READY: its nonce and the metadata.
pub(crate) fn open_ready(data: &[u8], key: &SecretKey) -> Result<(u64, Vec<u8>), Error> {
    let (nonce, sealed) = data.split_first_chunk::<8>().ok_or(bad("a READY that is too short"))?;
    let nonce = u64::from_be_bytes(*nonce);
    let mut sealed = sealed.to_vec();
    let metadata = open_box(&mut sealed, &short_nonce(READY, nonce), key)
        .ok_or(Error::BadBox { what: "READY" })?;
    Ok((nonce, metadata.to_vec()))
}

/// Seals `data` where it stands.
pub(crate) fn seal_in_place(data: &mut [u8], nonce: &Nonce, key: &SecretKey) -> Mac {
    let mut mac = [0; MAC_BYTES];
    crypto_box_detached_afternm_inplace(data, &mut mac, nonce, key.as_bytes());
    mac
}

/// Opens a box, its authenticator first, where it stands; `None` if anybody else sealed it.
pub(crate) fn open_box<'a>(
    sealed: &'a mut [u8],
    nonce: &Nonce,
    key: &SecretKey,
) -> Option<&'a mut [u8]> {
    let (mac, data) = sealed.split_first_chunk_mut::<MAC_BYTES>()?;
    let opened = crypto_box_open_detached_afternm_inplace(data, mac, nonce, key.as_bytes());
    opened.ok().map(|()| data)
}

/// Appends a box of all `parts`.
fn put_box(out: &mut Vec<u8>, parts: &[&[u8]], nonce: &Nonce, key: &SecretKey) {
    let start = out.len();
    out.resize(start + MAC_BYTES, 0);
    for part in parts {
        out.extend_from_slice(part);
    }
    let mac = seal_in_place(&mut out[start + MAC_BYTES..], nonce, key);
    out[start..start + MAC_BYTES].copy_from_slice(&mac);
}

/// A nonce that counts up within a connection.
pub(crate) fn short_nonce(purpose: &[u8; 16], count: u64) -> Nonce {
    let mut nonce = [0; 24];
    nonce[..16].copy_from_slice(purpose);
    nonce[16..].copy_from_slice(&count.to_be_bytes());
    nonce
}

/// A nonce that is random.
fn long_nonce(purpose: &[u8; 8], chance: &[u8; 16]) -> Nonce {
    let mut nonce = [0; 24];
    nonce[..8].copy_from_slice(purpose);
    nonce[8..].copy_from_slice(chance);
    nonce
}

fn fresh(random: Random<'_>) -> KeyPair {
    let mut secret = Zeroizing::new([0; KEY_BYTES]);
    random(&mut *secret);
    KeyPair::new(SecretKey::from_bytes(*secret))
}

/// The first octets of what is known to be long enough.
fn take<const N: usize>(data: &[u8]) -> ([u8; N], &[u8]) {
    let (first, rest) = data.split_first_chunk().expect("lengths were checked");
    (*first, rest)
}

fn bad(what: &'static str) -> Error {
    Error::BadHandshake { what }
}

const HELLO: &[u8; 16] = b"CurveZMQHELLO---";
const INITIATE: &[u8; 16] = b"CurveZMQINITIATE";
const READY: &[u8; 16] = b"CurveZMQREADY---";
const WELCOME: &[u8; 8] = b"WELCOME-";
const COOKIE: &[u8; 8] = b"COOKIE--";
const VOUCH: &[u8; 8] = b"VOUCH---";
