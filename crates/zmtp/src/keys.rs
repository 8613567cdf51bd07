//! Keys of CURVE, and the text they are kept in (RFC 32, "Z85").

use alloc::string::String;
use core::fmt;

use dryoc::classic::crypto_box::crypto_box_beforenm;
use dryoc::classic::crypto_core::crypto_scalarmult_base;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Octets of a key.
pub const KEY_BYTES: usize = 32;
/// Characters of a key in Z85.
pub const KEY_TEXT: usize = 40;

/// Who somebody is: known to everybody.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PublicKey([u8; KEY_BYTES]);

/// What proves it: wiped when dropped, never shown.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SecretKey([u8; KEY_BYTES]);

/// A secret key and its public key.
#[derive(Clone, Debug)]
pub struct KeyPair {
    public: PublicKey,
    secret: SecretKey,
}

/// The text is not 40 characters of Z85.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a key has 40 characters of Z85: digits, letters and .-:+=^!/*?&<>()[]{{}}@%$#")]
pub struct NotAKey;

impl PublicKey {
    /// Any 32 octets may be one.
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> PublicKey {
        PublicKey(bytes)
    }

    /// Reads the 40 characters of Z85.
    ///
    /// # Errors
    /// If they are anything else.
    pub fn from_z85(text: &str) -> Result<PublicKey, NotAKey> {
        Ok(PublicKey(*read_z85(text)?))
    }

    /// Its octets.
    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl fmt::Display for PublicKey {
    /// As Z85.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&z85(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl SecretKey {
    /// Any 32 octets may be one; they must be random.
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> SecretKey {
        SecretKey(bytes)
    }

    /// Reads the 40 characters of Z85.
    ///
    /// # Errors
    /// If they are anything else.
    pub fn from_z85(text: &str) -> Result<SecretKey, NotAKey> {
        Ok(SecretKey(*read_z85(text)?))
    }

    /// The 40 characters of Z85, wiped when dropped.
    pub fn to_z85(&self) -> Zeroizing<String> {
        Zeroizing::new(z85(&self.0))
    }

    /// The public key that belongs to it. Costs tens of microseconds.
    pub fn public(&self) -> PublicKey {
        let mut public = [0; KEY_BYTES];
        crypto_scalarmult_base(&mut public, &self.0);
        PublicKey(public)
    }

    pub(crate) fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// The key that only this secret and the secret of `public` know. Costs tens of microseconds.
    /// `None` for public keys that would make it known to everybody.
    pub(crate) fn shared_with(&self, public: &PublicKey) -> Option<SecretKey> {
        crypto_box_beforenm(&public.0, &self.0).ok().map(SecretKey)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

impl KeyPair {
    /// The pair of a secret key.
    pub fn new(secret: SecretKey) -> KeyPair {
        KeyPair { public: secret.public(), secret }
    }

    /// What others may know.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// What nobody else may know.
    pub fn secret(&self) -> &SecretKey {
        &self.secret
    }
}

fn z85(key: &[u8; KEY_BYTES]) -> String {
    let mut text = String::with_capacity(KEY_TEXT);
    for word in key.as_chunks::<4>().0 {
        let word = u32::from_be_bytes(*word);
        for power in [85_u32.pow(4), 85_u32.pow(3), 85_u32.pow(2), 85, 1] {
            text.push(char::from(ALPHABET[(word / power % 85) as usize]));
        }
    }
    text
}

fn read_z85(text: &str) -> Result<Zeroizing<[u8; KEY_BYTES]>, NotAKey> {
    let text: &[u8; KEY_TEXT] = text.as_bytes().try_into().map_err(|_| NotAKey)?;
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    for (word, digits) in key.as_chunks_mut::<4>().0.iter_mut().zip(text.as_chunks::<5>().0) {
        let mut value = 0_u64;
        for digit in digits {
            let worth = ALPHABET.iter().position(|known| known == digit).ok_or(NotAKey)?;
            value = value * 85 + worth as u64;
        }
        *word = u32::try_from(value).map_err(|_| NotAKey)?.to_be_bytes();
    }
    Ok(key)
}

const ALPHABET: &[u8; 85] =
    b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";
