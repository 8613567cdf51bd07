//! Arbitrary bytes into a connection: no panic, no excess, and no difference however they are cut.
//!
//! Input: one octet of circumstances, three of cuts, then what the peer sends. Bits of the first
//! octet: 0x01 the greeting and 0x02 also a DEALER's READY go before it, 0x04 limits are tight,
//! 0x08 we are a SUB.
#![no_main]

use libfuzzer_sys::fuzz_target;
use maitred_fuzz::{cuts, hear};
use zmtp::{Config, Limits, SocketType};

fuzz_target!(|data: &[u8]| {
    let Some((&[circumstances, ref fractions @ ..], sent)) = data.split_first_chunk::<4>() else {
        return;
    };
    let mut config = Config::new(match circumstances & 0x08 {
        0 => SocketType::Router,
        _ => SocketType::Sub,
    });
    if circumstances & 0x04 != 0 {
        config.limits = Limits {
            frame_bytes_max: 40,
            frames_max: 4,
            message_bytes_max: 100,
            command_bytes_max: 50,
        };
    }
    let opening: &[&[u8]] = match circumstances & 0x03 {
        0 => &[],
        1 => &[GREETING],
        _ => &[GREETING, DEALER_READY],
    };
    let bytes = [&opening.concat(), sent].concat();

    let whole = hear(&config, &bytes, []);
    assert_eq!(hear(&config, &bytes, 0..bytes.len()), whole, "bytewise");
    assert_eq!(hear(&config, &bytes, cuts(fractions, bytes.len())), whole, "cut");
    // Our greeting and READY, PONGs no longer than their PINGs, one ERROR.
    assert!(whole.out.len() <= 64 + 30 + bytes.len() + 40);
});

const GREETING: &[u8; 64] = b"\xff\0\0\0\0\0\0\0\0\x7f\x03\x01NULL\
    \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
    \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
const DEALER_READY: &[u8] = b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06DEALER";
