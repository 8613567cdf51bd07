//! Limits: each is refused by the octets that announce its breach, none of the payload being there.

use super::*;

/// Ten octets a frame, three frames and twelve octets a message, 32 octets a command.
fn tight() -> Limits {
    Limits { frame_bytes_max: 10, frames_max: 3, message_bytes_max: 12, command_bytes_max: 32 }
}

fn too_large(what: What, limit: u64, got: u64) -> Error {
    Error::TooLarge { what, limit, got }
}

#[test]
fn what_is_within_the_limits_passes() {
    let full = command(&[b"\x01X", &[b'_'; 30][..]].concat());
    let bytes = [b"\x01\x0a0123456789\x01\0\x00\x0201", &full[..]].concat();
    let case = Case::traffic("at the limits", &bytes).limits(tight());
    check(case.message(&[b"0123456789", b"", b"01"]));
}

#[test]
fn a_frame_above_its_limit() {
    let headers: [(&[u8], u64); 5] = [
        (b"\x00\x0b", 11),
        (b"\x03\0\0\0\0\0\0\0\x0b", 11),
        (b"\x02\0\0\x01\0\0\0\0\0", 1 << 40),
        (b"\x02\x80\0\0\0\0\0\0\0", 1 << 63),
        (b"\x02\xff\xff\xff\xff\xff\xff\xff\xff", u64::MAX),
    ];
    for (header, got) in headers {
        let error = too_large(What::Frame, 10, got);
        let case = Case::traffic("a large frame", header).limits(tight());
        check(case.refuses("frame_too_large", error.clone()));
        let second = [b"\x01\x01a", header].concat();
        let case = Case::traffic("a large second frame", &second).limits(tight());
        check(case.refuses("frame_too_large", error));
    }
}

#[test]
fn without_limits_the_rfc_s_own_still_holds() {
    let limits = Limits {
        frame_bytes_max: u64::MAX,
        frames_max: u32::MAX,
        message_bytes_max: u64::MAX,
        command_bytes_max: u32::MAX,
    };
    for got in [1 << 63, u64::MAX] {
        let header = [&[0x02], &got.to_be_bytes()[..]].concat();
        let case = Case::traffic("a frame beyond the RFC", &header).limits(limits);
        check(case.refuses("frame_too_large", too_large(What::Frame, i64::MAX as u64, got)));
    }
    let largest = [&[0x03], &i64::MAX.to_be_bytes()[..]].concat();
    let case = Case::traffic("the RFC's largest frame", &largest).limits(limits);
    check(case.left(&largest));
}

#[test]
fn a_message_above_its_limit() {
    let case = Case::traffic("a large message", b"\x01\x0a0123456789\x00\x03").limits(tight());
    check(case.refuses("message_too_large", too_large(What::Message, 12, 13)));
    let case = Case::traffic("a large message that goes on", b"\x01\x0a0123456789\x01\x03");
    let case = case.limits(tight());
    check(case.refuses("message_too_large", too_large(What::Message, 12, 13)));
}

#[test]
fn more_frames_than_allowed() {
    let bytes = b"\x01\0\x01\0\x01\0\x00\x00";
    let case = Case::traffic("four frames", bytes).limits(tight());
    check(case.refuses("too_many_frames", Error::TooManyFrames { limit: 3 }));

    let endless = b"\x01\x00".repeat(5_000);
    let case = Case::traffic("endless multipart", &endless);
    check(case.refuses("too_many_frames", Error::TooManyFrames { limit: 1024 }));
}

#[test]
fn more_commands_inside_a_message_than_heartbeats_explain() {
    let inside =
        |count| [b"\x01\x01a", &command(b"\x01X").repeat(count)[..], b"\x00\x01b"].concat();
    let twice = [inside(64), inside(64)].concat();
    check(Case::traffic("64 in each", &twice).message(&[b"a", b"b"]).message(&[b"a", b"b"]));
    let refused = Case::traffic("65 in one", &inside(65));
    check(refused.refuses("too_many_commands", Error::TooManyCommands { limit: 64 }));
}

#[test]
fn a_command_above_its_limit() {
    let headers: [(&[u8], u64); 3] = [
        (b"\x04\x21", 33),
        (b"\x06\0\0\0\0\0\0\0\x21", 33),
        (b"\x06\xff\xff\xff\xff\xff\xff\xff\xff", u64::MAX),
    ];
    for (header, got) in headers {
        let error = too_large(What::Command, 32, got);
        let case = Case::traffic("a large command", header).limits(tight());
        check(case.refuses("command_too_large", error.clone()));
        let between = [b"\x01\x01a", header].concat();
        let case = Case::traffic("a large command between", &between).limits(tight());
        check(case.refuses("command_too_large", error.clone()));
        let early = [&GREETING[..], header].concat();
        let case = Case::new("a large READY", &early).answers(ROUTER_READY).limits(tight());
        check(case.refuses("command_too_large", error));
    }
}
