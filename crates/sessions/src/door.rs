//! Who may come in: the credentials an operator gave out, and the name each stands for.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;

use zeroize::Zeroizing;
use zmtp::{Claim, PublicKey};

/// Keys of CURVE and passwords of PLAIN, each with the name of a principal of the engine's rules.
#[derive(Clone, Default)]
pub struct Credentials {
    name_by_key: BTreeMap<PublicKey, Box<str>>,
    /// PLAIN's users are called as their principals are.
    password_by_name: BTreeMap<Box<str>, Zeroizing<Box<[u8]>>>,
}

/// What a peer proved.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Proof {
    Key(PublicKey),
    Password(Box<str>),
}

impl Credentials {
    /// Whoever has the secret key of `key` is `name`. Says whose it was before, if anybody's.
    pub fn add_key(&mut self, key: PublicKey, name: &str) -> Option<Box<str>> {
        self.name_by_key.insert(key, name.into())
    }

    /// Whoever knows `password` is `name`.
    pub fn set_password(&mut self, name: &str, password: &[u8]) {
        self.password_by_name.insert(name.into(), Zeroizing::new(password.into()));
    }

    /// Whether anybody has a password.
    pub(crate) fn has_passwords(&self) -> bool {
        !self.password_by_name.is_empty()
    }

    /// Whose claim this is, if it is true.
    pub(crate) fn check(&self, claim: &Claim<'_>) -> Option<(&str, Proof)> {
        match claim {
            Claim::Curve(key) => Some((self.name_by_key.get(key)?, Proof::Key(*key))),
            Claim::Plain { username, password } => {
                let name = core::str::from_utf8(username).ok()?;
                let (name, known) = self.password_by_name.get_key_value(name)?;
                is_same(known, password).then(|| (&**name, Proof::Password(name.clone())))
            }
        }
    }

    /// Whose a proof still is, after `before` was replaced by this.
    pub(crate) fn check_again(&self, before: &Credentials, proof: &Proof) -> Option<&str> {
        match proof {
            Proof::Key(key) => self.name_by_key.get(key).map(|name| &**name),
            Proof::Password(name) => {
                let (name, known) = self.password_by_name.get_key_value(name)?;
                let same = before.password_by_name.get(name).is_some_and(|old| old == known);
                same.then_some(&**name)
            }
        }
    }
}

impl core::fmt::Debug for Credentials {
    /// Without the passwords.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Credentials")
            .field("name_by_key", &self.name_by_key)
            .field("users", &self.password_by_name.len())
            .finish()
    }
}

/// Looks at every octet whatever the first ones are, so that time tells nothing but the length.
fn is_same(known: &[u8], given: &[u8]) -> bool {
    let differing = known.iter().zip(given).fold(0, |all, (a, b)| all | (a ^ b));
    known.len() == given.len() && core::hint::black_box(differing) == 0
}
