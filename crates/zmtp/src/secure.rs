//! The handshakes as one table: what was awaited, what came, what follows.
//!
//! | our role | awaits | answers | then |
//! |---|---|---|---|
//! | NULL | READY | – | through |
//! | PLAIN server | HELLO | – | claim |
//! | | (admitted) | WELCOME | awaits INITIATE |
//! | | INITIATE | READY | through |
//! | PLAIN client | WELCOME | INITIATE | awaits READY |
//! | | READY | – | through |
//! | CURVE server | HELLO | – | work, WELCOME, awaits INITIATE |
//! | | INITIATE | – | work, claim |
//! | | (admitted) | READY | through |
//! | CURVE client | – | – | work, HELLO, awaits WELCOME |
//! | | WELCOME | – | work, INITIATE, awaits READY |
//! | | READY | – | through |

use alloc::boxed::Box;
use alloc::vec::Vec;

use zeroize::Zeroizing;

use crate::connection::{Config, Security};
use crate::curve::{self, Hello, Product, Work, Worked};
use crate::error::Error;
use crate::frame::put_command;
use crate::handshake::{
    Awaited, Metadata, properties, put_plain_hello, put_ready, read_plain_hello, read_properties,
};
use crate::keys::{PublicKey, SecretKey};
use crate::session::Session;

/// Who a peer says it is. Under CURVE that is proved, under PLAIN it is for the caller to check.
#[derive(Clone, Copy, Eq, PartialEq)]
pub enum Claim<'a> {
    /// A name and a password, any octets.
    Plain {
        /// The name.
        username: &'a [u8],
        /// The password.
        password: &'a [u8],
    },
    /// The peer has the secret key of this one.
    Curve(PublicKey),
}

impl core::fmt::Debug for Claim<'_> {
    /// Without the password.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Claim::Plain { username, .. } => f.debug_tuple("Plain").field(username).finish(),
            Claim::Curve(key) => f.debug_tuple("Curve").field(key).finish(),
        }
    }
}

/// What PLAIN and CURVE remember between two commands, and CURVE for good.
#[derive(Debug)]
pub(crate) enum Secure {
    /// `None` while the caller does it.
    Work(Option<Work>),
    /// A PLAIN client's name and password.
    Plain {
        username: Box<[u8]>,
        password: Zeroizing<Box<[u8]>>,
    },
    /// The nonce of a HELLO whose WELCOME is being made.
    Heard {
        work: Option<Work>,
        nonce: u64,
    },
    /// What opens the cookie, and the nonce of the HELLO.
    Cookie {
        key: SecretKey,
        nonce: u64,
    },
    /// What a CURVE client remembers of its HELLO.
    Hello(Box<Hello>),
    /// What a CURVE client's INITIATE was sealed with.
    Initiated {
        key: SecretKey,
    },
    /// Who a CURVE client is.
    Curve {
        client: PublicKey,
        metadata: Metadata,
        key: SecretKey,
        nonce: u64,
    },
    Session(Session),
}

/// What a step came to.
pub(crate) enum Shaken {
    Awaits(Awaited, Option<Box<Secure>>),
    Works(Box<Secure>),
    Claims(Box<Secure>),
    Through(Metadata, Option<Box<Secure>>),
}

impl Secure {
    /// Both greetings are through.
    pub(crate) fn begin(config: &Config, out: &mut Vec<u8>) -> Shaken {
        match &config.security {
            Security::Null => {
                put_ready(out, config);
                Shaken::Awaits(Awaited::NullReady, None)
            }
            Security::PlainServer => Shaken::Awaits(Awaited::PlainHello, None),
            Security::PlainClient { username, password } => {
                put_plain_hello(out, username, password);
                Shaken::Awaits(Awaited::PlainWelcome, None)
            }
            Security::CurveServer(_) => Shaken::Awaits(Awaited::CurveHello, None),
            Security::CurveClient { .. } => {
                Shaken::Works(Box::new(Secure::Work(Some(Work::start()))))
            }
        }
    }

    /// The awaited command came with these data.
    pub(crate) fn next(
        secure: Option<Box<Secure>>,
        awaited: Awaited,
        config: &Config,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Shaken, Error> {
        match (awaited, secure.map(|secure| *secure)) {
            (Awaited::NullReady | Awaited::PlainReady, _) => {
                Ok(Shaken::Through(read_properties(data, config.socket_type)?, None))
            }
            (Awaited::PlainHello, _) => {
                let (username, password) = read_plain_hello(data)
                    .ok_or(Error::BadHandshake { what: "a HELLO without name and password" })?;
                let (username, password) = (username.into(), Zeroizing::new(password.into()));
                Ok(Shaken::Claims(Box::new(Secure::Plain { username, password })))
            }
            (Awaited::PlainWelcome, _) => {
                if !data.is_empty() {
                    return Err(Error::BadHandshake { what: "a WELCOME with anything in it" });
                }
                put_command(out, b"INITIATE", &[&properties(config)]);
                Ok(Shaken::Awaits(Awaited::PlainReady, None))
            }
            (Awaited::PlainInitiate, _) => {
                let metadata = read_properties(data, config.socket_type)?;
                put_ready(out, config);
                Ok(Shaken::Through(metadata, None))
            }
            (Awaited::CurveHello, _) => {
                let (work, nonce) = Work::hello(data)?;
                Ok(Shaken::Works(Box::new(Secure::Heard { work: Some(work), nonce })))
            }
            (Awaited::CurveInitiate, Some(Secure::Cookie { key, nonce })) => {
                let work = Work::initiate(key, nonce, data)?;
                Ok(Shaken::Works(Box::new(Secure::Work(Some(work)))))
            }
            (Awaited::CurveWelcome, Some(Secure::Hello(hello))) => {
                let work = Work::welcome(hello, data)?;
                Ok(Shaken::Works(Box::new(Secure::Work(Some(work)))))
            }
            (Awaited::CurveReady, Some(Secure::Initiated { key })) => {
                let (nonce, metadata) = curve::open_ready(data, &key)?;
                let metadata = read_properties(&metadata, config.socket_type)?;
                let session = Session::new(key, false, 2, nonce);
                Ok(Shaken::Through(metadata, Some(Box::new(Secure::Session(session)))))
            }
            (Awaited::CurveInitiate | Awaited::CurveWelcome | Awaited::CurveReady, _) => {
                unreachable!("what a command needs is remembered when it begins to be awaited")
            }
        }
    }

    /// What came of the work.
    pub(crate) fn finish(
        secure: Option<Box<Secure>>,
        worked: Worked,
        config: &Config,
        out: &mut Vec<u8>,
    ) -> Result<Shaken, Error> {
        Ok(match worked.0? {
            Product::Started { data, hello } => {
                put_command(out, b"HELLO", &[&data]);
                Shaken::Awaits(Awaited::CurveWelcome, Some(Box::new(Secure::Hello(hello))))
            }
            Product::Welcomed { data, cookie_key: key } => {
                let nonce = match secure.as_deref() {
                    Some(Secure::Heard { nonce, .. }) => *nonce,
                    Some(_) | None => u64::MAX,
                };
                put_command(out, b"WELCOME", &[&data]);
                let cookie = Box::new(Secure::Cookie { key, nonce });
                Shaken::Awaits(Awaited::CurveInitiate, Some(cookie))
            }
            Product::Initiated { data, key } => {
                put_command(out, b"INITIATE", &[&data]);
                Shaken::Awaits(Awaited::CurveReady, Some(Box::new(Secure::Initiated { key })))
            }
            Product::Claimed { client, metadata, key, nonce } => {
                let metadata = read_properties(&metadata, config.socket_type)?;
                Shaken::Claims(Box::new(Secure::Curve { client, metadata, key, nonce }))
            }
        })
    }

    pub(crate) fn take_work(&mut self) -> Option<Work> {
        match self {
            Secure::Work(work) | Secure::Heard { work, .. } => work.take(),
            Secure::Plain { .. }
            | Secure::Cookie { .. }
            | Secure::Hello(_)
            | Secure::Initiated { .. }
            | Secure::Curve { .. }
            | Secure::Session(_) => None,
        }
    }

    pub(crate) fn claim(&self) -> Option<Claim<'_>> {
        match self {
            Secure::Plain { username, password } => Some(Claim::Plain { username, password }),
            Secure::Curve { client, .. } => Some(Claim::Curve(*client)),
            Secure::Work(_)
            | Secure::Heard { .. }
            | Secure::Cookie { .. }
            | Secure::Hello(_)
            | Secure::Initiated { .. }
            | Secure::Session(_) => None,
        }
    }

    /// The claim was believed.
    pub(crate) fn admit(self, config: &Config, out: &mut Vec<u8>) -> Result<Shaken, Error> {
        match self {
            Secure::Plain { .. } => {
                put_command(out, b"WELCOME", &[]);
                Ok(Shaken::Awaits(Awaited::PlainInitiate, None))
            }
            Secure::Curve { metadata, key, nonce, .. } => {
                curve::put_ready(out, &key, 1, &properties(config));
                let session = Box::new(Secure::Session(Session::new(key, true, 1, nonce)));
                Ok(Shaken::Through(metadata, Some(session)))
            }
            Secure::Work(_)
            | Secure::Heard { .. }
            | Secure::Cookie { .. }
            | Secure::Hello(_)
            | Secure::Initiated { .. }
            | Secure::Session(_) => Err(Error::Unexpected { what: "judgement without a claim" }),
        }
    }

    pub(crate) fn session(&mut self) -> Option<&mut Session> {
        match self {
            Secure::Session(session) => Some(session),
            Secure::Work(_)
            | Secure::Plain { .. }
            | Secure::Heard { .. }
            | Secure::Cookie { .. }
            | Secure::Hello(_)
            | Secure::Initiated { .. }
            | Secure::Curve { .. } => None,
        }
    }
}
