//! What a peer may make us hold.

/// Bounds on what one peer may send; all are checked before the bytes they speak of are waited for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Most payload octets in one message frame. RFC 37's own bound of 2^63-1 holds above it.
    pub frame_bytes_max: u64,
    /// Most frames in one message.
    pub frames_max: u32,
    /// Most payload octets in all frames of one message together; headers do not count.
    pub message_bytes_max: u64,
    /// Most octets in the body of a command (its name and data).
    pub command_bytes_max: u32,
}

impl Default for Limits {
    /// 64 MiB per frame and per message, 1024 frames, 64 KiB per command: far above what brokers
    /// carry, low enough that a peer cannot take the machine.
    fn default() -> Limits {
        Limits {
            frame_bytes_max: 64 << 20,
            frames_max: 1024,
            message_bytes_max: 64 << 20,
            command_bytes_max: 64 << 10,
        }
    }
}
