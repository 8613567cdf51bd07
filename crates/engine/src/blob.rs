//! Bytes that are either borrowed from a read buffer or shared by reference count.

use bytes::Bytes;

/// Bytes on their way through the house. Small ones are borrowed and copied once where they land;
/// large ones are shared and never copied.
#[derive(Clone, Debug)]
pub enum Blob<'a> {
    /// Borrowed for the duration of a call.
    Slice(&'a [u8]),
    /// Owned together with others.
    Shared(Bytes),
}

impl Blob<'_> {
    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Blob::Slice(slice) => slice,
            Blob::Shared(bytes) => bytes,
        }
    }

    /// The same bytes, owned. Copies only what was borrowed.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        match self {
            Blob::Slice(slice) => Bytes::copy_from_slice(slice),
            Blob::Shared(bytes) => bytes,
        }
    }

    /// The same bytes without the borrow, so that they may cross to another shard.
    #[must_use]
    pub fn into_static(self) -> Blob<'static> {
        Blob::Shared(self.into_bytes())
    }
}

impl PartialEq for Blob<'_> {
    fn eq(&self, other: &Blob<'_>) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Blob<'_> {}

impl<'a> From<&'a [u8]> for Blob<'a> {
    fn from(slice: &'a [u8]) -> Blob<'a> {
        Blob::Slice(slice)
    }
}

impl From<Bytes> for Blob<'_> {
    fn from(bytes: Bytes) -> Self {
        Blob::Shared(bytes)
    }
}
