//! What a peer may make us hold.

/// Bounds on what one peer may send; each is checked before the octets it speaks of are waited for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Most headers in one frame.
    pub headers_max: u32,
    /// Most octets of one frame up to its body: command, headers, line ends.
    pub head_bytes_max: u32,
    /// Most octets in the body of one frame.
    pub body_bytes_max: u64,
    /// Most octets of the frame that opens the conversation, its body included: nobody has said who
    /// it is yet.
    pub opening_bytes_max: u32,
}

impl Default for Limits {
    /// 1000 headers as ActiveMQ and Apollo allow, 64 KiB of them, bodies of 64 MiB as on our other
    /// ports, an opening of 8 KiB (a host, a login, a token).
    fn default() -> Limits {
        Limits {
            headers_max: 1000,
            head_bytes_max: 64 << 10,
            body_bytes_max: 64 << 20,
            opening_bytes_max: 8 << 10,
        }
    }
}

/// Most octets in a command and its line end: the longest we know has 11.
pub(crate) const COMMAND_BYTES_MAX: usize = 32;
