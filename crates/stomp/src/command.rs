//! The words of the protocol: versions and commands.

use core::fmt;

/// A version of the protocol; later ones are greater.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Version {
    /// 1.0: no escapes, no heart-beats.
    V1_0,
    /// 1.1.
    V1_1,
    /// 1.2.
    V1_2,
}

impl Version {
    /// All, oldest first.
    pub const ALL: [Version; 3] = [Version::V1_0, Version::V1_1, Version::V1_2];

    /// As it is written in `version` and `accept-version`.
    pub fn as_str(self) -> &'static str {
        match self {
            Version::V1_0 => "1.0",
            Version::V1_1 => "1.1",
            Version::V1_2 => "1.2",
        }
    }

    /// The version that is written so.
    pub fn parse(text: &str) -> Option<Version> {
        Version::ALL.into_iter().find(|version| version.as_str() == text)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The command of a frame. Case matters ("Frames" in all versions).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Command {
    /// Client: opens the conversation.
    Connect,
    /// Client: the same, since 1.1.
    Stomp,
    /// Client: a message to a destination.
    Send,
    /// Client.
    Subscribe,
    /// Client.
    Unsubscribe,
    /// Client.
    Ack,
    /// Client, since 1.1.
    Nack,
    /// Client: opens a transaction.
    Begin,
    /// Client.
    Commit,
    /// Client.
    Abort,
    /// Client: the last frame.
    Disconnect,
    /// Server: answers CONNECT.
    Connected,
    /// Server: a message of a subscription.
    Message,
    /// Server: a frame was processed.
    Receipt,
    /// Server: something went wrong.
    Error,
}

impl Command {
    /// All.
    pub const ALL: [Command; 15] = [
        Command::Connect,
        Command::Stomp,
        Command::Send,
        Command::Subscribe,
        Command::Unsubscribe,
        Command::Ack,
        Command::Nack,
        Command::Begin,
        Command::Commit,
        Command::Abort,
        Command::Disconnect,
        Command::Connected,
        Command::Message,
        Command::Receipt,
        Command::Error,
    ];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Command::Connect => "CONNECT",
            Command::Stomp => "STOMP",
            Command::Send => "SEND",
            Command::Subscribe => "SUBSCRIBE",
            Command::Unsubscribe => "UNSUBSCRIBE",
            Command::Ack => "ACK",
            Command::Nack => "NACK",
            Command::Begin => "BEGIN",
            Command::Commit => "COMMIT",
            Command::Abort => "ABORT",
            Command::Disconnect => "DISCONNECT",
            Command::Connected => "CONNECTED",
            Command::Message => "MESSAGE",
            Command::Receipt => "RECEIPT",
            Command::Error => "ERROR",
        }
    }

    /// The command that is written so.
    #[inline]
    pub fn parse(line: &[u8]) -> Option<Command> {
        Some(match line {
            b"SEND" => Command::Send,
            b"MESSAGE" => Command::Message,
            b"ACK" => Command::Ack,
            b"RECEIPT" => Command::Receipt,
            _ => return Command::ALL.into_iter().find(|known| known.as_str().as_bytes() == line),
        })
    }

    /// Whether servers send it; clients send all others.
    #[inline]
    pub fn is_servers(self) -> bool {
        matches!(self, Command::Connected | Command::Message | Command::Receipt | Command::Error)
    }

    /// Whether its body means something ("Body" in 1.1 and 1.2); what others carry is ignored.
    #[inline]
    pub fn has_body(self) -> bool {
        matches!(self, Command::Send | Command::Message | Command::Error)
    }

    /// Whether it opens the conversation, and hence is never escaped ("Value Encoding").
    #[inline]
    pub fn is_plain(self) -> bool {
        matches!(self, Command::Connect | Command::Stomp | Command::Connected)
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
